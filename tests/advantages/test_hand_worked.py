"""Groups small enough to work out by hand, with the numbers in the comments."""

import math

import pytest
import torch

from lens_openrlhf.advantages import GroupKind

from .comparison import near

NAN = math.nan


def test_all_wrong(one_group):
    # D = 2 * 0.8 = 1.6. Odds p/(D-p): 0.8/0.8 = 1, 0.4/1.2 = 1/3, 0.2/1.4 = 1/7 twice; a quarter of each is
    # the penalty. In 168ths: -42, -14, -6, -6, mean -17; centred -25, 3, 11, 11; alpha = 1/4.
    result = one_group([0.8, 0.4, 0.2, 0.2], [0, 0, 0, 0])
    assert result.group_kind == GroupKind.NEGATIVE
    assert result.difficulty == near(1.6)
    assert math.isnan(result.importance_difficulty)
    assert result.confidence == near([0.8, 0.4, 0.2, 0.2])
    assert result.calibrated_reward == near([-42 / 168, -14 / 168, -6 / 168, -6 / 168])
    assert result.advantage == near([-25 / 672, 3 / 672, 11 / 672, 11 / 672])
    full = one_group([0.8, 0.4, 0.2, 0.2], [0, 0, 0, 0], alpha=1.0)
    assert full.advantage == near([-25 / 168, 3 / 168, 11 / 168, 11 / 168])
    off = one_group([0.8, 0.4, 0.2, 0.2], [0, 0, 0, 0], alpha=0.0)
    assert off.advantage == [0, 0, 0, 0] and off.calibrated_reward == full.calibrated_reward


def test_all_right(one_group):
    # Nothing to penalise. D_imp = 4 / (1/0.8 + 1/0.4 + 5 + 5) = 4/13.75 = 16/55, less than 1.6.
    result = one_group([0.8, 0.4, 0.2, 0.2], [1, 1, 1, 1])
    assert result.group_kind == GroupKind.POSITIVE
    assert result.calibrated_reward == [1, 1, 1, 1]
    assert result.advantage == [0, 0, 0, 0]
    assert result.importance_difficulty == near(16 / 55)
    assert result.difficulty == near(1.6)


def test_one_right_of_sixteen(one_group):
    # D_imp = 16 * 0.5 = 8 > 2 * 0.5. Penalty 1/16 * 0.25/7.75 = 1/496. One value of 16 stands out, so that
    # the advantages are 15/4 and -1/4 whatever the penalty.
    result = one_group([0.5] + [0.25] * 15, [1] + [0] * 15)
    assert result.group_kind == GroupKind.MIXED
    assert result.importance_difficulty == near(8)
    assert result.difficulty == near(8)
    assert result.calibrated_reward == near([1] + [-1 / 496] * 15)
    assert result.advantage == near([15 / 4] + [-1 / 4] * 15)


def test_one_wrong_of_four(one_group):
    # D_imp = 4 / (2 + 2 + 4) = 0.5 < 2 * 0.5 = D. Penalty 1/4 * 0.4/0.6 = 1/6. The wrong one stands out.
    result = one_group([0.5, 0.5, 0.25, 0.4], [1, 1, 1, 0])
    assert result.importance_difficulty == near(0.5)
    assert result.difficulty == near(1)
    assert result.calibrated_reward == near([1, 1, 1, -1 / 6])
    assert result.advantage == near([0.5, 0.5, 0.5, -1.5])


def test_mixed_group_with_importance_difficulty(one_group):
    # D_imp = 4 * 0.5 = 2 > 2 * 0.5. Odds 0.5/1.5 = 1/3, 0.25/1.75 = 1/7, 0.2/1.8 = 1/9. Rewards in 252nds:
    # 252, -21, -9, -7, mean 215/4; centred, in 1008ths: 793, -299, -251, -243, their squares sum to 840300.
    result = one_group([0.5, 0.5, 0.25, 0.2], [1, 0, 0, 0])
    assert result.difficulty == near(2)
    assert result.calibrated_reward == near([x / 252 for x in (252, -21, -9, -7)])
    std = math.sqrt(840300 / 3)
    assert result.advantage == near([x / std for x in (793, -299, -251, -243)])
    assert one_group([0.5, 0.5, 0.25, 0.2], [1, 0, 0, 0], alpha=7).advantage == result.advantage


