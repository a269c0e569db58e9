"""Random batches around every boundary of the kernels, the raw operators on them, and comparisons to the bit."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from torch import Tensor

import lens_openrlhf.advantages.ops  # noqa: F401  (registers the operators)

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
OFFSETS = (torch.int64, torch.int32)
# Where a team, a warp, a chunk or a span of the summation tree ends, and the kernel's loops and passes.
BOUNDARIES = (8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 32_768)
LENGTHS = [0, 1, *(b + d for b in BOUNDARIES for d in (-1, 0, 1)), 65_537]
GROUP_SIZES = [1, 2, 3, 7, 8, 9, 16, 31, 32, 33, 64, 65, 255, 256, 257, 1025]
# alpha, LENS in mixed and in uniform groups, sequence confidence, importance difficulty, preference, gamma
PAPER = (0.25, True, True, False, True, 0, 0.0)
SWITCHES = (
    PAPER,
    (1.0, False, True, True, False, 0, 0.0),
    (0.25, True, False, False, True, 0, 0.0),
    (0.25, False, False, False, True, 0, 0.0),
    (0.25, True, True, False, True, 1, 1.9),
    (0.25, True, True, False, True, 2, 0.0),
)


class Tokens(NamedTuple):
    """Arguments of segment_mean: [T] with offsets, or [N, A] without."""

    values: Tensor
    cu_seqlens: Tensor | None
    mask: Tensor | None


class Groups(NamedTuple):
    """Arguments of group_advantages up to the switches."""

    mean: Tensor
    lengths: Tensor
    correctness: Tensor
    rewards: Tensor
    cu_groups: Tensor


# ---- the raw operators, which never wait for the device


def segment_mean(tokens: Tokens) -> tuple[Tensor, ...]:
    """Mean [N], lengths [N], status [1]."""
    return tuple(torch.ops.lens_openrlhf.segment_mean(*tokens))


def group_advantages(groups: Groups, switches: tuple = PAPER, rho: Tensor | None = None) -> tuple[Tensor, ...]:
    """Six results, status [1]."""
    return tuple(torch.ops.lens_openrlhf.group_advantages(*groups, *switches, rho))


def lens_advantages(
    tokens: Tokens,
    correctness: Tensor,
    rewards: Tensor,
    cu_groups: Tensor,
    switches: tuple = PAPER,
    rho: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Both stages: [4, N] advantage, calibrated reward, confidence and mean; lengths [N]; [2, Q] difficulties; kinds
    [Q]; status [1]."""
    return tuple(torch.ops.lens_openrlhf.lens_advantages(*tokens, correctness, rewards, cu_groups, *switches, rho))


# ---- batches


