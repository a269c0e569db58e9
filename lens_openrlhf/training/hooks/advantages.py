"""From a step's gathered samples to the advantages on each, and what is recorded of them. Needs torch alone."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

from torch import Tensor

from ...advantages import GroupKind, estimators
from ...advantages.across_ranks import Gathered
from ...advantages.estimators import Batch, Estimator
from ...advantages.responses import batch_of, by_response, on_tokens
from ...run_folder.group_metrics import group_metrics
from .columns import Needs, responses_of
from .tags import TAGS

if TYPE_CHECKING:
    from openrlhf.trainer.ppo_utils.experience import Experience


@dataclass(frozen=True)
class Advantages:
    """A step's advantages, clipped, in the order they were gathered in: [N], or [T] in that of the tokens. And the
    step's metrics; and what samples/ keeps of every answer, on rank 0, which is asked for it."""

    values: Tensor
    per_token: bool
    metrics: dict[str, float | None]
    columns: dict[str, list] | None


def advantage_columns(index: Tensor, batch: Batch, advantage: Tensor, confidence: Tensor) -> dict[str, list]:
    """What only the actor knows of the step's N answers, by rollout position: reward, confidence, advantage, kind.

    Args:
        index: [N] rollout positions.
        batch: the answers.
        advantage: [N] as the update uses it, the mean over an answer's tokens where they differ.
        confidence: [N].
    """
    return {
        "index": index.tolist(),
        "reward": batch.rewards.tolist(),
        "confidence": [None if value != value else value for value in confidence.tolist()],
        "advantage": advantage.tolist(),
        "kind": [GroupKind(kind).name.lower() for kind in batch.kinds[batch.group_of].tolist()],
    }


def compute(
    gathered: Gathered,
    estimator: Estimator,
    needs: Needs,
    samples_per_prompt: int,
    step: int,
    clip_range: tuple[float, float],
) -> Advantages:
    """The estimator's advantages of the gathered samples.

    Raises:
        ValueError: samples that make no batch, or what :func:`estimators.run` raises.
    """
    ordered = batch_of(responses_of(gathered, needs, samples_per_prompt, step), estimator)
    batch, result = ordered.batch, estimators.run(estimator, ordered.batch)
    assert result.confidence is not None  # run has filled it in
    clipped = result.advantage.clamp(*clip_range)
    if result.per_token:
        response, magnitude = batch.token_mean(clipped), batch.token_mean(clipped.abs())
    else:
        response, magnitude = clipped, clipped.abs()
    metrics = group_metrics(batch, magnitude, result.confidence) | dict(result.metrics)
    columns = None
    if gathered.rank == 0:
        position = gathered.columns["position"][ordered.responses]
        columns = advantage_columns(position, batch, response, result.confidence)
    return Advantages(ordered.back(clipped, result.per_token), result.per_token, metrics, columns)


def set_advantages(items: list[Experience], values: Tensor, per_token: bool) -> None:
    """Replace OpenRLHF's placeholder advantages by `values` [len(items)] on every action token, or [T], one for each.

    Tensors are replaced, never written to: those that come through Ray can be read-only.
    """
    values = values.float().cpu()
    lengths = [int(item.action_mask.bool().sum()) for item in items] if per_token else []
    for item, part in zip(items, by_response(values, per_token, lengths), strict=True):
        mean = part if not per_token else part.mean() if len(part) else values.new_zeros(())
        item.advantages = on_tokens(part, per_token, item.action_mask)
        item.returns, item.values = item.advantages, None
        item.info = {k: v for k, v in item.info.items() if not k.startswith(TAGS)} | {"return": mean}


def dropped_samples(args: SimpleNamespace, counts: list[int]) -> int:
    """How many samples OpenRLHF will leave out of the update: tails that fill no batch."""
    if not args.train.dynamic_batch_enable:
        return sum(count % args.train.micro_batch_size for count in counts)
    local_batch = args.train.batch_size // len(counts)
    per_step = args.rollout.batch_size * args.rollout.n_samples_per_prompt // args.train.batch_size
    steps = min(per_step, min(counts) // local_batch)
    return sum(counts) - steps * local_batch * len(counts)
