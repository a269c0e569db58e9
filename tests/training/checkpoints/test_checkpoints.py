"""Checkpoints: whole or not there, and the records of a run that goes on."""

from __future__ import annotations

import json
import os
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest

from lens_openrlhf.inputs import OptionError
from lens_openrlhf.run_folder.log import RunLog, read
from lens_openrlhf.training.checkpoints import layout, resuming, writing
from lens_openrlhf.training.commandline import records

QWEN = {"model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100}

LOOSE = SimpleNamespace(max_num=9, max_mem=1000)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN))
    return folder


@pytest.fixture
def arguments(parse, model, tmp_path):
    """arguments(*more) -> parsed arguments of a run in tmp_path/run that may go on."""

    def run(*more, **keywords):
        where = ["--logger.run_dir", str(tmp_path / "run"), "--actor.model_name_or_path", str(model)]
        return parse(*where, "--ckpt.load_enable", *more, **keywords)

    return run


def write(args, step, tag=None, metric=None, max_num=3, max_mem=1000, before=None):
    """A checkpoint as OpenRLHF writes it, and then finished; `before`: options that it was written with."""
    folder, tag = Path(args.ckpt.path), tag or f"global_step{step}"
    states = folder / "_actor" / (layout.UNFINISHED + tag)
    states.mkdir(parents=True)
    (states / "mp_rank_00_model_states.pt").write_bytes(b"weights of step %d" % step)
    if metric is not None:
        (states / layout.METRIC).write_text(json.dumps({"metric_key": "pass1", "metric_value": metric}))
    shape = layout.architecture(args.actor.model_name_or_path)
    facts = {"step": step, "options": records.chosen(args) | (before or {}), "architecture": shape}
    writing.finish(folder, tag, facts, SimpleNamespace(max_num=max_num, max_mem=max_mem))
    place = folder / "_actor" / tag
    os.utime(place, (step, step))
    return place


def names(args):
    return sorted(os.listdir(os.path.join(args.ckpt.path, "_actor")))


def test_the_newest_checkpoint_is_gone_on_from(arguments):
    args = arguments()
    assert resuming.check(args, records.chosen(args)) is None
    for step in (2, 10, 4):
        write(args, step)
    found = resuming.check(args, records.chosen(args))
    assert (found.tag, found.step, found.notes) == ("global_step10", 10, [])
    resuming.go_on(args, found)
    assert open(os.path.join(args.ckpt.path, "_actor", "latest")).read() == "global_step10"
    assert args.ckpt.load_enable


@pytest.mark.parametrize("harm", ["changed", "cut", "missing", "hidden"])
def test_a_damaged_checkpoint_is_left_out_with_a_word(arguments, harm):
    args = arguments()
    write(args, 2)
    weights = write(args, 4) / "mp_rank_00_model_states.pt"
    if harm == "hidden":  # a hidden file is one as any other
        states = weights.parent.with_name(f"{layout.UNFINISHED}global_step4")
        weights.parent.rename(states)
        weights = states / ".hidden" / "mp_rank_00_model_states.pt"
        weights.parent.mkdir()
        weights.write_bytes(b"weights")
        writing.finish(Path(args.ckpt.path), "global_step4", json.loads((states / layout.FACTS).read_text()), LOOSE)
        (states.with_name("global_step4") / ".hidden" / weights.name).write_bytes(b"Weights")
    elif harm == "changed":
        weights.write_bytes(b"Weights of step 4")
    elif harm == "cut":
        weights.write_bytes(b"weights")
    else:
        weights.unlink()
    found = resuming.check(args, records.chosen(args))
    assert found.step == 2
    assert "global_step4 is left out" in found.notes[0] and "mp_rank_00_model_states.pt" in found.notes[0]


def test_only_damaged_checkpoints_are_an_error(arguments):
    args = arguments()
    (write(args, 2) / "mp_rank_00_model_states.pt").unlink()
    with pytest.raises(OptionError, match="no checkpoint in .* is whole.*--ckpt.path"):
        resuming.check(args, records.chosen(args))


def test_what_a_crash_left_unfinished_is_neither_taken_nor_kept(arguments):
    args = arguments()
    write(args, 2)
    half = os.path.join(args.ckpt.path, "_actor", layout.UNFINISHED + "global_step4")
    os.makedirs(half)
    with open(os.path.join(args.ckpt.path, "_actor", "latest"), "w") as latest:
        latest.write(os.path.basename(half))  # DeepSpeed has pointed at it already
    assert resuming.newest(Path(args.ckpt.path)).step == 2
    resuming.go_on(args, resuming.check(args, records.chosen(args)))
    assert names(args) == ["global_step2", "latest"]


