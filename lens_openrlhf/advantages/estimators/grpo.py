"""GRPO (Shao et al. 2024), with the machinery of LENS: the baseline of every comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Estimator
from .batch import Batch

if TYPE_CHECKING:
    from torch import Tensor


class Grpo(Estimator):
    """(r - mean) / std within each group; 0 where all rewards of a group are the same."""

    name = "grpo"
    paper = "Shao et al. 2024"
    learns_from_negative_groups = False

    def advantages(self, batch: Batch) -> Tensor:
        return batch.grpo(batch.rewards)
