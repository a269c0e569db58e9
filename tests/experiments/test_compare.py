"""The command from the spec to the tables, with runs that leave their records without training."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from lens_openrlhf.experiments import compare as compare_module
from lens_openrlhf.experiments import runner, state
from lens_openrlhf.experiments.compare import main
from lens_openrlhf.training.commandline import profiles

from .folders import write_comparison, write_run

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


@pytest.mark.parametrize(
    "words", [[], ["a.yaml", "--archive", "b", "c"], ["a.yaml", "--table", "--dry_run"], ["a.yaml", "--gpus", "two"]]
)
def test_words_that_make_no_command(words, capsys):
    assert main(words) == 2 and capsys.readouterr().err.endswith("; see lens-openrlhf compare --help\n")


def test_a_dry_run_in_full(content, write, tmp_path, capsys, monkeypatch):
    """Where arms differ: in what one of them lacks, or says otherwise. What was begun is told, and nothing written."""
    monkeypatch.chdir(tmp_path)
    content["arms"] = {
        "A": {"algo.lens.scope": "none", "actor.adam.betas": [0.9, 0.99], "eval.at_start": True},
        "B": {"actor.adam.betas": [0.9, 0.95], "eval.at_start": True},
        "C": {"eval.at_start": True},
    }
    folder = tmp_path / "runs" / "sound"
    folder.mkdir(parents=True)
    begun = {"name": "sound", "arms": {}, "inputs": {}, "runs": {"B/seed-2": {"state": "failed", "seconds": 1.0}}}
    (folder / "compare.json").write_text(json.dumps(begun))
    path = write(content)
    assert main([str(path), "--dry_run"]) == 0
    common = []
    for name, value in content["options"].items():
        common += [f"--{name}", *([] if value is True else [str(value)])]

    def command(arm: str, *own: str) -> str:
        words = [*common, *own, "--eval.at_start", "--train.seed", "1", "--logger.run_dir", f"runs/sound/runs/{arm}"]
        return f"\n{arm}: lens-openrlhf train {shlex.join(words)}"

    betas = ("--actor.adam.betas", "0.9")
    assert capsys.readouterr().out.split("\n") == [
        "sound: 3 arms on 2 seeds, 6 runs in runs/sound",
        "  A: algo.lens.scope none, actor.adam.betas 0.9 0.99",
        "  B: actor.adam.betas 0.9 0.95",
        "  C: no option that others lack",
        *("[1/6] A/seed-1: not started", "[2/6] B/seed-1: not started", "[3/6] C/seed-1: not started"),
        *("[4/6] A/seed-2: not started", "[5/6] B/seed-2: failed", "[6/6] C/seed-2: not started"),
        *command("A/seed-1", "--algo.lens.scope", "none", *betas, "0.99").split("\n"),
        *command("B/seed-1", *betas, "0.95").split("\n"),
        *command("C/seed-1").split("\n"),
        "",
    ]
    assert [path.name for path in folder.iterdir()] == ["compare.json"]


class Interrupted:
    """Stands for the runs: what it was given and what lay there then; one more is finished, then it is stopped."""

    def __init__(self, found, runs, parallel, keep_models):
        self.found, self.runs = found, runs
        Interrupted.given = found, runs, parallel, keep_models
        Interrupted.there = {path.name: path.read_text() for path in found.folder.glob("[a-z]*") if path.is_file()}

    def run(self) -> int:
        run = next(run for run in self.runs if not self.found.is_finished(run))
        write_run(self.found.run_folder(run), [[1, 0]])
        self.found.set(run, state="finished", seconds=1.0)
        return 130


def test_before_the_first_run_all_is_on_disk(content, write, tmp_path, monkeypatch, capsys):
    """What the same command goes on from, and the words of it."""
    monkeypatch.setattr(runner, "Runner", Interrupted)
    monkeypatch.chdir(tmp_path)
    path = write(content | {"parallel": 2, "keep_models": True})
    assert main([str(path)]) == 130
    found, runs, parallel, keep_models = Interrupted.given
    assert found.folder == Path("runs/sound") and (parallel, keep_models) == (2, True)
    assert [run.key for run in runs] == ["GRPO/seed-1", "LENS/seed-1", "GRPO/seed-2", "LENS/seed-2"]
    record = json.loads(Interrupted.there.pop("compare.json"))
    assert Interrupted.there == {"spec.yaml": path.read_text()}
    inputs = ("actor.model_name_or_path", "data.prompt_dataset", "eval.dataset")
    places = [content["options"][name] for name in inputs]
    assert record == {
        "name": "sound",
        "arms": {run.arm: run.options for run in runs},
        "inputs": {place: state.fingerprint(Path(place)) for place in places},
        "runs": {},
    }
    assert capsys.readouterr().out == (
        "sound: 4 runs, in runs/sound\n"
        "their logs: runs/sound/runs/ARM/seed-SEED/train.log\n"
        f"interrupted; 1 of 4 runs are finished. To go on: lens-openrlhf compare {path}\n"
    )

    other = tmp_path / "the other"
    write_comparison(other, {})
    words = [str(path), "-o", "a folder", "--reuse", str(other), "--reuse", "runs/sound"]
    assert main(words) == 130
    assert capsys.readouterr().out == (
        "GRPO/seed-1 is GRPO/seed-1 of runs/sound\n"
        "sound: 4 runs, 1 of them finished, in a folder\n"
        "their logs: a folder/runs/ARM/seed-SEED/train.log\n"
        f"interrupted; 2 of 4 runs are finished. To go on: {shlex.join(['lens-openrlhf', 'compare', *words])}\n"
    )


def test_what_a_profile_makes_is_there_before_the_first_run(content, write, tmp_path, monkeypatch, capsys):
    """Runs are given its place here; the record says ${demo}, so that the folder may go to another machine."""
    monkeypatch.setattr(runner, "Runner", Interrupted)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = tmp_path / "lens_openrlhf" / "demo"

    def make(folder: Path) -> None:
        if not folder.exists():
            shutil.copytree(tmp_path / "model", folder / "model")

    monkeypatch.setitem(profiles.FOLDERS, "demo", make)
    (tmp_path / "mine.args").write_text("--actor.model_name_or_path ${demo}/model\n")
    del content["options"]["actor.model_name_or_path"]
    path = write(content | {"profile": str(tmp_path / "mine.args")})
    assert main([str(path), "-o", str(tmp_path / "out")]) == 130
    assert {run.options["actor.model_name_or_path"][0] for run in Interrupted.given[1]} == {f"{place}/model"}
    record = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert {arm["actor.model_name_or_path"][0] for arm in record["arms"].values()} == {"${demo}/model"}
    assert record["inputs"]["${demo}/model"] == state.fingerprint(place / "model")

    with open(place / "model" / "config.json", "a") as file:
        file.write("\n")
    assert main([str(path), "-o", str(tmp_path / "out"), "--dry_run"]) == 2
    assert f"{place}/model: has changed since GRPO/seed-1 was trained" in capsys.readouterr().err


def test_what_a_finished_run_was_trained_from_need_not_be_there(content, write, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "Runner", Interrupted)
    for seed in (1, 2):
        shutil.copy(tmp_path / "train.jsonl", tmp_path / f"train-{seed}.jsonl")
    content["options"]["data.prompt_dataset"] = str(tmp_path / "train-{seed}.jsonl")
    path = write(content | {"arms": {"A": {}}})
    for _ in range(2):
        assert main([str(path), "-o", str(tmp_path / "out")]) == 130
        (tmp_path / "train-1.jsonl").unlink(missing_ok=True)
    states = json.loads((tmp_path / "out" / "compare.json").read_text())["runs"]
    assert {key: run["state"] for key, run in states.items()} == {"A/seed-1": "finished", "A/seed-2": "finished"}


def test_what_another_process_finished_until_the_folder_was_free_counts(content, write, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "Runner", Interrupted)
    path, out = write(content), tmp_path / "out"
    assert main([str(path), "-o", str(out)]) == 130
    capsys.readouterr()

    @contextlib.contextmanager
    def locked(folder):
        record = json.loads((folder / "compare.json").read_text())
        record["runs"]["LENS/seed-2"] = {"state": "finished", "seconds": 5.0}
        (folder / "compare.json").write_text(json.dumps(record))
        yield

    monkeypatch.setattr(compare_module, "locked", locked)
    assert main([str(path), "-o", str(out)]) == 130
    assert "sound: 4 runs, 2 of them finished, in" in capsys.readouterr().out


def test_the_help_of_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert "\n  lens-openrlhf compare SPEC.yaml --dry_run           check everything and say what would be" in told
    assert "\n  -o FOLDER, --out FOLDER\n" in told and told.startswith("usage: lens-openrlhf compare [-h] [-o FOLDER]")


def test_a_size_on_the_command_line_goes_before_the_specs(content, write, tmp_path, monkeypatch, capsys):
    """And into the command that goes on."""
    monkeypatch.setattr(runner, "Runner", Interrupted)
    (tmp_path / "mine.args").write_text("--actor.num_gpus_per_node ${gpus}\n")
    del content["options"]["actor.num_gpus_per_node"]
    path = write(content | {"profile": str(tmp_path / "mine.args"), "gpus": 1})
    words = [str(path), "-o", str(tmp_path / "out"), "--gpus", "2"]
    assert main(words) == 130
    assert {run.options["actor.num_gpus_per_node"][0] for run in Interrupted.given[1]} == {"2"}
    assert capsys.readouterr().out.endswith(f"To go on: {shlex.join(['lens-openrlhf', 'compare', *words])}\n")
    assert main([str(path), "-o", str(tmp_path / "out"), "--gpus", "0"]) == 2
    assert "--gpus 0" in capsys.readouterr().err


def test_runs_that_outlived_their_comparison_are_ended_before_any_is_started(content, write, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(runner, "Runner", Interrupted)
    monkeypatch.setattr(runner, "end_strays", lambda found: seen.append((found.folder, [*found.record["runs"]])))
    path = write(content)
    for _ in range(2):
        assert main([str(path), "-o", str(tmp_path / "out")]) == 130
        write(content | {"seeds": [2]})
    assert seen == [(tmp_path / "out", []), (tmp_path / "out", ["GRPO/seed-1"])]


@pytest.mark.parametrize("more", [[], ["--dry_run"]])
def test_data_that_changed_since_is_refused_before_anything_is_written(
    content, write, tmp_path, monkeypatch, more, capsys
):
    monkeypatch.setattr(runner, "Runner", Interrupted)
    path, out = write(content), tmp_path / "out"
    assert main([str(path), "-o", str(out)]) == 130
    with open(content["options"]["eval.dataset"], "a") as file:
        file.write("\n")
    write(content | {"seeds": [1, 2, 3]})
    before = (out / "compare.json").read_text(), (out / "spec.yaml").read_text()
    assert main([str(path), "-o", str(out), *more]) == 2
    assert "has changed since GRPO/seed-1 was trained" in capsys.readouterr().err
    assert before == ((out / "compare.json").read_text(), (out / "spec.yaml").read_text())


def test_a_finished_comparison_needs_nothing_but_its_folder(compare, content, tmp_path, monkeypatch):
    """Neither its model and data nor a machine that could train it: the tables are made again."""
    status, first = compare()
    assert status == 0
    (tmp_path / "heldout.jsonl").unlink()
    for name in ("check_machine", "check_inputs"):
        monkeypatch.setattr(compare_module.checks, name, None)
    status, shown = compare()
    out = tmp_path / "out"
    assert status == 0
    assert shown.startswith(f"sound: 4 runs, 4 of them finished, in {out}\n\nsound: Pass@k after the last step, 1 prom")
    assert shown.endswith(f"\n\nthe same with every seed: {out / 'results.json'}\n")
    assert shown.split("\n\n", 1)[1] == first[first.index("sound: Pass@k") :]
    status, shown = compare("--dry_run")
    assert status == 0 and "[4/4] LENS/seed-2: finished\n" in shown and "Pass@1" not in shown


@pytest.mark.parametrize("more", [[], ["--dry_run"]])
def test_comparisons_that_cannot_be_reused(content, write, tmp_path, capsys, more):
    folder = write_comparison(tmp_path / "out", {"GRPO": {1: {"scores": [[1]]}}})
    (folder / "compare.json").write_text('{"name": "sound", "arms": {}, "inputs": {}, "runs": {}}')
    (tmp_path / "link").symlink_to(folder)
    path = write(content)
    for other, told in (
        (tmp_path, f"--reuse {tmp_path}: holds no comparison (no compare.json)"),
        (tmp_path / "link", f"--reuse {tmp_path / 'link'}: is the comparison's own folder, whose finished runs are "),
    ):
        assert main([str(path), "-o", str(folder), "--reuse", str(other), *more]) == 2
        assert capsys.readouterr().err.startswith(f"error: {told}")


def test_an_archive_tells_its_size_and_how_to_read_it(tmp_path, capsys):
    folder = write_comparison(tmp_path / "c", {"GRPO": {1: {"scores": [[1, 0]]}}})
    file = tmp_path / "a b.tar.xz"
    assert main(["--archive", str(folder), str(file)]) == 0
    shown = capsys.readouterr().out
    size = file.stat().st_size
    assert shown.startswith("known: Pass@k") and (folder / "results.json").exists()
    assert shown.endswith(
        f"\n\n{file}: {size / 1e6:.2f} MB; the tables again: lens-openrlhf compare --table '{file}'\n"
    )
