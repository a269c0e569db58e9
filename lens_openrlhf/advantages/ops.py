"""The compiled operators: packed log-probabilities to LENS advantages.

`torch.ops.lens_openrlhf.segment_mean`, `.group_advantages` and `.lens_advantages`, which is both in one call
(csrc/schemas.h), never synchronise with the host: they leave the first fault of their data in a status word. The
functions here check shapes, call them, read the status and raise. Formulas: csrc/formulas.inc; the same in plain torch:
reference.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from . import extension  # registers the operators
from .config import PREFERENCES, LensConfig
from .results import GroupAdvantages, LensAdvantages, SegmentMean

_ops = torch.ops.lens_openrlhf

FLOAT_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OFFSET_DTYPES = (torch.int32, torch.int64)
STATUS_OK = -1  # csrc/lens.h's kStatusOk
LOGPROB_TOLERANCE = float.fromhex("0x1.068p-10")  # csrc/lens.h's kLogprobTolerance


def _new(like: Tensor, dtype: torch.dtype, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=dtype)


@torch.library.register_fake("lens_openrlhf::segment_mean")
def _(values: Tensor, cu_seqlens: Tensor | None, mask: Tensor | None) -> tuple[Tensor, ...]:
    n = values.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return _new(values, torch.float64, n), _new(values, torch.int64, n), _new(values, torch.int64, 1)


@torch.library.register_fake("lens_openrlhf::group_advantages")
def _(
    mean_logprob: Tensor, lengths: Tensor, correctness: Tensor, rewards: Tensor, cu_groups: Tensor, *switches: object
) -> tuple[Tensor, ...]:
    groups = cu_groups.shape[0] - 1
    responses = [torch.empty_like(mean_logprob) for _ in range(3)]
    per_group = [_new(mean_logprob, d, groups) for d in (torch.float64, torch.float64, torch.int8)]
    return (*responses, *per_group, _new(mean_logprob, torch.int64, 1))


@torch.library.register_fake("lens_openrlhf::lens_advantages")
def _(
    values: Tensor,
    cu_seqlens: Tensor | None,
    mask: Tensor | None,
    correctness: Tensor,
    rewards: Tensor,
    cu_groups: Tensor,
    *switches: object,
) -> tuple[Tensor, ...]:
    n = values.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    groups = cu_groups.shape[0] - 1
    shapes = ((torch.float64, 4, n), (torch.int64, n), (torch.float64, 2, groups), (torch.int8, groups))
    return (*(_new(values, *shape) for shape in shapes), _new(values, torch.int64, 1))


def _check(
    tensor: Tensor,
    name: str,
    dtypes: tuple[torch.dtype, ...],
    like: Tensor | None = None,
    size: int | None = None,
) -> Tensor:
    """The tensor, contiguous, or a ValueError that names it."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
    if tensor.dim() != 1:
        raise ValueError(f"{name}: expected 1 dimension, got shape {tuple(tensor.shape)}")
    _check_kind(tensor, name, dtypes, like)
    if size is not None and tensor.shape[0] != size:
        raise ValueError(f"{name}: expected {size} elements, got {tensor.shape[0]}")
    return (tensor.detach() if tensor.requires_grad else tensor).contiguous()


def _check_kind(tensor: Tensor, name: str, dtypes: tuple[torch.dtype, ...], like: Tensor | None) -> None:
    if tensor.is_meta:
        raise ValueError(f"{name}: is on the meta device, which holds no values")
    if tensor.dtype not in dtypes:
        expected = ", ".join(str(d).removeprefix("torch.") for d in dtypes)
        raise ValueError(f"{name}: expected dtype {expected}, got {str(tensor.dtype).removeprefix('torch.')}")
    if like is not None and tensor.device != like.device:
        raise ValueError(f"{name}: is on {tensor.device}, the other tensors on {like.device}")


