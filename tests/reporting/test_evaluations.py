"""Pass@k of arms, by hand: runs of a few prompts with two to four answers each."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lens_openrlhf.reporting import evaluations
from lens_openrlhf.reporting.arms import Arm
from lens_openrlhf.reporting.evaluations import evaluation_data, last_step, pass_values
from lens_openrlhf.reporting.runs import Evaluation, Run
from lens_openrlhf.reporting.series import over_runs, short, spread


def evaluation(step: int, *right: int, n: int = 2, ks=(), **splits) -> Evaluation:
    """Of as many prompts as `right`; `splits`: {column: values}."""
    found = {"all": list(right)}
    for column, values in splits.items():
        for value in dict.fromkeys(values):
            found[f"{column}={value}"] = [r for r, v in zip(right, values, strict=True) if v == value]
    return Evaluation(step, n, found, {c: set(v) - {None} for c, v in splits.items()}, None, None, set(ks))


def run(name: str, *found: Evaluation, seed: str | None = None) -> Run:
    return Run(Path(name), name, seed=seed, evaluations=list(found))


def test_everything_of_two_arms_with_seeds():
    base = Arm("base", [run("b1", evaluation(0, 0, 0), evaluation(4, 1, 2), seed="1"),
                        run("b2", evaluation(0, 0, 1), evaluation(4, 0, 1), seed="2"),
                        run("b3", evaluation(0, 0, 0), seed="3")])  # fmt: skip
    more = Arm("more", [run("m2", evaluation(0, 1, 1), evaluation(4, 2, 2), seed="2"),
                        run("m1", evaluation(4, 2, 1), seed="1"),
                        run("m4", evaluation(4, 0, 0), seed="4")])  # fmt: skip
    none = Arm("none", [run("n")])
    # Differences by seed, 1 and 2: pass@1 (0.75 - 0.75, 1 - 0.25), pass@2 (1 - 1, 1 - 0.5).
    reach = {k: 12.706204736432095 * error for k, error in ((1, 0.375), (2, 0.25))}  # Student's t, 1 degree of freedom
    root3 = math.sqrt(3)
    assert evaluation_data([base, more, none]) == {
        "ks": [1, 2],
        "splits": [{"key": "all", "column": None, "value": None, "prompts": 2}],
        "step": 4,
        "left_out": ["b3"],
        "curves": {
            "all": {
                "1": [
                    {"x": [0, 4], "y": [0.083333, 0.5], "e": [short(0.25 / 3), 0.25], "n": [3, 2]},
                    {"x": [0, 4], "y": [0.5, 0.58333], "e": [None, short(math.sqrt(13 / 48) / root3)], "n": [1, 3]},
                    None,
                ],
                "2": [
                    {"x": [0, 4], "y": [0.16667, 0.75], "e": [0.16667, 0.25], "n": [3, 2]},
                    {"x": [0, 4], "y": [1.0, 0.66667], "e": [None, 0.33333], "n": [1, 3]},
                    None,
                ],
            }
        },
        "table": {
            "all": {
                "1": [
                    {"mean": 0.5, "error": 0.25, "n": 2},
                    {"mean": 0.58333, "error": short(math.sqrt(13 / 48) / root3), "n": 3},
                    None,
                ],
                "2": [{"mean": 0.75, "error": 0.25, "n": 2}, {"mean": 0.66667, "error": 0.33333, "n": 3}, None],
            }
        },
        "difference": {
            "all": {
                str(k): [
                    None,
                    {
                        "mean": mean,
                        "error": mean,
                        "low": short(mean - reach[k]),
                        "high": short(mean + reach[k]),
                        "over": "seeds",
                        "pairs": 2,
                        "won": 1,
                    },
                    None,
                ]
                for k, mean in ((1, 0.375), (2, 0.25))
            }
        },
    }


def test_everything_of_two_runs_over_prompts():
    levels = ["hard", "easy", "easy", None]
    base = Arm("base", [run("b", evaluation(0, 0, 0, 0, 0, n=4), evaluation(3, 0, 4, 1, 2, n=4, ks=[3], level=levels))])
    more = Arm("more", [run("m", evaluation(3, 1, 2, 2, 0, n=4, level=levels))])
    data = evaluation_data([base, more])
    assert data["ks"] == [1, 2, 3, 4] and data["step"] == 3 and data["left_out"] == []
    assert data["splits"] == [
        {"key": "all", "column": None, "value": None, "prompts": 4},
        {"key": "level=easy", "column": "level", "value": "easy", "prompts": 2},
        {"key": "level=hard", "column": "level", "value": "hard", "prompts": 1},
    ]
    # Pass@3 of 4 answers with 0, 1, 2 right: 0, 3/4, 1.
    assert data["curves"]["all"]["3"] == [
        {"x": [0, 3], "y": [0.0, 0.6875], "e": [0.0, short(math.sqrt(0.671875 / 3) / 2)], "n": [1, 1]},
        {"x": [3], "y": [0.6875], "e": [short(math.sqrt(0.671875 / 3) / 2)], "n": [1]},
    ]
    assert data["table"]["level=easy"]["1"] == [
        {"mean": 0.625, "error": 0.375, "n": 1},
        {"mean": 0.5, "error": 0.0, "n": 1},
    ]
    assert data["table"]["level=hard"]["1"] == [
        {"mean": 0.0, "error": None, "n": 1},
        {"mean": 0.25, "error": None, "n": 1},
    ]
    difference = data["difference"]["all"]["1"][1]
    # 1/4, -1/2, 1/4, -1/2; t with 3 degrees of freedom.
    error = math.sqrt(4 * 0.375**2 / 3) / 2
    assert difference == {
        "mean": -0.125,
        "error": short(error),
        "low": short(-0.125 - 3.182446305284263 * error),
        "high": short(-0.125 + 3.182446305284263 * error),
        "over": "prompts",
        "pairs": 4,
        "won": 2,
    }
    assert set(data["difference"]) == set(data["curves"]) == {"all", "level=easy", "level=hard"}


def test_runs_are_paired_by_seed_and_not_by_place():
    base = Arm("base", [run("b", evaluation(1, n), seed=s) for n, s in ((0, "1"), (2, "2"), (0, "2"))])
    more = Arm("more", [run("m", evaluation(1, n), seed=s) for n, s in ((2, "2"), (1, "2"), (0, "1"))])
    found = evaluation_data([base, more])["difference"]["all"]["1"][1]
    # Seed 2 first and again, seed 1: 1 - 1, 0.5 - 0, 0 - 0.
    assert (found["mean"], found["pairs"], found["won"], found["over"]) == (0.16667, 3, 1, "seeds")
    other = Arm("other", [run("o", evaluation(1, 2), seed="9"), run("o", evaluation(1, 1), seed="8")])
    assert evaluation_data([base, other])["difference"]["all"]["1"] == [None, None]


def test_two_single_runs_are_compared_whatever_their_seeds():
    arms = [Arm(name, [run(name, evaluation(1, 1, n), seed=name)]) for n, name in enumerate("ab")]
    found = evaluation_data(arms)["difference"]["all"]["1"][1]
    assert (found["over"], found["pairs"], found["mean"]) == ("prompts", 2, 0.25)
    seeds = Arm("s", [run("s1", evaluation(1, 2, 2), seed="a"), run("s2", evaluation(1, 0, 0), seed="c")])
    found = evaluation_data([arms[0], seeds])["difference"]["all"]["1"][1]
    assert (found["over"], found["pairs"], found["mean"]) == ("prompts", 2, 0.75), "of the one seed that both have"


def test_other_prompts_are_not_compared_and_missing_ones_are_left_out():
    few, many = Arm("few", [run("f", evaluation(1, 1, 2))]), Arm("many", [run("m", evaluation(1, 1, 2, 0))])
    assert evaluation_data([few, many])["difference"]["all"]["1"] == [None, None]
    part = Arm("part", [run("p", evaluation(1, 1, 0, level=[1, 2]))])
    data = evaluation_data([few, part])
    assert data["table"]["level=1"]["1"] == [None, {"mean": 0.5, "error": None, "n": 1}]
    assert data["difference"]["level=1"]["1"] == [None, None] and data["curves"]["level=1"]["1"][0] is None


def test_a_k_beyond_the_answers_is_left_out():
    arms = [Arm("few", [run("f", evaluation(1, 1))]), Arm("many", [run("m", evaluation(1, 2, n=6))])]
    data = evaluation_data(arms)
    assert data["ks"] == [1, 2, 4, 6]
    assert [cell and cell["mean"] for cell in data["table"]["all"]["4"]] == [None, 0.93333]
    assert pass_values(evaluation(1, 1, n=2), "all", 3) == [] and pass_values(evaluation(1, 1), "level=1", 1) == []
    assert pass_values(evaluation(1, 0, 1, 2), "all", 2) == [0, 1, 1]


def test_powers_of_two_in_order():
    assert evaluation_data([Arm("a", [run("r", evaluation(1, 1, n=8, ks=[5]))])])["ks"] == [1, 2, 4, 5, 8]


def test_pairs_that_lack_a_part_are_left_out_of_its_difference():
    def runs(name, *levels):
        found = [evaluation(1, 2 * (name == "more"), 0, level=level) for level in levels]
        return Arm(name, [run(f"{name}{i}", e, seed=str(i)) for i, e in enumerate(found)])

    both, one = ["x", "y"], ["y", "y"]
    found = evaluation_data([runs("base", both, both, both), runs("more", both, one, both)])["difference"]
    assert found["level=y"]["1"][1]["pairs"] == 3 and found["level=x"]["1"][1]["pairs"] == 2
    found = evaluation_data([runs("base", both, both), runs("more", both, one)])["difference"]
    assert (found["level=x"]["1"][1]["over"], found["level=x"]["1"][1]["pairs"]) == ("prompts", 1)
    few = [Arm(name, [run(name, evaluation(1, 1, n=n))]) for name, n in (("a", 2), ("b", 2), ("c", 4))]
    assert evaluation_data(few)["difference"]["all"]["4"] == [None, None, None]


@pytest.mark.parametrize(("values", "shown"), [(1, 0), (2, 2), (12, 12), (13, 0)])
def test_columns_that_split(values, shown):
    column = [str(i) for i in range(values)]
    data = evaluation_data([Arm("a", [run("r", evaluation(1, *[0] * values, id=column))])])
    assert [split["value"] for split in data["splits"][1:]] == column[:shown]


def test_values_of_all_runs_split_numbers_by_size():
    arms = [
        Arm("a", [run("r", evaluation(1, 0, 0, level=[10, 9]), evaluation(2, 0, 0, 0, level=[9, 9, 9]))]),
        Arm("b", [run("s", evaluation(2, 0, 0, level=["x", 1]))]),
    ]
    splits = evaluation_data(arms)["splits"]
    assert [(split["key"], split["prompts"]) for split in splits] == [
        ("all", 3),
        ("level=1", 1),
        ("level=9", 3),
        ("level=10", 1),
        ("level=x", 1),
    ]


def test_the_last_step_that_all_evaluated_arms_have():
    def arm(*steps):
        return Arm("", [run("r", *(evaluation(s, 1) for s in part)) for part in steps])

    assert last_step([arm([0, 4], [0, 8]), arm([0, 4, 9], [])]) == 4
    assert last_step([arm([0, 4]), arm([]), arm([4, 6])]) == 4
    assert last_step([arm([1]), arm([2])]) is None and last_step([arm([]), arm([])]) is None
    assert evaluation_data([arm([]), arm([])]) is None


def test_without_a_common_step_each_is_taken_at_its_end():
    arms = [
        Arm("a", [run("a", evaluation(1, 0, 0), evaluation(3, 2, 0))]),
        Arm("b", [run("b", evaluation(2, 2, 2)), run("c")]),
    ]
    data = evaluation_data(arms)
    assert data["step"] is None and data["left_out"] == []
    assert [cell["mean"] for cell in data["table"]["all"]["1"]] == [0.5, 1.0]


def test_a_figure_has_at_most_so_many_evaluations():
    arms = [Arm("a", [run("a", *(evaluation(s, s % 3) for s in range(200)))])]
    x = evaluation_data(arms)["curves"]["all"]["1"][0]["x"]
    assert x == spread(range(200), 150) and len(x) == 150 and (x[0], x[-1]) == (0, 199)
    assert evaluations.MAX_EVALUATIONS == 150


def test_means_over_runs():
    curves = [{2: 1.0, 1: 0.123456789}, {2: 4.0}, {}, {2: 2.5, 3: -7.0}]
    assert over_runs(curves) == {
        "x": [1, 2, 3],
        "y": [0.12346, 2.5, -7.0],
        "e": [None, short(math.sqrt(4.5 / 2) / math.sqrt(3)), None],
        "n": [1, 3, 1],
    }
    assert over_runs([]) == {"x": [], "y": [], "e": [], "n": []}


def test_spread_keeps_ends_and_order():
    assert spread("abcdefghij", 3) == ["a", "e", "j"] and spread("abcdefghij", 2) == ["a", "j"]
    assert spread("abc", 3) == ["a", "b", "c"] and spread("abcd", 3) == ["a", "c", "d"]
