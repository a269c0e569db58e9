"""compare.json: what is finished stays finished, and nothing unfair is taken up."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from lens_openrlhf.experiments import state
from lens_openrlhf.experiments.runs import Run, arm_options, runs_of
from lens_openrlhf.experiments.spec import SpecError
from lens_openrlhf.experiments.state import State

from .folders import write_lines, write_run


def opened(folder, wanted) -> tuple[State, dict, list[Run]]:
    """The folder's state after it has taken up a spec."""
    arms = arm_options(wanted)
    runs = runs_of(wanted, arms)
    found = State(folder)
    found.adopt(wanted, arms, runs)
    return found, arms, runs


@pytest.fixture
def begun(sound, tmp_path):
    """A comparison in tmp_path/c: GRPO's first run is finished, LENS's was interrupted."""
    found, _, runs = opened(tmp_path / "c", sound())
    found.folder.mkdir()
    found.set(runs[0], state="finished", seconds=1.0)
    found.set(runs[1], state="interrupted", seconds=1.0)
    return found


def test_more_seeds_and_arms_are_fine(begun, sound):
    wanted = sound(seeds=[3, 1, 2], arms={"new": {}, "GRPO": {"algo.lens.scope": "none"}, "LENS": {}})
    found, _, runs = opened(begun.folder, wanted)
    assert [run.key for run in runs if found.is_finished(run)] == ["GRPO/seed-1"]


def test_seeds_and_arms_may_be_left_out_and_come_back(begun, sound):
    found, *_ = opened(begun.folder, sound(arms={"LENS": {}}, seeds=[2]))
    found.save()
    changed = sound(arms={"GRPO": {"algo.lens.scope": "both"}})
    with pytest.raises(SpecError, match="arm 'GRPO': algo.lens.scope is both.* had none"):
        opened(begun.folder, changed)


def test_the_record_is_all_that_is_known(begun, sound):
    """Reading it back adds nothing and leaves nothing out."""
    text = (begun.folder / "compare.json").read_text()
    on_disk = json.loads(text)
    assert text == json.dumps(on_disk, indent=2) + "\n"
    assert on_disk == {
        "arms": arm_options(sound()),
        "inputs": {},
        "runs": {
            "GRPO/seed-1": {"state": "finished", "seconds": 1.0},
            "LENS/seed-1": {"state": "interrupted", "seconds": 1.0},
        },
        "name": "sound",
    }
    assert state.load(begun.folder) == on_disk == begun.record
    assert state.load(begun.folder / "absent") == {"arms": {}, "inputs": {}, "runs": {}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"arms": []}, "TypeError('arms is no object')"),
        ({"inputs": 3}, "TypeError('inputs is no object')"),
        ({"runs": "x"}, "TypeError('runs is no object')"),
        ({"runs": {"a": {"seconds": 1}}}, "KeyError('state')"),
        ({"runs": {"a": {"state": "finished"}, "b": 3}}, "TypeError("),
    ],
)
def test_a_record_of_another_shape_is_refused(begun, change, told):
    path = begun.folder / "compare.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SpecError) as caught:
        state.load(begun.folder)
    assert str(caught.value).startswith(f"{path}: is no record of a comparison ({told}")


@pytest.mark.parametrize("key", ["name", "arms", "inputs", "runs"])
def test_a_record_that_lacks_something_is_refused(begun, key):
    path = begun.folder / "compare.json"
    record = json.loads(path.read_text())
    del record[key]
    path.write_text(json.dumps(record))
    with pytest.raises(SpecError, match=f"is no record of a comparison .KeyError.'{key}'"):
        state.load(begun.folder)