def _rows(tensor: Tensor) -> Tensor:
    """[N, A] whose rows the operator can read in place: a slice x[:, -A:] is, a transposed batch is copied."""
    tensor = tensor.detach() if tensor.requires_grad else tensor
    return tensor if tensor.stride(1) == 1 or tensor.shape[1] < 2 else tensor.contiguous()


def _check_offsets(offsets: Tensor, name: str, of: str, like: Tensor) -> Tensor:
    offsets = _check(offsets, name, OFFSET_DTYPES, like)
    if offsets.shape[0] < 1 or (offsets.shape[0] == 1 and like.shape[0] > 0):
        raise ValueError(f"{name}: expected one more element than there are segments, got {offsets.shape[0]} for {of}")
    if offsets.shape[0] == 1 and int(offsets[0]) != 0:
        raise ValueError(f"{name}: offsets must start at 0, got {int(offsets[0])}")
    return offsets


def _decode(status: int) -> tuple[int, int]:
    """(code, index) of a status word; the inverse of csrc/lens.h's make_status, whose rounded value is not needed."""
    return (status >> 32) & 0xF, (status >> 36) & (2**27 - 1)


def _offset_message(offsets: Tensor, name: str, segment: str, index: int, total: int, of: str) -> str:
    begin, end = int(offsets[index]), int(offsets[index + 1])
    return (
        f"{name}: {segment} {index} spans [{begin}, {end}), but offsets must start at 0, never decrease and end at "
        f"{total}, the number of {of}"
    )


NOT_A_LOGPROB = "log-probabilities are at most 0 (up to 1e-3 counts as rounding)"


# Of a fault: what is wrong, by its code.
_GROUP_FAULTS = {
    5: ("correctness", "outside [0, 1]"),
    6: ("rewards", "not finite"),
    7: ("lengths", "negative"),
    8: ("preference", "expected a finite number > 0"),
    9: ("mean_logprob", "although the response has tokens"),
    10: ("mean_logprob", NOT_A_LOGPROB),
}


def _raise(status: int, name: str, *of_stages: Mapping[str, Tensor | None]) -> None:
    """Raise what the status says of the stages' inputs; `name` is what the log-probabilities are called."""
    if status == STATUS_OK:
        return
    code, index = _decode(status)
    inputs = {field: tensor for stage in of_stages for field, tensor in stage.items() if tensor is not None}
    if code == 1:
        message = _offset_message(
            inputs["cu_seqlens"], "cu_seqlens", "response", index, len(inputs["values"]), "tokens"
        )
    elif code in (2, 3):
        message = _token_message(name, index, inputs["values"], inputs.get("cu_seqlens"), inputs.get("mask"))
    elif code == 4:
        total = len(inputs["correctness"])
        message = _offset_message(inputs["cu_groups"], "cu_groups", "group", index, total, "responses")
    else:
        field, problem = _GROUP_FAULTS[code]
        message = f"{field}: response {index} is {inputs[field][index].item()!r}, {problem}"
    raise ValueError(message)


def _token_message(name: str, index: int, values: Tensor, cu_seqlens: Tensor | None, mask: Tensor | None) -> str:
    span = index if cu_seqlens is None else slice(int(cu_seqlens[index]), int(cu_seqlens[index + 1]))
    tokens = values[span].double()
    bad = tokens.isnan() | (tokens > LOGPROB_TOLERANCE)
    if mask is not None:
        bad &= mask[span]
    position = int(bad.nonzero()[0])
    value = tokens[position].item()
    problem = "NaN" if math.isnan(value) else f"{value!r}; {NOT_A_LOGPROB}"
    return f"{name}: response {index} has a token with log-probability {problem} (token {position} of it)"


def _run(operator: Callable[..., tuple[Tensor, ...]], first: Tensor, *arguments: object) -> tuple[Tensor, ...]:
    """What the raw operator gives; where the device cannot run it, the error says why and what to do."""
    try:
        return operator(first, *arguments)
    except RuntimeError as error:
        problem = extension.device_problem(first.device)
        if problem is None or problem in str(error):
            raise
        raise RuntimeError(f"lens_openrlhf cannot run on {first.device}: {problem}") from error


