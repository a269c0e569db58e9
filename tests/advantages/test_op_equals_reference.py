"""The compiled operators against the float64 reference, and the bits of their results.

Tolerances and their reasons: comparison.py.
"""

import contextlib
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_openrlhf.advantages import GroupKind, LensConfig, ops, reference
from lens_openrlhf.advantages.estimators import group_kinds, same_rewards

from .comparison import advantage_error, assert_near, assert_same_bits, assert_within, reward_error
from .strategies import (
    AND_ROUNDED,
    DTYPES,
    OFFSET_DTYPES,
    Groups,
    batches,
    group_batches,
    offsets,
    ordinary_preferences,
    packed_tokens,
    preferred,
    token_batches,
)

SWITCHES = list(
    itertools.product(("both", "mixed", "negative", "none"), ("geometric", "sequence"), ("importance", "max"))
)


def assert_same_means(logprobs, cu_seqlens, mask=None):
    actual, expected = (module.segment_mean(logprobs, cu_seqlens, mask) for module in (ops, reference))
    assert_same_bits(actual.lengths, expected.lengths)
    assert_near(actual.mean_logprob, expected.mean_logprob, "mean_logprob")


def assert_same_advantages(groups: Groups, config: LensConfig, preference=None):
    actual, expected = (groups.advantages(module, config, preference) for module in (ops, reference))
    assert_same_bits(actual.group_kind, expected.group_kind)
    for name in ("confidence", "importance_difficulty", "difficulty"):
        assert_near(getattr(actual, name), getattr(expected, name), name)
    for span, kind in zip(groups.spans(), expected.group_kind.tolist(), strict=True):
        rewards = expected.calibrated_reward[span]
        size = len(rewards)
        error = reward_error(size, rewards)
        assert_within(actual.calibrated_reward[span], rewards, error, "calibrated_reward")
        divisor = rewards.std().item() + 1e-9 if size > 1 else 1.0
        if kind != GroupKind.MIXED and config.scope in ("both", "negative"):
            divisor = 1 / config.alpha
        error = advantage_error(rewards, divisor)
        assert_within(actual.advantage[span], expected.advantage[span], error, "advantage")


@given(batch=token_batches())
@settings(max_examples=150)
def test_segment_mean(batch):
    assert_same_means(*batch)


@pytest.mark.parametrize("scope, confidence, difficulty", SWITCHES)
@given(groups=group_batches(AND_ROUNDED), alpha=st.sampled_from([0.25, 2.0]))
@settings(max_examples=25)
def test_group_advantages(scope, confidence, difficulty, groups, alpha):
    config = LensConfig(scope=scope, alpha=alpha, confidence=confidence, difficulty=difficulty)
    assert_same_advantages(groups, config)


@given(groups=group_batches(AND_ROUNDED))
def test_torch_finds_the_kinds_and_the_groups_that_grpo_drops(groups):
    grpo = groups.advantages(ops, LensConfig(scope="none"))
    assert torch.equal(group_kinds(groups.correctness, groups.cu_groups), grpo.group_kind)
    rewards = groups.correctness if groups.rewards is None else groups.rewards
    for span, same in zip(groups.spans(), same_rewards(rewards, groups.cu_groups).tolist(), strict=True):
        assert same == (grpo.advantage[span] == 0).all()


# Confidences over preferences then lie beyond the largest double, and below the smallest.
extreme_preferences = st.one_of(ordinary_preferences, st.sampled_from([5e-324, 1e-310, 1e-100, 1e100, 1.7e308]))


@pytest.mark.parametrize("scope", ["both", "mixed", "negative", "none"])
@given(
    case=preferred(kinds=AND_ROUNDED),
    alpha=st.sampled_from([0.25, 2.0]),
    difficulty=st.sampled_from(["importance", "max"]),
)
@settings(max_examples=60)
def test_preferences(scope, case, alpha, difficulty):
    groups, switches, rho = case
    assert_same_advantages(groups, LensConfig(scope=scope, alpha=alpha, difficulty=difficulty, **switches), rho)