def test_mixed_group_with_the_largest_confidence_as_difficulty(one_group):
    # The same group at D = 2 * 0.5 = 1: odds 1, 1/3, 1/4. Rewards in 48ths: 48, -12, -4, -3, mean 29/4;
    # centred, in 192nds: 163, -77, -45, -41, their squares sum to 36204. D_imp is still reported.
    result = one_group([0.5, 0.5, 0.25, 0.2], [1, 0, 0, 0], difficulty="max")
    assert result.importance_difficulty == near(2)
    assert result.difficulty == near(1)
    assert result.calibrated_reward == near([x / 48 for x in (48, -12, -4, -3)])
    std = math.sqrt(36204 / 3)
    assert result.advantage == near([x / std for x in (163, -77, -45, -41)])


def test_truncated_right_answer(one_group):
    # c = 1 with a shaped reward of -0.5 takes no penalty and still counts for D_imp = 3 * 0.4 = 1.2 > 0.8.
    # Penalties 1/3 * 0.4/0.8 = 1/6 and 1/3 * 0.2/1 = 1/15. Rewards in 30ths: -15, 0-5, -15-2, mean -37/3;
    # centred, in 90ths: -8, 22, -14, their squares sum to 744.
    result = one_group([0.4, 0.4, 0.2], [1, 0, 0], rewards=[-0.5, 0, -0.5])
    assert result.group_kind == GroupKind.MIXED
    assert result.difficulty == near(1.2)
    assert result.calibrated_reward == near([-15 / 30, -5 / 30, -17 / 30])
    std = math.sqrt(744 / 2)
    assert result.advantage == near([-8 / std, 22 / std, -14 / std])


def test_shaped_rewards_do_not_change_the_kind(one_group):
    # All right, one truncated: rewards 1 and -0.5, centred 0.75 and -0.75, times alpha.
    right = one_group([0.4, 0.2], [1, 1], rewards=[1, -0.5])
    assert right.group_kind == GroupKind.POSITIVE
    assert right.calibrated_reward == [1, -0.5]
    assert right.advantage == near([0.1875, -0.1875])
    # All wrong, one truncated; D = 0.8, penalties 1/2 * 1 and 1/2 * 0.2/0.6 = 1/6. In sixths: -3, -1-6.
    wrong = one_group([0.4, 0.2], [0, 0], rewards=[0, -1])
    assert wrong.group_kind == GroupKind.NEGATIVE
    assert wrong.calibrated_reward == near([-3 / 6, -7 / 6])
    assert wrong.advantage == near([1 / 12, -1 / 12])


def test_rounding_tells_no_outcomes_apart(one_group):
    # Kind, D and advantages are those of the outcomes without rounding, and so are a group of shaped rewards.
    switches = {"scope": "mixed"}  # GRPO where all outcomes are one
    for rounded, plain in (
        ([0.1 + 0.2, 0.3, 0.3], [0.3] * 3),
        ([1 - 0.9 - 0.1 + 2**-54, 0, 2**-60], [0] * 3),  # a D_imp of these would be enormous
        ([0.1 * 3 + 0.7, 1 - 2**-53, 1], [1] * 3),
    ):
        got, expected = (one_group([0.8, 0.4, 0.2], c) for c in (rounded, plain))
        assert got.group_kind == expected.group_kind != GroupKind.MIXED
        assert (got.difficulty, got.advantage) == (near(expected.difficulty), near(expected.advantage))
        assert one_group([0.8, 0.4, 0.2], rounded, **switches).advantage == [0, 0, 0]
        assert one_group([0.8, 0.4, 0.2], plain, rewards=rounded, **switches).advantage == [0, 0, 0]
    # Relative to the largest reward above 1; what is more than rounding still counts.
    large = [1e6 * c for c in (0.1 + 0.2, 0.3, 0.3)]
    assert one_group([0.8, 0.4, 0.2], [0] * 3, rewards=large, scope="none").advantage == [0, 0, 0]
    assert one_group([0.8, 0.4], [0, 1e-8]).group_kind == GroupKind.MIXED
    third = math.sqrt(1 / 3)
    assert one_group([0.8] * 3, [0] * 3, rewards=[1e-3, 0, 0], scope="none").advantage == pytest.approx(
        [2 * third, -third, -third], rel=1e-5
    )


