"""Padded batches [N, A] are packed ones whose responses are all as long as the rows: the same op, nothing copied."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_openrlhf.advantages import lens_advantages, reference, segment_mean

from .arguments import batch
from .comparison import assert_near, assert_same_bits
from .strategies import token_batches


def pad(tokens, fill: float, left: bool):
    """The batch as rows of the longest response's length and a mask; `fill` stands in the padding."""
    logprobs, cu_seqlens, mask = tokens
    lengths = cu_seqlens.diff()
    width = int(lengths.max()) if len(lengths) else 0
    column = torch.arange(width)
    if left:
        there = column >= width - lengths[:, None]
    else:
        there = column < lengths[:, None]
    values = torch.full(there.shape, fill, dtype=logprobs.dtype)
    values[there] = logprobs
    chosen = torch.zeros(there.shape, dtype=torch.bool)
    chosen[there] = True if mask is None else mask.bool()
    return values, chosen


@given(tokens=token_batches(), fill=st.sampled_from([0.0, math.nan, math.inf, 5.0]))
@settings(max_examples=100)
def test_padding_on_the_right_gives_the_bits_of_the_packed_batch(tokens, fill):
    values, mask = pad(tokens, fill, left=False)
    for found, expected in zip(segment_mean(values, None, mask), segment_mean(*tokens), strict=True):
        assert_same_bits(found, expected)


@given(tokens=token_batches())
@settings(max_examples=60)
def test_padding_on_the_left_gives_the_reference(tokens):
    values, mask = pad(tokens, math.nan, left=True)
    found, expected = segment_mean(values, None, mask), reference.segment_mean(*tokens)
    assert_same_bits(found.lengths, expected.lengths)
    assert_near(found.mean_logprob, expected.mean_logprob, "mean_logprob")


def test_all_the_way_to_the_advantages():
    packed = batch()
    values, mask = pad((packed["logprobs"], packed["cu_seqlens"], None), 7.0, left=False)
    padded = packed | {"logprobs": values, "cu_seqlens": None}
    for found, expected in zip(lens_advantages(**padded, mask=mask), lens_advantages(**packed), strict=True):
        assert_same_bits(found, expected)


def test_without_a_mask_every_token_counts():
    values = torch.tensor([[-1.0, -2.0], [-3.0, -5.0]])
    result = segment_mean(values, None)
    assert result.mean_logprob.tolist() == [-1.5, -4.0] and result.lengths.tolist() == [2, 2]


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_no_rows_or_no_columns(shape):
    result = segment_mean(torch.empty(shape), None, torch.empty(shape, dtype=torch.bool))
    assert result.lengths.tolist() == [0] * shape[0]


def test_a_slice_of_a_wider_tensor_gives_the_same():
    wide = -torch.rand(4, 9)
    mask = torch.rand(4, 9) < 0.7
    found, expected = (
        segment_mean(wide[:, 2:7], None, mask[:, 2:7]),
        segment_mean(wide[:, 2:7].contiguous(), None, mask[:, 2:7].contiguous()),
    )
    for a, b in zip(found, expected, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["packed", "padded", "slice"])
def test_nothing_but_the_results_is_allocated(layout, dtype):
    values, mask = -torch.rand(64, 4096).to(dtype), torch.rand(64, 4096) < 0.9
    arguments = {
        "packed": (values.flatten(), torch.arange(65) * 4096, mask.flatten()),
        "padded": (values, None, mask),
        "slice": (values[:, -4000:], None, mask[:, -4000:]),
    }[layout]
    segment_mean(*arguments)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        segment_mean(*arguments)
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())
    assert 0 < allocated < 8192, f"{allocated} bytes for {values.numel()} tokens"


@pytest.mark.parametrize(
    "values, cu_seqlens, mask, message",
    [
        (torch.zeros(4), None, None, r"cu_seqlens: is None, which means padded .* \[N, A\], but got \(4,\)"),
        (
            torch.zeros(2, 2),
            torch.tensor([0, 2, 4]),
            None,
            r"values: shape \(2, 2\) is a padded batch, for which cu_seqlens must be None",
        ),
        (torch.zeros(2, 2), None, torch.ones(2, 3).bool(), r"mask: expected shape \(2, 2\) .*got \(2, 3\)"),
        (torch.zeros(2, 2), None, torch.ones(4).bool(), r"mask: expected shape \(2, 2\) .*got \(4,\)"),
        (torch.zeros(2, 2, 2), None, None, r"cu_seqlens: is None, .*got \(2, 2, 2\)"),
        ([[-1.0]], None, None, "cu_seqlens: is None, .*got list"),
    ],
)
def test_arguments_that_do_not_fit(values, cu_seqlens, mask, message):
    with pytest.raises(ValueError, match=message):
        segment_mean(values, cu_seqlens, mask)


def test_a_bad_token_is_named_by_its_row_and_column():
    values = torch.full((3, 4), -1.0)
    values[1, 2] = 0.5
    with pytest.raises(ValueError, match="response 1 has a token with log-probability 0.5; .*token 2 of it"):
        segment_mean(values, None)
