"""What a batch computes of its groups and tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lens_openrlhf.advantages.estimators import Batch

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
