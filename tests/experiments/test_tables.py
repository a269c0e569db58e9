"""Tables against values worked out by hand, from run folders with known correctness."""

from __future__ import annotations

import json
import math
import shutil

import pytest

from lens_openrlhf.experiments.compare import main
from lens_openrlhf.experiments.tables import TableError, compute, final_pass_at_1, read_outcome, show

from .folders import write_comparison, write_lines

LEVELS = {"level": [1, 2]}
# Two prompts, four answers each. 0.5 is no right answer.
RUNS = {
    "GRPO": {
        1: {"scores": [[1, 0, 0, 0], [0, 0, 0.5, 0]], "splits": LEVELS, "negative": [0.5, 0.25], "seconds": 2.0},
        2: {"scores": [[1, 1, 0, 0], [0, 0, 0, 0]], "splits": LEVELS, "negative": [0.5, 0.75], "seconds": 4.0},
    },
    "LENS": {
        1: {"scores": [[0, 1, 0, 1], [1, 0, 0, 0]], "splits": LEVELS, "negative": [0.25, None], "seconds": 3.0},
        2: {"scores": [[0, 0, 1, 1], [0, 0, 0, 0]], "splits": LEVELS, "negative": [0.25, 0.75], "seconds": 3.0},
    },
}
# Pass@2 of 1 in 4: 1 - 3/6; of 2 in 4: 1 - 1/6. The 97.5% point of Student's t with one degree of freedom is 12.706.
TABLE = """\
known: Pass@k after the last step, 2 prompts, 4 answers to each
mean ± standard error over 2 seeds; differences to GRPO are paired by seed
in favour: seeds on which the arm did better than it

all                       Pass@1           Pass@2           Pass@4
GRPO               0.188 ± 0.062    0.333 ± 0.083    0.500 ± 0.000
LENS               0.312 ± 0.062    0.542 ± 0.125    0.750 ± 0.250
  difference      +0.125 ± 0.125   +0.208 ± 0.208   +0.250 ± 0.250
  95% interval  [-1.463, +1.713] [-2.439, +2.855] [-2.927, +3.427]
  in favour          1/2, 1 tied      1/2, 1 tied      1/2, 1 tied

level=1                   Pass@1           Pass@2           Pass@4
GRPO               0.375 ± 0.125    0.667 ± 0.167    1.000 ± 0.000
LENS               0.500 ± 0.000    0.833 ± 0.000    1.000 ± 0.000
  difference      +0.125 ± 0.125   +0.167 ± 0.167   +0.000 ± 0.000
  95% interval  [-1.463, +1.713] [-1.951, +2.284] [+0.000, +0.000]
  in favour          1/2, 1 tied      1/2, 1 tied      0/2, 2 tied

level=2                   Pass@1           Pass@2           Pass@4
GRPO               0.000 ± 0.000    0.000 ± 0.000    0.000 ± 0.000
LENS               0.125 ± 0.125    0.250 ± 0.250    0.500 ± 0.500
  difference      +0.125 ± 0.125   +0.250 ± 0.250   +0.500 ± 0.500
  95% interval  [-1.463, +1.713] [-2.927, +3.427] [-5.853, +6.853]
  in favour          1/2, 1 tied      1/2, 1 tied      1/2, 1 tied

training         negative groups   seconds a step
GRPO               0.500 ± 0.125    3.000 ± 1.000
LENS               0.375 ± 0.125    3.000 ± 0.000"""


def test_the_table_worked_out_by_hand(tmp_path):
    assert show(compute(write_comparison(tmp_path / "c", RUNS))) == TABLE


def test_results_hold_every_seed_exactly(tmp_path):
    results = compute(write_comparison(tmp_path / "c", RUNS))
    grpo = results["pass_at_k"]["all"]["2"]["GRPO"]
    assert grpo["by_seed"] == {"1": pytest.approx(1 / 4), "2": pytest.approx(5 / 12)}
    assert grpo["mean"] == pytest.approx(1 / 3) and grpo["error"] == pytest.approx(1 / 12)
    difference = results["differences"]["all"]["1"]["LENS"]
    reach = 0.125 * math.tan(0.475 * math.pi)  # Student's t with one degree of freedom is Cauchy's
    assert difference == {
        **dict(mean=0.125, error=0.125, favoured=1, tied=1, seeds=2),
        **dict(low=pytest.approx(0.125 - reach), high=pytest.approx(0.125 + reach)),
    }
    assert results["k"] == [1, 2, 4] and results["missing"] == []


