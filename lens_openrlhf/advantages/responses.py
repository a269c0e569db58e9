"""From responses in any order to an estimator's advantages in the same order. Needs torch alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .estimators import Batch, Estimator, Result, run, tokens_of
from .lazily import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Responses:
    """N responses in any order.

    Attributes:
        group: [N] int64, equal where the prompt is the same.
        lengths: [N] int64, action tokens.
        correctness, rewards: [N] the verifier's outcome in [0, 1], and the reward after shaping.
        tokens: [T] by name ("logprobs", "entropies", "self_certainty"), of each action token, response after response.
        mean_logprob: [N] mean log-probability of the action tokens, nats; computed from the tokens where it is None.
        prompts: [N] int64, the same number whenever a prompt comes again; None where that is not known.
        step: number of the training step, from 1.
        extras: [N] by name, what the side that sampled knows of the responses.
    """

    group: Tensor
    lengths: Tensor
    correctness: Tensor
    rewards: Tensor
    tokens: Mapping[str, Tensor]
    mean_logprob: Tensor | None = None
    prompts: Tensor | None = None
    step: int = 1
    extras: Mapping[str, Tensor] = field(default_factory=dict)


def packed(values: Tensor, mask: Tensor) -> Tensor:
    """[N, A] padded to [T] float32, the values at action tokens."""
    return values[mask.bool()].float()


def padded(result: Result, mask: Tensor) -> Tensor:
    """Advantages [N] or [T] to [N, A] float32, 0 where mask [N, A] is."""
    mask, advantage = mask.bool(), result.advantage.float()
    if not result.per_token:
        return torch.where(mask, advantage[:, None], 0.0)
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, advantage)


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def estimate(estimator: Estimator, responses: Responses) -> Result:
    """The estimator's advantages in the order of `responses`, [N], or [T] where they are per_token; and its metrics.

    Raises:
        EstimatorError: see :func:`lens_openrlhf.advantages.estimators.run`. Its responses and tokens are counted with
            those to one prompt side by side.
        ValueError: log-probabilities that are none.
    """
    from . import segment_mean

    lengths = responses.lengths
    mean = responses.mean_logprob
    if mean is None:
        mean = segment_mean(responses.tokens["logprobs"], _offsets(lengths)).mean_logprob
    order = torch.argsort(responses.group, stable=True)
    sizes = torch.unique(responses.group, return_counts=True)[1]
    cu_groups = _offsets(sizes)
    of_batch: dict[str, Tensor] = {}
    tokens = None
    if estimator.needs:
        of_batch["cu_seqlens"] = _offsets(lengths[order])
        tokens = tokens_of(order, lengths)
        of_batch |= {
            name: responses.tokens[name][tokens].float() for name in estimator.needs if name in responses.tokens
        }
    batch = Batch(
        mean_logprob=mean[order].double(),
        lengths=lengths[order],
        correctness=responses.correctness[order].double(),
        rewards=responses.rewards[order].double(),
        cu_groups=cu_groups,
        prompts=None if responses.prompts is None else responses.prompts[order][cu_groups[:-1]],
        step=responses.step,
        extras={name: values[order].double() for name, values in responses.extras.items()},
        **of_batch,
    )
    result = run(estimator, batch)
    advantage = torch.empty_like(result.advantage)
    advantage[tokens if result.per_token else order] = result.advantage
    return Result(advantage=advantage, per_token=result.per_token, metrics=result.metrics)