def test_one_fraction_counts_as_negative(one_group):
    # D_imp = 2 / (0.5/0.5 + 0.5/0.25) = 2/3 < 1. Half the penalty: 1/4 * 1 and 1/4 * 0.25/0.75 = 1/12.
    result = one_group([0.5, 0.25], [0.5, 0.5])
    assert result.group_kind == GroupKind.NEGATIVE
    assert result.importance_difficulty == near(2 / 3)
    assert result.difficulty == near(1)
    assert result.calibrated_reward == near([1 / 4, 5 / 12])
    assert result.advantage == near([-1 / 48, 1 / 48])


def test_two_fractions_are_mixed(one_group):
    # D_imp = 2 / (0.25/0.5 + 0.75/0.25) = 4/7 < 1. Penalties 3/8 * 1 and 1/8 * 1/3. Two values: -+1/sqrt(2).
    result = one_group([0.5, 0.25], [0.25, 0.75])
    assert result.group_kind == GroupKind.MIXED
    assert result.importance_difficulty == near(4 / 7)
    assert result.calibrated_reward == near([-1 / 8, 17 / 24])
    assert result.advantage == near([-math.sqrt(0.5), math.sqrt(0.5)])


@pytest.mark.parametrize("correct, calibrated", [(0, -1), (1, 1), (0.5, 0)])
def test_group_of_one(one_group, correct, calibrated):
    # D = 2 * 0.3 (D_imp = 0.3 / c is no larger), so the penalty is 1 - c. There is nothing to compare with.
    result = one_group([0.3], [correct])
    assert result.difficulty == near(0.6)
    assert result.calibrated_reward == near(calibrated)
    assert result.advantage == 0


def test_sequence_confidence(one_group):
    # Per token 0.5 for both; in all 0.5^2 = 1/4 and 0.5^3 = 1/8. D = 1/2, odds 1 and 1/3, rewards -1/2 and
    # -1/6; centred -+1/6, times alpha.
    result = one_group([0.5, 0.5], [0, 0], lengths=[2, 3], confidence="sequence")
    assert result.confidence == near([0.25, 0.125])
    assert result.difficulty == near(0.5)
    assert result.calibrated_reward == near([-1 / 2, -1 / 6])
    assert result.advantage == near([-1 / 24, 1 / 24])
    geometric = one_group([0.5, 0.5], [0, 0], lengths=[2, 3])
    assert geometric.confidence == near([0.5, 0.5])
    assert geometric.advantage == [0, 0]


def test_an_empty_response_takes_no_penalty_but_counts(one_group):
    # D = 1, penalties 1/3 * 1, 1/3 * 1/3, none. In ninths: -3, -1, 0, mean -4/3; centred, in 27ths: -5, 1, 4.
    wrong = one_group([0.5, 0.25, None], [0, 0, 0])
    assert wrong.confidence == near([0.5, 0.25, NAN])
    assert wrong.calibrated_reward == near([-3 / 9, -1 / 9, 0])
    assert wrong.advantage == near([-5 / 108, 1 / 108, 4 / 108])
    # The empty right answer is no term of D_imp's sum, but one of G: 3 / (1/0.5) = 1.5.
    mixed = one_group([0.5, None, 0.25], [1, 1, 0])
    assert mixed.importance_difficulty == near(1.5)
    assert mixed.calibrated_reward == near([1, 1, -1 / 15])


