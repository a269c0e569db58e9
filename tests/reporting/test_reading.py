"""Run folders, whole and damaged: what is read, and what is told of the rest."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from lens_openrlhf.reporting import arms
from lens_openrlhf.reporting.page import report_data
from lens_openrlhf.reporting.runs import (
    Evaluation,
    Problem,
    ReportError,
    Run,
    check_same_data,
    find_runs,
    is_comparison,
    is_run,
    read_run,
)
from lens_openrlhf.reporting.samples import read_samples

from .conftest import EVERY, SEEDS, STEPS
from .generate import write_config, write_run


def problems(folder, read_answers: bool = False) -> str:
    run = read_run(folder)
    if read_answers:
        read_samples(run)
    return "\n".join(f"{p.where}: {p.what}" for p in run.problems)


def last_line(path, record) -> None:
    """Put one record in place of the last."""
    lines = path.read_text().splitlines()[:-1]
    path.write_text("\n".join([*lines, json.dumps(record)]) + "\n")


def test_a_whole_run_has_no_problems(one_run):
    run = read_run(one_run)
    assert problems(one_run, read_answers=True) == ""
    assert [m["step"] for m in run.metrics] == list(range(1, STEPS + 1)) == list(run.samples)
    assert [e.step for e in run.evaluations] == list(range(0, STEPS + 1, EVERY))
    assert (run.planned, run.last_step, run.seed) == (STEPS, STEPS, "1")
    assert run.evaluations[0].prompts == 64 and run.evaluations[0].ks == {1, 2, 4, 8, 16}
    assert run.evaluations[0].splits["datasource"] == {"short", "long"}


def test_a_run_of_an_earlier_version_has_scores_alone(run):
    records = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    kept = ("step", "time", "scores")
    extra = {"eval_response_length_mean": 17.0, "eval_truncated_rate": 0.25}
    lines = [json.dumps({k: r[k] for k in kept} | extra) + "\n" for r in records]
    (run / "eval.jsonl").write_text("".join(lines))
    evaluation = read_run(run).evaluations[-1]
    assert problems(run) == ""
    assert (evaluation.splits, evaluation.length, evaluation.truncated) == ({}, 17.0, 0.25)


def test_the_last_line_of_a_run_that_was_cut_off(run):
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 13, "rollout/rew')
    assert problems(run) == f"{run / 'metrics.jsonl'}, line 13: the last line is cut off; it is left out"
    assert read_run(run).last_step == STEPS


def test_a_line_that_is_no_json_does_not_hide_those_after_it(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[4] = "\x00\x00\x00"
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert "metrics.jsonl, line 5: is not JSON" in problems(run)
    assert [m["step"] for m in read_run(run).metrics] == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]


def test_a_step_logged_again_after_a_restart_counts_once(run):
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 5, "time": 1.0, "rollout/reward_mean": 0.5}) + "\n")
    metrics = read_run(run).metrics
    assert len(metrics) == STEPS and metrics[4]["rollout/reward_mean"] == 0.5


def test_metrics_of_another_program(run):
    (run / "metrics.jsonl").write_text('{"epoch": 1, "loss": 0.3}\n{"epoch": 2, "loss": 0.2}\n[1, 2]\n')
    told = problems(run)
    assert "metrics.jsonl: 2 lines have no whole number `step`" in told
    assert "metrics.jsonl, line 3: is no JSON object" in told


def test_values_that_are_no_numbers_are_named(run):
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 13, "time": 1.0, "note": "warm", "lens/negative_groups": null}\n')
    assert problems(run).endswith("metrics.jsonl: values that are no numbers are left out: note")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "config.json: is missing"),
        ("{", "config.json: is no config.json of a run"),
        ('{"model_type": "llama"}', "config.json: is no config.json of a run"),
        ('{"options": 3}', "config.json: is no config.json of a run"),
        ("[]", "config.json: is no config.json of a run"),
    ],
)
def test_a_config_that_cannot_be_read(run, content, told):
    (run / "config.json").unlink()
    if content is not None:
        (run / "config.json").write_text(content)
    assert told in problems(run)
    (arm,) = arms.group([read_run(run)])
    assert arm.label == "run"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"step": None}, "has no whole number `step`"),
        ({"scores": None}, "has no `scores`"),
        ({"scores": []}, "has no `scores`"),
        ({"scores": [[1, 0], [1]]}, "`scores` does not have 2 answers for every prompt"),
        ({"lengths": [[3]]}, "`lengths` is no list of 64 prompts"),
        ({"splits": {"level": [1, 2]}}, "`splits` does not have one value for each of 64 prompts"),
        ({"splits": {"level": [[1]] * 64}}, "`splits` has values that are neither texts nor numbers"),
    ],
)
def test_an_evaluation_that_is_none(run, change, told):
    path = run / "eval.jsonl"
    record = json.loads(path.read_text().splitlines()[-1])
    last_line(path, record | change)
    assert f"{path}, line 4: {told}" in problems(run) and problems(run).endswith("the evaluation is left out")
    assert [e.step for e in read_run(run).evaluations] == [0, 4, 8]


def test_an_evaluation_of_other_prompts_is_left_out(run):
    path = run / "eval.jsonl"
    last_line(path, {"step": 12, "scores": [[1.0] * 16] * 10})
    assert "eval.jsonl: evaluates 64 prompts after step 0, but 10 after step 12" in problems(run)
    assert [e.step for e in read_run(run).evaluations] == [12]


def test_a_column_that_is_no_split(run):
    path = run / "eval.jsonl"
    record = json.loads(path.read_text().splitlines()[-1])
    last_line(path, record | {"splits": {"id": list(range(64)), "level": record["splits"]["level"]}})
    assert "split 'id' has 64 values and is not shown" in problems(run)
    keys = [s["key"] for s in report_data([read_run(run)], sample_steps=0)["evaluation"]["splits"]]
    assert "level=3" in keys and not any(key.startswith("id=") for key in keys)


def test_samples_that_cannot_be_read(run):
    import pyarrow.parquet as pq

    samples = run / "samples"
    (samples / "step-000002.parquet").write_bytes((samples / "step-000002.parquet").read_bytes()[:200])
    (samples / "step-000003.parquet").write_bytes(b"")
    table = pq.read_table(samples / "step-000004.parquet")
    pq.write_table(table.drop_columns(["confidence"]), samples / "step-000004.parquet")
    pq.write_table(table.slice(0, 0), samples / "step-000005.parquet")
    column = table.column_names.index("correctness")
    wrong = table.set_column(column, "correctness", [[2.0] * len(table)])
    pq.write_table(wrong, samples / "step-000006.parquet")
    pq.write_table(table.set_column(column, "correctness", [["?"] * len(table)]), samples / "step-000007.parquet")
    read = read_run(run)
    assert sorted(read_samples(read)) == [1, 8, 9, 10, 11, 12]
    told = {p.where.rsplit("-", 1)[1][:6]: p.what for p in read.problems}
    assert "cannot be read as parquet" in told["000002"] and "cannot be read as parquet" in told["000003"]
    assert told["000004"].startswith("has no column confidence")
    assert told["000005"].startswith("has no rows")
    assert "correctness" in told["000006"] and "2.0" in told["000006"]
    assert told["000007"].startswith("column correctness is string, expected numbers")


def test_an_empty_folder_is_no_run_but_can_be_watched(tmp_path):
    with pytest.raises(ReportError, match="neither a run folder"):
        find_runs([tmp_path])
    (run,) = find_runs([tmp_path], may_be_empty=True)
    assert run.problems == [] and run.last_step == 0


def test_a_folder_of_runs_names_one_of_them(tmp_path, one_run):
    with pytest.raises(ReportError, match=f"the folders in it are runs: name them, such as {one_run}"):
        find_runs([one_run.parent])


def test_a_comparison_gives_every_run_in_the_order_of_its_spec(comparison):
    runs = find_runs([comparison])
    assert [run.name for run in runs] == [f"{arm}/seed-{s}" for arm in ("grpo", "lens") for s in range(1, SEEDS + 1)]
    grouped = arms.group(runs)
    assert [arm.label for arm in grouped] == ["grpo", "lens"]
    assert [list(arm.seeds) for arm in grouped] == [[("1", 0), ("2", 0), ("3", 0)]] * 2


def test_what_a_comparison_moved_aside_is_no_run(comparison, tmp_path):
    import shutil

    copy = shutil.copytree(comparison, tmp_path / "copy")
    (copy / "runs/lens/seed-1").rename(copy / "runs/lens/seed-1.unfinished-1")
    assert [run.name for run in find_runs([copy])][SEEDS:] == ["lens/seed-2", "lens/seed-3"]


def test_a_run_named_twice_is_read_once(one_run):
    assert len(find_runs([one_run, one_run / ".." / one_run.name])) == 1


def test_arms_are_named_by_what_tells_them_apart(tmp_path):
    settings = {
        "a": {},
        "b": {"train.seed": 2, "logger.run_dir": "/elsewhere", "eval.steps": 5},
        "c": {"algo.lens.scope": "none"},
        "d": {"algo.lens.scope": "none", "algo.lens.alpha": 1.0, "actor.model_name_or_path": "/models/other/big"},
    }
    for name, options in settings.items():
        write_config(tmp_path / name, **options)
    grouped = arms.group([read_run(tmp_path / name) for name in settings])
    assert [[run.name for run in arm.runs] for arm in grouped] == [["a", "b"], ["c"], ["d"]]
    assert grouped[0].label == "model_name_or_path=models/tiny-adder, scope=both, alpha=0.25"
    assert grouped[2].label == "model_name_or_path=other/big, scope=none, alpha=1.0"


def test_switches_of_lens_do_not_tell_other_estimators_apart(tmp_path):
    plain = {"algo.advantage.estimator": "group_norm"}
    write_config(tmp_path / "a", **plain)
    write_config(tmp_path / "b", **plain, **{"algo.lens.alpha": 9.0, "train.seed": 2})
    assert len(arms.group([read_run(tmp_path / "a"), read_run(tmp_path / "b")])) == 1


def test_arms_of_two_comparisons_keep_apart(comparison, tmp_path):
    import shutil

    other = shutil.copytree(comparison, tmp_path / "second")
    labels = [arm.label for arm in arms.group(find_runs([comparison, other]))]
    assert labels == [f"{comparison.name}: grpo", f"{comparison.name}: lens", "second: grpo", "second: lens"]


def test_different_evaluation_data_names_both_runs(one_run, tmp_path):
    write_config(tmp_path / "file", **{"eval.dataset": "/data/other.jsonl"})
    found = check_same_data([read_run(one_run), read_run(tmp_path / "file")])
    assert found == (
        f"{one_run} evaluates on /data/sums/heldout.jsonl, but {tmp_path / 'file'} evaluates on /data/other.jsonl"
    )
    write_run(tmp_path / "count", 1, 1, heldout=10)
    found = check_same_data([read_run(one_run), read_run(tmp_path / "count")])
    assert str(one_run) in found and str(tmp_path / "count") in found and "64" in found and "10" in found
    assert check_same_data([read_run(one_run)] * 2) is None


def test_a_run_out_of_an_archive_is_of_the_same_data(tmp_path, monkeypatch):
    """An archive writes ~ for the home folder, and `compare --reuse` takes runs out of one."""
    monkeypatch.setenv("HOME", "/home/someone")
    write_config(tmp_path / "here", **{"eval.dataset": "/home/someone/heldout.jsonl"})
    write_config(tmp_path / "there", **{"eval.dataset": "~/heldout.jsonl"})
    assert check_same_data([read_run(tmp_path / "here"), read_run(tmp_path / "there")]) is None


def test_an_option_that_an_arm_does_not_have_tells_nothing(tmp_path):
    plain = {"algo.advantage.estimator": "group_norm"}
    write_config(tmp_path / "lens")
    write_config(tmp_path / "plain", **plain)
    labels = [arm.label for arm in arms.group([read_run(tmp_path / "lens"), read_run(tmp_path / "plain")])]
    assert labels == ["estimator=lens", "estimator=group_norm"]


# What a run folder without a config.json is told of.
NO_CONFIG = "is missing: the run's options are not known, and its arm is named by its folder"


@pytest.fixture
def folder(tmp_path):
    """folder(**files) -> a run folder with these texts, dictionaries and lists of records."""

    def make(name="run", **files):
        place = tmp_path / name
        place.mkdir(parents=True, exist_ok=True)
        for stem, content in files.items():
            if isinstance(content, list):
                text = "".join(json.dumps(record) + "\n" for record in content)
                (place / f"{stem}.jsonl").write_text(text)
            elif isinstance(content, dict):
                (place / f"{stem}.json").write_text(json.dumps(content))
            else:
                (place / f"{stem}.jsonl").write_bytes(content.encode(errors="surrogateescape"))
        return place

    return make


def test_a_run_is_read_as_documented(folder):
    place = folder(
        config={
            "command": ["--train.seed", "7"],
            "options": {"train.seed": 7, "algo.lens.alpha": 0.5},
            "versions": {"torch": "2.13.0", "python": 3.11},
            "git_commit": "0123abcd",
        },
        metrics=[{"step": 2, "time": 5.0, "loss": 0.5, "none": None}, {"step": 1, "time": 4.0, "loss": 1}],
        eval=[{"step": 0, "scores": [[1, 0.5, 0], [1.0, 1, 0.0]]}],
        events=[
            {"event": "ready", "total": 9},
            {"event": "steps", "total": 4},
            {"event": "steps", "total": 6},
            {"event": "steps", "total": "many"},
        ],
    )
    (place / "samples").mkdir()
    for step in (10, 2):
        (place / "samples" / f"step-{step:06}.parquet").touch()
    assert read_run(place) == Run(
        folder=place,
        name="run",
        arm=None,
        comparison=None,
        seed="7",
        options={"train.seed": 7, "algo.lens.alpha": 0.5},
        versions={"torch": "2.13.0", "python": "3.11"},
        git_commit="0123abcd",
        metrics=[{"step": 1, "time": 4.0, "loss": 1}, {"step": 2, "time": 5.0, "loss": 0.5}],
        evaluations=[Evaluation(0, 3, {"all": [1, 2]}, {}, None, None, set())],
        samples={step: place / "samples" / f"step-{step:06}.parquet" for step in (2, 10)},
        planned=6,
        problems=[],
    )


def test_an_evaluation_is_read_as_documented(folder):
    record = {
        "step": 3,
        "scores": [[1, 0.99], [0, 0], [1, 1], [1.0, 0]],
        "lengths": [[1, 2], [3, None], [5, 6], [7, 8]],
        "truncated": [[True, False], [False, False], [None, None], [True, True]],
        "eval_response_length_mean": 99.0,
        "eval_truncated_rate": 0.99,
        "splits": {"level": [2, 10, None, 2], "kind": ["b", "a", "b", "b"]},
        "pass_at_k": {
            "all": {"1": [0, 0], "2": [0, 0], "3": [0, 0], "0": [0, 0], "x": [0, 0], "²": 0},
            "level=2": {"9": 0},
        },
    }
    (found,) = read_run(folder(eval=[record])).evaluations
    assert found == Evaluation(
        step=3,
        n=2,
        right={
            "all": [1, 0, 2, 1],
            "level=2": [1, 1],
            "level=10": [0],
            "level=None": [2],
            "kind=a": [0],
            "kind=b": [1, 2, 1],
        },
        splits={"level": {2, 10}, "kind": {"a", "b"}},
        length=pytest.approx(32 / 7),
        truncated=pytest.approx(3 / 6),
        ks={1, 2},
    )
    assert found.prompts == 4


@pytest.mark.parametrize(
    ("record", "length", "truncated"),
    [
        ({"lengths": [[None, None]], "truncated": [[None, None]], "eval_response_length_mean": 3.0}, None, None),
        ({"eval_response_length_mean": 3, "eval_truncated_rate": 0}, 3, 0),
        (
            {"lengths": None, "truncated": None, "eval_response_length_mean": "3", "eval_truncated_rate": True},
            None,
            None,
        ),
        ({"lengths": [[2, 4]], "eval_truncated_rate": 0.5}, 3, 0.5),
        ({"eval_response_length_mean": None, "truncated": [[False, True]]}, None, 0.5),
        ({"pass_at_k": [], "splits": None}, None, None),
        ({"pass_at_k": {"level=2": {"1": 0}}, "splits": {}}, None, None),
        ({"pass_at_k": {"all": [1]}}, None, None),
    ],
)
def test_lengths_and_truncation_are_the_runs_own_or_what_openrlhf_logged(folder, record, length, truncated):
    run = read_run(folder(eval=[{"step": 1, "scores": [[0, 1]], **record}]))
    assert run.evaluations == [Evaluation(1, 2, {"all": [1]}, {}, length, truncated, set())]
    assert run.problems == [Problem(f"{run.folder}/config.json", NO_CONFIG)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"step": -1}, "has no whole number `step`"),
        ({"step": 1.0}, "has no whole number `step`"),
        ({"step": True}, "has no whole number `step`"),
        ({"scores": {"a": 1}}, "has no `scores`, one list of answers a prompt"),
        ({"scores": [[]]}, "has no `scores`, one list of answers a prompt"),
        ({"scores": [3]}, "has no `scores`, one list of answers a prompt"),
        ({"scores": [[1, 0], [1]]}, "`scores` does not have 2 answers for every prompt"),
        ({"scores": [[1, 0], 3]}, "`scores` does not have 2 answers for every prompt"),
        (
            {"scores": [[1, None], [math.nan, True]]},
            "3 of 4 `scores` are no numbers (NaN or null), and would count as wrong",
        ),
        ({"lengths": [[3, 3]]}, "`lengths` is no list of 2 prompts"),
        ({"lengths": {"a": 1}}, "`lengths` is no list of 2 prompts"),
        ({"lengths": [[3, 3], [3, 3, 3]]}, "`lengths` does not have 2 answers for every prompt"),
        ({"truncated": [[0, 0], [0]]}, "`truncated` does not have 2 answers for every prompt"),
        ({"splits": [1, 2]}, "`splits` does not have one value for each of 2 prompts"),
        ({"splits": {"a": [1, 2], "level": [1]}}, "`splits` does not have one value for each of 2 prompts"),
        ({"splits": {"level": "ab"}}, "`splits` does not have one value for each of 2 prompts"),
        ({"splits": {"a": ["x", 1.5], "level": [None, []]}}, "`splits` has values that are neither texts nor numbers"),
    ],
)
def test_what_is_wrong_with_an_evaluation_is_told_whole(folder, change, told):
    good = {"step": 1, "scores": [[1, 0], [0, 0]]}
    run = read_run(folder(eval=[good, {"step": 2, **good, **change}], config={"options": {}}))
    where = f"{run.folder / 'eval.jsonl'}, line 2"
    assert run.problems == [Problem(where, f"{told}; the evaluation is left out")]
    assert run.evaluations == [Evaluation(1, 2, {"all": [1, 0]}, {}, None, None, set())]


def test_of_one_steps_evaluations_the_last_counts_and_of_other_prompts_the_latest_step(folder):
    lines = [
        {"step": 8, "scores": [[1], [1]]},
        {"step": 2, "scores": [[0], [1]]},
        {"step": 4, "scores": [[1], [1], [1]]},
        {"step": 2, "scores": [[0], [0]]},
    ]
    run = read_run(folder(eval=lines, config={"options": {}}))
    assert [(e.step, e.right["all"]) for e in run.evaluations] == [(2, [0, 0]), (8, [1, 1])]
    assert run.problems == [
        Problem(
            str(run.folder / "eval.jsonl"),
            "evaluates 3 prompts after step 4, but 2 after step 8; the earlier evaluation is left out",
        )
    ]


@pytest.mark.parametrize(("values", "told"), [(12, False), (13, True)])
def test_how_many_values_a_split_may_have(folder, values, told):
    record = {"step": 1, "scores": [[1]] * values, "splits": {"id": list(range(values)), "level": [1] * values}}
    run = read_run(folder(eval=[record], config={"options": {}}))
    message = f"split 'id' has {values} values and is not shown; at most 12 are"
    assert run.problems == ([Problem(str(run.folder / "eval.jsonl"), message)] if told else [])


def test_what_is_wrong_with_lines_is_told_of_each(folder):
    deep = "[" * 100_000
    text = f'{{"step": 1, "a": 1}}\n\n  \n{{"a\n3\n{deep}\n{{"step": 2, "b": "\udcff"}}\n{{"step"'
    run = read_run(folder(metrics=text, config={"options": {}}))
    path = run.folder / "metrics.jsonl"
    assert run.metrics == [{"step": 1, "a": 1}, {"step": 2}]
    assert run.problems == [
        Problem(f"{path}, line 4", "is not JSON; the line is left out"),
        Problem(f"{path}, line 5", "is no JSON object; the line is left out"),
        Problem(f"{path}, line 6", "is not JSON; the line is left out"),
        Problem(f"{path}, line 8", "the last line is cut off; it is left out"),
        Problem(str(path), "values that are no numbers are left out: b"),
    ]


def test_a_file_that_cannot_be_read_is_told(folder):
    place = folder(config={"options": {}})
    (place / "metrics.jsonl").mkdir()
    (place / "events.jsonl").mkdir()
    told = "cannot be read (Is a directory)"
    assert read_run(place).problems == [Problem(str(place / name), told) for name in ("metrics.jsonl", "events.jsonl")]


def test_what_is_no_number_is_left_out_by_name(folder):
    words = {name: "text" for name in ("f", "a", "c")}
    lines = [
        {"step": 1, "x": 1, "flag": True, "none": None, "many": math.inf, **words},
        {"step": 2, "x": 2.5, "b": [1], "d": {}, "nan": math.nan},
        *({"step": step, "x": 9} for step in (-1, True, 1.0, "1", None)),
        {"x": 9},
    ]
    run = read_run(folder(metrics=lines, config={"options": {}}))
    assert run.metrics == [{"step": 1, "x": 1}, {"step": 2, "x": 2.5}]
    path = str(run.folder / "metrics.jsonl")
    foreign = Problem(path, "6 lines have no whole number `step`; they are another program's, and left out")
    assert run.problems == [foreign, Problem(path, "values that are no numbers are left out: a, b, c, d, f")]
    run = read_run(folder(metrics=[lines[0] | lines[1] | {"e": "text"}], config={"options": {}}))
    assert run.problems == [Problem(path, "values that are no numbers are left out: a, b, c, d, e …")]


@pytest.mark.parametrize(
    "config",
    ["", "null", "3", "[]", "{}", '{"options": []}', "[" * 100_000, None],
)
def test_a_config_that_says_nothing(folder, config):
    place = folder()
    (place / "config.json").mkdir() if config is None else (place / "config.json").write_text(config)
    run = read_run(place)
    assert (run.options, run.versions, run.git_commit, run.seed) == ({}, {}, None, None)
    told = "is no config.json of a run: options are not known, and the arm is named by its folder"
    assert run.problems == [Problem(str(place / "config.json"), told)]


def test_a_config_with_more_or_less_than_it_should(folder):
    run = read_run(folder(config={"options": {"a": 1}, "versions": ["torch"], "git_commit": 3}))
    assert (run.options, run.versions, run.git_commit, run.seed, run.problems) == ({"a": 1}, {}, None, None, [])


def test_a_run_without_a_config_says_so_once_it_has_anything(folder):
    place = folder()
    assert read_run(place) == Run(place, "run")
    (place / "events.jsonl").touch()
    assert read_run(place).problems == [Problem(str(place / "config.json"), NO_CONFIG)]


@pytest.mark.parametrize(
    ("steps", "evaluated", "last"), [([1, 5], [0, 4], 5), ([1, 2], [0, 7], 7), ([], [3], 3), ([4], [], 4), ([], [], 0)]
)
def test_the_last_step_is_that_of_training_or_evaluation(folder, steps, evaluated, last):
    metrics, evaluations = [{"step": s} for s in steps], [{"step": s, "scores": [[1]]} for s in evaluated]
    assert read_run(folder(metrics=metrics, eval=evaluations)).last_step == last


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "eval.jsonl", "events.jsonl", "samples"])
def test_what_makes_a_folder_a_run(tmp_path, name):
    assert not is_run(tmp_path)
    (tmp_path / name).mkdir()
    assert is_run(tmp_path) and not is_comparison(tmp_path)
    assert [run.folder for run in find_runs([tmp_path])] == [tmp_path]


@pytest.mark.parametrize("name", ["compare.json", "spec.yaml", "runs/a/seed-1"])
def test_what_makes_a_folder_a_comparison(tmp_path, name):
    assert not is_comparison(tmp_path)
    (tmp_path / name).mkdir(parents=True)
    assert is_comparison(tmp_path)
    assert [run.name for run in find_runs([tmp_path])] == (["a/seed-1"] if "seed" in name else [])


@pytest.mark.parametrize(
    ("listing", "order"),
    [
        ({"arms": [{"name": "b"}]}, ["a", "b", "c"]),
        ({"arms": {"b": {}, "a": {}}}, ["b", "a", "c"]),
        ({"arms": 3}, ["a", "b", "c"]),
        ([], ["a", "b", "c"]),
        ("{", ["a", "b", "c"]),
        ("[" * 100_000, ["a", "b", "c"]),
        (None, ["a", "b", "c"]),
    ],
)
def test_runs_of_a_comparison_are_ordered_by_arm_and_seed(tmp_path, listing, order):
    if listing is not None:
        text = listing if isinstance(listing, str) else json.dumps(listing)
        (tmp_path / "compare.json").write_text(text)
    for name in ("c/seed-1", "a/seed-10", "a/seed-9", "a/seed-9.unfinished-1", "a/seed-x", "b/seed-1", "b/other"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "a" / "seed-3").touch()
    found = find_runs([tmp_path])
    seeds = {"a": ["9", "10"], "b": ["1"], "c": ["1"]}
    assert [(run.arm, run.seed) for run in found] == [(arm, seed) for arm in order for seed in seeds[arm]]
    assert [run.name for run in found] == [f"{arm}/seed-{seed}" for arm in order for seed in seeds[arm]]
    assert all(run.comparison == tmp_path and run.folder == tmp_path / "runs" / run.name for run in found)


def test_a_comparisons_seed_is_its_folders(tmp_path, folder):
    place = folder("runs/a/seed-4", config={"options": {"train.seed": 3}})
    assert [run.seed for run in find_runs([tmp_path])] == ["4"]
    assert [run.seed for run in find_runs([place])] == ["3"]


def test_what_cannot_be_found_is_told_whole(tmp_path):
    absent = tmp_path / "absent"
    with pytest.raises(ReportError) as caught:
        find_runs([absent])
    assert str(caught.value) == f"{absent}: no such folder; name a run folder (--logger.run_dir) or a comparison's"
    told = (
        f"{tmp_path}: neither a run folder (it holds none of config.json, metrics.jsonl, eval.jsonl, events.jsonl, "
        "samples/) nor a comparison's"
    )
    for name in ("c", "b", "a"):
        (tmp_path / name).mkdir()
        with pytest.raises(ReportError) as caught:
            find_runs([tmp_path])
        assert str(caught.value) == told
    for name in ("b", "c"):
        (tmp_path / name / "config.json").touch()
    with pytest.raises(ReportError) as caught:
        find_runs([tmp_path])
    assert str(caught.value) == f"{told}; but the folders in it are runs: name them, such as {tmp_path}/b"


def test_runs_come_in_the_order_in_which_they_are_named(folder):
    places = [folder(name, config={"options": {}}) for name in ("b", "a")]
    assert [run.name for run in find_runs([*places, places[0]])] == ["b", "a"]
    os.symlink(places[0], places[0].with_name("link"))
    assert [run.folder for run in find_runs([places[0].with_name("link"), *places])] == [
        places[0].with_name("link"),
        places[1],
    ]


def evaluated(name: str, prompts: int | None = None, **options) -> Run:
    evaluations = [Evaluation(1, 1, {"all": [0] * n}, {}, None, None, set()) for n in (99, prompts)] if prompts else []
    return Run(Path(name), name, options=options, evaluations=evaluations)


def test_what_tells_evaluation_data_apart():
    data = {"eval.dataset": "/data/a"}
    first = evaluated("one", 4, **data)
    same = [evaluated("none"), evaluated("empty", **{"eval.dataset": None}), evaluated("unknown", 4)]
    assert check_same_data([*same, first, evaluated("two", 4, **data), *same]) is None
    other = evaluated("three", 5, **{"eval.dataset": "/data/b"})
    assert (
        check_same_data([first, evaluated("two", 4), other])
        == "one evaluates on /data/a, but three evaluates on /data/b"
    )
    assert check_same_data([evaluated("none"), evaluated("two", 4), first, evaluated("three", 5, **data)]) == (
        "two evaluates prompts numbering 4, but three evaluates prompts numbering 5"
    )