def single(mean: float, **by_seed: float) -> dict:
    return {"mean": mean, "error": None, "by_seed": {seed.removeprefix("seed_"): one for seed, one in by_seed.items()}}


def test_results_are_all_that_the_tables_need(tmp_path):
    runs = {
        "A": {1: {"scores": [[1, 0], [0, 0]], "splits": {"level": [2, 3]}, "negative": [0.5, 0.25], "seconds": 3.0}},
        "B": {1: {"scores": [[1, 1], [0, 1]], "splits": {"level": [2, 3]}, "negative": [0.75, 0.0], "seconds": 5.0}},
        "C": {},
    }
    results = compute(write_comparison(tmp_path / "c", runs, seeds=[1, 7], states={"B/seed-7": "running"}))

    def cells(a: float, b: float) -> dict:
        return {"A": single(a, seed_1=a), "B": single(b, seed_1=b)}

    def lead(mean: float, favoured: int) -> dict:
        same = {"error": None, "low": None, "high": None, "seeds": 1}
        return {"B": {"mean": mean, "favoured": favoured, "tied": 1 - favoured, **same}}

    assert results == {
        "name": "known",
        "arms": ["A", "B", "C"],
        "seeds": [1, 7],
        "k": [1, 2],
        "prompts": [2],
        "answers": [2],
        "missing": [
            {"arm": "C", "seed": 1, "state": "not started"},
            {"arm": "A", "seed": 7, "state": "not started"},
            {"arm": "B", "seed": 7, "state": "running"},
            {"arm": "C", "seed": 7, "state": "not started"},
        ],
        "pass_at_k": {
            "all": {"1": cells(0.25, 0.75), "2": cells(0.5, 1.0)},
            "level=2": {"1": cells(0.5, 1.0), "2": cells(1.0, 1.0)},
            "level=3": {"1": cells(0.0, 0.5), "2": cells(0.0, 1.0)},
        },
        "differences": {
            "all": {"1": lead(0.5, 1), "2": lead(0.5, 1)},
            "level=2": {"1": lead(0.5, 1), "2": lead(0.0, 0)},
            "level=3": {"1": lead(0.5, 1), "2": lead(1.0, 1)},
        },
        "training": {"negative groups": cells(0.375, 0.375), "seconds a step": cells(3.0, 5.0)},
        "different_versions": {},
        "paper": None,
    }


# Of six answers one is right in the first run, two in the second, three in LENS's. Five columns fit beside 15 letters.
WIDE = """\
known: Pass@k after the last step, 1 prompts, 6 answers to each
mean ± standard error over 4 seeds; differences to GRPO are paired by seed
in favour: seeds on which the arm did better than it

all                       Pass@1           Pass@2           Pass@3           Pass@4           Pass@5
GRPO               0.250 ± 0.083    0.467 ± 0.133    0.650 ± 0.150    0.800 ± 0.133    0.917 ± 0.083
LENS                       0.500            0.800            0.950            1.000            1.000
  difference              +0.167           +0.200           +0.150           +0.067           +0.000
  in favour                  1/1              1/1              1/1              1/1      0/1, 1 tied

all                       Pass@6
GRPO               1.000 ± 0.000
LENS                       1.000
  difference              +0.000
  in favour          0/1, 1 tied

datasource=123            Pass@1           Pass@2           Pass@3           Pass@4           Pass@5
GRPO               0.250 ± 0.083    0.467 ± 0.133    0.650 ± 0.150    0.800 ± 0.133    0.917 ± 0.083
LENS                           -                -                -                -                -

datasource=123            Pass@6
GRPO               1.000 ± 0.000
LENS                           -

x=1234567890123
                          Pass@1           Pass@2           Pass@3           Pass@4           Pass@5
GRPO               0.250 ± 0.083    0.467 ± 0.133    0.650 ± 0.150    0.800 ± 0.133    0.917 ± 0.083
LENS                           -                -                -                -                -

x=1234567890123
                          Pass@6
GRPO               1.000 ± 0.000
LENS                           -

training         negative groups   seconds a step
GRPO               0.500 ± 0.000    2.000 ± 0.000
LENS                       0.500            2.000

missing: LENS, seeds 1, 3 (not started)
missing: GRPO, seed 3 (failed)
missing: GRPO, seed 4 (not started)
missing: LENS, seed 4 (interrupted)
means are over the runs there are; differences over the seeds that both arms have
the runs were not all made with the same ray: 3, 4
the runs were not all made with the same torch: 10, 2, 3"""


