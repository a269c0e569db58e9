"""From responses in any order to an estimator's advantages in the same order. Needs torch alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import Field, dataclass, field
from typing import TYPE_CHECKING, Any

from ..advantages.estimators import SAMPLING, Batch, Estimator, EstimatorError, Result, find, made, run, tokens_of
from ..advantages.lazily import torch

if TYPE_CHECKING:
    from torch import Tensor


def options_outside(kind: type[Estimator]) -> tuple[Field, ...]:
    """The fields of its Config that have an effect where answers come from elsewhere: not those that say how answers
    are sampled, nor where OpenRLHF's numbers come from."""
    elsewhere = ("confidence_from", *SAMPLING[kind.sampling])
    return tuple(option for option in kind.options() if option.name not in elsewhere)


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


def make(
    kind: type[Estimator] | str,
    framework: str,
    has: Collection[str],
    options: Mapping[str, Any],
    keeps_state: bool = True,
) -> Estimator:
    """An estimator for a trainer that samples and learns in its own way.

    Args:
        kind: the class, or its name in the registry.
        framework: the trainer's name, for messages.
        has: numbers of every token that the trainer can give.
        options: values of the estimator's Config.
        keeps_state: whether the trainer's checkpoints hold the estimator's state.

    Raises:
        EstimatorError: an unknown name or option, a bad value, or what the trainer cannot do.
    """
    kind = find(kind) if isinstance(kind, str) else kind
    if missing := [*sorted(kind.needs - set(has)), *kind.extras]:
        raise EstimatorError(
            f"{kind.name}: needs {', '.join(missing)}, which {framework} does not hand on; use another estimator, or "
            "lens-openrlhf train"
        )
    if kind.sampling != "plain" or kind.policy_loss != "ppo":
        what = "samples answers" if kind.sampling != "plain" else "computes the loss"
        raise EstimatorError(f"{kind.name}: {what} in its own way, which {framework} does not; use lens-openrlhf train")
    known = [option.name for option in options_outside(kind)]
    for name in options:
        if name not in known:
            raise EstimatorError(f"{kind.name}: has no option {name}; known: {', '.join(known) or 'none'}")
    try:
        estimator = made(kind, options)
    except EstimatorError:
        raise
    except ValueError as error:
        raise EstimatorError(f"{kind.name}: {error}") from error
    if not keeps_state and estimator.remembers:
        raise EstimatorError(f"{kind.name}: remembers what {framework} would not save; use lens-openrlhf train")
    return estimator


def check_answers(estimator: Estimator, answers: int, option: str) -> None:
    """Raises EstimatorError where so many answers to a prompt, which the trainer's `option` says, teach nothing."""
    if answers < estimator.least_answers:
        raise EstimatorError(
            f"{option}={answers}: so few answers to a prompt teach {estimator.name} nothing; use at least "
            f"{estimator.least_answers}"
        )


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
    from ..advantages import segment_mean

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
