"""What a batch computes of its groups and tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lens_openrlhf.advantages.estimators import Batch, group_kinds
from lens_openrlhf.advantages.estimators.batch import group_range, same_rewards, segment_sum, tokens_of

from .batches import Answer, answers, batch_of


def test_the_helpers_of_a_batch():
    batch: Batch = batch_of([[Answer(1, (1.0, 2.0)), Answer(0, ())], answers(1), answers(0.3, 0.3), answers(0, 0, 0)])
    assert batch.group_of.tolist() == [0, 0, 1, 2, 2, 3, 3, 3]
    assert batch.response_of.tolist() == [0, 0, 2, 3, 4, 5, 6, 7]
    assert batch.kinds.tolist() == [2, 1, 0, 0]
    assert batch.group_mean(batch.correctness).tolist() == [0.5, 1, 0.3, 0]
    assert batch.token_mean(batch.entropies).tolist() == [1.5, 0, 1, 1, 1, 1, 1, 1]
    assert batch.token_mean(batch.entropies).dtype == torch.float64
    assert batch.grpo(batch.rewards).tolist() == pytest.approx([0.5**0.5, -(0.5**0.5), 0, 0, 0, 0, 0, 0])


def test_numbers_of_tokens_that_are_not_there():
    batch = replace(batch_of([answers(1, 0)]), entropies=None, cu_seqlens=None)
    for name, read in (("entropies", lambda: batch.of_tokens("entropies")), ("cu_seqlens", lambda: batch.response_of)):
        with pytest.raises(
            ValueError, match=f"the batch has no {name}: name what is read .* in the estimator's `needs`"
        ):
            read()


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_sums_side_by_side():
    found = segment_sum(torch.tensor([1, 2, 3, 4], dtype=torch.float16), torch.tensor([2, 0, 2]))
    assert found.dtype == torch.float64 and found.tolist() == [3, 0, 7]
    assert segment_sum(doubles(), torch.tensor([], dtype=torch.int64)).tolist() == []
    with pytest.raises(RuntimeError):
        segment_sum(doubles(1, 2), torch.tensor([1]))
    batch = batch_of([answers(1, 0, 1), answers(0)])
    assert batch.group_sum(batch.lengths).tolist() == [3, 1] and batch.group_sum(batch.lengths).dtype == torch.int64


def test_the_range_of_a_group():
    low, high = group_range(doubles(3, -1, 2, 7), torch.tensor([0, 3, 3, 4]))
    assert low.tolist() == [-1, float("inf"), 7] and high.tolist() == [3, float("-inf"), 7]


@pytest.mark.parametrize(
    ("outcomes", "kind"),
    [
        ([0, 0], 0),
        ([1, 1], 1),
        ([0, 1], 2),
        ([0.5, 0.5], 0),
        ([1 - 0.9e-9] * 2, 1),
        ([1 - 1.1e-9] * 2, 0),
        ([0, 0.9e-9], 0),
        ([0, 1e-9], 0),
        ([0, 1.1e-9], 2),
        ([1], 1),
        ([0], 0),
    ],
)
def test_the_kind_of_a_group_is_decided_beyond_rounding(outcomes, kind):
    found = group_kinds(doubles(*outcomes, 1), torch.tensor([0, len(outcomes), len(outcomes) + 1]))
    assert found.dtype == torch.int8 and found.tolist() == [kind, 1]


def test_rewards_that_differ_by_rounding_are_the_same():
    pairs = [(0, 1e-9), (0, 1.1e-9), (-100, -100 + 0.9e-7), (100, 100 + 1.1e-7), (0.5, 0.5 + 0.9e-9), (5, 5), (1, -1)]
    bounds = torch.arange(0, 2 * len(pairs) + 1, 2)
    found = same_rewards(doubles(*(value for pair in pairs for value in pair)), bounds)
    assert found.tolist() == [True, False, True, False, True, True, False]


def test_where_tokens_of_some_responses_lie():
    lengths = torch.tensor([2, 0, 3, 1])
    assert tokens_of(torch.tensor([2, 0]), lengths).tolist() == [2, 3, 4, 0, 1]
    assert tokens_of(torch.tensor([3, 1, 3]), lengths).tolist() == [5, 5]
    assert tokens_of(torch.tensor([], dtype=torch.int64), lengths).tolist() == []


def test_an_extra_that_is_missing_says_what_to_do():
    batch = replace(batch_of([answers(1, 0)]), extras={"weight": doubles(1, 2)})
    assert batch.extra("weight", "give it").tolist() == [1, 2]
    with pytest.raises(ValueError, match="^the batch has no height of its responses: give it$"):
        batch.extra("height", "give it")