@given(groups=group_batches(AND_ROUNDED), data=st.data())
def test_preferences_with_shaped_rewards_and_the_sequences_probability(groups, data):
    config = LensConfig(confidence="sequence", preference=data.draw(st.sampled_from(["none", "policy"])))
    rho = None
    if config.preference == "none":
        size = len(groups.mean_logprob)
        rho = torch.tensor(data.draw(st.lists(ordinary_preferences, min_size=size, max_size=size)))
    assert_same_advantages(groups, config, rho)


@given(case=preferred(tensors=extreme_preferences))
def test_extreme_preferences(case):
    groups, switches, rho = case
    actual, expected = (groups.advantages(module, LensConfig(**switches), rho) for module in (ops, reference))
    assert_near(actual.difficulty, expected.difficulty, "difficulty")
    for span in groups.spans():
        rewards = expected.calibrated_reward[span]
        error = reward_error(len(rewards), rewards)
        assert_within(actual.calibrated_reward[span], rewards, error, "calibrated_reward")
    assert torch.isfinite(actual.advantage).all()


@given(batch=batches(), confidence=st.sampled_from(["geometric", "sequence"]))
def test_lens_advantages_is_the_two_steps(implementation, batch, confidence):
    config = LensConfig(confidence=confidence)
    result = batch.advantages(implementation, config)
    segments = implementation.segment_mean(*batch.tokens)
    groups = implementation.group_advantages(*segments, batch.correctness, batch.cu_groups, config)
    expected = {**groups._asdict(), **segments._asdict()}
    assert list(result._asdict()) == list(expected)
    for name, tensor in expected.items():
        assert_same_bits(getattr(result, name), tensor)


@pytest.mark.parametrize("offset_dtype", OFFSET_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_read_as_its_exact_value(dtype, offset_dtype):
    lengths = [5, 0, 64, 33]
    values = packed_tokens(0, lengths, dtype, extreme=0.1)
    narrow = ops.segment_mean(values, offsets(lengths, offset_dtype))
    wide = ops.segment_mean(values.double(), offsets(lengths))
    assert_same_bits(narrow.mean_logprob, wide.mean_logprob)

    means = packed_tokens(1, [4], dtype)
    outcomes, rewards = torch.tensor([1, 0, 0, 1]), torch.tensor([1, -1, 0, 2])
    count = torch.tensor([3, 1, 0, 9])
    config, bounds = LensConfig(), offsets([1, 3])
    wide = ops.group_advantages(means.double(), count, outcomes.double(), bounds, config, rewards=rewards.double())
    for kind in (dtype, torch.int8, torch.int32, torch.int64):
        narrow = ops.group_advantages(
            means, count.int(), outcomes.to(kind), bounds.to(offset_dtype), config, rewards=rewards.to(kind)
        )
        for a, b in zip(narrow, wide, strict=True):
            assert_same_bits(a, b)


def test_outcomes_may_be_bool():
    means, bounds = packed_tokens(1, [4], torch.float64), offsets([4])
    outcomes = torch.tensor([True, False, False, True])
    results = [
        ops.group_advantages(means, torch.ones(4).long(), c, bounds, LensConfig())
        for c in (outcomes, outcomes.double())
    ]
    for a, b in zip(*results, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param([1] * 300, id="one token each"),
        pytest.param([100_000], id="one response"),
        pytest.param([4096, 4095, 4097, 31, 32, 33, 0, 50_000], id="edges of chunks"),
        pytest.param([3, 1, 0, 100_000, 4], id="one longer than all others together"),
    ],
)
def test_lengths_from_one_to_a_hundred_thousand(lengths, dtype):
    values = packed_tokens(7, lengths, dtype, extreme=0.0)
    selected = torch.rand(len(values), generator=torch.Generator().manual_seed(8)) < 0.7
    for mask in (None, selected):
        assert_same_means(values, offsets(lengths), mask)


@pytest.mark.parametrize("dtype", DTYPES)
def test_hardly_possible_tokens(dtype):
    lengths = [1, 10, 20_000]
    assert_same_means(torch.full((sum(lengths),), -1e4, dtype=dtype), offsets(lengths))
    assert_same_means(packed_tokens(9, lengths, dtype, extreme=0.5), offsets(lengths))


