"""A step's responses as an estimator gets them, and sums over its groups and responses. Needs torch alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..config import ROUNDING, GroupKind, LensConfig
from ..lazily import torch

if TYPE_CHECKING:
    from torch import Tensor

TOKEN_NEEDS = ("logprobs", "entropies", "self_certainty")
GRPO = LensConfig(scope="none")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The responses of one step in rollout order, those to one prompt side by side: N responses to Q prompts.

    Attributes:
        mean_logprob: [N] float64, mean log-probability of a response's action tokens, nats.
        lengths: [N] int64, its number of action tokens.
        correctness: [N] float64, the verifier's raw outcome in [0, 1].
        rewards: [N] float64, the reward after shaping.
        cu_groups: [Q+1] int64; prompt g's responses are `cu_groups[g]:cu_groups[g+1]`.
        prompts: [Q] int64, a number for each prompt, the same whenever it comes again; None where it is not known.
        step: number of the training step, from 1.
        logprobs, entropies, self_certainty: [T] float32, a number for each action token, packed; None unless the
            estimator's `needs` has the name. Nats: log pi of the token; the entropy of the distribution it was drawn
            from; the divergence of that from the uniform one, KL(uniform || pi).
        cu_seqlens: [N+1] int64; response i's tokens are `cu_seqlens[i]:cu_seqlens[i+1]`. None without those.
        extras: [N] float64 by name, what the side that sampled the responses knows of them.
    """

    mean_logprob: Tensor
    lengths: Tensor
    correctness: Tensor
    rewards: Tensor
    cu_groups: Tensor
    prompts: Tensor | None = None
    step: int = 1
    logprobs: Tensor | None = None
    entropies: Tensor | None = None
    self_certainty: Tensor | None = None
    cu_seqlens: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def group_of(self) -> Tensor:
        """[N] int64, the group of every response."""
        sizes = self.cu_groups.diff()
        return torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)

    @property
    def response_of(self) -> Tensor:
        """[T] int64, the response of every token."""
        lengths = self.of_tokens("cu_seqlens").diff()
        return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)

    def group_sum(self, values: Tensor) -> Tensor:
        """[N] to [Q], see :func:`segment_sum`; of values' dtype, and 0 for a group without responses."""
        return segment_sum(values, self.cu_groups.diff()).to(values.dtype)

    def group_mean(self, values: Tensor) -> Tensor:
        """[N] to [Q]."""
        return self.group_sum(values) / self.cu_groups.diff()

    def of_tokens(self, name: str) -> Tensor:
        """The field of that name, which only a batch with numbers of tokens has.

        Raises:
            ValueError: it is None.
        """
        values = getattr(self, name)
        if values is None:
            raise ValueError(f"the batch has no {name}: name what is read of the tokens in the estimator's `needs`")
        return values

    def extra(self, name: str, remedy: str) -> Tensor:
        """[N] float64, the extra of that name.

        Raises:
            ValueError: it is missing; the message says what to do.
        """
        if name not in self.extras:
            raise ValueError(f"the batch has no {name} of its responses: {remedy}")
        return self.extras[name]

    @property
    def kinds(self) -> Tensor:
        """[Q] int8, see GroupKind."""
        return group_kinds(self.correctness, self.cu_groups)

    def grpo(self, rewards: Tensor) -> Tensor:
        """[N] float64: `rewards` [N] normalised within their groups, (r - mean) / std; 0 where all are the same."""
        from ..ops import group_advantages

        return group_advantages(
            self.mean_logprob, self.lengths, self.correctness, self.cu_groups, GRPO, rewards=rewards
        ).advantage

    def token_mean(self, values: Tensor) -> Tensor:
        """[T] to [N] float64: the mean over a response's tokens, 0 for an empty one."""
        return segment_sum(values, self.of_tokens("cu_seqlens").diff()) / self.lengths.clamp(min=1)


def segment_sum(values: Tensor, sizes: Tensor) -> Tensor:
    """Sums of values that stand side by side, added one after the other, on every device alike.

    Of a column torch adds a segment in one thread, on CUDA as on the CPU, so that the bits depend on nothing but the
    segment's values. `index_add` and its like add on CUDA as the threads happen to come, and ranks would differ.

    Args:
        values: [T], any real dtype; added in float64.
        sizes: [N] int64, how many values each segment has, T in all.

    Returns:
        [N] float64, 0 for an empty segment.

    Raises:
        RuntimeError: sizes that are negative or not T in all.
    """
    column = values.double()[:, None]
    return torch.segment_reduce(column, "sum", lengths=sizes, unsafe=len(sizes) == 0)[:, 0]  # it cannot check none


def group_range(values: Tensor, cu_groups: Tensor) -> tuple[Tensor, Tensor]:
    """[Q] each, the least and the largest of values [N] in every group; inf and -inf for a group without responses."""
    sizes = cu_groups.diff()
    group = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
    low = values.new_full((len(sizes),), math.inf).scatter_reduce(0, group, values, "amin")
    return low, values.new_full((len(sizes),), -math.inf).scatter_reduce(0, group, values, "amax")


def group_kinds(correctness: Tensor, cu_groups: Tensor) -> Tensor:
    """[Q] int8, the GroupKind of every group by raw correctness [N]."""
    low, high = group_range(correctness, cu_groups)
    uniform = torch.where(1 - high <= ROUNDING, int(GroupKind.POSITIVE), int(GroupKind.NEGATIVE))
    return torch.where(high - low > ROUNDING, int(GroupKind.MIXED), uniform).to(torch.int8)


def same_rewards(rewards: Tensor, cu_groups: Tensor) -> Tensor:
    """[Q] bool, the groups whose rewards [N] differ by rounding at most, so that GRPO gives them 0."""
    low, high = group_range(rewards, cu_groups)
    return high - low <= ROUNDING * torch.maximum(high.abs(), low.abs()).clamp(min=1)


def tokens_of(responses: Tensor, lengths: Tensor) -> Tensor:
    """Where the tokens of some responses, one after the other, lie among those of all.

    Args:
        responses: [M] int64, which ones, in any order.
        lengths: [N] int64, tokens of every response.

    Returns:
        [T'] int64.
    """
    chosen = lengths[responses]
    shift = (lengths.cumsum(0) - lengths)[responses] - (chosen.cumsum(0) - chosen)
    return torch.arange(int(chosen.sum()), device=lengths.device) + shift.repeat_interleave(chosen)