def test_one_left_unfinished_is_not_taken_for_openrlhfs(arguments):
    folder = Path(arguments().ckpt.path)
    (folder / "_actor" / f"{layout.UNFINISHED}global_step4").mkdir(parents=True)
    (folder / "_actor" / "latest").write_text(f"{layout.UNFINISHED}global_step4")
    assert resuming.newest(folder) is None


def test_a_checkpoint_that_was_being_replaced_comes_back(arguments):
    args = arguments()
    place = write(args, 2)
    place.rename(place.with_name(layout.REPLACED + place.name))  # and here the machine stopped
    assert resuming.check(args, records.chosen(args)).step == 2
    assert names(args) == ["global_step2", "latest"]


def test_one_that_was_replaced_goes_although_the_machine_stopped_before(arguments):
    args = arguments()
    place = write(args, 2)
    old = place.with_name(layout.REPLACED + place.name)
    old.mkdir()
    (old / "weights").write_bytes(b"of the run before")
    assert resuming.check(args, records.chosen(args)).step == 2
    assert names(args) == ["global_step2", "latest"]
    assert (place / "mp_rank_00_model_states.pt").read_bytes() == b"weights of step 2"


def test_the_copy_for_transformers_gets_its_name_and_replaces_another(arguments):
    args = arguments()
    folder = Path(args.ckpt.path)
    for text in ("first", "second"):
        written = folder / f"{layout.UNFINISHED}global_step2_hf"
        written.mkdir(parents=True)
        (written / "model.safetensors").write_text(text)
        write(args, 2)
        assert sorted(os.listdir(folder)) == ["_actor", "global_step2_hf"]
        assert (folder / "global_step2_hf" / "model.safetensors").read_text() == text


def test_copies_for_transformers_that_a_crash_left_are_swept_too(arguments):
    args = arguments()
    write(args, 2)
    folder = Path(args.ckpt.path)
    (folder / f"{layout.UNFINISHED}global_step4_hf").mkdir()
    (folder / f"{layout.REPLACED}global_step2_hf").mkdir()
    resuming.check(args, records.chosen(args))
    assert sorted(os.listdir(folder)) == ["_actor", "global_step2_hf"]


def test_of_one_step_the_one_written_last_is_taken(arguments):
    args = arguments()
    folder = Path(args.ckpt.path)
    places = [write(args, 4), write(args, 4, tag="best_global_step4")]
    for last in (0, 1):
        for number, place in enumerate(places):
            os.utime(place, (50, 60 if number == last else 55))
        assert resuming.newest(folder) == resuming.Resume(places[last].name, 4, [])


def test_one_that_had_all_but_its_name_is_not_taken(arguments):
    args = arguments()
    place = write(args, 4)
    write(args, 2)
    place.rename(place.with_name(f"unfinished-{place.name}"))
    assert resuming.newest(Path(args.ckpt.path)) == resuming.Resume("global_step2", 2, [])


@pytest.mark.parametrize("facts", ["", "3", "{}", "[]", None])
def test_one_whose_step_cannot_be_read_is_left_out_with_a_word(arguments, facts):
    args = arguments()
    write(args, 2)
    place = write(args, 4) / "run.json"
    place.unlink() if facts is None else place.write_text(facts)
    found = resuming.newest(Path(args.ckpt.path))
    assert (found.tag, found.step, len(found.notes)) == ("global_step2", 2, 1)
    assert found.notes[0].startswith("checkpoint global_step4 is left out: run.json cannot be read (")


def test_why_none_is_whole_is_told_of_each(arguments):
    args = arguments()
    for step in (2, 4):
        (write(args, step) / "mp_rank_00_model_states.pt").unlink()
    states = Path(args.ckpt.path) / "_actor"
    told = "; ".join(
        f"checkpoint global_step{step} is left out: {states}/global_step{step}/mp_rank_00_model_states.pt: is missing, "
        "but manifest.json lists it"
        for step in (4, 2)
    )
    with pytest.raises(OptionError) as caught:
        resuming.check(args, records.chosen(args))
    assert str(caught.value) == (
        f"--ckpt.load_enable: no checkpoint in {states} is whole ({told}); restore one, or name another --ckpt.path "
        "to begin anew"
    )


@pytest.mark.parametrize(
    ("latest", "found"),
    [
        ("global_step7\n", ("global_step7", 7)),
        ("best_global_step5", ("best_global_step5", 5)),
        ("global_step9", None),  # not there
        ("unfinished-global_step7", None),
        ("final", None),
        ("", None),
        (None, None),
    ],
)
def test_of_openrlhfs_own_the_one_that_latest_names_is_taken(arguments, latest, found):
    args = arguments()
    states = Path(args.ckpt.path) / "_actor"
    for name in ("global_step7", "best_global_step5", "final", "unfinished-global_step7"):
        (states / name).mkdir(parents=True)
    if latest is not None:
        (states / "latest").write_text(latest)
    note = "checkpoint {} has no manifest, so that it could not be checked"
    assert resuming.newest(Path(args.ckpt.path)) == (found and resuming.Resume(*found, [note.format(found[0])]))