def test_what_was_recorded_of_a_run_is_replaced_as_a_whole(begun, sound):
    (run, *_) = runs_of(sound(), arm_options(sound()))
    begun.set(run, state="failed", exit=3)
    assert State(begun.folder).of(run) == {"state": "failed", "exit": 3}
    assert not begun.is_finished(run) and begun.run_folder(run) == begun.folder / "runs" / "GRPO" / "seed-1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"actor.adam.lr": 0.5}, ["arm 'GRPO': actor.adam.lr is 0.5", "had left out"]),
        ({"train.zzz": 1, "actor.adam.lr": 1, "eval.steps": 1, "algo.b": 1}, ["arm 'GRPO': actor.adam.lr is 1, but"]),
        ({"eval.at_end": None}, ["eval.at_end is left out", "had set"]),
        ({"eval.dataset": "other"}, ["eval.dataset is other", "heldout.jsonl"]),
    ],
)
def test_other_options_for_a_finished_run_are_refused(begun, sound, options, words):
    with pytest.raises(SpecError) as caught:
        opened(begun.folder, sound(options))
    for word in [*words, "-o"]:
        assert word in str(caught.value)


def test_other_options_for_an_unfinished_arm_start_it_anew(begun, sound):
    same, _, runs = opened(begun.folder, sound())
    assert same.of(runs[1])["state"] == "interrupted"
    changed, _, runs = opened(
        begun.folder, sound(arms={"GRPO": {"algo.lens.scope": "none"}, "LENS": {"algo.lens.alpha": 1}})
    )
    assert changed.of(runs[1]) == {}, "there would be a checkpoint to go on from"


def test_other_options_of_one_arm_start_no_other_anew(begun, sound):
    wanted = sound(arms={"GRPO": {"algo.lens.scope": "none"}, "LENS": {}, "new": {}}, seeds=[1, 2, 3])
    found, _, runs = opened(begun.folder, wanted)
    found.set(runs[2], state="failed", seconds=2.0)  # of the new arm
    changed = sound(arms={"GRPO": {"algo.lens.scope": "none"}, "LENS": {}, "new": {"algo.lens.alpha": 1}})
    again, arms, _ = opened(begun.folder, changed)
    assert [run.key for run in runs if again.of(run)] == ["GRPO/seed-1", "LENS/seed-1"]
    assert again.record["arms"] == arms and arms["new"]["algo.lens.alpha"] == ["1"]


@pytest.fixture
def elsewhere(begun, sound, tmp_path):
    """A new comparison beside `begun` whose first arm is the same under another label, said in other words."""
    begun.record["inputs"] = {"data": "digest"}
    (begun.folder / "runs" / "GRPO" / "seed-1").mkdir(parents=True)
    (begun.folder / "runs" / "GRPO" / "seed-1" / "eval.jsonl").write_text("{}\n")
    arms = {"baseline": {"algo.lens.scope": "none", "algo.lens.alpha": 0.25}, "LENS": {}}
    found, _, runs = opened(tmp_path / "d", sound(name="elsewhere", arms=arms))
    found.folder.mkdir()
    return found, runs


def test_finished_runs_of_another_comparison_are_taken_over(begun, elsewhere):
    found, runs = elsewhere
    assert [(run.key, label) for run, label in found.take_over(begun, runs)] == [("baseline/seed-1", "GRPO")]
    assert [run.key for run in runs if found.is_finished(run)] == ["baseline/seed-1"]
    assert (found.run_folder(runs[0]) / "eval.jsonl").is_file()
    assert State(found.folder).record["inputs"] == {"data": "digest"}
    assert found.take_over(begun, runs) == [], "it is here already"


