"""Hypothesis strategies for ragged batches: packed tokens, and groups of responses."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OFFSET_DTYPES = (torch.int32, torch.int64)

# Probabilities that a policy gives to whole responses, per token: e^-6 to 1.
ordinary_logprobs = st.floats(-6, 0)
# A sure token, rounding on either side of 0, a token hardly ever sampled, an impossible one.
EXTREME_LOGPROBS = (0.0, -1e-30, 1e-30, 9e-4, -1e4, -math.inf)
logprobs = st.one_of(ordinary_logprobs, st.sampled_from(EXTREME_LOGPROBS))
ordinary_preferences = st.floats(1e-3, 1e3)
# Multiples of 1/1024 of at most 23 bits: sums and differences of a few are exact in float64.
exact_logprobs = st.one_of(st.integers(-8 * 1024, 0), st.integers(-8192 * 1024, 0)).map(lambda k: k / 1024)

FRACTIONS = (0.0, 0.25, 0.3, 0.5, 0.9, 1.0)
# One outcome each, but for rounding.
ROUNDED = ((0.0, 2.0**-55), (0.3, 0.1 + 0.2), (1.0, 1 - 2.0**-53))
group_sizes = st.one_of(st.integers(1, 6), st.integers(1, 40))
configs = st.fixed_dictionaries(
    {
        "scope": st.sampled_from(["both", "mixed", "negative", "none"]),
        "alpha": st.sampled_from([0.25, 0.0, 1, 3.0]),
        "confidence": st.sampled_from(["geometric", "sequence"]),
        "difficulty": st.sampled_from(["importance", "max"]),
    }
)


def offsets(sizes: list[int], dtype: torch.dtype = torch.int64) -> Tensor:
    """Where each segment begins, and where the last one ends."""
    return torch.tensor([0, *sizes]).cumsum(0).to(dtype)


class Groups(NamedTuple):
    """Arguments of group_advantages, without the config."""

    mean_logprob: Tensor
    lengths: Tensor
    correctness: Tensor
    cu_groups: Tensor
    rewards: Tensor | None

    def advantages(self, implementation, config, preference=None):
        return implementation.group_advantages(*self[:4], config, rewards=self.rewards, preference=preference)

    def spans(self) -> list[slice]:
        bounds = self.cu_groups.tolist()
        return [slice(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]

    def select(self, order: Tensor | slice, sizes: list[int]) -> Groups:
        """The responses `order`, in groups of `sizes`."""
        rewards = None if self.rewards is None else self.rewards[order]
        responses = (self.mean_logprob[order], self.lengths[order], self.correctness[order])
        return Groups(*responses, offsets(sizes), rewards)


@st.composite
def group_outcomes(draw, size: int, kinds: tuple[str, ...]) -> list[float]:
    """Correctness of one group; a kind that needs two responses gives way to "negative" in a group of one."""
    kind = draw(st.sampled_from(kinds))
    if kind == "mixed" and size > 1:
        right = draw(st.integers(1, size - 1))
        return draw(st.permutations([1.0] * right + [0.0] * (size - right)))
    if kind == "fractions":
        return draw(st.lists(st.sampled_from(FRACTIONS), min_size=size, max_size=size))
    if kind == "rounded":
        return draw(st.lists(st.sampled_from(draw(st.sampled_from(ROUNDED))), min_size=size, max_size=size))
    value = {"positive": 1.0, "one fraction": 0.3}.get(kind, 0.0)
    return [value] * size


@st.composite
def group_means(draw, size: int, logprobs: st.SearchStrategy[float]) -> list[float]:
    """Any means, or equal ones: ties, and groups in which every response is impossible."""
    if draw(st.integers(0, 4)) == 0:
        return [draw(logprobs)] * size
    return draw(st.lists(logprobs, min_size=size, max_size=size))


ALL_KINDS = ("negative", "positive", "mixed", "one fraction", "fractions")
AND_ROUNDED = (*ALL_KINDS, "rounded")


@st.composite
def group_batches(
    draw,
    kinds: tuple[str, ...] = ALL_KINDS,
    logprobs: st.SearchStrategy[float] = logprobs,
    empty: bool = True,
    shaped: bool = True,
    max_groups: int = 3,
) -> Groups:
    sizes = draw(st.lists(group_sizes, min_size=1, max_size=max_groups))
    n = sum(sizes)
    correctness = [c for size in sizes for c in draw(group_outcomes(size, kinds))]
    means = [x for size in sizes for x in draw(group_means(size, logprobs))]
    some_length = st.sampled_from([1, 2, 7, 100, 100_000])
    lengths = draw(st.lists(some_length, min_size=n, max_size=n))
    if empty:
        for i in draw(st.lists(st.integers(0, n - 1), max_size=n)):
            lengths[i] = 0
            means[i] = draw(st.sampled_from([math.nan, math.inf, 5.0, -1.0]))  # not to be read
    rewards = None
    if shaped and draw(st.booleans()):
        # Over-long and format penalties and a bonus, on top of the outcome.
        extra = draw(st.lists(st.sampled_from([0.0, -0.5, -1.5, 0.125]), min_size=n, max_size=n))
        rewards = torch.tensor([c + x for c, x in zip(correctness, extra, strict=True)], dtype=torch.float64)
    return Groups(
        torch.tensor(means, dtype=torch.float64),
        torch.tensor(lengths),
        torch.tensor(correctness, dtype=torch.float64),
        offsets(sizes, draw(st.sampled_from(OFFSET_DTYPES))),
        rewards,
    )


@st.composite
def preferred(draw, tensors: st.SearchStrategy[float] = ordinary_preferences, **kinds):
    """Groups without shaping, and what prefers some of their answers: a configuration, or a tensor beside it."""
    groups = draw(group_batches(shaped=False, **kinds))
    switches = draw(
        st.sampled_from(
            [{}, {"preference": "policy"}]
            + [{"preference": "length", "gamma": gamma} for gamma in (0.0, 0.5, 1.7, 1e300)]
        )
    )
    rho = None
    if not switches:
        size = len(groups.mean_logprob)
        rho = torch.tensor(draw(st.lists(tensors, min_size=size, max_size=size)), dtype=torch.float64)
    return groups, switches, rho


class Tokens(NamedTuple):
    """Arguments of segment_mean."""

    logprobs: Tensor
    cu_seqlens: Tensor
    mask: Tensor | None


def packed_tokens(seed: int, lengths: list[int], dtype: torch.dtype, extreme: float = 0.0) -> Tensor:
    """Log-probabilities of responses, a share `extreme` of them taken from EXTREME_LOGPROBS."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    values = -3 * torch.rand(total, generator=generator, dtype=torch.float64) ** 3
    palette = torch.tensor(EXTREME_LOGPROBS, dtype=torch.float64)
    chosen = palette[torch.randint(len(palette), (total,), generator=generator)]
    return torch.where(torch.rand(total, generator=generator) < extreme, chosen, values).to(dtype)