def test_a_table_that_is_too_wide_goes_on_below_and_ends_with_what_must_be_known(tmp_path):
    splits = {"datasource": ["123"], "x": ["1234567890123"]}
    versions = [{"torch": torch, "vllm": "1", "ray": ray} for torch, ray in (("3", "4"), ("10", "3"), ("2", "4"))]
    runs = {
        "GRPO": {
            1: {"scores": [[1, 0, 0, 0, 0, 0]], "splits": splits, "versions": versions[0]},
            2: {"scores": [[1, 1, 0, 0, 0, 0]], "splits": splits, "versions": versions[1]},
        },
        "LENS": {2: {"scores": [[1, 0, 1, 0, 1, 0]], "versions": versions[2]}},
    }
    states = {"GRPO/seed-3": "failed", "LENS/seed-4": "interrupted"}
    folder = write_comparison(tmp_path / "c", runs, [1, 2, 3, 4], states, k=[1, 2, 3, 4, 5, 6])
    assert show(compute(folder)) == WIDE


def test_arms_have_an_interval_where_they_have_two_seeds(tmp_path):
    """The third arm's difference to the first is shown without one, beside the second's with one."""
    scores = {"A": [[0, 0]], "B": [[1, 0]], "C": [[1, 1]]}
    runs = {arm: {seed: {"scores": one} for seed in ((1, 2) if arm != "C" else (1,))} for arm, one in scores.items()}
    lines = show(compute(write_comparison(tmp_path / "c", runs, seeds=[1, 2]))).splitlines()
    assert [" ".join(line.split()) for line in lines[4:14]] == [
        "all Pass@1 Pass@2",
        "A 0.000 ± 0.000 0.000 ± 0.000",
        "B 0.500 ± 0.000 1.000 ± 0.000",
        "difference +0.500 ± 0.000 +1.000 ± 0.000",
        "95% interval [+0.500, +0.500] [+1.000, +1.000]",
        "in favour 2/2 2/2",
        "C 1.000 1.000",
        "difference +1.000 +1.000",
        "in favour 1/1 1/1",
        "",
    ]


def test_the_command_prints_the_table_and_writes_results(tmp_path, capsys):
    folder = write_comparison(tmp_path / "c", RUNS)
    assert main(["--table", str(folder)]) == 0
    assert TABLE in capsys.readouterr().out
    assert (folder / "results.json").read_text() == json.dumps(compute(folder), indent=2) + "\n"


def test_the_command_finds_the_folder_of_a_spec(tmp_path, capsys):
    folder = write_comparison(tmp_path / "c", RUNS)
    assert main(["--table", str(folder / "spec.yaml"), "-o", str(folder)]) == 0
    assert TABLE in capsys.readouterr().out


def test_k_and_splits_are_the_specs(tmp_path):
    results = compute(write_comparison(tmp_path / "c", RUNS, k=[4], split_by=[]))
    assert list(results["pass_at_k"]) == ["all"] and list(results["pass_at_k"]["all"]) == ["4"]


def test_only_one_seed_has_no_interval(tmp_path):
    shown = show(compute(write_comparison(tmp_path / "c", RUNS, seeds=[1])))
    assert "interval" not in shown and "±" not in shown.split("\n", 3)[3]
    assert "+0.250" in shown and "1/1" in shown


def test_what_is_missing_is_left_out_and_said(tmp_path):
    runs = {"GRPO": RUNS["GRPO"], "LENS": {1: RUNS["LENS"][1]}}
    folder = write_comparison(tmp_path / "c", runs, seeds=[1, 2, 3], states={"LENS/seed-2": "failed"})
    results = compute(folder)
    assert results["pass_at_k"]["all"]["1"]["LENS"]["by_seed"] == {"1": 0.375}
    assert results["differences"]["all"]["1"]["LENS"]["seeds"] == 1
    lines = show(results).splitlines()
    assert "missing: LENS, seed 2 (failed)" in lines
    assert "missing: GRPO, seed 3 (not started)" in lines and "missing: LENS, seed 3 (not started)" in lines


