"""Spectral policy optimization (Chen et al. 2025a): wrong answers earn by the steps before their first error."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import GroupKind, check_number, option
from ..lazily import torch
from .base import Estimator, Result
from .batch import Batch


@dataclass(frozen=True, kw_only=True)
class SpectralConfig:
    """Raises ValueError for a beta that is negative or not finite, or such a gamma."""

    scorer: str = option(
        "", "FILE.py:NAME of a function (prompt, response, label) -> share of its steps that are right"
    )
    beta: float = option(5.0, "how steep the reward is in that share; 0: the share itself")
    gamma: float = option(0.5, "the share at which the reward is one half")

    def __post_init__(self) -> None:
        for name in ("beta", "gamma"):
            check_number(name, getattr(self, name), least=0)


class Spectral(Estimator):
    """GRPO with the rewards of all-wrong groups graded: 1 / (1 + exp(-beta (s - gamma))) in place of 0 (section 3).

    s in [0, 1] is the extra `step_score`, the share of an answer before its first wrong step. The paper asks another
    model for it, shown a right solution; here it is a function of the user's own (training/hooks/step_scores.py).
    Groups with a right answer are GRPO's. Where rewards are shaped, the grade is added to them. The values of beta and
    gamma are ours: those of the paper's runs were not found. Its later title is stepwise guided policy optimization.
    """

    name = "spectral"
    paper = "Chen et al. 2025a"
    Config = SpectralConfig
    extras = ("step_score",)
    sampling = "scored"

    def advantages(self, batch: Batch) -> Result:
        score = batch.extra("step_score", "name a scorer with --algo.spectral.scorer FILE.py:NAME")
        bad = (~((score >= 0) & (score <= 1))).nonzero()
        if len(bad):
            raise ValueError(f"response {int(bad[0])} has step_score {score[bad[0]].item()!r}, expected [0, 1]")
        beta, gamma = self.config.beta, self.config.gamma
        grade = torch.sigmoid(beta * (score - gamma)) if beta > 0 else score
        wrong = (batch.kinds == GroupKind.NEGATIVE)[batch.group_of]
        advantage = batch.grpo(torch.where(wrong, batch.rewards + grade, batch.rewards))
        mean_score = score[wrong].mean().item() if wrong.any() else None
        return Result(advantage=advantage, metrics={"spectral/step_score": mean_score})
