"""Metrics over training, by hand: runs of a few steps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from lens_openrlhf.reporting import curves
from lens_openrlhf.reporting.arms import Arm
from lens_openrlhf.reporting.curves import curve_data, step_metrics
from lens_openrlhf.reporting.runs import Evaluation, Run
from lens_openrlhf.reporting.series import short


def run(name: str, evaluations=(), **metrics) -> Run:
    """metrics: {name: values of the steps from 1}, None where a step has none."""
    steps = max(map(len, metrics.values()), default=0)
    records = [
        {"step": i + 1, "time": 9.0} | {k: v[i] for k, v in metrics.items() if i < len(v) and v[i] is not None}
        for i in range(steps)
    ]
    return Run(Path(name), name, metrics=records, evaluations=list(evaluations))


def data(*arms: list[Run], samples=None) -> dict:
    listed = [Arm(str(i), runs) for i, runs in enumerate(arms)]
    return curve_data(listed, {r.folder: (samples or {}).get(r.name, {}) for arm in listed for r in arm.runs})


def evaluation(step: int, length: float | None, truncated: float | None) -> Evaluation:
    return Evaluation(step, 1, {"all": [0]}, {}, length, truncated, set())


def test_everything_of_two_arms():
    first = [
        run("a", [evaluation(0, 8, 0.5), evaluation(2, 6, None)], **{"timing/x": [1, 3], "loss": [0.5, None]}),
        run("b", [evaluation(0, 4, 0.25)], **{"timing/x": [2, 5], "rollout/reward_mean": [0, 1]}),
    ]
    second = [run("c", **{"rollout/reward_mean": [0.25], "timing/step_total": [7]})]
    found = data(first, second)
    assert list(found["curves"]) == sorted(found["curves"])
    assert json.dumps(found["curves"]["timing/x"][0]["x"]) == "[1, 2]", "steps are whole numbers"
    assert found == {
        "curves": {
            "evaluation/length": [{"x": [0, 2], "y": [6.0, 6.0], "e": [2.0, None], "n": [2, 1]}, None],
            "evaluation/truncated": [{"x": [0], "y": [0.375], "e": [0.125], "n": [2]}, None],
            "loss": [{"x": [1], "y": [0.5], "e": [None], "n": [1]}, None],
            "rollout/reward_mean": [
                {"x": [1, 2], "y": [0.0, 1.0], "e": [None, None], "n": [1, 1]},
                {"x": [1], "y": [0.25], "e": [None], "n": [1]},
            ],
            "timing/step_total": [None, {"x": [1], "y": [7.0], "e": [None], "n": [1]}],
            "timing/x": [{"x": [1, 2], "y": [1.5, 4.0], "e": [0.5, 1.0], "n": [2, 2]}, None],
        },
        "width": 1,
        "seconds": {"timing/x": [[2.75, 0.75], None], "timing/step_total": [None, [7.0, None]]},
        "ends": {"rollout/reward_mean": [[0.0, 1.0], [0.25, 0.25]], "timing/step_total": [None, [7.0, 7.0]]},
    }


@pytest.mark.parametrize(
    "name", ["lens/negative_groups", "lens/rescued_samples", "rollout/reward_mean", "timing/step_total"]
)
@pytest.mark.parametrize(("steps", "tenth"), [(9, 1), (19, 1), (20, 2), (35, 3)])
def test_ends_are_means_over_a_tenth_of_the_steps(name, steps, tenth):
    values = [float(step**2) for step in range(steps)]
    found = data([run("a", **{name: values})])["ends"]
    assert found == {name: [[short(sum(v) / tenth) for v in (values[:tenth], values[-tenth:])]]}


def test_ends_are_those_of_the_steps_whatever_their_order_and_means_over_runs():
    name = "rollout/reward_mean"
    late = run("a", **{name: [float(i) for i in range(20)]})
    late.metrics.reverse()
    assert data([late, run("b", **{name: [1.0, 9.0]})])["ends"] == {name: [[0.75, 13.75]]}


@pytest.mark.parametrize(("steps", "width"), [(400, 1), (401, 2), (800, 2), (801, 3)])
def test_points_are_means_of_neighbouring_steps(steps, width):
    values = [float(i) for i in range(1, steps + 1)]
    found = data([run("short", loss=[3.0])], [run("long", loss=values)])
    x = found["curves"]["loss"][1]["x"]
    assert found["width"] == width
    middle = (width + 1) / 2
    assert found["curves"]["loss"][0]["x"] == x[:1] == [middle]
    full = steps // width
    assert x == [i * width + middle for i in range(-(-steps // width))]
    assert found["curves"]["loss"][1]["y"][:full] == x[:full], "the mean of neighbouring numbers is their middle"
    left = values[full * width :]
    assert found["curves"]["loss"][1]["y"][full:] == ([sum(left) / len(left)] if left else [])


def test_shares_of_the_advantages():
    given = {
        **{"lens/negative_groups": 0.5, "lens/mixed_groups": 0.25, "lens/positive_groups": 0.25},
        **{"lens/abs_advantage_negative": 0.1, "lens/abs_advantage_mixed": 0.6, "lens/abs_advantage_positive": 0.2},
    }
    found = step_metrics(run("a", **{name: [value] for name, value in given.items()}), {})
    expected = {"mass/negative": {1: 0.2}, "mass/mixed": {1: 0.6}, "mass/positive": {1: 0.2}}
    assert {name: curve for name, curve in found.items() if name not in given} == {
        name: {1: pytest.approx(curve[1])} for name, curve in expected.items()
    }
    del given["lens/abs_advantage_positive"]  # there was no such group
    found = step_metrics(run("a", **{name: [value] for name, value in given.items()}), {})
    assert [found[f"mass/{kind}"][1] for kind in ("negative", "mixed", "positive")] == pytest.approx([0.25, 0.75, 0])
    del given["lens/negative_groups"]
    found = step_metrics(run("a", **{name: [value] for name, value in given.items()}), {})
    assert [found[f"mass/{kind}"][1] for kind in ("negative", "mixed", "positive")] == [0, 1, 0]
    for none in ({"lens/abs_advantage_mixed": 0.0, "lens/mixed_groups": 1.0}, {"lens/mixed_groups": 1.0}):
        found = step_metrics(run("a", **{name: [value] for name, value in none.items()}), {})
        assert found == {name: {1: value} for name, value in none.items()}


def test_what_answers_tell_where_nothing_of_lens_was_logged():
    told = SimpleNamespace(
        metrics=lambda: {
            **{"lens/mixed_groups": 1.0, "lens/abs_advantage_mixed": 0.5, "loss": 9.0},
            **{"none": None, "nan": math.nan, "infinite": math.inf},
        }
    )
    logged = run("a", loss=[0.5, 0.25])
    assert step_metrics(logged, {2: told}) == {
        "lens/mixed_groups": {2: 1.0},
        "lens/abs_advantage_mixed": {2: 0.5},
        "mass/negative": {2: 0.0},
        "mass/positive": {2: 0.0},
        "mass/mixed": {2: 1.0},
        "loss": {1: 0.5, 2: 0.25},
    }
    assert list(data([logged], samples={"a": {2: told}})["curves"]["lens/mixed_groups"][0].values()) == [
        *([2], [1.0], [None], [1]),
    ]
    logged = run("a", **{"lens/negative_groups": [0.5]})
    assert step_metrics(logged, {1: told}) == {"lens/negative_groups": {1: 0.5}}


def test_a_figure_of_evaluations_has_at_most_so_many_points():
    found = data([run("a", [evaluation(s, float(s), 0.0) for s in range(300)])])
    assert found["width"] == 1 and len(found["curves"]["evaluation/length"][0]["x"]) == 150
    assert found["curves"]["evaluation/length"][0]["x"] == found["curves"]["evaluation/length"][0]["y"]
    assert curves.POINTS == 400 and data([run("none")])["width"] == 1