def test_arms_are_compared_on_the_seeds_that_both_have(tmp_path):
    """Were they taken in order, the second seed of one would be held against the first of the other."""
    runs = {"GRPO": RUNS["GRPO"], "LENS": {2: RUNS["LENS"][2]}}
    difference = compute(write_comparison(tmp_path / "c", runs, seeds=[1, 2]))["differences"]["all"]["1"]["LENS"]
    assert (difference["seeds"], difference["mean"], difference["favoured"], difference["tied"]) == (1, 0.0, 0, 1)

    runs = {"GRPO": {1: RUNS["GRPO"][1]}, "LENS": {2: RUNS["LENS"][2]}}
    assert compute(write_comparison(tmp_path / "d", runs, seeds=[1, 2]))["differences"]["all"]["1"] == {}


def test_a_lost_seed_is_no_favour_and_no_tie(tmp_path):
    runs = {
        "A": {1: {"scores": [[1, 1]]}, 2: {"scores": [[1, 0]]}},
        "B": {1: {"scores": [[0, 1]]}, 2: {"scores": [[1, 1]]}},
    }
    difference = compute(write_comparison(tmp_path / "c", runs))["differences"]["all"]["1"]["B"]
    assert (difference["favoured"], difference["tied"], difference["mean"]) == (1, 0, 0.0)


def test_steps_without_negative_groups_count(tmp_path):
    runs = {"GRPO": {1: {"scores": [[1, 0]], "negative": [0.75, 0.0, None, 0.0]}}}
    training = compute(write_comparison(tmp_path / "c", runs))["training"]
    assert training["negative groups"]["GRPO"]["mean"] == 0.25


def test_k_goes_up_to_what_every_prompt_has_answers_for(tmp_path):
    runs = {"GRPO": {1: {"scores": [[1, 0, 0, 0], [0, 1]]}}, "LENS": {1: {"scores": [[1, 0, 0, 0], [0, 1, 0, 0]]}}}
    results = compute(write_comparison(tmp_path / "c", runs))
    assert results["k"] == [1, 2] and results["answers"] == [2, 4]
    assert results["pass_at_k"]["all"]["1"]["GRPO"]["mean"] == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert results["pass_at_k"]["all"]["2"]["GRPO"]["mean"] == pytest.approx((1 / 2 + 1) / 2)


def test_the_last_evaluation_counts(tmp_path):
    folder = write_comparison(tmp_path / "c", {"GRPO": {1: {"scores": [[1, 1]]}}})
    path = folder / "runs/GRPO/seed-1/eval.jsonl"
    write_lines(path, [{"step": step, "time": step, "scores": [[step > 2, 0]]} for step in (0, 1, 3)])
    assert compute(folder)["pass_at_k"]["all"]["1"]["GRPO"]["mean"] == 0.5


def test_an_arm_without_any_run_has_no_numbers(tmp_path):
    shown = show(compute(write_comparison(tmp_path / "c", {"GRPO": RUNS["GRPO"], "LENS": {}})))
    (row, *_) = [line for line in shown.splitlines() if line.startswith("LENS")]
    assert row.split() == ["LENS", "-", "-", "-"]


def test_runs_without_lens_metrics_show_a_dash(tmp_path):
    runs = {"RLOO": {1: {"scores": [[1, 0]], "negative": [None]}}}
    assert show(compute(write_comparison(tmp_path / "c", runs))).splitlines()[-1].split() == ["RLOO", "-", "2.000"]


def test_records_of_earlier_versions_have_no_splits(tmp_path):
    runs = {"GRPO": {1: {"scores": [[1, 0], [0, 0]]}}}
    results = compute(write_comparison(tmp_path / "c", runs))
    assert list(results["pass_at_k"]) == ["all"] and results["k"] == [1, 2]


def test_a_run_that_recorded_splits_can_stand_beside_one_that_did_not(tmp_path):
    runs = {"GRPO": {1: {"scores": [[1, 0], [0, 0]]}}, "LENS": {1: {"scores": [[1, 0], [0, 0]], "splits": LEVELS}}}
    results = compute(write_comparison(tmp_path / "c", runs))
    assert list(results["pass_at_k"]["level=2"]["1"]) == ["LENS"] and not results["differences"]["level=2"]["1"]
    show(results)