@st.composite
def token_batches(draw, count: int | None = None) -> Tokens:
    """Tokens of `count` responses, or of any number."""
    count = draw(st.integers(0, 12)) if count is None else count
    # 32 and 4096 are where the compiled sum's lanes and chunks end.
    length = st.one_of(st.integers(0, 70), st.sampled_from([0, 1, 31, 32, 33, 4095, 4096, 4097]))
    lengths = draw(st.lists(length, min_size=count, max_size=count))
    seed = draw(st.integers(0, 2**32 - 1))
    extreme = draw(st.sampled_from([0.0, 0.0, 0.01, 0.5]))
    values = packed_tokens(seed, lengths, draw(st.sampled_from(DTYPES)), extreme)
    keep = draw(st.sampled_from([None, 0.0, 0.5, 0.9]))
    mask = None
    if keep is not None:
        mask = torch.rand(len(values), generator=torch.Generator().manual_seed(seed + 1)) < keep
        mask = mask.to(draw(st.sampled_from([torch.bool, torch.uint8, torch.int64])))
    return Tokens(values, offsets(lengths, draw(st.sampled_from(OFFSET_DTYPES))), mask)


class Batch(NamedTuple):
    """Arguments of lens_advantages, without the config."""

    tokens: Tokens
    correctness: Tensor
    cu_groups: Tensor

    def advantages(self, implementation, config):
        logprobs, cu_seqlens, mask = self.tokens
        return implementation.lens_advantages(logprobs, cu_seqlens, self.correctness, self.cu_groups, config, mask=mask)


@st.composite
def batches(draw) -> Batch:
    sizes = draw(st.lists(st.integers(1, 8), min_size=1, max_size=3))
    tokens = draw(token_batches(sum(sizes)))
    correctness = [c for size in sizes for c in draw(group_outcomes(size, ALL_KINDS))]
    return Batch(tokens, torch.tensor(correctness), offsets(sizes, draw(st.sampled_from(OFFSET_DTYPES))))