def test_openrlhfs_own_is_taken_where_ours_are_damaged(arguments):
    args = arguments()
    (write(args, 8) / "mp_rank_00_model_states.pt").unlink()
    states = Path(args.ckpt.path) / "_actor"
    (states / "global_step7").mkdir()
    (states / "latest").write_text("global_step7")
    found = resuming.check(args, records.chosen(args))
    assert (found.tag, found.step) == ("global_step7", 7)
    assert [note.partition(":")[0] for note in found.notes] == [
        "checkpoint global_step8 is left out",
        "checkpoint global_step7 has no manifest, so that it could not be checked",
    ]


def test_another_model_of_the_same_shape_is_said_aloud(arguments, model, tmp_path):
    write(arguments(), 2)
    model.rename(tmp_path / "other")
    args = arguments("--actor.model_name_or_path", str(tmp_path / "other"))
    assert resuming.check(args, records.chosen(args)).notes == [
        f"--actor.model_name_or_path was {model} until step 2 and is {tmp_path}/other from now on"
    ]


def test_one_that_openrlhf_wrote_itself_is_taken_with_a_word(arguments):
    args = arguments()
    folder = Path(args.ckpt.path) / "_actor"
    (folder / "global_step7").mkdir(parents=True)
    (folder / "latest").write_text("global_step7")
    found = resuming.check(args, records.chosen(args))
    assert found.step == 7 and "no manifest" in found.notes[0]


def test_one_of_ours_without_its_facts_is_not_taken_for_openrlhfs(arguments):
    args = arguments()
    (write(args, 4) / layout.FACTS).unlink()
    with pytest.raises(OptionError, match="no checkpoint .* is whole .*global_step4 is left out: run.json"):
        resuming.check(args, records.chosen(args))


@pytest.mark.parametrize(("steps", "every", "lost"), [(3, 2, True), (2, 2, False), (0, -1, False), (1, -1, True)])
def test_records_of_a_run_whose_checkpoints_are_not_there_are_not_begun_over(arguments, tmp_path, steps, every, lost):
    args = arguments("--ckpt.path", str(tmp_path / "elsewhere"), "--ckpt.save_steps", str(every))
    log = RunLog(args.logger.run_dir)
    for step in range(1, steps + 1):
        log.step(step, {})
    if lost:
        with pytest.raises(OptionError, match=f"elsewhere: has no checkpoint.*run holds the records of {steps} steps"):
            resuming.check(args, records.chosen(args))
    else:  # it ended before its first one
        assert resuming.check(args, records.chosen(args)) is None


def test_averaged_weights_cannot_be_gone_on_with(arguments):
    write(arguments(), 4)
    args = arguments("--train.enable_ema")
    with pytest.raises(OptionError, match="--train.enable_ema: .*global_step4 too, do not hold the averaged weights"):
        resuming.check(args, records.chosen(args))


def test_without_a_checkpoint_openrlhf_is_told_to_begin(arguments):
    args = arguments()
    assert "begins with the first step" in resuming.go_on(args, resuming.check(args, records.chosen(args)))[0]
    assert not args.ckpt.load_enable


@pytest.mark.parametrize(
    ("kept_steps", "limits"),
    [
        ([6], {"max_num": 1}),
        ([4, 6], {"max_num": 2}),
        ([2, 4, 6], {"max_num": 3}),
        ([6], {"max_num": 9, "max_mem": 1e-9}),  # the newest stays whatever its size
    ],
)
def test_old_checkpoints_make_room_after_the_new_one_is_there(arguments, kept_steps, limits):
    args = arguments()
    for step in (2, 4, 6):
        write(args, step, **limits)
    assert names(args) == [*(f"global_step{step}" for step in kept_steps), "latest"]


@pytest.mark.parametrize("newest", ["global_step6", "best_global_step6"])
@pytest.mark.parametrize(("too_much", "kept"), [(0, [2, 4]), (1, [4]), (20, [])])
def test_the_size_of_all_is_limited(arguments, newest, too_much, kept):
    """Bytes of every checkpoint count, those of the newest and of the best, too."""
    args = arguments()
    states = write(args, 2).parent
    write(args, 4)
    (states / "global_step4" / "deep").mkdir()
    (states / "global_step4" / "deep" / "more").write_bytes(b"1234567890")
    write(args, 6, tag=newest)
    files = [file for file in states.rglob("*") if file.is_file() and file.parent != states]
    first = sum(file.stat().st_size for file in files if file.parent.name == "global_step2")
    limit = sum(file.stat().st_size for file in files) - too_much - (first if too_much == 20 else 0)
    writing.make_room(states, newest, 9, limit / 2**30)
    assert names(args) == sorted([*(f"global_step{step}" for step in kept), newest, "latest"])


