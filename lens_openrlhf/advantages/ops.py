"""The compiled operators: packed log-probabilities to LENS advantages.

`torch.ops.lens_openrlhf.segment_mean` and `.group_advantages` (csrc/schemas.h) never synchronise with the
host: they leave the first fault of their data in a status word. The functions here check shapes, call them,
read the status and raise. Formulas: csrc/formulas.inc; the same in plain torch: reference.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import extension  # registers the operators
from .config import PREFERENCES, LensConfig
from .results import GroupAdvantages, LensAdvantages, SegmentMean

_ops = torch.ops.lens_openrlhf

FLOAT_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OFFSET_DTYPES = (torch.int32, torch.int64)
STATUS_OK = 2**63 - 1
LOGPROB_TOLERANCE = float.fromhex("0x1.068p-10")  # csrc/lens.h's kLogprobTolerance


@torch.library.register_fake("lens_openrlhf::segment_mean")
def _(values: Tensor, cu_seqlens: Tensor, mask: Tensor | None):
    responses = cu_seqlens.shape[0] - 1
    return (
        values.new_empty(responses, dtype=torch.float64),
        values.new_empty(responses, dtype=torch.int64),
        values.new_empty(1, dtype=torch.int64),
    )


@torch.library.register_fake("lens_openrlhf::group_advantages")
def _(mean_logprob, lengths, correctness, rewards, cu_groups, *switches):
    groups = cu_groups.shape[0] - 1
    responses = [torch.empty_like(mean_logprob) for _ in range(3)]
    per_group = [mean_logprob.new_empty(groups, dtype=d) for d in (torch.float64, torch.float64, torch.int8)]
    return (*responses, *per_group, mean_logprob.new_empty(1, dtype=torch.int64))


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
    if tensor.is_meta:
        raise ValueError(f"{name}: is on the meta device, which holds no values")
    if tensor.dim() != 1:
        raise ValueError(f"{name}: expected 1 dimension, got shape {tuple(tensor.shape)}")
    if tensor.dtype not in dtypes:
        expected = ", ".join(str(d).removeprefix("torch.") for d in dtypes)
        raise ValueError(f"{name}: expected dtype {expected}, got {str(tensor.dtype).removeprefix('torch.')}")
    if like is not None and tensor.device != like.device:
        raise ValueError(f"{name}: is on {tensor.device}, the other tensors on {like.device}")
    if size is not None and tensor.shape[0] != size:
        raise ValueError(f"{name}: expected {size} elements, got {tensor.shape[0]}")
    return (tensor.detach() if tensor.requires_grad else tensor).contiguous()


def _packed(values: Tensor, cu_seqlens: Tensor | None, mask: Tensor | None, name: str):
    """(values, cu_seqlens, mask) as the operator takes them: a padded batch is a packed one whose responses are all as
    long as its rows, and nothing is copied if it is contiguous."""
    if not isinstance(values, Tensor) or values.dim() != 2:
        if cu_seqlens is None:
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"cu_seqlens: is None, which means padded {name} of shape [N, A], but got {shape}")
        return values, cu_seqlens, mask
    if cu_seqlens is not None:
        raise ValueError(
            f"{name}: shape {tuple(values.shape)} is a padded batch, for which cu_seqlens must be None; packed values "
            "have 1 dimension"
        )
    rows, width = values.shape
    if isinstance(mask, Tensor):
        if mask.shape != values.shape:
            raise ValueError(f"mask: expected shape {tuple(values.shape)} like {name}, got {tuple(mask.shape)}")
        mask = mask.reshape(-1)
    return values.reshape(-1), torch.arange(rows + 1, device=values.device) * width, mask


def _check_offsets(offsets: Tensor, name: str, of: str, like: Tensor) -> Tensor:
    offsets = _check(offsets, name, OFFSET_DTYPES, like)
    if offsets.shape[0] < 1 or (offsets.shape[0] == 1 and like.shape[0] > 0):
        raise ValueError(f"{name}: expected one more element than there are segments, got {offsets.shape[0]} for {of}")
    if offsets.shape[0] == 1 and int(offsets[0]) != 0:
        raise ValueError(f"{name}: offsets must start at 0, got {int(offsets[0])}")
    return offsets


def _decode(status: int) -> tuple[int, int]:
    """(code, index) of a status word; the inverse of csrc/lens.h's make_status, whose rounded value is not needed."""
    return (status >> 32) & 0xF, status >> 36


def _offset_message(offsets: Tensor, name: str, segment: str, index: int, total: int, of: str) -> str:
    begin, end = int(offsets[index]), int(offsets[index + 1])
    return (
        f"{name}: {segment} {index} spans [{begin}, {end}), but offsets must start at 0, never decrease and end at "
        f"{total}, the number of {of}"
    )


NOT_A_LOGPROB = "log-probabilities are at most 0 (up to 1e-3 counts as rounding)"


def _raise_segment(status: int, values: Tensor, cu_seqlens: Tensor, mask: Tensor | None, name: str) -> None:
    if status == STATUS_OK:
        return
    code, index = _decode(status)
    if code == 1:
        raise ValueError(_offset_message(cu_seqlens, "cu_seqlens", "response", index, values.shape[0], "tokens"))
    span = slice(int(cu_seqlens[index]), int(cu_seqlens[index + 1]))
    tokens = values[span].double()
    bad = tokens.isnan() | (tokens > LOGPROB_TOLERANCE)
    if mask is not None:
        bad &= mask[span]
    position = int(bad.nonzero()[0])
    value = tokens[position].item()
    problem = "NaN" if math.isnan(value) else f"{value!r}; {NOT_A_LOGPROB}"
    raise ValueError(f"{name}: response {index} has a token with log-probability {problem} (token {position} of it)")