@pytest.mark.parametrize("offset", [0.0, -1e4], ids=["likely", "hardly possible"])
@pytest.mark.parametrize("right", [0, 1, "half", "all but one"])
@pytest.mark.parametrize("size", [1, 2, 3, 16, 31, 32, 33, 64, 257, 1024])
def test_group_sizes_to_1024(size, right, offset):
    generator = torch.Generator().manual_seed(size)
    right = {"half": size // 2, "all but one": size - 1}.get(right, right)
    correctness = (torch.randperm(size, generator=generator) < right).double()
    means = offset - 3 * torch.rand(size, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, 100_001, (size,), generator=generator)
    rewards = correctness - 0.5 * (torch.rand(size, generator=generator) < 0.2).double()
    for shaped in (None, rewards):
        assert_same_advantages(Groups(means, lengths, correctness, offsets([size]), shaped), LensConfig())


@pytest.mark.parametrize(
    "module",
    [
        ops,
        reference,
    ],
    ids=["op", "reference"],
)
def test_a_group_without_responses_changes_nothing(module):
    means, lengths = torch.tensor([-1.0, -2.0, -3.0]), torch.ones(3).long()
    correctness = torch.tensor([0.0, 0.0, 1.0])
    config = LensConfig()
    without, around = (
        module.group_advantages(means, lengths, correctness, cu_groups, config)
        for cu_groups in (torch.tensor([0, 2, 3]), torch.tensor([0, 0, 2, 2, 3, 3]))
    )
    for name in ("advantage", "calibrated_reward", "confidence"):
        assert_same_bits(getattr(around, name), getattr(without, name))
    assert_same_bits(around.difficulty[[1, 3]], without.difficulty)
    assert torch.isnan(around.difficulty[[0, 2, 4]]).all()
    assert torch.isnan(around.importance_difficulty[[0, 2, 4]]).all()


@contextlib.contextmanager
def threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_bit():
    # Enough tokens and groups for several tasks of the CPU operators.
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(0, 300, (4000,), generator=generator).tolist()
    lengths[17] = 200_000
    values = packed_tokens(4, lengths, torch.float32)
    correctness = (torch.rand(4000, generator=generator) < 0.3).double()
    results = []
    for count in (1, 2):
        with threads(count):
            results.append(
                ops.lens_advantages(values, offsets(lengths), correctness, offsets([2] * 2000), LensConfig())
            )
    for one, two in zip(*results, strict=True):
        assert_same_bits(one, two)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 7, 32, 100, 4099])
def test_the_place_in_the_buffer_changes_no_bit(length, dtype, masked):
    values = packed_tokens(5, [length], dtype)
    mask = torch.rand(length, generator=torch.Generator().manual_seed(6)) < 0.5 if masked else None
    expected = ops.segment_mean(values, offsets([length]), mask)
    for shift in range(1, 16):
        before = torch.full((shift,), -9.0, dtype=dtype)
        moved = None if mask is None else torch.cat([torch.ones(shift, dtype=torch.bool), mask])
        result = ops.segment_mean(torch.cat([before, values]), offsets([shift, length]), moved)
        assert_same_bits(result.mean_logprob[1:], expected.mean_logprob)
        assert_same_bits(result.lengths[1:], expected.lengths)


@given(lengths=st.lists(st.integers(0, 200), min_size=1, max_size=10), data=st.data())
def test_the_order_of_the_responses_changes_no_bit(lengths, data):
    values = packed_tokens(data.draw(st.integers(0, 1000)), lengths, data.draw(st.sampled_from(DTYPES)))
    order = data.draw(st.permutations(range(len(lengths))))
    parts = values.split(lengths)
    before = ops.segment_mean(values, offsets(lengths))
    after = ops.segment_mean(torch.cat([parts[i] for i in order]), offsets([lengths[i] for i in order]))
    assert_same_bits(after.mean_logprob, before.mean_logprob[order])
    assert_same_bits(after.lengths, before.lengths[order])