class _Tokens(NamedTuple):
    """The first stage's tensors as the operators take them."""

    values: Tensor
    cu_seqlens: Tensor | None
    mask: Tensor | None


class _Groups(NamedTuple):
    """The second stage's tensors as the operators take them."""

    correctness: Tensor
    rewards: Tensor
    cu_groups: Tensor
    preference: Tensor | None


def _check_tokens(values: Tensor, cu_seqlens: Tensor | None, mask: Tensor | None, name: str) -> _Tokens:
    integers = (torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64)
    if isinstance(values, Tensor) and values.dim() == 2:
        if cu_seqlens is not None:
            raise ValueError(
                f"{name}: shape {tuple(values.shape)} is a padded batch, for which cu_seqlens must be None; packed "
                "values have 1 dimension"
            )
        _check_kind(values, name, FLOAT_DTYPES, None)
        values = _rows(values)
        if mask is not None:
            if not isinstance(mask, Tensor) or mask.shape != values.shape:
                found = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
                raise ValueError(f"mask: expected shape {tuple(values.shape)} like {name}, got {found}")
            _check_kind(mask, "mask", integers, values)
            mask = _rows(mask)
    elif cu_seqlens is None:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"cu_seqlens: is None, which means padded {name} of shape [N, A], but got {shape}")
    else:
        values = _check(values, name, FLOAT_DTYPES)
        cu_seqlens = _check_offsets(cu_seqlens, "cu_seqlens", f"{values.shape[0]} tokens", values)
        if mask is not None:
            mask = _check(mask, "mask", integers, values, values.shape[0])
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(torch.bool)
    return _Tokens(values, cu_seqlens, mask)


def segment_mean(values: Tensor, cu_seqlens: Tensor | None, mask: Tensor | None = None) -> SegmentMean:
    """Mean log-probability over each response's action tokens.

    Accumulates in float64 by one fixed summation tree, so the bits depend on a response's own values and mask alone.

    Args:
        values: [T] packed log-probabilities in nats, float32, float64, bfloat16 or float16. -inf is legal; a
            value in (0, 1e-3] counts as 0. Or [N, A], a response a row with padding; the rows of a slice are read in
            place.
        cu_seqlens: [N+1] int32 or int64; response i is `values[cu_seqlens[i]:cu_seqlens[i+1]]`. None if padded.
        mask: bool or integer of values' shape, true at action tokens; padding and tokens of tool output, say, are
            left out and may hold anything. None: all.

    Raises:
        ValueError: naming the tensor, the response and the value, for NaN, +inf or positive log-probabilities,
            offsets that decrease or do not span [0, T], and wrong shapes, dtypes or devices.
    """
    inputs = _check_tokens(values, cu_seqlens, mask, "values")
    mean, lengths, status = _run(_ops.segment_mean, *inputs)
    _raise(int(status), "values", inputs._asdict())
    return SegmentMean(mean, lengths)


def _check_groups(
    like: Tensor,
    n: int,
    correctness: Tensor,
    cu_groups: Tensor,
    config: LensConfig,
    rewards: Tensor | None,
    preference: Tensor | None,
) -> tuple[_Groups, tuple[float, ...]]:
    """The tensors, and the switches."""
    floats = (*FLOAT_DTYPES, torch.bool, torch.int8, torch.int32, torch.int64)

    def doubles(tensor: Tensor, name: str) -> Tensor:
        tensor = _check(tensor, name, floats, like, n)
        return tensor if tensor.dtype == torch.float64 else tensor.double()

    correctness = doubles(correctness, "correctness")
    rewards = correctness if rewards is None else doubles(rewards, "rewards")
    if preference is not None:
        config.check_preference_tensor()
        preference = doubles(preference, "preference")
    cu_groups = _check_offsets(cu_groups, "cu_groups", f"{n} responses", correctness)
    switches = (
        config.alpha,
        config.penalises_mixed,
        config.penalises_uniform,
        config.confidence == "sequence",
        config.difficulty == "importance",
        PREFERENCES.index(config.preference),
        config.gamma,
    )
    return _Groups(correctness, rewards, cu_groups, preference), switches