def offsets(sizes: list[int], dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor([0, *sizes]).cumsum(0).to(dtype)


def logprobs(count: int, dtype: torch.dtype, seed: int) -> Tensor:
    """From -100 to -0.001, and now and then 0, -inf, or rounding above 0."""
    generator = torch.Generator().manual_seed(seed)
    values = -(10.0 ** (torch.rand(count, generator=generator, dtype=torch.float64) * 5 - 3))
    kind = torch.randint(0, 200_000, (count,), generator=generator)
    for number, special in ((0, 0.0), (1, -torch.inf), (2, 5e-4)):
        values[kind == number] = special
    return values.to(dtype)


def ragged(chance: random.Random) -> list[int]:
    """Lengths of responses: half of them at a boundary, up to some hundred thousand tokens in all."""
    count, left, found = chance.choice([1, 3, 8, 9, 64, 65, 300]), 400_000, []
    for _ in range(count):
        length = chance.choice(LENGTHS) if chance.random() < 0.5 else chance.randrange(3000)
        found.append(length if length <= left else chance.randrange(20))
        left -= found[-1]
    return found


def random_tokens(chance: random.Random, lengths: list[int]) -> Tokens:
    """Packed responses of any dtype that begin anywhere in their memory, with a mask or without."""
    shift, total = chance.randrange(17), sum(lengths)
    seed = chance.randrange(2**31)
    values = logprobs(total + shift, chance.choice(DTYPES), seed)[shift:]
    mask = random_mask(chance, total + shift)
    return Tokens(values, offsets(lengths, chance.choice(OFFSETS)), None if mask is None else mask[shift:])


def random_mask(chance: random.Random, *shape: int) -> Tensor | None:
    keep = chance.choice([None, None, 0.8, 0.8, 0.02, 0.0, 1.0])
    if keep is None:
        return None
    return torch.rand(shape, generator=torch.Generator().manual_seed(chance.randrange(2**31))) < keep


def random_padded(chance: random.Random) -> Tokens:
    """Rows of a wider buffer, as the answers behind their prompts are: x[:, -A:]."""
    rows, width = chance.choice([1, 3, 16, 65]), chance.choice([*LENGTHS[:-4], chance.randrange(1, 3000)])
    prompt = chance.randrange(1, 40)
    values = logprobs(rows * (prompt + width), chance.choice(DTYPES), chance.randrange(2**31))
    mask = random_mask(chance, rows, prompt + width)
    return Tokens(values.view(rows, -1)[:, prompt:], None, None if mask is None else mask[:, prompt:])


def random_sizes(chance: random.Random, responses: int) -> list[int]:
    """Sizes of groups that come to so many responses."""
    found = []
    while responses:
        found.append(min(responses, chance.choice(GROUP_SIZES)))
        responses -= found[-1]
    return found


def random_outcomes(chance: random.Random, responses: int) -> tuple[Tensor, Tensor]:
    """Correctness, often the same throughout a group, and shaped rewards, [N] each."""
    generator = torch.Generator().manual_seed(chance.randrange(2**31))
    correct = torch.rand(responses, generator=generator) < chance.choice([0.0, 0.1, 0.5, 1.0])
    shaping = torch.rand(responses, generator=generator) < chance.choice([0.0, 0.2])
    return correct.double(), correct.double() - 0.5 * shaping.double()


def random_groups(chance: random.Random) -> Groups:
    sizes = [chance.choice(GROUP_SIZES) for _ in range(chance.choice([1, 2, 7, 40]))]
    n = sum(sizes)
    generator = torch.Generator().manual_seed(chance.randrange(2**31))
    mean = -3 * torch.rand(n, generator=generator, dtype=torch.float64) ** 3
    lengths = torch.randint(0, 5, (n,), generator=generator) * 100
    mean[lengths == 0] = torch.nan  # not to be read
    return Groups(mean, lengths, *random_outcomes(chance, n), offsets(sizes, chance.choice(OFFSETS)))


def random_rho(chance: random.Random, responses: int) -> Tensor:
    generator = torch.Generator().manual_seed(chance.randrange(2**31))
    return 10 ** (torch.rand(responses, generator=generator, dtype=torch.float64) * 6 - 3)


def to(arguments: tuple, kind: str) -> tuple:
    """The same arguments on a device. Slices keep their shift and their stride."""
    make = getattr(type(arguments), "_make", tuple)
    return make(None if tensor is None else _moved(tensor, kind) for tensor in arguments)


def _moved(tensor: Tensor, kind: str) -> Tensor:
    whole = tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0).to(kind)
    return whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


# ---- comparisons


def same_bits(a: Tensor, b: Tensor) -> bool:
    """On any devices; of NaNs only the places are compared."""
    a, b = a.cpu().contiguous(), b.cpu().contiguous()
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    integer = {8: torch.int64, 4: torch.int32, 2: torch.int16}[a.element_size()]
    both = a.isnan() & b.isnan()
    return bool(((a.view(integer) == b.view(integer)) | both).all())


def code_and_index(status: Tensor) -> int:
    """What a status word says without the value, which is any of those at fault."""
    return int(status) >> 32
