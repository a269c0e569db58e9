"""Log-probabilities to measure with, and what a method may make of their lengths beforehand."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 16  # responses


@dataclass
class Batch:
    logprobs: Tensor  # [T] packed
    cu_seqlens: Tensor  # [N+1]
    correctness: Tensor  # [N] float64
    cu_groups: Tensor  # [Q+1]
    padded: Tensor | None  # [N, longest], 0 in the padding
    mask: Tensor | None  # [N, longest]

    # What peers may have beforehand; made when it is first asked for, which is not in a time.

    @functools.cached_property
    def all_tokens(self) -> Tensor:
        return torch.ones(len(self.logprobs), dtype=torch.bool, device=self.logprobs.device)

    @functools.cached_property
    def lengths(self) -> Tensor:
        return self.cu_seqlens.diff()

    @functools.cached_property
    def row(self) -> Tensor:
        """[T] response of each token."""
        return torch.repeat_interleave(torch.arange(len(self.lengths), device=self.lengths.device), self.lengths)

    @functools.cached_property
    def positions(self) -> Tensor:
        """[T] int64, 0 to T - 1."""
        return torch.arange(len(self.logprobs), device=self.logprobs.device)

    @functools.cached_property
    def selection(self) -> Tensor:
        """[N, T] float32 in CSR layout: 1 where the token is the response's."""
        ones = torch.ones(len(self.logprobs), device=self.logprobs.device)
        kind = torch.int32 if len(ones) < 2**31 else torch.int64
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a beta, and of checks that are left out
            return torch.sparse_csr_tensor(self.cu_seqlens.to(kind), self.positions.to(kind), ones)

    @functools.cached_property
    def weights(self) -> Tensor:
        """[N, longest] of the log-probabilities' dtype: the mask as numbers."""
        return self.mask.to(self.padded.dtype)

    @functools.cached_property
    def padding(self) -> Tensor:
        """[N, longest] true where nothing is."""
        return ~self.mask

    @functools.cached_property
    def column(self) -> Tensor:
        """[longest] ones of the log-probabilities' dtype."""
        return self.padded.new_ones(self.padded.shape[1])

    @property
    def bytes(self) -> int:
        """What any method has to read at least: the log-probabilities, once."""
        return self.logprobs.numel() * self.logprobs.element_size()


def make_batch(responses: int, mean_tokens: int, dtype: torch.dtype, device: str, padded: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(mean_tokens // 2, mean_tokens * 3 // 2 + 1, (responses,), generator=generator)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    logprobs = -2 * torch.rand(int(cu_seqlens[-1]), generator=generator)
    mask = filled = None
    if padded:
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        filled = torch.zeros(mask.shape)
        filled[mask] = logprobs
        filled, mask = filled.to(dtype).to(device), mask.to(device)
    # Half of the groups have no right answer, as early in training.
    hard = torch.rand(responses // GROUP + 1, generator=generator) < 0.5
    correct = torch.rand(responses, generator=generator) < 0.3
    correctness = (correct & ~hard.repeat_interleave(GROUP)[:responses]).double()
    cu_groups = torch.arange(0, responses + 1, GROUP)
    if cu_groups[-1] != responses:
        cu_groups = torch.cat([cu_groups, torch.tensor([responses])])
    packed, offsets, outcome, groups = (
        tensor.to(device) for tensor in (logprobs.to(dtype), cu_seqlens, correctness, cu_groups)
    )
    return Batch(packed, offsets, outcome, groups, filled, mask)
