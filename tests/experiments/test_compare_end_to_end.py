"""A comparison with the real training command, killed and interrupted in the middle, and its table in the end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pandas
import psutil
import pytest
import yaml

from lens_openrlhf.experiments.compare import main
from lens_openrlhf.run_folder.log import read

from ..e2e.conftest import ROOT, command_line, no_strays, reward_file  # noqa: F401  (a fixture)

pytestmark = pytest.mark.e2e


def spec_of(tiny, reward_file) -> dict:  # noqa: F811
    """Two arms on one seed, two steps each, with a checkpoint after each."""
    words = command_line("", tiny, reward_file)[4:]
    options = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))
    del options["logger.run_dir"]
    options |= {
        "algo.kl.init_coef": 0,
        "data.max_samples": 16,
        "train.colocate_all": True,
        "eval.dataset": str(tiny.heldout),
        "eval.at_end": True,
        "eval.n_samples_per_prompt": 4,
        "ckpt.save_steps": 1,
        "ckpt.load_enable": True,
        "logger.sample_prompts": 8,
    }
    arms = {arm: {"algo.advantage.estimator": arm.lower()} for arm in ("RLOO", "LENS")}  # the first is OpenRLHF's own
    return {"name": "pair", "options": options, "arms": arms, "seeds": [7]}


@contextlib.contextmanager
def comparing(command, ready, timeout: float = 900):
    """A comparison that has come as far as `ready` says."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True
    )
    try:
        deadline = time.monotonic() + timeout
        while not ready():
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline, "it took too long"
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()  # ends its run, too, where a test has failed
        process.wait(timeout=300)


def test_killed_interrupted_and_resumed(tiny, reward_file, tmp_path, capsys):  # noqa: F811
    path, folder = tmp_path / "pair.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(spec_of(tiny, reward_file), sort_keys=False))
    command = [sys.executable, "-m", "lens_openrlhf.cli", "compare", str(path), "-o", str(folder)]
    rloo, lens = folder / "runs/RLOO/seed-7", folder / "runs/LENS/seed-7"

    def state() -> dict:
        return json.loads((folder / "compare.json").read_text())["runs"]

    with no_strays():
        # Killed outright while the first run starts: that run knows nothing of it and goes on.
        with comparing(command, (rloo / "config.json").exists) as process:
            process.kill()
        (run,) = state().values()
        assert run["state"] == "running" and psutil.pid_exists(run["pid"])

        # It is ended, and begins anew. Then Ctrl-C while the second run has a checkpoint to go on from: a whole one has
        # its own name, which DeepSpeed's `latest` does not wait for.
        with comparing(command, lambda: any(lens.glob("checkpoints/_actor/global_step*"))) as process:
            os.killpg(process.pid, signal.SIGINT)
            output, _ = process.communicate(timeout=180)
        assert process.returncode == 130, output
        assert "RLOO/seed-7 still goes on" in output and "RLOO/seed-7 begins anew" in output
        assert "[1/2] RLOO, seed 7: " in output and "Pass@1 0." in output and " left" in output
        assert f"interrupted; 1 of 2 runs are finished. To go on: lens-openrlhf compare {path} -o {folder}" in output
        assert {key: run["state"] for key, run in state().items()} == {
            "RLOO/seed-7": "finished",
            "LENS/seed-7": "interrupted",
        }
        before = {file: file.stat().st_mtime_ns for file in rloo.rglob("*")}

        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr + (lens / "train.log").read_text()[-3000:]
    # After step 2 where that was quicker than the signal.
    assert re.search("LENS/seed-7 goes on after step [12]", done.stdout), done.stdout
    assert "[2/2] LENS, seed 7" in done.stdout, done.stdout
    assert {file: file.stat().st_mtime_ns for file in rloo.rglob("*")} == before, "a finished run was touched"

    for run in (rloo, lens):
        assert [record["step"] for record in read(run / "metrics.jsonl")] == [1, 2]
        assert [record["step"] for record in read(run / "eval.jsonl")] == [2]
        assert not (run / "model").exists() and not (run / "checkpoints").exists()
    (aside,) = folder.glob("runs/*/*.unfinished-*")
    assert aside.name == "seed-7.unfinished-1" and aside.parent.name == "RLOO"

    # On equal terms: the same questions in every step, and all options but one.
    for step in (1, 2):
        asked = [pandas.read_parquet(run / f"samples/step-{step:06}.parquet")["prompt"] for run in (rloo, lens)]
        assert sorted(asked[0]) == sorted(asked[1]) and asked[0].notna().all()
    one, other = (json.loads((run / "config.json").read_text())["options"] for run in (rloo, lens))
    paths = {"logger.run_dir", "ckpt.path", "ckpt.output_dir", "logger.tensorboard_dir"}
    assert {name for name in one if one[name] != other[name]} - paths == {"algo.advantage.estimator"}

    # OpenRLHF's estimator runs without LENS.
    (metrics, _), (lens_metrics, _) = read(rloo / "metrics.jsonl"), read(lens / "metrics.jsonl")
    assert not [name for name in metrics if name.startswith("lens")] and metrics["policy_loss"] is not None
    assert lens_metrics["lens/seconds"] > 0
    kept = pandas.read_parquet(rloo / "samples/step-000001.parquet")
    assert kept["advantage"].isna().all() and kept["kind"].notna().all()

    results = json.loads((folder / "results.json").read_text())
    (record,) = read(lens / "eval.jsonl")
    right = sum(score == 1 for prompt in record["scores"] for score in prompt)
    assert results["pass_at_k"]["all"]["1"]["LENS"]["by_seed"]["7"] == pytest.approx(right / (16 * 4))
    assert "Pass@4" in done.stdout and "in favour" in done.stdout

    # Nothing is left to do: the table again, from the folder and from its archive.
    table = done.stdout[done.stdout.index("pair: Pass@k") : done.stdout.index("\nthe same with")]
    archive = str(tmp_path / "pair.tar.xz")
    for words in ([str(path), "-o", str(folder)], ["--archive", str(folder), archive], ["--table", archive]):
        assert main(words) == 0
        shown = capsys.readouterr().out
        assert table in shown and ("2 of them finished" in shown) == (words[0] == str(path))