def test_the_best_counts_by_size(arguments):
    args = arguments()
    states = write(args, 2, tag="best_global_step2").parent
    write(args, 4)
    write(args, 6)
    size = sum(file.stat().st_size for file in states.rglob("*") if file.is_file() and file.parent != states)
    writing.make_room(states, "global_step6", 9, (size - 1) / 2**30)
    assert names(args) == ["best_global_step2", "global_step6", "latest"]


def test_without_a_metric_the_oldest_goes_first_whatever_its_name(arguments):
    args = arguments()
    states = write(args, 2).parent
    write(args, 4)
    os.utime(states / "global_step2", (5, 5))
    write(args, 6, max_num=2)
    assert names(args) == ["global_step2", "global_step6", "latest"]


def test_the_worst_metric_goes_first_but_never_the_newest(arguments):
    args = arguments()
    for step, metric in ((2, 0.9), (4, 0.5), (6, None), (8, 0.1)):
        write(args, step, metric=metric, max_num=2)
    assert names(args) == ["global_step2", "global_step8", "latest"]


def test_the_best_checkpoint_is_not_counted_and_replaces_the_last_best(arguments):
    args = arguments()
    write(args, 2, tag="best_global_step2", metric=0.2)
    for step in (2, 4, 6):
        write(args, step, max_num=1)
    assert names(args) == ["best_global_step2", "global_step6", "latest"]
    write(args, 6, tag="best_global_step6", metric=0.4)
    assert names(args) == ["best_global_step6", "global_step6", "latest"]


def test_a_step_that_comes_again_replaces_its_checkpoint(arguments):
    args = arguments()
    write(args, 2)
    (write(args, 2) / "mp_rank_00_model_states.pt").read_bytes()
    assert names(args) == ["global_step2", "latest"]
    assert resuming.check(args, records.chosen(args)).step == 2


def test_checkpoints_go_in_this_order(arguments):
    """Those without a metric before those with one, whatever it is; then the worst; then the oldest."""
    args = arguments()
    metrics = {1: 0.5, 2: -0.3, 3: 0.0, 4: None, 5: "{", 6: 0.5, 7: None, 8: '{"metric_key": "pass1"}', 9: "[]"}
    for step, metric in metrics.items():
        place = write(args, step, metric=metric if isinstance(metric, float) else None, max_num=9)
        if isinstance(metric, str):
            (place / "metric.json").write_text(metric)
        os.utime(place, (100 - step, 100 - step))
    states = write(args, 10, metric=-9.0, max_num=10).parent
    there = {path.name for path in states.iterdir()}
    for left, gone in zip(range(9, 0, -1), (9, 8, 7, 5, 4, 2, 3, 6, 1), strict=True):
        writing.make_room(states, "global_step10", left, 1000)
        there.remove(f"global_step{gone}")
        assert {path.name for path in states.iterdir()} == there
    writing.make_room(states, "global_step10", 0, 0)
    assert names(args) == ["global_step10", "latest"]


def test_a_new_best_takes_no_ones_place(arguments):
    args = arguments()
    for step in (2, 4):
        write(args, step)
    write(args, 6, tag="best_global_step6", max_num=2)
    assert names(args) == ["best_global_step6", "global_step2", "global_step4", "latest"]
    write(args, 8, tag="best_global_step8", max_num=1)
    assert names(args) == ["best_global_step8", "global_step4", "latest"]