def test_runs_are_taken_over_with_what_is_recorded_of_them(begun, elsewhere):
    """Also where two of their arms compute the same, and where something lies in the place already."""
    found, runs = elsewhere
    begun.record["arms"]["twin"] = begun.record["arms"]["GRPO"]
    for key in ("GRPO/seed-2", "twin/seed-1", "LENS/seed-9"):
        begun.record["runs"][key] = {"state": "finished", "seconds": 77.0, "pid": 5}
        (begun.folder / "runs" / key).mkdir(parents=True)
        (begun.folder / "runs" / key / "eval.jsonl").write_text(key)
    found.record["inputs"] = {"model": "own digest", "data": "digest"}
    found.run_folder(runs[2]).mkdir(parents=True)
    (found.run_folder(runs[2]) / "train.log").write_text("old")
    taken = found.take_over(begun, runs)
    assert [(run.key, label) for run, label in taken] == [("baseline/seed-1", "GRPO"), ("baseline/seed-2", "GRPO")]
    assert json.loads((found.folder / "compare.json").read_text())["runs"] == {
        "baseline/seed-1": {"state": "finished", "seconds": 1.0},
        "baseline/seed-2": {"state": "finished", "seconds": 77.0, "pid": 5},
    }
    assert (found.run_folder(runs[0]) / "eval.jsonl").read_text() == "{}\n"
    assert (found.run_folder(runs[2]) / "eval.jsonl").read_text() == "GRPO/seed-2"
    assert found.record["inputs"] == {"data": "digest", "model": "own digest"}
    assert (begun.folder / "runs" / "GRPO" / "seed-1" / "eval.jsonl").exists(), "they stay where they were"


@pytest.mark.parametrize("before", ["failed", "interrupted", "running"])
def test_what_has_begun_here_is_not_taken_over(begun, elsewhere, before):
    found, runs = elsewhere
    found.set(runs[0], state=before, seconds=900.0)
    assert found.take_over(begun, runs) == []
    assert found.of(runs[0]) == {"state": before, "seconds": 900.0} and not found.run_folder(runs[0]).exists()


def test_runs_of_other_options_or_seeds_are_not_taken_over(begun, elsewhere):
    found, runs = elsewhere
    changed = [replace(run, options=run.options | {"actor.adam.lr": ["1e-3"]}) for run in runs]
    others = [Run(run.arm, run.seed + 10, run.options) for run in runs]
    assert found.take_over(begun, changed) == found.take_over(begun, others) == []


def test_runs_made_from_other_data_are_not_taken_over(begun, elsewhere):
    found, runs = elsewhere
    found.record["inputs"] = {"data": "another digest"}
    with pytest.raises(SpecError, match="--reuse .*: data has changed since"):
        found.take_over(begun, runs)


def test_another_comparisons_folder_is_refused(begun, sound):
    with pytest.raises(SpecError, match="holds the comparison 'sound', not 'other'"):
        opened(begun.folder, sound(name="other"))


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SpecError, match="holds notes.txt and no comparison"):
        with state.locked(tmp_path):
            pass


