"""Bad data on the device: the CPU's status and message, nothing read outside the arguments, and good results after."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from torch import Tensor

from lens_openrlhf.advantages import lens_advantages
from lens_openrlhf.advantages.ops import STATUS_OK

from . import batches
from .device import Cpu, Cuda
from .rows import Rows

SIZES = [33] * 40  # of responses, and of groups
BAD_LOGPROBS = (torch.nan, 1.0, torch.inf)
BAD_OFFSETS = {  # of SIZES: (index, what is put there)
    "begins above 0": (0, 1),
    "begins below 0": (0, -1),
    "decreases": (7, 0),
    "is far below 0": (7, -(2**31)),
    "is beyond the end": (7, 2**31 - 1),
    "ends early": (-1, 5),
    "ends late": (-1, 2**31 - 1),
}
BAD_RESPONSES = {  # (position among the arguments, value)
    "a mean that is NaN": (0, torch.nan),
    "a mean above 0": (0, 1.0),
    "a negative length": (1, -3),
    "a correctness of 2": (2, 2.0),
    "a correctness of NaN": (2, torch.nan),
    "an infinite reward": (3, torch.inf),
}


def run(device: Cuda | Cpu, rows: Rows) -> None:
    good = good_tokens()
    before = batches.segment_mean(good)
    for what, same in faults_alike(device.kind):
        rows.check(what, all(same), cases=len(same))
    rows.check("what surrounds the values is not read", surroundings_unread(device.kind))
    for what, bad in (("NaN", torch.nan), ("above 0", 1.0)):
        here, there = (message(replaced(good, 0, 9 * 33 + 7, bad), kind) for kind in ("cpu", device.kind))
        rows.check(f"the error for a token {what} is the CPU's", here == there and "response 9" in there)
    after = batches.segment_mean(batches.to(good, device.kind))
    device.synchronize()
    rows.check("good data after all this", all(batches.same_bits(a, b) for a, b in zip(before, after, strict=True)))


def good_tokens(dtype: torch.dtype = torch.float32, offset: torch.dtype = torch.int64) -> batches.Tokens:
    return batches.Tokens(batches.logprobs(sum(SIZES), dtype, 1), batches.offsets(SIZES, offset), None)


def replaced(arguments: tuple, position: int, index: int, value: float) -> tuple:
    """The arguments with one number of the tensor at `position` put in its place."""
    tensors = list(arguments)
    tensors[position] = tensors[position].clone()
    tensors[position][index] = value
    return type(arguments)(*tensors)


def faults_alike(kind: str) -> Iterator[tuple[str, list[bool]]]:
    """By kind of fault: whether both devices saw the same, in each case."""

    def tokens_alike(tokens: batches.Tokens) -> bool:
        """By the operator of its own, and by the fused one."""
        arguments = *batches.random_outcomes(random.Random(3), len(SIZES)), torch.tensor([0, 11, len(SIZES)])
        here, there = batches.segment_mean(tokens), batches.segment_mean(batches.to(tokens, kind))
        fused = batches.lens_advantages(batches.to(tokens, kind), *batches.to(arguments, kind))
        return alike(here, there) and alike(here, fused)

    def groups_alike(groups: batches.Groups, of_the_fused: bool = True) -> bool:
        """Likewise, unless the fault is of means or lengths, which the fused operator makes itself."""
        here, there = batches.group_advantages(groups), batches.group_advantages(batches.to(groups, kind))
        sound = batches.Tokens(-torch.ones(sum(SIZES)), torch.arange(sum(SIZES) + 1), None)
        fused = batches.lens_advantages(batches.to(sound, kind), *batches.to(tuple(groups[2:]), kind))
        return alike(here, there) and (alike(here, fused) if of_the_fused else int(fused[-1]) == STATUS_OK)

    position = 17 * 33 + 20
    for value in BAD_LOGPROBS:
        spoilt = [replaced(good_tokens(dtype), 0, position, value) for dtype in batches.DTYPES]
        yield f"log-probability {value}", [tokens_alike(tokens) for tokens in spoilt]
        mask = torch.arange(sum(SIZES)) != position
        hidden = [batches.segment_mean(batches.to(tokens._replace(mask=mask), kind)) for tokens in spoilt]
        yield f"log-probability {value}, masked out", [int(found[-1]) == STATUS_OK for found in hidden]
    for what, (index, value) in BAD_OFFSETS.items():
        cases = [replaced(good_tokens(offset=offset), 1, index, value) for offset in batches.OFFSETS]
        yield f"cu_seqlens {what}", [tokens_alike(tokens) for tokens in cases]
    n = sum(SIZES)
    outcomes = batches.random_outcomes(random.Random(2), n)
    means = torch.linspace(-5, -0.1, n, dtype=torch.float64)
    groups = [batches.Groups(means, torch.arange(n), *outcomes, batches.offsets(SIZES, o)) for o in batches.OFFSETS]
    for what, (place, value) in BAD_RESPONSES.items():
        yield what, [groups_alike(replaced(g, place, n // 2, value), place > 1) for g in groups]
    for what, (index, value) in BAD_OFFSETS.items():
        yield f"cu_groups {what}", [groups_alike(replaced(g, 4, index, value)) for g in groups]


def alike(here: tuple[Tensor, ...], there: tuple[Tensor, ...]) -> bool:
    """Whether both say the same fault of the same response or group."""
    is_fault = int(here[-1]) != STATUS_OK
    return is_fault and batches.code_and_index(here[-1]) == batches.code_and_index(there[-1])


def message(tokens: tuple, kind: str) -> str:
    """Of the error that the Python function raises."""
    n = len(SIZES)
    values, cu_seqlens, _ = tokens
    arguments = batches.to((values, cu_seqlens, torch.zeros(n), torch.tensor([0, n])), kind)
    try:
        lens_advantages(*arguments)
    except ValueError as error:
        return str(error)
    return "none"


def surroundings_unread(kind: str) -> bool:
    """Values and offsets that lie between NaNs and wild offsets, at every shift from alignment, masked or not."""
    lengths = [n for n in batches.LENGTHS if n <= 4097]
    total = sum(lengths)
    for dtype in batches.DTYPES:
        for shift in range(1, 17):
            values = torch.full((total + 64,), torch.nan, dtype=dtype)
            values[shift : shift + total] = batches.logprobs(total, dtype, shift)
            cu_seqlens = torch.full((len(lengths) + 3,), 2**40)
            cu_seqlens[1:-1] = batches.offsets(lengths)
            everything = torch.ones(total + 64, dtype=torch.bool)
            for mask in (None, everything[shift : shift + total]):
                tokens = batches.Tokens(values[shift : shift + total], cu_seqlens[1:-1], mask)
                here, there = batches.segment_mean(tokens), batches.segment_mean(batches.to(tokens, kind))
                if not all(batches.same_bits(a, b) for a, b in zip(here, there, strict=True)):
                    return False
                if int(there[-1]) != STATUS_OK:
                    return False
    return True
