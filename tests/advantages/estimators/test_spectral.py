"""Spectral policy optimization: graded rewards in groups without a right answer."""

from __future__ import annotations

import math
import statistics

import pytest

from lens_openrlhf.advantages.estimators import EstimatorError, find, run
from lens_openrlhf.advantages.estimators.grpo import Grpo
from lens_openrlhf.advantages.estimators.spectral import Spectral, SpectralConfig

from .groups import batch_of

GROUPS = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
SCORES = [[0.0, 0.5, 1.0], [0.9, 0.9, 0.1], [0.3, 0.4], [0.7, 0.7]]


def standardised(values):
    return [(value - statistics.fmean(values)) / (statistics.stdev(values) + 1e-9) for value in values]


@pytest.mark.parametrize("beta", [5.0, 40.0, 0.5, 0.0])
def test_wrong_groups_are_graded_and_the_others_are_grpos(beta):
    result = run(Spectral(SpectralConfig(beta=beta, gamma=0.25)), batch_of(GROUPS, step_score=SCORES))
    grades = [1 / (1 + math.exp(-beta * (score - 0.25))) for score in SCORES[0]] if beta else SCORES[0]
    assert result.advantage[:3].tolist() == pytest.approx(standardised(grades))
    assert result.advantage[3:8].tolist() == run(Grpo(), batch_of(GROUPS)).advantage[3:8].tolist()
    assert result.advantage[8:].tolist() == [0, 0]  # wrong in the same way
    assert result.metrics == {"spectral/step_score": pytest.approx((0 + 0.5 + 1 + 0.7 + 0.7) / 5)}


def test_by_hand():
    # No, half and all steps right, beta 4 ln 2, gamma 1/2: exp(-beta (s - gamma)) = 4, 1, 1/4, so 1/5, 1/2 and 4/5.
    # Mean 1/2, unbiased variance (0.09 + 0.09) / 2, std 0.3.
    estimator = Spectral(SpectralConfig(beta=4 * math.log(2), gamma=0.5))
    result = run(estimator, batch_of([[0.0, 0.0, 0.0]], step_score=[[0.0, 0.5, 1.0]]))
    assert result.advantage.tolist() == pytest.approx([-1, 0, 1], abs=1e-8)


def test_more_right_steps_are_better():
    score = [[0.1, 0.9, 0.4, 0.6]]
    advantage = run(Spectral(), batch_of([[0.0] * 4], step_score=score)).advantage.tolist()
    assert sorted(range(4), key=score[0].__getitem__) == sorted(range(4), key=advantage.__getitem__)


def test_the_grade_is_added_to_shaped_rewards():
    shaped = batch_of([[0.0] * 3], rewards=[[0.0, -0.5, 0.0]], step_score=[[0.4, 0.4, 0.8]])
    expected = standardised([0.4, -0.1, 0.8])
    assert run(Spectral(SpectralConfig(beta=0)), shaped).advantage.tolist() == pytest.approx(expected)


def test_a_step_without_wrong_groups_has_no_mean_score():
    result = run(Spectral(), batch_of([[1.0, 0.0]], step_score=[[0.0, 0.0]]))
    assert result.metrics == {"spectral/step_score": None}


def test_without_scores_it_says_what_to_do():
    with pytest.raises(EstimatorError, match="no step_score of its responses: name a scorer with --algo.spectral"):
        run(Spectral(), batch_of(GROUPS))


@pytest.mark.parametrize("score", [-0.1, 1.5, math.nan])
def test_a_score_that_is_none(score):
    with pytest.raises(EstimatorError, match=f"response 1 has step_score {score}"):
        run(Spectral(), batch_of([[0.0, 0.0]], step_score=[[0.0, score]]))


@pytest.mark.parametrize("option", [{"beta": -1.0}, {"gamma": math.inf}])
def test_options_out_of_range(option):
    with pytest.raises(ValueError, match="expected a finite number >= 0"):
        SpectralConfig(**option)


def test_it_is_found_by_name():
    assert find("spectral") is Spectral and Spectral.learns_from_negative_groups
