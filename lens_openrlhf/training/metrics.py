"""What a step's advantages say about its groups."""

from __future__ import annotations

import torch
from torch import Tensor

from ..advantages import GroupAdvantages, GroupKind


def _mean(values: Tensor, weights: Tensor) -> float | None:
    """Weighted mean, or None where nothing has weight. Values without weight may be NaN."""
    total = weights.sum().item()
    return (torch.where(weights > 0, values, 0.0) * weights).sum().item() / total if total > 0 else None


def group_metrics(
    result: GroupAdvantages, lengths: Tensor, correctness: Tensor, rewards: Tensor, cu_groups: Tensor
) -> dict[str, float | None]:
    """Metrics of one step by name; None where there is nothing to average.

    Args:
        result: advantages of the step's N responses in Q groups.
        lengths: [N] action tokens.
        correctness, rewards: [N] float64, raw outcome and shaped reward.
        cu_groups: [Q+1] group offsets.
    """
    sizes = cu_groups.diff()
    group = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
    kind = result.group_kind[group]
    magnitude = result.advantage.abs()

    # GRPO gives no gradient where a group's rewards are all the same.
    low = torch.full_like(result.difficulty, torch.inf).scatter_reduce(0, group, rewards, "amin")
    high = torch.full_like(result.difficulty, -torch.inf).scatter_reduce(0, group, rewards, "amax")
    rescued = ((low == high)[group] & (magnitude > 0)).double()

    shown = (lengths > 0).double()
    metrics = {
        f"lens/{name.lower()}_groups": (result.group_kind == name_kind).double().mean().item()
        for name, name_kind in GroupKind.__members__.items()
    }
    metrics |= {
        f"lens/abs_advantage_{name.lower()}": _mean(magnitude, (kind == name_kind).double())
        for name, name_kind in GroupKind.__members__.items()
    }
    return metrics | {
        "lens/rescued_samples": rescued.mean().item(),
        "lens/rescued_tokens": _mean(rescued, lengths.double()),
        "lens/confidence_right": _mean(result.confidence, correctness * shown),
        "lens/confidence_wrong": _mean(result.confidence, (1 - correctness) * shown),
        # With preference "policy" it is infinite where nothing is right.
        "lens/difficulty": _mean(result.difficulty, result.difficulty.isfinite().double()),
        "lens/empty_responses": float((lengths == 0).sum().item()),
    }
