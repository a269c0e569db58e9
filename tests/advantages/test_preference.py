"""The preferences of appendix C."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_openrlhf.advantages import LensConfig

from .arguments import batch, doubles, groups
from .comparison import EPS, assert_near, assert_same_bits, near
from .strategies import group_batches, ordinary_logprobs, preferred

NAN, INF = math.nan, math.inf


# Hand-worked numbers


def test_length_in_an_all_wrong_group(one_group):
    # 2 * 0.8 = 1.6 > gamma. Odds 0.8/0.8 = 1 and 0.4/1.2 = 1/3, over G = 2 and lengths 2 and 1: 1/4 and 1/6.
    # Centred -+1/24, times alpha.
    result = one_group([0.8, 0.4], [0, 0], [2, 1], preference="length", gamma=1.5)
    assert result.difficulty == near(1.6)
    assert result.calibrated_reward == near([-1 / 4, -1 / 6])
    assert result.advantage == near([-1 / 96, 1 / 96])
    # gamma = 2 is more: odds 0.8/1.2 = 2/3 and 0.4/1.6 = 1/4, penalties 1/6 and 1/8.
    larger = one_group([0.8, 0.4], [0, 0], [2, 1], preference="length", gamma=2)
    assert larger.difficulty == 2
    assert larger.calibrated_reward == near([-1 / 6, -1 / 8])
    assert larger.advantage == near([-1 / 192, 1 / 192])


def test_length_in_a_mixed_group(one_group):
    # At 2 * 0.5 = 1, whatever D_imp: odds 1 and 1/3, over G = 3 and lengths 1 and 2: 1/3 and 1/18. In 18ths 18, -6, -1,
    # mean 11/3; centred, in 54ths: 43, -29, -14, their squares sum to 2886. The right answer's length plays no part.
    result = one_group([0.5, 0.5, 0.25], [1, 0, 0], [3, 1, 2], preference="length")
    assert result.importance_difficulty == near(1.5) and result.difficulty == near(1)
    assert result.calibrated_reward == near([1, -1 / 3, -1 / 18])
    assert result.advantage == near([x / math.sqrt(2886 / 2) for x in (43, -29, -14)])


def test_length_of_empty_and_of_impossible_responses(one_group):
    result = one_group([0.5, None], [0, 0], preference="length")
    assert result.calibrated_reward == near([-1 / 20, 0])
    nothing = one_group([None, None], [0, 0], preference="length", gamma=0.5)
    assert nothing.calibrated_reward == [0, 0] and math.isnan(nothing.difficulty)
    assert one_group([0, 0], [0, 0], [1, 2], preference="length").calibrated_reward == [-1 / 2, -1 / 4]
    assert one_group([0, 0], [0, 0], [1, 2], preference="length", gamma=0.5).calibrated_reward == [0, 0]


@pytest.mark.parametrize("right, weight", [(1, 1 / 3), (2, 1), (3, 3)])
def test_policy_weighs_wrong_answers_by_the_odds_of_a_right_one(one_group, right, weight):
    c = [1.0] * right + [0.0] * (4 - right)
    result = one_group([0.5, 0.4, 0.3, None], c, preference="policy")
    assert result.difficulty == result.importance_difficulty == near(4 / right)
    assert result.calibrated_reward == near([1.0] * right + [-weight] * (4 - right))
    assert result.advantage == near(one_group([0.5] * 4, c, scope="none").advantage)


def test_policy_leaves_groups_of_one_outcome_without_a_signal(one_group):
    wrong, right, fraction = (one_group([0.8, 0.4], [c, c], preference="policy") for c in (0, 1, 0.25))
    assert wrong.calibrated_reward == [0, 0] and right.calibrated_reward == [1, 1]
    # 1/4 - 3/4 * 1/3: an answer as good as the group's mean.
    assert fraction.calibrated_reward == near([0, 0])
    assert (wrong.difficulty, right.difficulty, fraction.difficulty) == (INF, 1, 4)
    assert wrong.advantage == right.advantage == fraction.advantage == [0, 0]


def test_a_tensor_in_a_mixed_group(one_group):
    # pi / rho: 0.5, 0.2, 0.4. D_imp = 3 * 0.5 = 1.5 > 2 * 0.5. Odds 0.2/1.3 and 0.4/1.1, a third of each the penalty:
    # 2/39 and 4/33. In 429ths: 429, -22, -52, mean 355/3; centred, in 1287ths: 932, -421, -511.
    result = one_group([0.5, 0.4, 0.2], [1, 0, 0], rho=[1, 2, 0.5])
    assert result.confidence == near([0.5, 0.4, 0.2])
    assert result.importance_difficulty == result.difficulty == near(1.5)
    assert result.calibrated_reward == near([1, -2 / 39, -4 / 33])
    std = math.sqrt((932**2 + 421**2 + 511**2) / 2)
    assert result.advantage == near([x / std for x in (932, -421, -511)])


def test_a_tensor_in_an_all_wrong_group(one_group):
    # pi / rho: 0.4, 0.8. D = 1.6, odds 1/3 and 1: the answer that is less preferred is penalised more.
    result = one_group([0.8, 0.4], [0, 0], rho=[2, 0.5])
    assert result.difficulty == near(1.6)
    assert result.calibrated_reward == near([-1 / 6, -1 / 2])
    assert result.advantage == near([1 / 24, -1 / 24])


def test_extreme_preferences_are_still_ratios(one_group):
    result = one_group([1, 1], [0, 0], rho=[5e-324, 1e308])
    assert result.calibrated_reward == [-1 / 2, 0] and result.difficulty == INF


# Properties


@given(case=preferred(kinds=("negative", "positive", "mixed")))
def test_right_answers_of_mixed_groups_gain_and_wrong_ones_lose(implementation, case):
    batch, switches, rho = case
    config = LensConfig(**switches)
    result = implementation.group_advantages(*batch[:4], config, preference=rho)
    assert torch.isfinite(result.advantage).all()
    for span in batch.spans():
        c, advantage = batch.correctness[span], result.advantage[span]
        if len(c.unique()) == 2:
            assert (advantage[c == 1] > 0).all() and (advantage[c == 0] < 0).all()
        elif c[0] == 1:
            assert (advantage == 0).all()
        else:
            assert (advantage.abs() <= config.alpha / len(c) * (1 + 4 * EPS)).all()


@given(case=preferred())
def test_calibrated_rewards_are_bounded(implementation, case):
    batch, switches, rho = case
    config = LensConfig(**switches)
    result = implementation.group_advantages(*batch[:4], config, preference=rho)
    for span in batch.spans():
        c, calibrated = batch.correctness[span], result.calibrated_reward[span]
        most = 1 / len(c)
        if config.preference == "policy":  # the odds of a right answer: G - 1 where all but one are right
            most = c.mean() / (1 - c.mean()) if c.mean() < 1 else 0.0
        assert (calibrated <= c).all() and (calibrated >= c - (1 - c) * most - 4 * len(c) * EPS).all()
        assert torch.equal(calibrated[c == 1], c[c == 1])


@given(batch=group_batches(shaped=False))
def test_policy_is_grpo_after_normalisation(implementation, batch):
    """Fractional outcomes included: the calibrated reward is (c - mean) / (1 - mean)."""
    ours, grpo = (
        batch.advantages(implementation, LensConfig(**s)) for s in ({"preference": "policy"}, {"scope": "none"})
    )
    for span, kind in zip(batch.spans(), grpo.group_kind.tolist(), strict=True):
        # std + 1e-9 divides: GRPO's std is at least 0.05 / sqrt(40) here, and ours is larger.
        torch.testing.assert_close(ours.advantage[span], grpo.advantage[span], rtol=2e-7, atol=1e-12, msg=str(kind))


@given(case=preferred(logprobs=ordinary_logprobs, empty=False))
def test_every_reward_is_as_appendix_c_prints_it(implementation, case):
    batch, switches, rho = case
    config = LensConfig(**switches)
    result = implementation.group_advantages(*batch[:4], config, preference=rho)
    for span in batch.spans():
        c, length, pi = batch.correctness[span], batch.lengths[span], batch.mean_logprob[span].exp()
        size = len(c)
        if config.preference == "policy":
            wrong = 0.0 if c.sum() == size else 1 / (size / c.sum() - 1)
        elif config.preference == "length":
            wrong = pi / (max(config.gamma, 2 * pi.max()) - pi) / length / size
        else:
            ratio = rho[span]
            d = torch.maximum(1 / ((c * ratio / pi).sum() / size), 2 * (pi / ratio).max())
            d = d if (c > 0).any() else 2 * (pi / ratio).max()
            wrong = pi / (d * ratio - pi) / size
        torch.testing.assert_close(result.calibrated_reward[span], c - (1 - c) * wrong, rtol=1e-9, atol=1e-12)


@given(batch=group_batches(), factor=st.floats(1e-3, 1e3))
def test_a_preference_for_all_alike_is_none(implementation, batch, factor):
    alike = torch.ones_like(batch.mean_logprob)
    expected, ones, scaled = (
        implementation.group_advantages(*batch[:4], LensConfig(), rewards=batch.rewards, preference=rho)
        for rho in (None, alike, factor * alike)
    )
    assert_near(ones.confidence, expected.confidence, "confidence")  # no longer by way of the group's largest
    for name, tensor in expected._replace(confidence=ones.confidence)._asdict().items():
        assert_same_bits(getattr(ones, name), tensor)
    error = {"rtol": 0, "atol": 1e-9}
    torch.testing.assert_close(scaled.calibrated_reward, expected.calibrated_reward, **error)


@pytest.mark.parametrize("preference", ["length", "policy"])
@given(batch=group_batches())
def test_groups_out_of_scope_have_no_preference(implementation, preference, batch):
    ours, grpo = (
        batch.advantages(implementation, LensConfig(scope="none", preference=p)).advantage for p in (preference, "none")
    )
    assert_same_bits(ours, grpo)


def test_packed_tokens_take_a_tensor_too(implementation):
    rho, arguments = doubles(1, 2, 3, 4), batch()
    segments = implementation.segment_mean(arguments["logprobs"], arguments["cu_seqlens"])
    result = implementation.lens_advantages(**arguments, preference=rho)
    expected = implementation.group_advantages(
        *segments, arguments["correctness"], arguments["cu_groups"], LensConfig(), preference=rho
    )
    assert_same_bits(result.advantage, expected.advantage)
    assert not torch.equal(result.advantage, implementation.lens_advantages(**arguments).advantage)


# Errors


@pytest.mark.parametrize("value", [0.0, -1.0, NAN, INF])
def test_a_preference_that_is_not_positive_and_finite(implementation, value):
    with pytest.raises(ValueError, match=f"preference: response 2 is {value}, expected a finite number > 0"):
        implementation.group_advantages(**groups(), preference=doubles(1, 1, value, 1, 0))


def test_a_preference_of_another_shape_or_beside_another(implementation):
    with pytest.raises(ValueError, match=r"preference: expected 5 elements, got .*4"):
        implementation.group_advantages(**groups(), preference=doubles(1, 1, 1, 1))
    with pytest.raises(ValueError, match="preference: is a tensor, but the config has preference='policy'"):
        implementation.group_advantages(
            **groups(config=LensConfig(preference="policy")), preference=doubles(1, 1, 1, 1, 1)
        )
