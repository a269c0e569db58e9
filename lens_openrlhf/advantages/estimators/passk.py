"""Pass@k training (Chen et al. 2025b): k answers have the reward of their best, in the mean over all choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config import ROUNDING, option
from ..lazily import torch
from .base import Estimator
from .batch import Batch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PasskConfig:
    k: int = option(4, "answers of which one has to be right; below --rollout.n_samples_per_prompt")

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 1:
            raise ValueError(f"k={self.k!r}: expected a whole number >= 1, below --rollout.n_samples_per_prompt")


class Passk(Estimator):
    """Analytic advantages from N answers, of which n are wrong (eq. 14, 15):

        R̄ = 1 - C(n, k) / C(N, k)        σ = √(R̄ (1 - R̄))
        right:  A = (1 - R̄) / σ
        wrong:  A = (1 - R̄ - C(n-1, k-1) / C(N-1, k-1)) / σ

    As C(n, k) / C(N, k) is n/N times the other quotient, the second line is -(N - n)/n times the first: a group's
    advantages sum to 0, which is how they are computed here. Where σ = 0 all are 0: in groups without a right or a
    wrong answer, with fewer than k wrong answers (any k hold a right one), or of no more than k answers. k = 1 is GRPO
    with the population's std.

    Right means c = 1; a fraction is wrong. The shaped reward is not read. The paper's code adds 1e-6 to σ; its formula,
    and this, do not.
    """

    name = "passk"
    paper = "Chen et al. 2025b"
    Config = PasskConfig
    reads_reward = False
    learns_from_negative_groups = False

    @property
    def least_answers(self) -> int:
        return self.config.k + 1

    def advantages(self, batch: Batch) -> Tensor:
        right = batch.correctness >= 1 - ROUNDING
        total = batch.cu_groups.diff()
        wrong = total - batch.group_sum(right.long())
        drawn = torch.arange(self.config.k, device=total.device)
        # C(n, k) / C(N, k), the chance that k answers are all wrong, drawn one by one. A factor is 0 where n < k.
        factors = (wrong[:, None] - drawn).clamp(min=0) / (total[:, None] - drawn).clamp(min=1).double()
        fail = factors.prod(1)
        for_right = torch.where(fail < 1, fail / (1 - fail), 0.0).sqrt()
        for_wrong = -for_right * (total - wrong) / wrong  # not used where none is wrong
        group = batch.group_of
        return torch.where(right, for_right[group], for_wrong[group])