def test_a_checkpoint_is_on_disk_before_it_has_its_name_and_named_before_others_go(arguments, monkeypatch):
    args = arguments()
    old = write(args, 2)
    new = Path(args.ckpt.path) / "_actor" / "unfinished-global_step4"
    (new / "deep").mkdir(parents=True)
    (new / "deep" / "weights.pt").write_bytes(b"weights")
    done, fsync, rename, rmtree = [], os.fsync, Path.rename, writing.shutil.rmtree

    def synced(descriptor):
        done.append("sync " + os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), new.parent))
        assert os.fstat(descriptor).st_size, "what is still in Python's buffer does not get there"
        fsync(descriptor)

    def renamed(path, target):
        done.append(f"rename {path.name} {target.name}")
        return rename(path, target)

    def removed(path):
        done.append(f"remove {path.name}")
        rmtree(path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(writing.shutil, "rmtree", removed)
    facts = {"step": 4, "options": {"own.path": Path("/a")}, "architecture": {}}
    opened = len(os.listdir("/proc/self/fd"))
    writing.finish(Path(args.ckpt.path), "global_step4", facts, SimpleNamespace(max_num=1, max_mem=1000))
    assert len(os.listdir("/proc/self/fd")) == opened
    assert done[0] == "sync unfinished-global_step4/.run.json.new"
    files = ("deep", "deep/weights.pt", "run.json")
    assert sorted(done[1:4]) == [f"sync unfinished-global_step4/{name}" for name in files]
    assert done[4:] == [
        f"sync unfinished-global_step4/.manifest.json.{os.getpid()}",
        "rename unfinished-global_step4 global_step4",
        "sync .",
        "sync .latest.new",
        f"remove {old.name}",
    ]
    assert names(args) == ["global_step4", "latest"]
    assert (old.with_name("global_step4") / "run.json").read_text() == (
        '{"step": 4, "options": {"own.path": "/a"}, "architecture": {}}\n'
    )


def test_the_copy_for_transformers_alone(arguments):
    """--ckpt.disable_ds: there is no checkpoint beside it."""
    folder = Path(arguments().ckpt.path)
    (folder / "unfinished-global_step2_hf").mkdir(parents=True)
    writing.finish(folder, "global_step2", {}, LOOSE)
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*")] == ["global_step2_hf"]


def test_limits_are_lifted_while_openrlhf_saves_and_come_back():
    limits = SimpleNamespace(max_num=1, max_mem=0.5)
    with pytest.raises(OSError), writing.nothing_deleted(limits):
        assert limits.max_num > 10**9 and limits.max_mem == float("inf")
        raise OSError("no space left")
    assert (limits.max_num, limits.max_mem) == (1, 0.5)


def test_a_checkpoint_of_another_model_is_refused(arguments, model, tmp_path):
    write(arguments(), 2)
    (model / "config.json").write_text(json.dumps(QWEN | {"hidden_size": 128}))
    args = arguments()
    with pytest.raises(OptionError) as caught:
        resuming.check(args, records.chosen(args))
    assert str(caught.value) == (
        f"--actor.model_name_or_path {model}: has hidden_size 128, but the checkpoint {args.ckpt.path}/_actor/"
        f"global_step2 is of a model with 64 ({model}); name that model, or another --ckpt.path"
    )


def test_what_a_model_says_of_its_shape(model):
    assert layout.architecture(str(model)) == QWEN
    (model / "config.json").write_text(json.dumps(WHOLE | {"rope_theta": 1e4, "torch_dtype": "bfloat16"}))
    assert layout.architecture(str(model)) == WHOLE
    (model / "config.json").write_text("{")
    assert layout.architecture(str(model)) == layout.architecture(str(model / "absent")) == {}


def test_a_dimension_that_the_model_does_not_have_is_another(arguments, model):
    write(arguments(), 2)
    (model / "config.json").write_text(json.dumps({key: value for key, value in QWEN.items() if key != "vocab_size"}))
    args = arguments()
    with pytest.raises(OptionError, match="has vocab_size None, but .* is of a model with 100 "):
        resuming.check(args, records.chosen(args))


@pytest.mark.parametrize(
    ("more", "keywords", "words"),
    [
        ([], {"estimator": "rloo"}, "--algo.advantage.estimator rloo: .* was written with lens"),
        (["--actor.num_gpus_per_node", "2"], {}, "--actor.num_gpus_per_node 2: .* was written with 1"),
        (["--ds.zero_stage", "3"], {}, "--ds.zero_stage 3: .* was written with 2"),
    ],
)
def test_what_a_checkpoint_cannot_be_loaded_with_is_refused(arguments, more, keywords, words):
    write(arguments(), 2)
    args = arguments(*more, **keywords)
    with pytest.raises(OptionError, match=words):
        resuming.check(args, records.chosen(args))


def test_the_refusal_names_the_checkpoint_and_both_values(arguments):
    write(arguments(), 2)
    args = arguments("--ds.zero_stage", "3")
    with pytest.raises(OptionError) as caught:
        resuming.check(args, records.chosen(args))
    assert str(caught.value) == (
        f"--ds.zero_stage 3: the checkpoint {args.ckpt.path}/_actor/global_step2 was written with 2, and cannot be "
        "continued otherwise; use 2, or name another --ckpt.path to begin anew"
    )


WHOLE = QWEN | {"intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.parametrize("key", WHOLE)
def test_every_dimension_of_the_model_must_be_the_same(arguments, model, key):
    (model / "config.json").write_text(json.dumps(WHOLE))
    write(arguments(), 2)
    other = "llama" if key == "model_type" else 2 * WHOLE[key]
    (model / "config.json").write_text(json.dumps(WHOLE | {key: other}))
    args = arguments()
    with pytest.raises(OptionError, match=f"has {key} {other}, but .* is of a model with {WHOLE[key]}"):
        resuming.check(args, records.chosen(args))


LAYOUT = {
    **{"actor.num_nodes": 2, "actor.num_gpus_per_node": 2, "ds.zero_stage": 3, "ds.lora.rank": 8},
    **{"ds.ring_attn_size": 2, "ds.tensor_parallel_size": 2},
}
WHOSE = {"algo.advantage.estimator": "rloo", "algo.lens.estimator_path": "/own.py:first"}


@pytest.mark.parametrize("name", LAYOUT | WHOSE)
def test_a_universal_checkpoint_fits_other_ranks_and_no_other_estimator(arguments, name):
    before = (LAYOUT | WHOSE)[name]
    write(arguments(), 2, before={name: before})
    args = arguments()
    with pytest.raises(OptionError, match=f"--{name} .* was written with {before}, and cannot be continued otherwise"):
        resuming.check(args, records.chosen(args))
    args.ds.use_universal_ckpt = True
    if name in WHOSE:
        with pytest.raises(OptionError, match=f"--{name} "):
            resuming.check(args, records.chosen(args))
    else:
        notes = resuming.check(args, records.chosen(args)).notes
        assert any(note.startswith(f"--{name} was {before} until step 2") for note in notes)


ORDER = {
    **{"data.prompt_dataset": "other.jsonl", "data.prompt_probs": "0.5,0.5", "data.prompt_split": "test"},
    **{"data.max_samples": 7, "train.seed": 5, "rollout.batch_size": 64, "rollout.vllm_generate_batch_size": 64},
}


@pytest.mark.parametrize("name", ORDER)
def test_what_changes_the_order_of_the_prompts_is_said(arguments, name):
    args = arguments()
    write(args, 2, before={name: ORDER[name]})
    (note,) = resuming.check(args, records.chosen(args)).notes
    assert note.startswith(f"--{name} was {ORDER[name]} until step 2") and note.endswith("in the order of one run")


def test_changes_are_told_by_name(arguments):
    args = arguments()
    write(args, 2, before={name: "before" for name in ("algo.lens.alpha", *ORDER, "actor.adam.lr", "actor.eps_clip")})
    notes = resuming.check(args, records.chosen(args)).notes
    assert len(notes) == 10 and notes == sorted(notes)


def test_where_a_run_writes_and_how_it_is_evaluated_may_change_without_a_word(arguments):
    args = arguments()
    write(
        *(args, 2),
        before={
            "logger.run_dir": "/b",
            "ckpt.save_steps": 9,
            "eval.temperature": 2,
            "vllm.num_engines": 9,
            "local_rank": 3,
        },
    )
    assert resuming.check(args, records.chosen(args)).notes == []


def test_options_are_compared_as_the_checkpoint_keeps_them(arguments):
    args = arguments()
    write(args, 2, before={"own.pair": [1, 2], "own.path": "/a", "own.gone": 1, "own.more": None})
    now = records.chosen(args) | {"own.pair": (1, 2), "own.path": Path("/a"), "own.new": 0.5, "own.more": None}
    assert resuming.check(args, now).notes == [
        "--own.gone was 1 until step 2 and is None from now on",
        "--own.new was None until step 2 and is 0.5 from now on",
    ]


def test_a_checkpoint_of_another_estimator_of_ones_own_is_refused(arguments, tmp_path):
    (tmp_path / "own.py").write_text("def first(batch): return batch.rewards\n\n\nsecond = first\n")
    args = [
        arguments("--algo.lens.estimator_path", f"{tmp_path}/own.py:{name}", estimator="custom")
        for name in ("first", "second")
    ]
    write(args[0], 2)
    assert resuming.check(args[0], records.chosen(args[0])).step == 2
    with pytest.raises(
        OptionError, match="estimator_path .*own.py:second: the checkpoint .* written with .*own.py:fir"
    ):
        resuming.check(args[1], records.chosen(args[1]))


def test_other_changes_are_said_aloud(arguments):
    write(arguments(), 2)
    args = arguments("--algo.lens.alpha", "1", "--train.seed", "5", "--ckpt.save_steps", "7")
    found = resuming.check(args, records.chosen(args))
    assert found.notes == [
        "--algo.lens.alpha was 0.25 until step 2 and is 1.0 from now on",
        "--train.seed was 42 until step 2 and is 5 from now on, so that prompts do not come in the order of one run",
    ]
    assert resuming.go_on(args, found)[1:] == [f"warning: {note}" for note in found.notes]


def test_what_going_on_says_and_leaves(arguments):
    args = arguments()
    folder = Path(args.logger.run_dir)
    log = RunLog(folder)
    for step in range(1, 6):
        log.step(step, {})
    log.evaluation(5, {}, {})
    write(args, 2)
    write(args, 4)
    found = resuming.Resume("global_step2", 2, ["something"])
    assert resuming.go_on(args, found) == [
        "goes on after step 2, from the checkpoint global_step2",
        "warning: something",
        "3 steps that were recorded after it come again; their metrics were moved to superseded.jsonl",
    ]
    assert [record["step"] for record in read(folder / "metrics.jsonl")] == [1, 2]
    assert [record["step"] for record in read(folder / "superseded.jsonl")] == [3, 4, 5]
    assert read(folder / "eval.jsonl") == []
    assert (Path(args.ckpt.path) / "_actor" / "latest").read_text() == "global_step2"
    assert args.ckpt.load_enable is True
    assert resuming.go_on(args, None) == [
        f"no checkpoint in {args.ckpt.path}: begins with the first step",
        "2 steps that were recorded after it come again; their metrics were moved to superseded.jsonl",
    ]
    assert read(folder / "metrics.jsonl") == [] and len(read(folder / "superseded.jsonl")) == 5
    assert args.ckpt.load_enable is False


def test_rewinding_where_nothing_comes_later_leaves_no_file(tmp_path):
    assert resuming.rewind(tmp_path, 0) == 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert resuming.rewind(tmp_path, 1) == 0
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("metrics.jsonl", '{"step": 1}\n')]


def test_rewinding_takes_later_steps_out_and_keeps_their_metrics_aside(tmp_path):
    (tmp_path / "samples").mkdir()
    for step in (1, 2, 3):
        (tmp_path / "samples" / f"step-{step:06}.parquet").write_bytes(b"")
    lines = "".join(json.dumps({"step": step, "reward": step / 10}) + "\n" for step in (1, 2, 3))
    (tmp_path / "metrics.jsonl").write_text(lines + '{"step": 4, "ti')  # cut off by the crash
    (tmp_path / "eval.jsonl").write_text('{"step": 0}\n{"step": 3}\n')
    assert resuming.rewind(tmp_path, 2) == 1
    assert read(tmp_path / "metrics.jsonl") == [{"step": 1, "reward": 0.1}, {"step": 2, "reward": 0.2}]
    assert read(tmp_path / "eval.jsonl") == [{"step": 0}]
    assert read(tmp_path / "superseded.jsonl") == [{"step": 3, "reward": 0.3}]
    assert sorted(os.listdir(tmp_path / "samples")) == ["step-000001.parquet", "step-000002.parquet"]
    assert resuming.rewind(tmp_path, 2) == 0


def test_a_second_rewinding_adds_to_what_the_first_put_aside(tmp_path):
    log = tmp_path / "metrics.jsonl"
    for rewards in ((0.1, 0.2, 0.3), (0.4, 0.5)):
        with open(log, "a") as file:
            first = len(read(log)) + 1
            file.writelines(json.dumps({"step": first + i, "reward": r}) + "\n" for i, r in enumerate(rewards))
        resuming.rewind(tmp_path, 1)
    assert [line["reward"] for line in read(log)] == [0.1]
    assert [(line["step"], line["reward"]) for line in read(tmp_path / "superseded.jsonl")] == [
        *((2, 0.2), (3, 0.3)),
        *((2, 0.4), (3, 0.5)),
    ]


def test_every_going_on_is_kept_in_the_history(tmp_path):
    start = time.time()
    assert resuming.history(tmp_path, None) == []
    for step in (2, 4):
        found = resuming.history(tmp_path, resuming.Resume(f"global_step{step}", step, [f"note {step}"]))
        (tmp_path / "config.json").write_text(json.dumps({"resumed": found}))
    assert [(one["step"], one["notes"]) for one in found] == [(2, ["note 2"]), (4, ["note 4"])]
    assert start <= found[0]["time"] <= found[1]["time"] <= time.time()
    assert all(set(one) == {"time", "step", "notes"} for one in found)
    assert resuming.history(tmp_path, None) == found
    (tmp_path / "config.json").write_text('{"options": {}')
    assert resuming.history(tmp_path, None) == []


@pytest.mark.parametrize("prompts", [8, 7])
@pytest.mark.parametrize("stop", range(1, 9))
def test_prompts_go_on_where_a_checkpoint_left_them(prompts, stop):
    """Three episodes of batches of 3 with OpenRLHF's data loader, stopped after any step, also an episode's last."""
    import torch
    from openrlhf.trainer.ppo_utils.samples_generator import _collect_prompt_batch
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader():
        torch.manual_seed(5)
        rows = [("", str(i), "", None) for i in range(prompts)]
        return StatefulDataLoader(rows, 1, shuffle=True, drop_last=True, collate_fn=lambda b: [[x] for x in b[0]])

    def batches(data, episode=0):
        for now in range(episode, 3):
            iterator, exhausted = iter(data), False
            while not exhausted:
                drawn, _, _, exhausted = _collect_prompt_batch(iterator, 3)
                if drawn:
                    yield drawn, {"episode": now, "data_loader_state_dict": data.state_dict()}

    everything = [drawn for drawn, _ in batches(loader())]
    _, states = next(islice(batches(loader()), stop - 1, None))
    states = writing.resumable(states)
    again = loader()
    again.load_state_dict(states["data_loader_state_dict"])
    assert [drawn for drawn, _ in batches(again, states["episode"])] == everything[stop:]


@pytest.mark.parametrize(
    ("error", "said"), [(OSError("no"), "no"), (RuntimeError("a\nb"), "a"), (RuntimeError(), "RuntimeError")]
)
def test_a_checkpoint_that_cannot_be_written_tells_how_much_is_free(tmp_path, monkeypatch, error, said):
    free = {tmp_path: 7 * 1024 * 1024, tmp_path.parent: 5}
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: SimpleNamespace(free=free[path]))
    folder = tmp_path / "not" / "there"
    found = writing.not_written(folder, "global_step3", error)
    assert type(found) is OSError and str(found) == (
        f"--ckpt.path {folder}: checkpoint global_step3 cannot be written, with 7 MiB free there ({said}); earlier "
        "ones are as they were, and --ckpt.load_enable goes on from the last"
    )


