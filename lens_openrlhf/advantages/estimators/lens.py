"""LENS (Feng et al. 2025): wrong answers are penalised by confidence, and groups without a right answer teach."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import LensConfig
from .base import Estimator, Result
from .batch import Batch

if TYPE_CHECKING:
    from torch import Tensor


class Lens(Estimator):
    """r~ = r - (1-r)/G · π̄/(D - π̄); mixed groups (r~ - mean)/std, negative ones α (r~ - mean) (section 5.1)."""

    name = "lens"
    paper = "Feng et al. 2025"
    Config = LensConfig

    def preference(self, batch: Batch) -> Tensor | None:
        """[N] rho > 0, which of the right answers are preferred (appendix C), for a subclass that prefers some."""
        return None

    def advantages(self, batch: Batch) -> Result:
        from ..ops import group_advantages

        result = group_advantages(
            batch.mean_logprob,
            batch.lengths,
            batch.correctness,
            batch.cu_groups,
            self.config,
            rewards=batch.rewards,
            preference=self.preference(batch),
        )
        known = result.difficulty.isfinite()  # with preference "policy" it is infinite where nothing is right
        difficulty = result.difficulty[known].mean().item() if known.any() else None
        return Result(advantage=result.advantage, confidence=result.confidence, metrics={"lens/difficulty": difficulty})
