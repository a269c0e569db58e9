"""The main job as README has it: the tiny profile through the deepspeed launcher."""

from __future__ import annotations

import math
import os
import re
import sys
from pathlib import Path

import pytest

from lens_openrlhf.evaluation import mean_and_error

from .conftest import SCRIPT, explained, finish

STEPS = 12  # 32 prompts each; half of what `make train` takes


def path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-profile") / "run"
    half = ["--data.max_samples", str(32 * STEPS)]
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))  # as a user has it
    command = ["deepspeed", "--quiet", str(SCRIPT), *half, "--logger.run_dir", str(folder)]
    run = finish(command, folder, timeout=2400, PATH=path(), OMP_NUM_THREADS=threads)
    assert run.status == 0, explained(run)
    return run


def test_the_held_out_score_rises(tiny_run):
    first, *_, last = tiny_run.records("eval")
    assert (first["step"], last["step"]) == (0, STEPS)
    assert set(last["pass_at_k"]) >= {"all", "level=1", "level=5", "datasource=addition"}
    change = [sum(b) / 16 - sum(a) / 16 for a, b in zip(first["scores"], last["scores"], strict=True)]
    mean, error = mean_and_error(change)
    assert mean > 2 * error, f"Pass@1 changed by {mean:.3f} ± {error:.3f}"


def test_it_begins_with_40_to_75_percent_negative_groups(tiny_run):
    first = tiny_run.records("eval")[0]["scores"]
    assert len(first) == 128 and all(len(prompt) == 16 for prompt in first)
    assert 0.4 <= sum(not any(prompt) for prompt in first) / len(first) <= 0.75


def test_every_step_is_recorded(tiny_run):
    metrics = tiny_run.records("metrics")
    assert [record["step"] for record in metrics] == list(range(1, STEPS + 1))
    for record in metrics:
        assert record["lens/seconds"] > 0 and math.isfinite(record["policy_loss"])
        assert record["verifier/timeout"] == record["verifier/error"] == 0
    assert sum(record["lens/rescued_samples"] for record in metrics) > 0


def test_a_person_can_follow_it(tiny_run):
    lines = tiny_run.output.splitlines()
    assert sum(line.startswith("step ") for line in lines) == STEPS
    assert any(line.startswith("Pass@1") for line in lines) and any(line.startswith("Pass@16") for line in lines)
    assert "pid=" not in tiny_run.output, "Ray's worker output on the terminal"


def test_the_run_folder_is_complete(tiny_run):
    folder = tiny_run.folder
    assert tiny_run.config["options"]["algo.advantage.estimator"] == "lens"
    assert tiny_run.config["versions"]["torch"]
    assert list((folder / "tensorboard").rglob("events.out.tfevents.*"))
    assert len(list((folder / "samples").glob("step-*.parquet"))) == STEPS
    assert (folder / "train.log").stat().st_size > 10_000
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokens = tokenizer("12 + 34 =", return_tensors="pt", add_special_tokens=False)
    answer = tokenizer.decode(model.generate(**tokens, max_new_tokens=48, do_sample=False)[0])
    assert "boxed" in answer


def test_tensorboard_has_the_same_metrics(tiny_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = (tiny_run.folder / "tensorboard").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    shown = [event.value for event in events.Scalars("train/lens/negative_groups")]
    assert shown == pytest.approx([record["lens/negative_groups"] for record in tiny_run.records("metrics")])


def test_bash_runs_the_script_too_and_passes_options_on(tmp_path):
    """OpenRLHF's options go after the profile's; of a launcher's ranks only the first drives."""
    folder = tmp_path / "run"
    command = ["bash", str(SCRIPT), "--data.max_samples", "32", "--logger.run_dir", str(folder)]
    plan = finish([*command, "--dry_run"], folder, PATH=path())
    assert plan.status == 0 and re.search(r"\b1 step\b", plan.output), explained(plan)
    idle = finish(command, folder, PATH=path(), RANK="1", LOCAL_RANK="1")
    assert (idle.status, idle.output) == (0, "") and not folder.exists()
