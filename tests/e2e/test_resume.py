"""Runs that are killed and go on from their last whole checkpoint, trained for real."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time

import pandas as pd
import psutil
import pytest

from lens_openrlhf.run_folder.log import read

from .conftest import ROOT, command_line, explained, finish, no_strays, started
from .test_modes import check_lens_metrics

STEPS, SAVED_EVERY = 6, 2
OPTIONS = [
    *("--algo.advantage.estimator", "lens", "--data.max_samples", str(8 * STEPS)),
    *("--ckpt.save_steps", str(SAVED_EVERY), "--ckpt.max_num", "1", "--ckpt.load_enable"),
    *("--eval.steps", "2", "--eval.n_samples_per_prompt", "2"),
]

COLOCATED = [
    *("--train.colocate_all", "--train.dynamic_batch_enable", "--train.max_tokens_per_gpu", "256"),
    *("--ds.zero_stage", "3"),
]


def prompts_of(folder, step: int) -> list[str]:
    kept = pd.read_parquet(folder / "samples" / f"step-{step:06}.parquet")
    return sorted(kept["prompt"].dropna().unique())


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(COLOCATED, id="colocated, dynamic batches"),
        pytest.param([], id="plain", marks=pytest.mark.long),
        pytest.param(
            ["--actor.num_gpus_per_node", "2", "--ds.zero_stage", "3"], id="2 ranks, ZeRO-3", marks=pytest.mark.long
        ),
        pytest.param(["--train.async_enable"], id="async", marks=pytest.mark.long),
        pytest.param(["--ds.lora.rank", "4"], id="LoRA", marks=pytest.mark.long),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tiny, reward_file, tmp_path, mode):
    folder = tmp_path / "run"
    command = command_line(folder, tiny, reward_file, *OPTIONS, *mode, "--logger.sample_prompts", "8")
    command += ["--eval.dataset", str(tiny.heldout)]
    with started(command, folder) as process:
        deadline = time.monotonic() + 600
        while not (folder / "samples" / f"step-{SAVED_EVERY + 1:06}.parquet").exists():
            assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
    seen = prompts_of(folder, SAVED_EVERY + 1)

    run = finish(command, folder)
    assert run.status == 0, explained(run)
    assert f"goes on after step {SAVED_EVERY}, from the checkpoint" in run.output
    assert [record["step"] for record in run.records("metrics")] == list(range(1, STEPS + 1))
    # Asynchronous, OpenRLHF evaluates before it samples, and so not after the last step.
    assert [record["step"] for record in run.records("eval")] == (
        [2, 4] if "--train.async_enable" in mode else [2, 4, 6]
    )
    check_lens_metrics(run, STEPS, with_text=8)
    assert prompts_of(folder, SAVED_EVERY + 1) == seen
    every_prompt = [prompt for step in range(1, STEPS + 1) for prompt in prompts_of(folder, step)]
    assert len(set(every_prompt)) == len(every_prompt) == 8 * STEPS
    assert [entry["step"] for entry in run.config["resumed"]] == [SAVED_EVERY]
    kept = {path.name for path in (folder / "checkpoints" / "_actor").iterdir() if path.is_dir()}
    assert {name for name in kept if not name.startswith("best")} == {f"global_step{STEPS}"}


def victims(folder, driver: int) -> dict[str, list[int]]:
    """Processes of a run by what they do; only those that are there yet."""
    ready = [event for event in read(folder / "events.jsonl") if event["event"] == "ready"]
    alive = {child.pid: child.name() for child in psutil.Process(driver).children(recursive=True)}
    found = {"the driver": [driver], "the process group": [-driver]}
    for event in ready:
        if event["pid"] in alive:
            found[event["where"]] = [event["pid"]]
    engines = [pid for pid, name in alive.items() if "EngineCore" in name]
    return found | ({"vLLM's engine": engines} if engines else {})


def a_random_moment(rng: random.Random, process: subprocess.Popen, folder, starting: float | None, last: int) -> None:
    """Waits for one: within `starting` seconds from the start, or else in one of the next steps, none beyond `last`."""
    if starting is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=rng.uniform(3, starting))
        return
    step = min(len(read(folder / "metrics.jsonl")) + rng.randint(1, 2), last)
    while process.poll() is None and len(read(folder / "metrics.jsonl")) < step:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 1))


@pytest.mark.long
def test_killed_at_ten_random_moments(tiny, reward_file, tmp_path):
    """Three episodes, whose boundaries are met too, against a run that was never killed: the same prompts step by
    step."""
    rng = random.Random(20)
    options = ["--algo.advantage.estimator", "lens", "--logger.sample_prompts", "8", "--train.num_episodes", "3"]
    options += ["--ckpt.save_steps", "1", "--ckpt.max_num", "2", "--data.max_samples", "60"]  # an odd batch at the end
    begun = time.time()
    whole = finish(command_line(tmp_path / "whole", tiny, reward_file, *options), tmp_path / "whole")
    assert whole.status == 0, explained(whole)
    metrics = whole.records("metrics")
    startup, steps = metrics[0]["time"] - begun, [record["step"] for record in metrics]
    assert len(steps) == 24

    folder = tmp_path / "killed"
    command = command_line(folder, tiny, reward_file, *options, "--ckpt.load_enable")
    killed = []
    while len(killed) < 10:
        with no_strays():
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True, cwd=ROOT)
            a_random_moment(rng, process, folder, startup if len(killed) % 2 else None, last=20)
            assert process.poll() is None, f"it came to its end before it was killed ten times: {killed}"
            victim, pids = rng.choice(sorted(victims(folder, process.pid).items()))
            for pid in pids:
                os.killpg(-pid, signal.SIGKILL) if pid < 0 else os.kill(pid, signal.SIGKILL)
            killed.append((victim, len(read(folder / "metrics.jsonl"))))
            assert process.wait(timeout=60) != 0, killed
    run = finish(command, folder)
    assert run.status == 0, explained(run)
    assert [record["step"] for record in run.records("metrics")] == steps, killed
    for step in steps:
        assert prompts_of(folder, step) == prompts_of(whole.folder, step), (step, killed)
    assert set(run.records("metrics")[-1]) == set(whole.records("metrics")[-1])
    # What does not hang on what was sampled is the same to the last digit.
    assert [r["actor_lr"] for r in run.records("metrics")] == [r["actor_lr"] for r in metrics]
    # A finished run has no step left, and says so by its records.
    again = finish(command, folder)
    assert again.status == 0, explained(again)
    assert [record["step"] for record in again.records("metrics")] == steps
    print(f"killed: {killed}; {len(run.records('superseded'))} steps came again")
