"""Bad inputs raise a ValueError that names the tensor, the response or group, and the value."""

import math
import re

import pytest
import torch

from lens_openrlhf.advantages import group_advantages, lens_advantages, segment_mean

from .arguments import CALLS, doubles, groups, replaced, tokens
from .strategies import OFFSET_DTYPES

NAN, INF = math.nan, math.inf


def error(function, **changes) -> str:
    with pytest.raises(ValueError) as caught:
        function(**CALLS[function](**changes))
    return str(caught.value)


def assert_names(message: str, tensor: str, segment: str, value: float) -> None:
    found = re.search(rf"^{tensor}: {segment}\b(?P<rest>.*)", message, re.IGNORECASE)
    assert found, message
    shown = [
        float(n) for n in re.findall(r"(?<![\w.])-?(?:nan|inf|\d[\d.]*(?:e-?\d+)?)(?![\w.])", found["rest"].lower())
    ]
    assert any(n == value or (math.isnan(n) and math.isnan(value)) for n in shown), message


@pytest.mark.parametrize("value", [NAN, INF, 0.5, 1.25e-3])
@pytest.mark.parametrize("position, response", [(0, 0), (1, 0), (2, 1), (5, 2), (7, 3)])
def test_values_that_are_no_log_probability(position, response, value):
    values = replaced(tokens()["values"], position, value)
    for dtype in (torch.float64, torch.float32):
        message = error(segment_mean, values=values.to(dtype))
        held = values.to(dtype)[position].item()  # 1.25e-3 is another number in float32
        assert_names(message, "(values|logprobs)", f"response {response}", held)
    assert_names(error(lens_advantages, logprobs=values), "logprobs", f"response {response}", value)


def test_the_first_of_two_bad_tokens_is_named():
    values = replaced(replaced(tokens()["values"], 7, NAN), 4, 0.5)
    assert_names(error(lens_advantages, logprobs=values), "logprobs", "response 2", 0.5)
    same_response = replaced(replaced(tokens()["values"], 5, 0.25), 4, 0.5)
    assert_names(error(lens_advantages, logprobs=same_response), "logprobs", "response 2", 0.5)


def test_the_value_named_is_that_of_the_token_named():
    """The first fault of a response is named, although a NaN far behind is reported with the lower code."""
    values = torch.full((40_000,), -1.0)
    values[0], values[35_000] = 0.5, NAN
    with pytest.raises(ValueError, match=r"response 0 has a token with log-probability 0.5; .*token 0 of it"):
        segment_mean(values, torch.tensor([0, 40_000]))


def test_the_first_of_many_bad_responses_is_named_whatever_thread_finds_it():
    values = torch.full((300_000,), -1.0)
    values[1000::7] = 3.0
    cu_seqlens = torch.arange(0, 300_001, 100)
    with pytest.raises(ValueError, match="response 10 .* 3.0;"):
        segment_mean(values, cu_seqlens)


@pytest.mark.parametrize("response", [0, 1, 4])
@pytest.mark.parametrize(
    "name, value",
    [("correctness", v) for v in (1.5, -0.25, NAN, INF)]
    + [("rewards", v) for v in (INF, -INF, NAN)]
    + [("mean_logprob", v) for v in (NAN, INF, 0.5)]
    + [("lengths", -3)]
    + [("preference", v) for v in (0.0, -1.0, NAN, INF)],
)
def test_values_of_a_response(name, value, response):
    good = groups(rewards=doubles(0, 1, 0, 0, 1), preference=doubles(1, 2, 3, 4, 5))
    bad = replaced(good[name], response, value)
    message = error(group_advantages, **good | {name: bad})
    assert_names(message, name, f"response {response}", value)
    if response < 4:  # two are bad
        message = error(group_advantages, **good | {name: replaced(bad, 4, value)})
        assert_names(message, name, f"response {response}", value)


def test_values_of_a_response_in_a_whole_batch():
    message = error(lens_advantages, correctness=doubles(0, 1, 0, 1.5))
    assert_names(message, "correctness", "response 3", 1.5)
    message = error(lens_advantages, rewards=doubles(0, 1, -INF, 0))
    assert_names(message, "rewards", "response 2", -INF)


@pytest.mark.parametrize("value", [1 + 1e-9, -1e-60])
def test_a_value_just_outside_the_range_is_not_shown_as_inside(value):
    message = error(group_advantages, correctness=doubles(0, value, 0, 0, 1))
    assert not 0 <= float(re.search(r"response 1 is (\S+?),", message)[1]) <= 1


