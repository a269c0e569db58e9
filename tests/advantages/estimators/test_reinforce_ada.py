"""Reinforce-Ada: rewards against all that were drawn."""

from __future__ import annotations

import statistics

import pytest

from lens_openrlhf.advantages.estimators import EstimatorError, find, run
from lens_openrlhf.advantages.estimators.reinforce_ada import ReinforceAda, ReinforceAdaConfig

from .groups import batch_of

DRAWN = [[1.0] + [0.0] * 7 + [0.0] * 8, [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0], [0.0] * 32]
KEPT = [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0] * 4]


def batch(**more):
    def each(number):
        return [[number(drawn)] * 4 for drawn in DRAWN]

    extras = {"drawn_mean": each(statistics.fmean), "drawn_std": each(statistics.stdev), "drawn": each(len)}
    return batch_of(KEPT, **(extras | more))


@pytest.mark.parametrize("scale", ["none", "std"])
def test_the_baseline_is_of_all_drawn(scale):
    result = run(ReinforceAda(ReinforceAdaConfig(scale=scale)), batch())
    expected = []
    for kept, drawn in zip(KEPT, DRAWN, strict=True):
        spread = statistics.stdev(drawn) + 1e-6 if scale == "std" else 1
        expected += [(reward - statistics.fmean(drawn)) / spread for reward in kept]
    assert result.advantage.tolist() == pytest.approx(expected)
    assert expected[0] == (15 / 16 if scale == "none" else pytest.approx(3.75, rel=1e-5))
    assert result.metrics == {
        "reinforce_ada/drawn": pytest.approx((16 + 8 + 32) / 3),
        "reinforce_ada/drawn_reward": pytest.approx((1 / 16 + 5 / 8) / 3),
    }


def test_nothing_is_divided_by_no_spread():
    same = batch(rewards=[[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, -0.5, 0.0, 0.0]])
    assert run(ReinforceAda(ReinforceAdaConfig(scale="std")), same).advantage[-4:].tolist() == [0] * 4
    assert run(ReinforceAda(), same).advantage[-4:].tolist() == [0, -0.5, 0, 0]


def test_a_small_spread_is_kept_from_0():
    # 2e-6 over a spread of 3e-6 and 1e-6.
    drawn = {"drawn_mean": [[0.5]], "drawn_std": [[3e-6]], "drawn": [[2.0]]}
    close = batch_of([[0.0]], rewards=[[0.5 + 2e-6]], **drawn)
    result = run(ReinforceAda(ReinforceAdaConfig(scale="std")), close)
    assert result.advantage.tolist() == pytest.approx([0.5])


def test_without_the_rounds_it_says_what_to_do():
    with pytest.raises(EstimatorError, match="no drawn_mean of its responses: the side that samples"):
        run(ReinforceAda(), batch_of(KEPT))


@pytest.mark.parametrize("option", [{"stop": "never"}, {"scale": "mad"}, {"rounds": 0}, {"oversample": 0}])
def test_options_out_of_range(option):
    with pytest.raises(ValueError, match="expected"):
        ReinforceAdaConfig(**option)


def test_it_is_found_by_name():
    assert find("reinforce_ada") is ReinforceAda and ReinforceAda.sampling == "until_positive"
