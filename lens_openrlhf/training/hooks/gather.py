"""From a rank's samples to the batch of the whole step: one row a response, gathered from all ranks, in rollout order.

Needs torch alone, as `hook` does: no OpenRLHF, no Ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...advantages import estimators, segment_mean
from ...advantages.across_ranks import Gathered
from ...advantages.estimators import Batch, Estimator
from .tags import CARRIERS, EXTRA, PROMPT, ROLLOUT_INDEX

if TYPE_CHECKING:
    from openrlhf.trainer.ppo_utils.experience import Experience

# Columns of a gathered row, float64; an estimator's extras follow.
INDEX, PROMPT_ID, MEAN_LOGPROB, LENGTH, CORRECTNESS, REWARD = range(6)


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


def pack(items: list[Experience], needs: Needs, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """One float64 row a sample, and [T, K] float32 for its action tokens.

    Raises:
        ValueError: a sample without score, rollout log-probabilities, extras or statistics of its tokens, or
            log-probabilities that are none.
    """
    width = REWARD + 1 + len(needs.extras)
    if not items:
        return (
            torch.empty(0, width, dtype=torch.float64, device=device),
            torch.empty(0, len(needs.tokens), device=device),
        )
    if any(item.scores is None for item in items):
        raise ValueError("a sample has no score: the estimator needs the raw correctness of every answer")
    lengths = torch.tensor([0] + [len(item.action_mask) for item in items], dtype=torch.int64)
    logprobs = torch.cat(_field(items, needs.logprobs, needs.option)).to(device)
    mask = torch.cat([item.action_mask for item in items]).bool().to(device)
    mean, action_tokens = segment_mean(logprobs, lengths.cumsum(0).to(device), mask)
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
    index, prompt, *others = scalars.unbind(1)
    rows = torch.stack([index, prompt, mean, action_tokens.double(), *others], dim=1)
    numbers = [
        logprobs if name == "logprobs" else torch.cat(_field(items, CARRIERS[name], name)).to(device)
        for name in needs.tokens
    ]
    tokens = torch.stack([n.float()[mask] for n in numbers], dim=1) if numbers else rows.new_empty(0, 0).float()
    return rows, tokens


def batch_of(gathered: Gathered, needs: Needs, samples_per_prompt: int, step: int) -> tuple[Batch, Tensor, Tensor]:
    """The gathered rows as a batch in rollout order, that order [N], and the order of the tokens [T].

    Raises:
        ValueError: no rows, or a rollout sample that came twice.
    """
    rows = gathered.rows
    if len(rows) == 0:
        raise ValueError("the replay buffer is empty on every rank")
    order = rows[:, INDEX].argsort(stable=True)
    ordered = rows[order]
    index = ordered[:, INDEX].long()
    repeated = (index.diff() == 0).nonzero()
    if len(repeated):
        raise ValueError(
            f"rollout sample {int(index[repeated[0]])} was gathered twice: copies of a rank (ring attention, tensor "
            "parallelism) must not take part"
        )
    prompt, sizes = torch.unique_consecutive(index // samples_per_prompt, return_counts=True)
    cu_groups = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    lengths = ordered[:, LENGTH].long()
    tokens, token_order = {}, torch.empty(0, dtype=torch.int64, device=rows.device)
    if needs.tokens:
        token_order = estimators.tokens_of(order, rows[:, LENGTH].long())
        numbers = gathered.tokens[token_order]
        tokens = {name: numbers[:, i].contiguous() for i, name in enumerate(needs.tokens)}
        tokens["cu_seqlens"] = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    batch = Batch(
        mean_logprob=ordered[:, MEAN_LOGPROB].contiguous(),
        lengths=lengths,
        correctness=ordered[:, CORRECTNESS].contiguous(),
        rewards=ordered[:, REWARD].contiguous(),
        cu_groups=cu_groups,
        prompts=ordered[cu_groups[:-1], PROMPT_ID].long(),
        step=step,
        extras={name: ordered[:, REWARD + 1 + i].contiguous() for i, name in enumerate(needs.extras)},
        **tokens,
    )
    return batch, order, token_order
