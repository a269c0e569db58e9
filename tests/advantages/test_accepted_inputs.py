"""Unusual inputs that are no errors."""

import math

import pytest
import torch

from lens_openrlhf.advantages import LensConfig, group_advantages, lens_advantages, segment_mean

from .arguments import CALLS, batch, doubles, replaced, tokens
from .comparison import assert_same_bits

NAN, INF = math.nan, math.inf


def test_rounding_above_zero_is_accepted_up_to_a_thousandth():
    result = segment_mean(doubles(1e-3, -1, 1e-12, 0), torch.tensor([0, 2, 4]))
    assert result.mean_logprob.tolist() == [-0.5, 0]


@pytest.mark.parametrize("value", [NAN, INF, 2.0])
def test_masked_out_tokens_may_hold_anything(value):
    values = replaced(tokens()["values"], 4, value)
    mask = torch.arange(8) != 4
    result = segment_mean(values, tokens()["cu_seqlens"], mask)
    assert result.lengths.tolist() == [2, 1, 2, 2]
    assert result.mean_logprob[2].item() == pytest.approx((-0.4 - 0.6) / 2)
    assert torch.isfinite(lens_advantages(**batch(logprobs=values), mask=mask).advantage).all()


def test_nothing_at_all_is_fine():
    no_offsets = torch.tensor([0])
    assert [len(x) for x in segment_mean(doubles(), no_offsets)] == [0, 0]
    result = lens_advantages(doubles(), no_offsets, doubles(), no_offsets)
    assert all(len(x) == 0 for x in result)


def test_without_a_config_the_papers_is_used():
    for a, b in zip(lens_advantages(**batch()), lens_advantages(**batch(config=LensConfig())), strict=True):
        assert_same_bits(a, b)


def spread(tensor):
    """The same numbers, every third element of a larger tensor."""
    return tensor.repeat_interleave(3)[::3]


def test_strided_inputs_give_the_same_and_none_is_modified():
    mask = torch.arange(8) % 3 != 1
    for function, make in CALLS.items():
        dense = make() if function is group_advantages else make(mask=mask)
        if function is not segment_mean:
            dense["rewards"], dense["preference"] = dense["correctness"] - 0.5, dense["correctness"] + 0.5
        strided = {k: spread(v) if isinstance(v, torch.Tensor) else v for k, v in dense.items()}
        assert not any(v.is_contiguous() for v in strided.values() if isinstance(v, torch.Tensor))
        before = {k: v.clone() for k, v in dense.items() if isinstance(v, torch.Tensor)}
        for a, b in zip(function(**strided), function(**dense), strict=True):
            assert_same_bits(a, b)
        for name, tensor in before.items():
            assert_same_bits(dense[name], tensor)
            assert_same_bits(strided[name], tensor)


def test_inputs_that_overlap_in_memory():
    """Repeated elements, windows over one buffer, and one buffer for several arguments; all are only read."""
    one = doubles(-0.5).expand(8)
    assert segment_mean(one, torch.tensor([0, 3, 8])).mean_logprob.tolist() == [-0.5, -0.5]

    buffer = -torch.arange(1.0, 7.0)
    windows = buffer.as_strided((4, 3), (1, 1))
    assert segment_mean(windows, None).mean_logprob.tolist() == [-2, -3, -4, -5]
    assert segment_mean(windows, None, torch.tensor([True, False, True]).expand(4, 3)).lengths.tolist() == [2] * 4

    shared = torch.tensor([0, 1, 2, 3])
    result = group_advantages(doubles(-1, -2, -3), shared[1:], doubles(0).expand(3), shared[::3], LensConfig())
    apart = group_advantages(
        doubles(-1, -2, -3), torch.tensor([1, 2, 3]), doubles(0, 0, 0), torch.tensor([0, 3]), LensConfig()
    )
    for a, b in zip(result, apart, strict=True):
        assert_same_bits(a, b)

    outcome = doubles(0, 1, 0)
    same = group_advantages(
        doubles(-1, -2, -3), torch.tensor([1, 1, 1]), outcome, torch.tensor([0, 3]), LensConfig(), rewards=outcome
    )
    for a, b in zip(
        same,
        group_advantages(doubles(-1, -2, -3), torch.tensor([1, 1, 1]), outcome, torch.tensor([0, 3]), LensConfig()),
        strict=True,
    ):
        assert_same_bits(a, b)
