"""What holds for every batch, whatever the formulas' details: sign, sums, order, invariances."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_openrlhf.advantages import GroupKind, LensConfig

from .comparison import EPS, assert_same_bits, assert_within
from .strategies import FRACTIONS, Groups, exact_logprobs, group_batches, offsets

BINARY = ("negative", "positive", "mixed")
difficulties = st.sampled_from(["importance", "max"])


def rounding(advantages: torch.Tensor) -> float:
    return 4 * len(advantages) * EPS * max(1.0, advantages.abs().max().item())


def result_of_groups(implementation, groups: Groups, config: LensConfig):
    result = groups.advantages(implementation, config)
    return result, list(zip(groups.spans(), result.group_kind.tolist(), strict=True))


@given(groups=group_batches(kinds=BINARY, shaped=False), difficulty=difficulties)
def test_right_answers_of_mixed_groups_gain_and_wrong_ones_lose(implementation, groups, difficulty):
    result, spans = result_of_groups(implementation, groups, LensConfig(difficulty=difficulty))
    for span, kind in spans:
        if kind == GroupKind.MIXED:
            right = groups.correctness[span] == 1
            assert (result.advantage[span][right] > 0).all()
            assert (result.advantage[span][~right] < 0).all()


@given(groups=group_batches(shaped=False), alpha=st.sampled_from([0.25, 1.0]))
def test_a_groups_advantages_sum_to_zero(implementation, groups, alpha):
    result, spans = result_of_groups(implementation, groups, LensConfig(alpha=alpha))
    for span, kind in spans:
        advantages = result.advantage[span]
        assert abs(advantages.sum().item()) <= rounding(advantages)
        if kind == GroupKind.POSITIVE or len(advantages) == 1:
            assert (advantages == 0).all()
        elif kind == GroupKind.NEGATIVE:
            assert advantages.abs().max() <= alpha / len(advantages) * (1 + 4 * EPS)


@given(groups=group_batches(shaped=False, empty=False))
def test_the_more_confident_of_equally_wrong_answers_loses_more(implementation, groups):
    result, spans = result_of_groups(implementation, groups, LensConfig())
    log_confidence = groups.mean_logprob.clamp(max=0)
    for span, _ in spans:
        advantages, correctness = result.advantage[span], groups.correctness[span]
        for c in set(correctness.tolist()) - {1.0}:
            equal = correctness == c
            order = log_confidence[span][equal].argsort()
            assert (advantages[equal][order].diff() <= rounding(advantages)).all()


@given(groups=group_batches(kinds=("negative",), shaped=False, empty=False))
def test_clearly_more_confident_means_clearly_less_advantage(implementation, groups):
    result, spans = result_of_groups(implementation, groups, LensConfig())
    for span, _ in spans:
        q = (groups.mean_logprob[span].clamp(max=0)).exp()
        if q.min() < 0.9 * q.max():
            advantages = result.advantage[span]
            # Odds of 1 against at most 0.9/1.1: a difference of at least alpha/G * 0.18 between the extremes.
            assert advantages[q.argmin()] - advantages[q.argmax()] > 0.25 / len(q) * 0.18


@given(
    groups=group_batches(logprobs=exact_logprobs),
    steps=st.one_of(st.integers(0, 2**13), st.integers(0, 2**30)),
    difficulty=difficulties,
)
def test_only_ratios_of_confidences_matter(implementation, groups, steps, difficulty):
    # Shifts of up to -2^20, under which no confidence is left, are exact: the bits must agree.
    config = LensConfig(difficulty=difficulty)
    shifted = groups._replace(mean_logprob=groups.mean_logprob - steps / 1024)
    before, after = (g.advantages(implementation, config) for g in (groups, shifted))
    assert_same_bits(after.advantage, before.advantage)
    assert_same_bits(after.calibrated_reward, before.calibrated_reward)


@given(groups=group_batches(), data=st.data())
def test_permuting_responses_permutes_the_result(implementation, groups, data):
    config = LensConfig()
    before = groups.advantages(implementation, config)
    sizes = [span.stop - span.start for span in groups.spans()]
    responses = [range(span.start, span.stop) for span in groups.spans()]
    order = torch.tensor([i for group in responses for i in data.draw(st.permutations(group))])
    after = groups.select(order, sizes).advantages(implementation, config)
    assert torch.equal(after.group_kind, before.group_kind)
    assert_same_bits(after.confidence, before.confidence[order])
    for span in groups.spans():
        expected = before.calibrated_reward[order][span]
        assert_within(after.calibrated_reward[span], expected, rounding(expected), "calibrated_reward")
        # Almost equal shaped rewards have a std of rounding, which a permutation may change.
        if expected.max() - expected.min() > 1e-6 or (expected == expected[0]).all():
            error = rounding(expected) * 1e6
            assert_within(after.advantage[span], before.advantage[order][span], error, "advantage")


@given(groups=group_batches())
def test_other_groups_change_nothing(implementation, groups):
    config = LensConfig()
    together = groups.advantages(implementation, config)
    for g, span in enumerate(groups.spans()):
        alone = groups.select(span, [span.stop - span.start]).advantages(implementation, config)
        for name, tensor in together._asdict().items():
            per_group = name in ("importance_difficulty", "difficulty", "group_kind")
            part = tensor[g : g + 1] if per_group else tensor[span]
            assert_same_bits(getattr(alone, name), part)


@given(groups=group_batches(kinds=BINARY, shaped=False))
def test_scope_none_is_grpo(implementation, groups):
    result, spans = result_of_groups(implementation, groups, LensConfig(scope="none"))
    assert torch.equal(result.calibrated_reward, groups.correctness)
    for span, kind in spans:
        if kind == GroupKind.MIXED:
            rewards = groups.correctness[span].float()
            group_norm = (rewards - rewards.mean()) / (rewards.std() + 1e-9)  # OpenRLHF's, in float32
            torch.testing.assert_close(result.advantage[span].float(), group_norm, rtol=1e-5, atol=0)
        else:
            assert (result.advantage[span] == 0).all()


@given(groups=group_batches(), scope=st.sampled_from(["none", "mixed", "negative"]))
def test_groups_out_of_scope_get_group_norm_of_their_rewards(implementation, groups, scope):
    result, spans = result_of_groups(implementation, groups, LensConfig(scope=scope))
    rewards = groups.correctness if groups.rewards is None else groups.rewards
    for span, kind in spans:
        if scope == ("mixed" if kind == GroupKind.MIXED else "negative"):
            continue
        s = rewards[span]
        assert torch.equal(result.calibrated_reward[span], s)
        if (s == s[0]).all():
            assert (result.advantage[span] == 0).all()
        else:
            group_norm = (s - s.mean()) / (s.std() + 1e-9)
            torch.testing.assert_close(result.advantage[span], group_norm, rtol=1e-9, atol=1e-12)


@given(groups=group_batches(shaped=False), difficulty=difficulties)
def test_calibrated_rewards_are_bounded(implementation, groups, difficulty):
    result, spans = result_of_groups(implementation, groups, LensConfig(difficulty=difficulty))
    assert torch.isfinite(result.advantage).all()
    for span, _ in spans:
        calibrated, correctness = result.calibrated_reward[span], groups.correctness[span]
        size = len(calibrated)
        assert calibrated.min() >= -1 / size and calibrated.max() <= 1
        assert (calibrated <= correctness).all()
        assert (calibrated >= correctness - (1 - correctness) / size - EPS).all()
        untouched = (correctness == 1) | (groups.lengths[span] == 0)
        assert torch.equal(calibrated[untouched], correctness[untouched])


@given(
    right=st.sampled_from(sorted(set(FRACTIONS) - {0.0})),
    sizes=st.tuples(st.integers(1, 20), st.integers(0, 5)),
    gap=st.floats(800, 1e6),
)
def test_an_underflowing_right_answer_makes_d_imp_zero(implementation, right, sizes, gap):
    wrong, also_right = sizes
    size = 1 + wrong + also_right
    means = torch.tensor([-gap] + [-0.5] * (wrong + also_right), dtype=torch.float64)
    correctness = torch.tensor([right] + [0.0] * wrong + [1.0] * also_right, dtype=torch.float64)
    groups = Groups(means, torch.full((size,), 9), correctness, offsets([size]), None)
    result = groups.advantages(implementation, LensConfig())
    assert result.importance_difficulty.item() == 0
    assert math.isclose(result.difficulty.item(), 2 * math.exp(-0.5), rel_tol=1e-12)
    # The wrong answers are among the group's most confident: odds of 1.
    assert result.calibrated_reward[1 : 1 + wrong].tolist() == [-1 / size] * wrong


@given(groups=group_batches(empty=False), data=st.data())
def test_a_mean_that_rounds_above_zero_counts_as_zero(implementation, groups, data):
    rounded = data.draw(st.lists(st.integers(0, len(groups.mean_logprob) - 1), min_size=1))
    zero, above = groups.mean_logprob.clone(), groups.mean_logprob.clone()
    zero[rounded], above[rounded] = 0.0, data.draw(st.sampled_from([1e-3, 1e-12, 1e-320]))
    expected, actual = (groups._replace(mean_logprob=m).advantages(implementation, LensConfig()) for m in (zero, above))
    for name, tensor in actual._asdict().items():
        assert torch.equal(tensor.nan_to_num(-7), getattr(expected, name).nan_to_num(-7)), name
