"""Which runs are one arm, and what the arms are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from lens_openrlhf.reporting import arms
from lens_openrlhf.reporting.arms import Arm
from lens_openrlhf.reporting.runs import Run

LENS = {"algo.advantage.estimator": "lens"}


def run(name: str, arm: str | None = None, comparison: str | None = None, seed: str | None = None, **options) -> Run:
    return Run(Path("/runs") / name, name, arm, comparison and Path(comparison), seed, options)


def grouped(*runs: Run) -> dict[str, list[str]]:
    return {arm.label: [run.name for run in arm.runs] for arm in arms.group(runs)}


@pytest.mark.parametrize(
    "name",
    ["logger.run_dir", "ckpt.path", "train.seed", "eval.steps", "eval.at_start", "eval.at_end", "eval.k", "local_rank"],
)
def test_what_names_a_run_makes_no_arm(name):
    assert grouped(run("a", **LENS, **{name: 1}), run("b", **LENS, **{name: 2})) == {"a": ["a", "b"]}


@pytest.mark.parametrize("name", ["train.epochs", "eval.temperature", "eval.dataset", "logged"])
def test_what_a_run_learns_from_does(name):
    last = name.rpartition(".")[2]
    assert grouped(run("a", **LENS, **{name: 1}), run("b", **LENS, **{name: 2})) == {
        f"{last}=1": ["a"],
        f"{last}=2": ["b"],
    }


def test_options_in_another_order_are_the_same():
    assert grouped(run("a", **LENS, x=1, y={"p": 1, "q": 2}), run("b", y={"q": 2, "p": 1}, x=1, **LENS)) == {
        "a": ["a", "b"]
    }


@pytest.mark.parametrize(("estimator", "count"), [("lens", 2), ("custom", 2), ("rloo", 1), (None, 1)])
def test_options_of_lens_count_where_it_is_used(estimator, count):
    options = {"algo.advantage.estimator": estimator} if estimator else {"other": 1}
    runs = [run(name, **options, **{"algo.lens.alpha": alpha}) for name, alpha in (("a", 1), ("b", 2))]
    assert len(arms.group(runs)) == count
    assert ("algo.lens.alpha" in arms.treatment(runs[0])) is (count == 2)


def test_options_that_differ_in_the_order_of_the_first_run_that_has_them():
    runs = [
        run("none"),
        run("a", z=1, same=0, a=[1], alone=1),
        run("b", a=[2], z=1, same=0, new="x", m=True),
        run("c", new="y", z=True, m=1),
    ]
    assert arms.differing(runs) == ["z", "a", "new", "m"]
    assert arms.differing([run("none"), runs[1]]) == arms.differing([]) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((True, "on"), (False, "off"), (None, "–"), (1, "1"), (0.25, "0.25"), ("relative/a/b", "relative/a/b")),
        *(("/models/big/7B", "big/7B"), ("/7B", "//7B"), (["/a/b/c", True, 3], "b/c on 3"), ([], "")),
    ],
)
def test_values_as_people_write_them(value, text):
    assert arms.shown(value) == text


def test_three_options_make_a_name_and_four_do_not():
    few = {"algo.lens.alpha": 1, "algo.lens.scope": "both", "actor.adam.lr": 1e-4}
    more = {"algo.lens.alpha": 2, "algo.lens.scope": "none", "actor.adam.lr": 1e-5}
    assert list(grouped(run("a", **LENS, **few), run("b", **LENS, **more))) == [
        "alpha=1, scope=both, lr=0.0001",
        "alpha=2, scope=none, lr=1e-05",
    ]
    assert list(grouped(run("a", **LENS, **few, x=1), run("b", **LENS, **more, x=2))) == ["a", "b"]


def test_a_run_is_named_by_its_folder_where_it_is_alone_or_nothing_is_known_of_it():
    assert grouped(run("a", x=1)) == {"a": ["a"]}
    assert grouped(run("a", x=1), run("b", x=2), run("c"), run("d"), run("e", y=0)) == {
        "x=1": ["a"],
        "x=2": ["b"],
        "c": ["c"],
        "d": ["d"],
        "e": ["e"],
    }


def test_runs_of_a_comparison_are_named_by_their_arm_and_do_not_tell_others_apart():
    runs = [
        run("1", "grpo", "/c/one", x=1),
        run("2", "grpo", "/c/one", x=9),
        run("3", "lens", "/c/one", x=3),
        run("4", "lens", "/c/two", x=3),
        run("5", x=1, y=1),
        run("6", x=1, y=2),
    ]
    assert grouped(*runs) == {
        "grpo": ["1", "2"],
        "one: lens": ["3"],
        "two: lens": ["4"],
        "y=1": ["5"],
        "y=2": ["6"],
    }


def test_two_arms_never_have_one_name():
    first = run("same")
    others = [Run(Path(place), "same") for place in ("/x/same", "/y/same")]
    assert [arm.label for arm in arms.group([first, *others])] == ["same: same", "same: same′", "same: same′′"]


def test_runs_by_seed_and_repetition():
    runs = [run(name, seed=seed) for name, seed in (("a", "2"), ("b", "1"), ("c", "2"), ("d", None), ("e", "2"))]
    assert [(key, found.name) for key, found in Arm("", runs).seeds.items()] == [
        (("2", 0), "a"),
        (("1", 0), "b"),
        (("2", 1), "c"),
        (("None", 0), "d"),
        (("2", 2), "e"),
    ]
