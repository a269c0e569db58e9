"""The raw operators as torch sees them: schema, fake tensors, torch.compile, status."""

import pytest
import torch

from lens_openrlhf.advantages import LensConfig, group_advantages, lens_advantages, segment_mean
from lens_openrlhf.advantages.ops import STATUS_OK

from .comparison import assert_same_bits
from .strategies import DTYPES, OFFSET_DTYPES, offsets, packed_tokens

ops = torch.ops.lens_openrlhf


def tokens(lengths=(3, 40, 1, 7), dtype=torch.float32, offset_dtype=torch.int64):
    lengths = list(lengths)
    return packed_tokens(0, lengths, dtype), offsets(lengths, offset_dtype)


def mixed_groups(sizes=(2, 2), offset_dtype=torch.int64):
    """Arguments up to cu_groups; every group has a right and a wrong answer, so that no result is NaN."""
    n = sum(sizes)
    correctness = torch.cat([torch.arange(size) == 0 for size in sizes]).double()
    means = packed_tokens(1, [n], torch.float64)
    return means, torch.arange(1, n + 1), correctness, correctness - 0.5, offsets(list(sizes), offset_dtype)


SWITCHES = [
    (0.25, True, True, False, True, 0, 0.0),  # the paper's
    (1.0, False, True, True, False, 0, 0.0),
    (0.25, True, True, False, True, 1, 1.9),
    (0.25, True, True, False, True, 2, 0.0),
]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("offset_dtype", OFFSET_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck_segment_mean(dtype, offset_dtype, masked):
    values, cu_seqlens = tokens(dtype=dtype, offset_dtype=offset_dtype)
    mask = torch.arange(len(values)) % 5 != 1 if masked else None
    torch.library.opcheck(ops.segment_mean.default, (values, cu_seqlens, mask))


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("offset_dtype", OFFSET_DTYPES)
def test_opcheck_group_advantages(offset_dtype, switches):
    arguments = (*mixed_groups((2, 5), offset_dtype), *switches)
    torch.library.opcheck(ops.group_advantages.default, (*arguments, None))
    if switches == SWITCHES[0]:
        torch.library.opcheck(ops.group_advantages.default, (*arguments, torch.arange(1.0, 8, dtype=torch.float64)))


def test_preferences_that_do_not_go_together_are_refused():
    with pytest.raises(RuntimeError, match="preference: expected 0, 1 or 2, got 3"):
        ops.group_advantages(*mixed_groups(), *SWITCHES[0][:5], 3, 0.0, None)
    with pytest.raises(RuntimeError, match="rho: does not go with preference 2"):
        ops.group_advantages(*mixed_groups(), *SWITCHES[3], torch.ones(4, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="rho: expected 4 elements, got 3"):
        ops.group_advantages(*mixed_groups(), *SWITCHES[0], torch.ones(3, dtype=torch.float64))


def both_operators(values, cu_seqlens, mask, correctness, rewards, cu_groups, rho, switches=SWITCHES[0]):
    mean, lengths, status = ops.segment_mean(values, cu_seqlens, mask)
    outputs = ops.group_advantages(mean, lengths, correctness, rewards, cu_groups, *switches, rho)
    return *outputs, lengths, status


def both_in_one(values, cu_seqlens, mask, correctness, rewards, cu_groups, rho, switches=SWITCHES[0]):
    return ops.lens_advantages(values, cu_seqlens, mask, correctness, rewards, cu_groups, *switches, rho)


def inputs_of_both(lengths, sizes, preferred):
    values, cu_seqlens = tokens(lengths)
    _, _, correctness, rewards, cu_groups = mixed_groups(sizes)
    rho = correctness + 0.5 if preferred else None
    return values, cu_seqlens, torch.arange(len(values)) % 3 != 1, correctness, rewards, cu_groups, rho


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("layout", ["packed", "rows"])
@pytest.mark.parametrize("preferred", [False, True])
def test_both_in_one_are_the_two(switches, layout, preferred):
    inputs = inputs_of_both([3, 40, 1, 7], [2, 2], preferred and switches[5] == 0)
    if layout == "rows":
        wide = -torch.rand(4, 12)
        inputs = (wide[:, 2:9], None, (torch.rand(4, 9) < 0.7)[:, 1:8], *inputs[3:])
    # Without the mask, which leaves one response empty: opcheck takes NaN for a difference.
    torch.library.opcheck(ops.lens_advantages.default, (*inputs[:2], None, *inputs[3:6], *switches, inputs[6]))
    *outputs, lengths, status = both_operators(*inputs, switches)
    responses, *others = both_in_one(*inputs, switches)
    mean, _, _ = ops.segment_mean(*inputs[:3])
    expected = (torch.stack([*outputs[:3], mean]), lengths, torch.stack(outputs[3:5]), outputs[5], status)
    for found, wanted in zip((responses, *others), expected, strict=True):
        assert_same_bits(found, wanted)


def test_a_fault_of_the_tokens_comes_before_one_of_the_groups():
    values, cu_seqlens, mask, correctness, rewards, cu_groups, _ = inputs_of_both([3, 40, 1, 7], [2, 2], False)
    correctness[0] = 2.0
    status = both_in_one(values, cu_seqlens, mask, correctness, rewards, cu_groups, None)[-1].item()
    assert (status >> 36 & 2**27 - 1, status >> 32 & 15) == (0, 5)
    values[-1] = torch.nan
    mask[-1] = True
    status = both_in_one(values, cu_seqlens, mask, correctness, rewards, cu_groups, None)[-1].item()
    assert (status >> 36 & 2**27 - 1, status >> 32 & 15) == (3, 2)


def test_rows_that_are_not_contiguous_are_refused_by_the_raw_operator():
    with pytest.raises(RuntimeError, match="values: expected rows of neighbouring elements"):
        ops.segment_mean(-torch.rand(3, 4).T, None, None)
    with pytest.raises(RuntimeError, match="mask: expected the shape of values"):
        ops.segment_mean(-torch.rand(3, 4), None, torch.ones(3, 5, dtype=torch.bool))


@pytest.mark.parametrize("function", [both_operators, both_in_one])
@pytest.mark.parametrize("backend, preferred", [("aot_eager", False), ("inductor", False), ("inductor", True)])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_without_a_graph_break(function, backend, preferred, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend=backend)
    batches = [
        inputs_of_both(lengths, sizes, preferred)
        for lengths, sizes in (([3, 40, 1, 7], [2, 2]), ([5, 1, 2, 9, 30, 4, 4], [3, 2, 2]))
    ]
    # Dynamic shapes serve both batches with one graph.
    with torch._dynamo.config.patch(error_on_recompile=dynamic):
        for batch in batches:
            for compiled_result, eager in zip(compiled(*batch), function(*batch), strict=True):
                assert_same_bits(compiled_result, eager)


def test_fake_shapes_follow_the_offsets():
    values, cu_seqlens = (x.to("meta") for x in tokens())
    assert [(tuple(x.shape), x.dtype) for x in ops.segment_mean(values, cu_seqlens, None)] == [
        ((4,), torch.float64),
        ((4,), torch.int64),
        ((1,), torch.int64),
    ]
    result = ops.group_advantages(*(x.to("meta") for x in mixed_groups((2, 5, 3))), *SWITCHES[0], None)
    assert [tuple(x.shape) for x in result] == [(10,)] * 3 + [(3,)] * 3 + [(1,)]


def test_good_data_has_the_good_status():
    assert ops.segment_mean(*tokens(), None)[-1].tolist() == [STATUS_OK]
    assert ops.group_advantages(*mixed_groups(), *SWITCHES[0], None)[-1].tolist() == [STATUS_OK]


@pytest.mark.parametrize("name", ["values", "cu_seqlens"])
def test_bad_tokens_set_the_status_and_raise_nothing(name):
    values, cu_seqlens = tokens()
    if name == "values":
        values[-1] = torch.nan
    else:
        cu_seqlens[1] = 100
    _, _, status = ops.segment_mean(values, cu_seqlens, None)
    assert status.dtype == torch.int64 and status.shape == (1,)
    assert status.item() != STATUS_OK


@pytest.mark.parametrize("position, value", [(0, torch.nan), (0, 1.0), (1, -1), (2, 2.0), (3, torch.inf), (4, 9)])
def test_bad_responses_set_the_status_and_raise_nothing(position, value):
    arguments = list(mixed_groups())
    arguments[position][1] = value
    assert ops.group_advantages(*arguments, *SWITCHES[0], None)[-1].item() != STATUS_OK


def test_a_bad_preference_sets_the_status_and_raises_nothing():
    rho = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    assert ops.group_advantages(*mixed_groups(), *SWITCHES[0], rho)[-1].item() != STATUS_OK


def test_results_carry_no_gradient():
    values, cu_seqlens = tokens()
    means, lengths, correctness, rewards, cu_groups = mixed_groups()
    rho = torch.ones_like(means)
    for tensor in (values, means, correctness, rewards, rho):
        tensor.requires_grad_()
    results = [
        segment_mean(values, cu_seqlens),
        group_advantages(means, lengths, correctness, cu_groups, LensConfig(), rewards=rewards, preference=rho),
        lens_advantages(values, cu_seqlens, correctness, cu_groups, rewards=rewards),
    ]
    for result in results:
        assert not any(tensor.requires_grad for tensor in result)