@pytest.mark.parametrize(
    ("states", "episode"),
    [
        ({"episode": 2, "data_loader_state_dict": {"_iterator_finished": True}}, 3),
        ({"episode": 2, "data_loader_state_dict": {"_iterator_finished": False}}, 2),
        ({"episode": 2, "data_loader_state_dict": {}}, 2),
        ({"episode": 2}, 2),
    ],
)
def test_a_finished_episode_is_counted_once_however_often_it_is_saved(states, episode):
    before = json.dumps(states)
    for _ in range(2):
        assert writing.resumable(states) == states | {"episode": episode}
    assert json.dumps(states) == before and writing.resumable({}) == {}


def test_the_best_and_the_latest_say_the_same_of_the_data(parse, tmp_path, monkeypatch):
    """OpenRLHF's trainer saves both after an evaluation, from one dict."""
    import ray

    from lens_openrlhf.training.hooks.trainer import LensTraining

    saved = {}

    class Actors:
        def async_run_method(self, method_name, tag, client_states, metric_value, metric_key):
            assert method_name == "save_checkpoint"
            saved[tag] = json.loads(json.dumps(client_states)) | {"metric": metric_value}

    monkeypatch.setattr(ray, "get", lambda refs: refs)
    trainer = LensTraining.__new__(LensTraining)
    trainer.args = parse("--logger.run_dir", str(tmp_path), "--ckpt.save_steps", "2", "--ckpt.best_metric_key", "pass")
    trainer.run_log = RunLog(tmp_path)
    trainer.actor_model_group, trainer.critic_model_group = Actors(), None
    trainer.wandb_logger = trainer.tensorboard_logger = None
    trainer.best_eval_metric_key, trainer.best_eval_metric_value = "pass", 0.1
    trainer._latest_eval_metric_value = None
    data = {"episode": 1, "global_step": 4, "data_loader_state_dict": {"_iterator_finished": True}}
    for later in (4, 8):  # of a run whose episodes have 4 steps
        states = data | {"global_step": later, "episode": later // 4}
        trainer.save_logs_and_checkpoints(later, {"loss": 0.5}, states)
        trainer.save_best_checkpoint({"pass": later / 10}, later, states)
    assert {tag: (found["episode"], found["global_step"]) for tag, found in saved.items()} == {
        "global_step4": (2, 4),
        "best_global_step4": (2, 4),
        "global_step8": (3, 8),
        "best_global_step8": (3, 8),
    }
    assert [found["metric"] for found in saved.values()] == [None, 0.4, 0.4, 0.8]
    assert [record["step"] for record in read(tmp_path / "metrics.jsonl")] == [4, 8]


def test_without_the_option_nothing_is_touched(arguments):
    args = arguments()
    RunLog(args.logger.run_dir).step(1, {})
    write(args, 2)
    args.ckpt.load_enable = False
    before = (Path(args.logger.run_dir) / "metrics.jsonl").read_text()
    assert resuming.check(args, records.chosen(args)) is None and resuming.go_on(args, None) == []
    assert (Path(args.logger.run_dir) / "metrics.jsonl").read_text() == before
