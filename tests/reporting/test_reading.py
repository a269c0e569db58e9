"""Run folders, whole and damaged: what is read, and what is told of the rest."""

from __future__ import annotations

import json

import pytest

from lens_openrlhf.reporting import arms
from lens_openrlhf.reporting.page import report_data
from lens_openrlhf.reporting.runs import ReportError, check_same_data, find_runs, read_run
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