def test_all_empty(one_group):
    wrong = one_group([None, None], [0, 0])
    assert wrong.advantage == [0, 0] and wrong.calibrated_reward == [0, 0]
    assert all(map(math.isnan, [*wrong.confidence, wrong.difficulty, wrong.importance_difficulty]))
    mixed = one_group([None, None], [1, 0])
    assert mixed.calibrated_reward == [1, 0]
    assert mixed.advantage == near([math.sqrt(0.5), -math.sqrt(0.5)])
    assert math.isnan(mixed.difficulty) and math.isnan(mixed.importance_difficulty)


def test_impossible_responses_are_equally_confident(one_group):
    # Confidence 0 everywhere: relative confidences are 1. All wrong: d = 2, penalty 1/4. One right: d = 4,
    # penalty 1/4 * 1/3.
    wrong = one_group([0, 0, 0, 0], [0, 0, 0, 0])
    assert wrong.calibrated_reward == [-0.25] * 4 and wrong.advantage == [0] * 4
    mixed = one_group([0, 0, 0, 0], [1, 0, 0, 0])
    assert mixed.calibrated_reward == near([1, -1 / 12, -1 / 12, -1 / 12])
    assert mixed.difficulty == 0 and mixed.confidence == [0] * 4


@pytest.mark.parametrize("scope", ["both", "mixed", "negative", "none"])
def test_scope_leaves_grpo_in_the_other_groups(one_group, scope):
    # GRPO on 1, 0, 0, 0: (1 - 1/4) / (1/2) = 3/2 and -1/2.
    mixed = one_group([0.5, 0.5, 0.25, 0.2], [1, 0, 0, 0], scope=scope)
    assert (mixed.calibrated_reward == [1, 0, 0, 0]) == (scope in ("negative", "none"))
    assert (mixed.advantage == near([1.5, -0.5, -0.5, -0.5])) == (scope in ("negative", "none"))
    negative = one_group([0.8, 0.2], [0, 0], scope=scope)
    assert (negative.advantage == [0, 0]) == (scope in ("mixed", "none"))
    assert (negative.calibrated_reward == [0, 0]) == (scope in ("mixed", "none"))
    # GRPO divides shaped rewards of one outcome by their std, LENS does not: +-1/sqrt(2) against 1/4 * +-3/4.
    positive = one_group([0.5, 0.5], [1, 1], rewards=[1, -0.5], scope=scope)
    expected = math.sqrt(0.5) if scope in ("mixed", "none") else 3 / 16
    assert positive.advantage == near([expected, -expected])


def test_tokens_to_advantages(implementation):
    # Response 0: tokens 1/2 and 1/8, mean confidence sqrt(1/16) = 1/4; between them a tool's output, masked.
    # Response 1: one token of 1/2. Both wrong: D = 1, odds (1/4)/(3/4) = 1/3 and 1, rewards -1/6 and -1/2.
    # Response 2, alone in its group and wholly masked, is empty.
    logs = [math.log(1 / 2), math.log(1 / 1000), math.log(1 / 8), math.log(1 / 2), math.log(1 / 2)]
    result = implementation.lens_advantages(
        torch.tensor(logs),
        torch.tensor([0, 3, 4, 5]),
        torch.tensor([0, 0, 1]),
        torch.tensor([0, 2, 3]),
        mask=torch.tensor([True, False, True, True, False]),
    )
    roughly = lambda x: pytest.approx(x, rel=1e-6, nan_ok=True)  # noqa: E731  (the logs are float32)
    assert result.lengths.tolist() == [2, 1, 0]
    assert result.mean_logprob.tolist() == roughly([math.log(1 / 4), math.log(1 / 2), NAN])
    assert result.confidence.tolist() == roughly([1 / 4, 1 / 2, NAN])
    assert result.calibrated_reward.tolist() == roughly([-1 / 6, -1 / 2, 1])
    assert result.advantage.tolist() == roughly([1 / 24, -1 / 24, 0])
    assert result.group_kind.tolist() == [GroupKind.NEGATIVE, GroupKind.POSITIVE]