def group_advantages(
    mean_logprob: Tensor,
    lengths: Tensor,
    correctness: Tensor,
    cu_groups: Tensor,
    config: LensConfig,
    *,
    rewards: Tensor | None = None,
    preference: Tensor | None = None,
) -> GroupAdvantages:
    """LENS advantages of responses in groups (section 5.1, eq. 14).

    Args:
        mean_logprob: [N] floating point, mean log-probability of each response's action tokens, nats.
        lengths: [N] integer, its number of action tokens. Where it is 0, mean_logprob is not read: the response
            takes no penalty, but counts in its group's size, mean and std.
        correctness: [N] the verifier's raw outcome c in [0, 1].
        cu_groups: [Q+1] int32 or int64; group g is responses `cu_groups[g]:cu_groups[g+1]`. Sizes may differ.
        config: the switches.
        rewards: [N] the reward after shaping; correctness where it is None.
        preference: [N] rho > 0 (appendix C), which of the right answers are preferred: pi / rho stands in pi's place
            in D and in the penalty, pi / (D rho - pi). Its scale does not matter, as D takes it up. None: all equally.

    With `config.preference` "length" `difficulty` is max(gamma, 2 max confidence), which stands in D's place; with
    "policy" both difficulties are G / sum of c, infinite where nothing is right.

    Raises:
        ValueError: naming the tensor, the response or group and the value, for correctness outside [0, 1],
            rewards that are not finite, a preference that is not positive and finite or stands beside one in the
            config, and what :func:`segment_mean` rejects.
    """
    mean_logprob = _check(mean_logprob, "mean_logprob", FLOAT_DTYPES).double()
    integers = (torch.int32, torch.int64)
    lengths = _check(lengths, "lengths", integers, mean_logprob, mean_logprob.shape[0]).long()
    groups, switches = _check_groups(
        mean_logprob, mean_logprob.shape[0], correctness, cu_groups, config, rewards, preference
    )
    *tensors, rho = groups
    *outputs, status = _run(_ops.group_advantages, mean_logprob, lengths, *tensors, *switches, rho)
    _raise(int(status), "mean_logprob", {"mean_logprob": mean_logprob, "lengths": lengths}, groups._asdict())
    return GroupAdvantages(*outputs)


def lens_advantages(
    logprobs: Tensor,
    cu_seqlens: Tensor | None,
    correctness: Tensor,
    cu_groups: Tensor,
    config: LensConfig | None = None,
    *,
    rewards: Tensor | None = None,
    mask: Tensor | None = None,
    preference: Tensor | None = None,
) -> LensAdvantages:
    """Packed or padded log-probabilities to LENS advantages: :func:`segment_mean`, then :func:`group_advantages`.

    On CUDA it synchronises once, to read the status.
    """
    tokens = _check_tokens(logprobs, cu_seqlens, mask, "logprobs")
    values, offsets, _ = tokens
    n = values.shape[0] if offsets is None else offsets.shape[0] - 1
    groups, switches = _check_groups(values, n, correctness, cu_groups, config or LensConfig(), rewards, preference)
    *tensors, rho = groups
    responses, lengths, difficulties, kind, status = _run(_ops.lens_advantages, *tokens, *tensors, *switches, rho)
    advantage, calibrated, confidence, mean = responses.unbind()
    importance, difficulty = difficulties.unbind()
    result = LensAdvantages(advantage, calibrated, confidence, importance, difficulty, kind, mean, lengths)
    # Last, as it waits for the device.
    _raise(int(status), "logprobs", tokens._asdict(), groups._asdict())
    return result
