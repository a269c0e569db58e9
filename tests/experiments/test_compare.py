"""The command from the spec to the tables, with runs that leave their records without training."""

from __future__ import annotations

import json
import re

import pytest

from lens_openrlhf.experiments import runner
from lens_openrlhf.experiments.compare import main

# Ends as a run would, or fails where its seed is named; notes whether the comparison's folder is held meanwhile.
RUN = """
import fcntl, json, os, pathlib, sys

if "--logger.run_dir" in sys.orig_argv:
    words = sys.orig_argv
    folder = pathlib.Path(words[words.index("--logger.run_dir") + 1])
    with open(folder.parents[2] / ".lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            print("nobody holds the comparison")
        except BlockingIOError:
            print("the comparison is held")
    sys.stdout.flush()
    if words[words.index("--train.seed") + 1] == os.environ.get("FAILING"):
        os._exit(7)
    right = float("LENS" in str(folder))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "timing/step_total": 2.0}) + "\\n")
    (folder / "eval.jsonl").write_text(json.dumps({"step": 1, "scores": [[right, 0.0, 0.0, 0.0]]}) + "\\n")
    os._exit(0)
"""


@pytest.fixture
def compare(content, write, tmp_path, monkeypatch, capsys):
    """compare(*words) -> exit status and what was printed."""
    (tmp_path / "sitecustomize.py").write_text(RUN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.02)
    path = write(content)

    def run(*words: str) -> tuple[int, str]:
        status = main([str(path), "-o", str(tmp_path / "out"), *words])
        return status, capsys.readouterr().out

    return run


def test_all_runs_are_trained_and_compared(compare, tmp_path):
    status, shown = compare()
    assert status == 0
    assert f"sound: 4 runs, in {tmp_path / 'out'}\n" in shown
    order = [
        f"[{number}/4] {arm}, seed {seed}: " for number, arm, seed in ((1, "GRPO", 1), (2, "LENS", 1), (3, "GRPO", 2))
    ]
    assert sorted(order, key=shown.index) == order
    assert re.search(r"\[1/4\] GRPO, seed 1: \d+ s, Pass@1 0\.000, about \d+ s left", shown)
    assert re.search(r"\[2/4\] LENS, seed 1: \d+ s, Pass@1 0\.250, about", shown)
    assert "left" not in shown.split("[4/4]")[1].splitlines()[0]
    assert "difference" in shown and (tmp_path / "out" / "results.json").exists()
    for key in ("GRPO/seed-1", "LENS/seed-2"):
        assert "the comparison is held" in (tmp_path / "out" / "runs" / key / "train.log").read_text()
    record = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert {run["state"] for run in record["runs"].values()} == {"finished"} and len(record["runs"]) == 4


def test_only_what_failed_is_trained_again(compare, tmp_path, monkeypatch):
    monkeypatch.setenv("FAILING", "2")
    status, shown = compare()
    assert status == 1
    assert shown.count("failed after") == 2 and "(exit status 7); its log ends:" in shown
    assert "missing: LENS, seed 2 (failed)" in shown and "Pass@1" in shown
    before = (tmp_path / "out" / "runs" / "GRPO" / "seed-1" / "train.log").stat().st_mtime_ns

    monkeypatch.delenv("FAILING")
    status, shown = compare()
    assert status == 0 and "sound: 4 runs, 2 of them finished, in" in shown
    assert "[3/4] GRPO, seed 2" in shown and "[1/4]" not in shown and "missing" not in shown
    assert (tmp_path / "out" / "runs" / "GRPO" / "seed-1" / "train.log").stat().st_mtime_ns == before

    status, shown = compare()
    assert status == 0 and "4 of them finished" in shown and "their logs" not in shown


def test_without_a_finished_run_there_is_no_table(compare, monkeypatch, content, write):
    monkeypatch.setenv("FAILING", "2")
    write(content | {"seeds": [2]})
    status, shown = compare()
    assert status == 1 and "Pass@1" not in shown


def test_runs_of_another_comparison_are_taken_over(compare, tmp_path, content, write):
    """But for one that has begun here: what it has would be lost."""
    assert compare("-o", str(tmp_path / "other"))[0] == 0
    begun = tmp_path / "out" / "runs" / "LENS" / "seed-1"
    begun.mkdir(parents=True)
    states = json.loads((tmp_path / "other" / "compare.json").read_text())
    states["runs"] = {"LENS/seed-1": {"state": "interrupted", "seconds": 5.0}}
    (tmp_path / "out" / "compare.json").write_text(json.dumps(states))
    status, shown = compare("--reuse", str(tmp_path / "other"))
    assert status == 0
    assert [line.split(" is ")[0] for line in shown.splitlines() if f"of {tmp_path / 'other'}" in line] == [
        *("GRPO/seed-1", "GRPO/seed-2", "LENS/seed-2"),
    ]
    assert "[2/4] LENS, seed 1:" in shown and "3 of them finished" in shown


def test_a_dry_run_says_what_would_be_run_and_writes_nothing(content, write, tmp_path, capsys):
    path = write(content)
    assert main([str(path), "-o", str(tmp_path / "out"), "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert "2 arms on 2 seeds, 4 runs" in shown and "GRPO: algo.lens.scope none" in shown
    assert "[4/4] LENS/seed-2: not started" in shown and "lens-openrlhf train --actor.model_name_or_path" in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [[], ["a.yaml", "--archive", "b", "c"], ["a.yaml", "--table", "--dry_run"]])
def test_words_that_make_no_command(words, capsys):
    assert main(words) == 2 and capsys.readouterr().err.endswith("; see lens-openrlhf compare --help\n")