def _raise_group(status: int, inputs: dict[str, Tensor], cu_groups: Tensor) -> None:
    if status == STATUS_OK:
        return
    code, index = _decode(status)
    if code == 4:
        total = inputs["mean_logprob"].shape[0]
        raise ValueError(_offset_message(cu_groups, "cu_groups", "group", index, total, "responses"))
    name, problem = {
        2: ("mean_logprob", "although the response has tokens"),
        3: ("mean_logprob", NOT_A_LOGPROB),
        5: ("correctness", "outside [0, 1]"),
        6: ("rewards", "not finite"),
        7: ("lengths", "negative"),
        8: ("preference", "expected a finite number > 0"),
    }[code]
    raise ValueError(f"{name}: response {index} is {inputs[name][index].item()!r}, {problem}")


def _run(operator, first: Tensor, *arguments):
    """What the raw operator gives; where the device cannot run it, the error says why and what to do."""
    try:
        return operator(first, *arguments)
    except RuntimeError as error:
        problem = extension.device_problem(first.device)
        if problem is None or problem in str(error):
            raise
        raise RuntimeError(f"lens_openrlhf cannot run on {first.device}: {problem}") from error


def _segment_mean(values: Tensor, cu_seqlens: Tensor | None, mask: Tensor | None, name: str):
    values, cu_seqlens, mask = _packed(values, cu_seqlens, mask, name)
    values = _check(values, name, FLOAT_DTYPES)
    cu_seqlens = _check_offsets(cu_seqlens, "cu_seqlens", f"{values.shape[0]} tokens", values)
    if mask is not None:
        integers = (torch.uint8, torch.int8, torch.int32, torch.int64)
        mask = _check(mask, "mask", (torch.bool, *integers), values, values.shape[0]).to(torch.bool)
    return _run(_ops.segment_mean, values, cu_seqlens, mask), (values, cu_seqlens, mask, name)


def segment_mean(values: Tensor, cu_seqlens: Tensor | None, mask: Tensor | None = None) -> SegmentMean:
    """Mean log-probability over each response's action tokens.

    Accumulates in float64 by one fixed summation tree, so the bits depend on a response's own values and mask alone.

    Args:
        values: [T] packed log-probabilities in nats, float32, float64, bfloat16 or float16. -inf is legal; a
            value in (0, 1e-3] counts as 0. Or [N, A], a response a row with padding, read in place if contiguous.
        cu_seqlens: [N+1] int32 or int64; response i is `values[cu_seqlens[i]:cu_seqlens[i+1]]`. None if padded.
        mask: bool or integer of values' shape, true at action tokens; padding and tokens of tool output, say, are
            left out and may hold anything. None: all.

    Raises:
        ValueError: naming the tensor, the response and the value, for NaN, +inf or positive log-probabilities,
            offsets that decrease or do not span [0, T], and wrong shapes, dtypes or devices.
    """
    (mean, lengths, status), inputs = _segment_mean(values, cu_seqlens, mask, "values")
    _raise_segment(status.item(), *inputs)
    return SegmentMean(mean, lengths)


def _group_advantages(mean_logprob, lengths, correctness, cu_groups, config: LensConfig, rewards, preference):
    n = mean_logprob.shape[0]
    floats = (*FLOAT_DTYPES, torch.bool, torch.int8, torch.int32, torch.int64)
    correctness = _check(correctness, "correctness", floats, mean_logprob, n).double()
    if rewards is not None:
        rewards = _check(rewards, "rewards", floats, mean_logprob, n).double()
    if preference is not None:
        config.check_preference_tensor()
        preference = _check(preference, "preference", floats, mean_logprob, n).double()
    cu_groups = _check_offsets(cu_groups, "cu_groups", f"{n} responses", mean_logprob)
    *outputs, status = _run(
        _ops.group_advantages,
        mean_logprob,
        lengths,
        correctness,
        correctness if rewards is None else rewards,
        cu_groups,
        config.alpha,
        config.penalises_mixed,
        config.penalises_uniform,
        config.confidence == "sequence",
        config.difficulty == "importance",
        PREFERENCES.index(config.preference),
        config.gamma,
        preference,
    )
    inputs = {
        "mean_logprob": mean_logprob,
        "lengths": lengths,
        "correctness": correctness,
        "rewards": rewards,
        "preference": preference,
    }
    return GroupAdvantages(*outputs), status, (inputs, cu_groups)


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
    result, status, inputs = _group_advantages(
        mean_logprob, lengths, correctness, cu_groups, config, rewards, preference
    )
    _raise_group(status.item(), *inputs)
    return result


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
    (mean, lengths, segment_status), segment_inputs = _segment_mean(logprobs, cu_seqlens, mask, "logprobs")
    result, group_status, group_inputs = _group_advantages(
        mean, lengths, correctness, cu_groups, config or LensConfig(), rewards, preference
    )
    first, second = torch.cat([segment_status, group_status]).tolist()
    _raise_segment(first, *segment_inputs)
    _raise_group(second, *group_inputs)
    return LensAdvantages(*result, mean, lengths)