def test_one_folder_is_never_written_by_two(tmp_path):
    folder = tmp_path / "c"
    hold = (
        "import sys, time; from pathlib import Path; from lens_openrlhf.experiments.state import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(SpecError, match=f"process {other.pid} on .* compares in it"):
            with state.locked(folder):
                pass
        other.kill()
    with state.locked(folder):  # a dead process holds nothing
        pass


@pytest.mark.parametrize("option", ["actor.model_name_or_path", "data.prompt_dataset", "eval.dataset"])
def test_a_model_or_data_that_changed_since_is_refused(content, sound, tmp_path, option):
    wanted = sound()
    found, _, runs = opened(tmp_path / "c", wanted)
    found.folder.mkdir()
    found.check_inputs(runs, runs)
    found.set(runs[0], state="finished", seconds=1.0)
    State(found.folder).check_inputs(runs, runs)

    place = content["options"][option]
    file = f"{place}/config.json" if option.startswith("actor") else place
    with open(file, "a") as changed:
        changed.write(" ")
    again = State(found.folder)
    with pytest.raises(SpecError, match=f"{option} .* has changed since GRPO/seed-1 was trained"):
        again.check_inputs(runs, runs)
    again.record["runs"].clear()
    again.check_inputs(runs, runs)  # nothing is finished: the new model is as good as any


def test_data_of_finished_runs_may_not_change_while_the_spec_leaves_them_out(sound, tmp_path):
    """Or they would come back beside runs that were made from other data."""
    (tmp_path / "train-1.jsonl").write_text('{"prompt": "1", "label": "1"}\n')
    names = f"{tmp_path / 'train.jsonl'},{tmp_path}/train-{{seed}}.jsonl"
    options = {"data.prompt_dataset": names}
    found, _, runs = opened(tmp_path / "c", sound(options, seeds=[1]))
    found.folder.mkdir()
    found.check_inputs(runs, runs)
    found.set(runs[1], state="finished", seconds=1.0)
    found.set(runs[0], state="failed", seconds=1.0)
    other, _, others = opened(tmp_path / "c", sound(options, seeds=[2], arms={"GRPO": {"algo.lens.scope": "none"}}))
    other.check_inputs(others, others)
    before = dict(other.record["inputs"])
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(SpecError, match="train.jsonl: has changed since LENS/seed-1 was trained, so that further runs"):
        other.check_inputs(others, others)
    assert other.record["inputs"] == before

    # Where nothing is known of what they were trained from, nothing is held against it.
    for known in ("inputs", "arms"):
        unknown = State(tmp_path / "c")
        unknown.record[known] = {}
        unknown.check_inputs(others, others)
        assert unknown.record["inputs"][f"{tmp_path}/train.jsonl"] == state.fingerprint(tmp_path / "train.jsonl")

    (tmp_path / "train-1.jsonl").write_text("")
    mine = {"data.prompt_dataset": f"{tmp_path}/train-1.jsonl"}
    last, _, runs = opened(tmp_path / "c", sound(options, seeds=[2], arms={"mine": mine}))
    with pytest.raises(SpecError, match="train-1.jsonl: has changed since LENS/seed-1 was trained"):
        last.check_inputs(runs, runs)


def test_runs_with_files_of_their_own_are_taken_over(sound, tmp_path):
    options = {"data.prompt_dataset": str(tmp_path / "train-{seed}.jsonl")}
    there, _, runs = opened(tmp_path / "c", sound(options))
    for run in runs:
        there.run_folder(run).mkdir(parents=True)
        there.set(run, state="finished", seconds=1.0)
    found, _, runs = opened(tmp_path / "d", sound(options, name="d", seeds=[2, 3]))
    assert [run.key for run, _ in found.take_over(there, runs)] == ["GRPO/seed-2", "LENS/seed-2"]


def test_inputs_are_recorded_by_the_name_that_the_spec_has(content, sound, tmp_path, monkeypatch):
    """Of several each, of a split the file; a place that only this machine has stands for the spec's; hub names and
    what is not given are left out."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").touch()
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(name)
    names = f"~/a.jsonl, {tmp_path}/b.jsonl@train,some/hub-name"
    wanted = sound({"data.prompt_dataset": names, "actor.model_name_or_path": "${demo}/model", "eval.dataset": None})
    arms = arm_options(wanted)
    runs = runs_of(wanted, arms)
    model = content["options"]["actor.model_name_or_path"]
    actual = [replace(run, options=run.options | {"actor.model_name_or_path": [model]}) for run in runs]
    found = State(tmp_path / "c")
    found.record["inputs"] = {"former": "digest"}
    found.check_inputs(runs, actual)
    assert found.record["inputs"] == {
        "former": "digest",
        "${demo}/model": state.fingerprint(tmp_path / "model"),
        "~/a.jsonl": state.fingerprint(tmp_path / "a.jsonl"),
        f" {tmp_path}/b.jsonl@train": state.fingerprint(tmp_path / "b.jsonl"),
    }


def test_seeds_with_files_of_their_own_may_be_added(sound, tmp_path):
    for seed in (1, 2):
        (tmp_path / f"train-{seed}.jsonl").write_text(f'{{"prompt": "{seed}", "label": "1"}}\n')
    options = {"data.prompt_dataset": str(tmp_path / "train-{seed}.jsonl")}
    found, _, runs = opened(tmp_path / "c", sound(options, seeds=[1]))
    found.folder.mkdir()
    found.check_inputs(runs, runs)
    found.set(runs[0], state="finished", seconds=1.0)
    again, _, runs = opened(tmp_path / "c", sound(options, seeds=[1, 2]))
    again.check_inputs(runs, runs)
    assert {name for name in again.record["inputs"] if "train" in name} == {
        str(tmp_path / f"train-{seed}.jsonl") for seed in (1, 2)
    }


def test_the_fingerprint_sees_content_names_and_both_ends_of_large_files(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    size = 3 * state.EDGE_BYTES

    def written(name: str, content: bytes) -> str:
        (folder / name).write_bytes(content)
        return state.fingerprint(folder)

    prints = [written("a.safetensors", bytes(size))]
    assert prints[0] == written("a.safetensors", bytes(size))
    prints.append(written("a.safetensors", b"x" + bytes(size - 1)))
    prints.append(written("a.safetensors", bytes(size - 1) + b"x"))
    prints.append(written("a.safetensors", bytes(size + 1)))
    prints.append(written("b.json", b"{}"))
    (folder / "b.json").rename(folder / "c.json")
    prints.append(state.fingerprint(folder))
    assert len(set(prints)) == len(prints)


def test_fingerprints_that_comparisons_hold_stay_valid(tmp_path):
    """Name and size, then the first and the last MiB, which are the same bytes of a small file; folders in the order
    of their paths, without texts such as a licence."""
    edge = 2**20
    assert state.EDGE_BYTES == edge
    head, tail = b"h" * edge, b"t" * edge
    files = {"b/x.json": b"12", "a.safetensors": head + b"middle" + tail, "c": b""}
    for name, content in (files | {"README.txt": b"", "b/LICENSE.txt": b"mine"}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    parts = [b"a.safetensors\0", b"%d\0" % (2 * edge + 6), head, tail]
    parts += [b"b/x.json\0", b"2\0", b"12", b"12", b"c\0", b"0\0"]
    assert state.fingerprint(tmp_path) == hashlib.sha256(b"".join(parts)).hexdigest()
    assert state.fingerprint(tmp_path / "b/x.json") == hashlib.sha256(b".\0" + b"2\0" + b"12" * 2).hexdigest()
    assert state.fingerprint(tmp_path / "README.txt") == hashlib.sha256(b".\0" + b"0\0").hexdigest()


def test_the_state_survives_a_crash_while_it_is_written(begun, monkeypatch):
    before = (begun.folder / "compare.json").read_text()

    def crash(*_):
        raise OSError("power cut")

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(OSError, match="power cut"):
        begun.save()
    assert (begun.folder / "compare.json").read_text() == before


@pytest.mark.parametrize(("steps", "evaluated", "final"), [(2, 2, True), (3, 2, False), (2, 3, False), (0, 0, False)])
def test_a_final_evaluation_is_one_after_the_last_step(tmp_path, steps, evaluated, final):
    write_lines(tmp_path / "metrics.jsonl", [{"step": step} for step in range(1, steps + 1)])
    write_lines(tmp_path / "eval.jsonl", [{"step": 0, "scores": [[0]]}, {"step": evaluated, "scores": [[1]]}])
    assert state.has_final_evaluation(tmp_path) is final


def test_without_any_evaluation_there_is_no_final_one(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1}, {"step": 2}])
    assert state.has_final_evaluation(tmp_path) is False
    write_lines(tmp_path / "eval.jsonl", [{"step": 2}, {"step": 1}])
    assert state.has_final_evaluation(tmp_path) is False, "the last one counts"


def test_unfinished_folders_are_kept_aside_without_what_is_large(tmp_path):
    folder = tmp_path / "seed-1"
    for number in (1, 2):
        write_run(folder, [[1, 0]])
        for name in state.LARGE:
            (folder / name).mkdir()
        aside = state.move_aside(folder)
        assert aside == tmp_path / f"seed-1.unfinished-{number}" and not folder.exists()
        assert (aside / "metrics.jsonl").exists() and not any((aside / name).exists() for name in state.LARGE)
    assert state.move_aside(folder) is None
