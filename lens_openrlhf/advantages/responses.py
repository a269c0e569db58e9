"""From responses in any order to an estimator's advantages in the same order, on their tokens. Needs torch alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from . import segment_mean
from .estimators import Batch, Estimator, Result, run, tokens_of


@dataclass(frozen=True, kw_only=True)
class Responses:
    """N responses in any order.

    Attributes:
        group: [N] int64, equal where the prompt is the same.
        position: [N] int64, the place of each in the rollout, where those of a group stand side by side; None where
            there is none but that of its group.
        lengths: [N] int64, action tokens.
        correctness, rewards: [N] the verifier's outcome in [0, 1], and the reward after shaping.
        tokens: [T] by name ("logprobs", "entropies", "self_certainty"), of each action token, response after response.
        mean_logprob: [N] mean log-probability of the action tokens, nats; computed from the tokens where it is None.
        prompts: [N] int64, the same number whenever a prompt comes again; None where that is not known.
        step: number of the training step, from 1.
        extras: [N] by name, what the side that sampled knows of the responses.
    """

    group: Tensor
    position: Tensor | None = None
    lengths: Tensor
    correctness: Tensor
    rewards: Tensor
    tokens: Mapping[str, Tensor]
    mean_logprob: Tensor | None = None
    prompts: Tensor | None = None
    step: int = 1
    extras: Mapping[str, Tensor] = field(default_factory=dict)


class Ordered(NamedTuple):
    """Responses as a batch, and where its responses and tokens stood before."""

    batch: Batch
    responses: Tensor  # [N] int64
    tokens: Tensor | None  # [T] int64; None without tokens in the batch

    def back(self, values: Tensor, per_token: bool) -> Tensor:
        """Values [N] or [T] of the batch, in the order before."""
        found = torch.empty_like(values)
        found[self.tokens if per_token else self.responses] = values
        return found


def batch_of(responses: Responses, estimator: Estimator) -> Ordered:
    """The responses as a batch for the estimator: by position, or group after group as they come.

    Raises:
        ValueError: log-probabilities that are none, or a position that comes twice.
    """
    key = responses.group if responses.position is None else responses.position
    key, order = key.sort(stable=True)
    if responses.position is not None:
        repeated = (key.diff() == 0).nonzero()
        if len(repeated):
            raise ValueError(
                f"rollout sample {int(key[repeated[0]])} was gathered twice: copies of a rank (ring attention, "
                "tensor parallelism) must not take part"
            )
    cu_groups = offsets(torch.unique_consecutive(responses.group[order], return_counts=True)[1])
    lengths, mean = responses.lengths[order], responses.mean_logprob
    if mean is None:
        mean = mean_logprobs(responses.tokens["logprobs"], responses.lengths)
    of_tokens: dict[str, Tensor] = {}
    token_order = None
    if estimator.needs:
        token_order = tokens_of(order, responses.lengths)
        of_tokens = {n: v[token_order].float() for n, v in responses.tokens.items() if n in estimator.needs}
        of_tokens["cu_seqlens"] = offsets(lengths)
    batch = Batch(
        mean_logprob=mean[order].double(),
        lengths=lengths,
        correctness=responses.correctness[order].double(),
        rewards=responses.rewards[order].double(),
        cu_groups=cu_groups,
        prompts=None if responses.prompts is None else responses.prompts[order[cu_groups[:-1]]],
        step=responses.step,
        extras={name: values[order].double() for name, values in responses.extras.items()},
        **of_tokens,
    )
    return Ordered(batch, order, token_order)


def estimate(estimator: Estimator, responses: Responses) -> Result:
    """The estimator's advantages in the order of `responses`, [N], or [T] where they are per_token; and its metrics.

    Raises:
        EstimatorError: see :func:`lens_openrlhf.advantages.estimators.run`. Its responses and tokens are counted in the
            order of the batch.
        ValueError: see :func:`batch_of`.
    """
    ordered = batch_of(responses, estimator)
    result = run(estimator, ordered.batch)
    advantage = ordered.back(result.advantage, result.per_token)
    return Result(advantage=advantage, per_token=result.per_token, metrics=result.metrics)


def offsets(lengths: Tensor) -> Tensor:
    """[N] to [N+1], where each begins and the last ends."""
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0))


def mean_logprobs(logprobs: Tensor, lengths: Tensor) -> Tensor:
    """[T] of packed action tokens to the mean of each response, [N] float64.

    Raises:
        ValueError: log-probabilities that are none.
    """
    return segment_mean(logprobs, offsets(lengths)).mean_logprob


def packed(values: Tensor, mask: Tensor) -> Tensor:
    """[N, A] padded to [T] float32, the values at action tokens."""
    return values[mask.bool()].float()


def by_response(values: Tensor, per_token: bool, lengths: Sequence[int]) -> tuple[Tensor, ...]:
    """Values [N] or [T] of responses of these lengths, to what each response has: [], or [length]."""
    return values.split(list(lengths)) if per_token else values.unbind()


def on_tokens(values: Tensor, per_token: bool, mask: Tensor) -> Tensor:
    """Values to action tokens, float32 of mask's shape on its device, 0 elsewhere.

    Args:
        values: [T] if per_token, a value for each action token; otherwise one a response, [N], or [] for one alone.
        mask: [N, A], or [A] of one response alone, true or 1 at action tokens.
    """
    mask, values = mask.bool(), values.float().to(mask.device)
    if per_token:
        return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, values)
    return torch.where(mask, values[..., None], 0.0)
