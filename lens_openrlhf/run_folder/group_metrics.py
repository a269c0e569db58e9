"""What a step's advantages say about its groups."""

from __future__ import annotations

import torch
from torch import Tensor

from ..advantages import GroupKind
from ..advantages.estimators import Batch, same_rewards


def _mean(values: Tensor, weights: Tensor) -> float | None:
    """Weighted mean, or None where nothing has weight. Values without weight may be NaN."""
    total = weights.sum().item()
    return (torch.where(weights > 0, values, 0.0) * weights).sum().item() / total if total > 0 else None


def group_metrics(batch: Batch, magnitude: Tensor, confidence: Tensor) -> dict[str, float | None]:
    """Metrics of one step by name; None where there is nothing to average.

    Args:
        batch: the step's N responses.
        magnitude: [N] float64, absolute advantage of each, the mean over its tokens where they differ.
        confidence: [N] float64; NaN for an empty response.
    """
    group, kinds = batch.group_of, batch.kinds
    kind = kinds[group]

    # GRPO gives no gradient where a group's rewards are all the same.
    rescued = (same_rewards(batch.rewards, batch.cu_groups)[group] & (magnitude > 0)).double()

    shown = (batch.lengths > 0).double()
    metrics: dict[str, float | None] = {
        f"lens/{name.lower()}_groups": (kinds == name_kind).double().mean().item()
        for name, name_kind in GroupKind.__members__.items()
    }
    metrics |= {
        f"lens/abs_advantage_{name.lower()}": _mean(magnitude, (kind == name_kind).double())
        for name, name_kind in GroupKind.__members__.items()
    }
    return metrics | {
        "lens/rescued_samples": rescued.mean().item(),
        "lens/rescued_tokens": _mean(rescued, batch.lengths.double()),
        "lens/confidence_right": _mean(confidence, batch.correctness * shown),
        "lens/confidence_wrong": _mean(confidence, (1 - batch.correctness) * shown),
        "lens/empty_responses": float((batch.lengths == 0).sum().item()),
    }