def test_splits_are_sorted_as_numbers(tmp_path):
    splits = {"level": [10, 9, 9], "source": ["b", "a", "a"]}
    runs = {"GRPO": {1: {"scores": [[1, 0], [0, 0], [1, 1]], "splits": splits}}}
    results = compute(write_comparison(tmp_path / "c", runs))
    assert list(results["pass_at_k"]) == ["all", "level=9", "level=10", "source=a", "source=b"]
    assert results["pass_at_k"]["source=a"]["1"]["GRPO"]["mean"] == 0.5


@pytest.mark.parametrize("label", ["A", "a label as long as may be 30ch"])
def test_many_ks_are_wrapped_within_100_characters(tmp_path, label):
    answers = 1024
    scores = [[1] * 3 + [0] * (answers - 3), [0] * answers]
    runs = {arm: {seed: {"scores": scores} for seed in (1, 2)} for arm in (label, "second")}
    shown = show(compute(write_comparison(tmp_path / "c", runs)))
    assert max(map(len, shown.splitlines())) <= 100
    for k in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
        assert f" Pass@{k}\n" in shown + "\n" or f" Pass@{k} " in shown


@pytest.mark.parametrize("value", ["subtraction", "x" * 200])
def test_names_of_splits_may_be_long(tmp_path, value):
    runs = {arm: {1: {"scores": [[1, 0]], "splits": {"datasource": [value]}}} for arm in ("GRPO", "LENS")}
    lines = show(compute(write_comparison(tmp_path / "c", runs))).splitlines()
    assert max(map(len, lines)) <= 100
    at = lines.index(f"datasource={value}"[:100])
    assert lines[at + 1].split() == ["Pass@1", "Pass@2"]
    assert len(lines[at + 1]) == len(lines[at + 2]), "the columns do not stand under each other"


def test_different_versions_are_said(tmp_path):
    runs = {
        "GRPO": {1: {"scores": [[1, 0]], "versions": {"torch": "2.12", "vllm": "1"}}},
        "LENS": {1: {"scores": [[1, 0]], "versions": {"torch": "2.13", "vllm": "1"}}},
    }
    shown = show(compute(write_comparison(tmp_path / "c", runs)))
    assert "not all made with the same torch: 2.12, 2.13" in shown and "vllm" not in shown


def refused(folder, capsys) -> str:
    assert main(["--table", str(folder)]) == 2
    return capsys.readouterr().err


def test_pass_at_1_of_one_run_is_its_last_evaluations(tmp_path):
    folder = write_comparison(tmp_path / "c", RUNS) / "runs/GRPO/seed-1"
    assert final_pass_at_1(folder) == 1 / 8  # 0.5 is no right answer


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("eval.jsonl", '{"step": 2}\n', "/eval.jsonl: the last evaluation holds no answers (`scores`)"),
        ("eval.jsonl", '{"step": 2, "scores": [[NaN, null, 1], [true, "1", 0.0]]}\n', "/eval.jsonl: 3 `scores` of "),
        ("eval.jsonl", "[]\n", ": its records are not those of a run (AttributeError("),
        ("eval.jsonl", '{"step": 2, "scores": [3]}\n', ": its records are not those of a run (TypeError("),
        ("metrics.jsonl", '{"timing/step_total": "x"}\n', ": its records are not those of a run ("),
        ("config.json", "{", ": its records are not those of a run (JSONDecodeError("),
        ("config.json", "[" * 100_000, ": its records are not those of a run (RecursionError("),
        ("config.json", "3", ": its records are not those of a run (AttributeError("),
    ],
)
def test_records_that_are_none_are_named(tmp_path, file, content, told):
    folder = write_comparison(tmp_path / "c", {"GRPO": {1: RUNS["GRPO"][1]}}) / "runs/GRPO/seed-1"
    (folder / file).write_text(content)
    with pytest.raises(TableError) as caught:
        read_outcome(folder)
    assert str(caught.value).startswith(f"{folder}{told}")


def test_what_a_run_left_is_read(tmp_path):
    folder = write_comparison(tmp_path / "c", {"GRPO": {1: RUNS["GRPO"][1]}}) / "runs/GRPO/seed-1"
    (folder / "config.json").write_text('{"versions": {"torch": "2"}}')
    assert read_outcome(folder) == (
        [[1, 0, 0, 0], [0, 0, 0.5, 0]],
        {"level": [1, 2]},
        {"negative groups": 0.375, "seconds a step": 2.0},
        {"torch": "2"},
    )
    (folder / "config.json").unlink()
    assert read_outcome(folder).versions == {}


