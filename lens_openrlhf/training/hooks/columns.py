"""From a rank's samples to the columns that are gathered of them, and from those of all ranks to the step's responses.

Needs torch alone: no OpenRLHF, no Ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...advantages import segment_mean
from ...advantages.across_ranks import Gathered
from ...advantages.estimators import Estimator
from ...advantages.responses import Responses, offsets
from .tags import CARRIERS, EXTRA, PROMPT, ROLLOUT_INDEX

if TYPE_CHECKING:
    from openrlhf.trainer.ppo_utils.experience import Experience

# The columns of a sample, whole numbers and real ones; those that an estimator wants besides follow, as EXTRA + name.
WHOLE, REAL = ("position", "prompts", "lengths"), ("mean_logprob", "correctness", "rewards")


@dataclass(frozen=True)
class Needs:
    """What is taken from the samples for an estimator."""

    logprobs: str = "action_log_probs"  # field of Experience behind the confidence
    option: str = ""  # that chose it
    tokens: tuple[str, ...] = ()  # numbers of every token, see Estimator.needs
    extras: tuple[str, ...] = ()


def needs_of(estimator: Estimator) -> Needs:
    """What the samples must bring for it."""
    source = getattr(estimator.config, "confidence_from", "actor")
    return Needs(
        logprobs="action_log_probs" if source == "actor" else "rollout_log_probs",
        option=f"--algo.{estimator.name}.confidence_from {source}",
        tokens=tuple(name for name in ("logprobs", "entropies", "self_certainty") if name in estimator.needs),
        extras=estimator.extras,
    )


def _field(items: list[Experience], name: str, wanted_by: str) -> list[Tensor]:
    values = [getattr(item, name) for item in items]
    if any(value is None for value in values):
        raise ValueError(f"{wanted_by}: a sample has no {name}")
    return values


def pack(
    items: list[Experience], needs: Needs, device: torch.device | str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What is gathered of samples: columns [N], int64 and float64, and float32 [T] of their action tokens, by name.

    Raises:
        ValueError: a sample without score, rollout log-probabilities, extras or statistics of its tokens, or
            log-probabilities that are none.
    """
    if not items:
        whole = {name: torch.empty(0, dtype=torch.int64, device=device) for name in WHOLE}
        real = (*REAL, *(EXTRA + name for name in needs.extras))
        whole |= {name: torch.empty(0, dtype=torch.float64, device=device) for name in real}
        return whole, {name: torch.empty(0, device=device) for name in needs.tokens}
    if any(item.scores is None for item in items):
        raise ValueError("a sample has no score: the estimator needs the raw correctness of every answer")
    lengths = torch.tensor([len(item.action_mask) for item in items])
    logprobs = torch.cat(_field(items, needs.logprobs, needs.option)).to(device)
    mask = torch.cat([item.action_mask for item in items]).bool().to(device)
    mean, action_tokens = segment_mean(logprobs, offsets(lengths).to(device), mask)
    for name in needs.extras:
        if any(EXTRA + name not in item.info for item in items):
            raise ValueError(f"a sample has no {name}, which the estimator needs of the side that sampled it")
    scalars = torch.tensor(
        [
            [float(i.info[ROLLOUT_INDEX]), float(i.info[PROMPT]), float(i.scores), float(i.rewards)]
            + [float(i.info[EXTRA + name]) for name in needs.extras]
            for i in items
        ],
        dtype=torch.float64,
    ).to(device)
    position, prompts, correctness, rewards, *extras = scalars.unbind(1)
    values = (position.long(), prompts.long(), action_tokens, mean, correctness, rewards)
    columns = dict(zip((*WHOLE, *REAL), values, strict=True))
    columns |= {EXTRA + name: extra for name, extra in zip(needs.extras, extras, strict=True)}
    numbers = {
        name: logprobs if name == "logprobs" else torch.cat(_field(items, CARRIERS[name], name)).to(device)
        for name in needs.tokens
    }
    return columns, {name: values.float()[mask] for name, values in numbers.items()}


def responses_of(gathered: Gathered, needs: Needs, samples_per_prompt: int, step: int) -> Responses:
    """What :func:`pack` made on all ranks, as the responses of a step.

    Raises:
        ValueError: there are none.
    """
    columns = gathered.columns
    if not len(columns["position"]):
        raise ValueError("the replay buffer is empty on every rank")
    return Responses(
        group=columns["position"] // samples_per_prompt,
        tokens=gathered.tokens,
        step=step,
        extras={name: columns[EXTRA + name] for name in needs.extras},
        **{name: columns[name] for name in (*WHOLE, *REAL)},
    )