BAD_OFFSETS = [
    # offsets, segment at fault, number among the fault
    ([0, 3, 2, 8, 8], 1, 2),
    ([0, 2, 3, 9, 8], 2, 9),
    ([1, 2, 3, 6, 8], 0, 1),
    ([-1, 2, 3, 6, 8], 0, -1),
    ([0, 2, 3, 6, 7], 3, 7),
    ([0, 2, 3, 6, 9], 3, 9),
    ([0, 5, 2, 9, 8], 1, 2),  # two faults
]


@pytest.mark.parametrize("dtype", OFFSET_DTYPES)
@pytest.mark.parametrize("offsets, segment, number", BAD_OFFSETS)
def test_offsets_that_decrease_or_do_not_span_everything(offsets, segment, number, dtype):
    cu_seqlens = torch.tensor(offsets, dtype=dtype)
    for function in (segment_mean, lens_advantages):
        assert_names(error(function, cu_seqlens=cu_seqlens), "cu_seqlens", f"response {segment}", number)
    eight = {
        "mean_logprob": -torch.ones(8).double(),
        "lengths": torch.ones(8).long(),
        "correctness": torch.zeros(8),
    }
    message = error(group_advantages, **eight, cu_groups=cu_seqlens)
    assert_names(message, "cu_groups", f"group {segment}", number)


def test_offsets_of_the_wrong_number_of_responses():
    assert_names(error(lens_advantages, cu_groups=torch.tensor([0, 2, 3])), "cu_groups", "group 1", 4)
    assert "cu_groups" in error(lens_advantages, cu_groups=torch.tensor([0]))
    for offsets in ([], [0]):
        offsets = torch.tensor(offsets, dtype=torch.int64)
        assert error(segment_mean, cu_seqlens=offsets).startswith("cu_seqlens")
        assert error(group_advantages, cu_groups=offsets).startswith("cu_groups")


def test_the_offset_of_nothing_must_be_zero():
    assert "3" in error(segment_mean, values=doubles(), cu_seqlens=torch.tensor([3]))


OPTIONAL = {"rewards": doubles(*[0] * 5), "preference": doubles(*[1] * 5)}
TENSORS = [
    (function, name)
    for function, make in CALLS.items()
    for name, value in make(**({} if function is segment_mean else OPTIONAL)).items()
    if isinstance(value, torch.Tensor)
]
ids = [f"{function.__name__}-{name}" for function, name in TENSORS]


@pytest.mark.parametrize("function, name", TENSORS, ids=ids)
def test_wrong_type_shape_dtype_or_device(function, name):
    good = CALLS[function]().get(name, doubles(*[0] * (5 if function is group_advantages else 4)))
    wrong = {
        "list": good.tolist(),
        "shape": good[None],
        "scalar": good[0],
        "complex": good.to(torch.complex64),
        "meta": good.to("meta"),
    }
    for problem, value in wrong.items():
        message = error(function, **{name: value})
        if problem != "meta":  # the others may be the ones that are told to move
            assert message.startswith(f"{name}:"), message
    assert "meta" in message
    assert "list" in error(function, **{name: wrong["list"]})
    assert f"(1, {len(good)})" in error(function, **{name: wrong["shape"]})
    assert "complex64" in error(function, **{name: wrong["complex"]})


@pytest.mark.parametrize(
    "function, name, dtype",
    [
        (segment_mean, "values", torch.int64),
        (segment_mean, "cu_seqlens", torch.float32),
        (segment_mean, "cu_seqlens", torch.int16),
        (segment_mean, "mask", torch.float32),
        (lens_advantages, "logprobs", torch.bool),
        (lens_advantages, "cu_groups", torch.float64),
        (group_advantages, "mean_logprob", torch.int32),
        (group_advantages, "lengths", torch.float64),
        (group_advantages, "lengths", torch.bool),
    ],
)
def test_dtypes_of_another_kind(function, name, dtype):
    value = CALLS[function]().get(name, torch.ones(8))
    message = error(function, **{name: value.to(dtype)})
    assert message.startswith(f"{name}:") and str(dtype).removeprefix("torch.") in message


@pytest.mark.parametrize("name", ["mask", "correctness", "rewards", "lengths", "preference"])
def test_numbers_of_elements_that_do_not_agree(name):
    functions = {"mask": (segment_mean, 8), "lengths": (group_advantages, 5)}
    function, size = functions.get(name, (lens_advantages, 4))
    for wrong in (size - 1, size + 1, 0):
        message = error(function, **{name: torch.ones(wrong, dtype=torch.int64)})
        assert re.match(rf"{name}: .*\b{size}\b.*\b{wrong}\b", message), message