def test_every_arm_of_a_seed_must_have_answered_the_same_questions(tmp_path, capsys):
    """Also the third, and where the first has no such seed."""
    one, other = {"scores": [[1, 0]], "splits": {"level": [1]}}, {"scores": [[1, 0]], "splits": {"level": [2]}}
    for number, (arms, named) in enumerate(
        [
            ({"A": {1: one}, "B": {1: one}, "C": {1: other}}, "C/seed-1 and A/seed-1"),
            ({"A": {1: one}, "B": {2: one}, "C": {2: other}}, "C/seed-2 and B/seed-2"),
        ]
    ):
        assert f"{named} were evaluated on different" in refused(write_comparison(tmp_path / f"{number}", arms), capsys)


def test_no_run_is_finished(tmp_path, capsys):
    folder = write_comparison(tmp_path / "c", {"GRPO": {}}, seeds=[1], states={"GRPO/seed-1": "interrupted"})
    assert "no run is finished" in refused(folder, capsys)


def test_a_folder_that_is_no_comparison(tmp_path, capsys):
    assert "spec.yaml" in refused(tmp_path, capsys)


def test_an_evaluation_without_answers(tmp_path, capsys):
    folder = write_comparison(tmp_path / "c", RUNS)
    for scores in ([], [[1, 0], []]):
        write_lines(folder / "runs/LENS/seed-2/eval.jsonl", [{"step": 2, "time": 1, "scores": scores}])
        message = refused(folder, capsys)
        assert "LENS/seed-2/eval.jsonl" in message and "no answers" in message


def test_a_finished_run_without_its_records(tmp_path, capsys):
    folder = write_comparison(tmp_path / "c", RUNS)
    shutil.rmtree(folder / "runs/LENS/seed-2")
    assert "LENS/seed-2/eval.jsonl: holds no evaluation" in refused(folder, capsys)


def test_k_larger_than_the_answers(tmp_path, capsys):
    message = refused(write_comparison(tmp_path / "c", RUNS, k=[1, 8]), capsys)
    assert "k 8 is more than its 4 answers" in message


def test_a_column_that_no_run_recorded(tmp_path, capsys):
    message = refused(write_comparison(tmp_path / "c", RUNS, split_by=["difficulty"]), capsys)
    assert "'difficulty'" in message and "recorded: level" in message


def test_arms_that_answered_different_questions(tmp_path, capsys):
    other = {**RUNS["LENS"], 2: {"scores": [[1, 0, 0, 0]], "splits": {"level": [1]}}}
    message = refused(write_comparison(tmp_path / "c", {**RUNS, "LENS": other}), capsys)
    assert "LENS/seed-2 and GRPO/seed-2" in message and "different prompts" in message


def test_arms_that_answered_as_many_other_questions(tmp_path, capsys):
    other = {**RUNS["LENS"], 2: {**RUNS["LENS"][2], "splits": {"level": [2, 1]}}}
    runs = {**RUNS, "LENS": other}
    for number, allowed in enumerate(([], ["data.max_samples"])):
        message = refused(write_comparison(tmp_path / f"{number}", runs, allow_unfair=allowed), capsys)
        assert "LENS/seed-2 and GRPO/seed-2 were evaluated on different prompts" in message
    compute(write_comparison(tmp_path / "allowed", runs, allow_unfair=["eval.dataset"]))


def test_seeds_may_have_questions_of_their_own(tmp_path):
    runs = {arm: {1: RUNS[arm][1], 2: {"scores": [[1, 0, 0, 0]]}} for arm in RUNS}
    assert compute(write_comparison(tmp_path / "c", runs))["prompts"] == [1, 2]


def test_splits_that_do_not_fit_the_prompts(tmp_path, capsys):
    runs = {"GRPO": {1: {"scores": [[1, 0], [0, 0]], "splits": {"level": [1]}}}}
    assert "1 values of 'level' for 2 prompts" in refused(write_comparison(tmp_path / "c", runs), capsys)


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "x"}'])
def test_a_damaged_record(tmp_path, capsys, content):
    folder = write_comparison(tmp_path / "c", RUNS)
    (folder / "compare.json").write_text(content)
    assert "compare.json: is no record of a comparison" in refused(folder, capsys)
