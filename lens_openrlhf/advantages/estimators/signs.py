"""PSR, NSR and W-REINFORCE (Zhu et al. 2025): right answers alone, wrong answers alone, and both with a weight.

All read the verifier's outcome c in [0, 1], not the shaped reward, and compare nothing: an answer's advantage is its
own. A fraction counts for both sides, as c of a right answer and 1 - c of a wrong one. The loss is a mean over tokens,
as the paper's objective has probabilities of whole answers and its code such a mean. (Its runs have verl's entropy
bonus of 0.001 besides, those of its baselines too: `--actor.entropy_coef 0.001`.)

The paper's code takes the answers that a method does not learn from out of the batch. Here they stay, with advantage 0,
and count in the loss's mean: the same direction, in smaller steps the fewer answers count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config import check_number, option
from .base import Estimator
from .batch import Batch
from .shared import WHOLE_ANSWERS

if TYPE_CHECKING:
    from torch import Tensor


class Nsr(Estimator):
    """Negative sample reinforcement: A = c - 1, so -1 for a wrong answer and 0 for a right one."""

    name = "nsr"
    paper = "Zhu et al. 2025"
    defaults = WHOLE_ANSWERS
    reads_reward = False
    compares_answers = False

    def advantages(self, batch: Batch) -> Tensor:
        return batch.correctness - 1


class Psr(Estimator):
    """Positive sample reinforcement: A = c, so 1 for a right answer and 0 for a wrong one."""

    name = "psr"
    paper = "Zhu et al. 2025"
    defaults = WHOLE_ANSWERS
    reads_reward = False
    learns_from_negative_groups = False
    compares_answers = False

    def advantages(self, batch: Batch) -> Tensor:
        return batch.correctness.clone()


@dataclass(frozen=True, kw_only=True)
class WReinforceConfig:
    lambd: float = option(0.1, "λ, the weight of right answers; wrong ones have weight 1")

    def __post_init__(self) -> None:
        check_number("lambd", self.lambd, "the paper uses 0.1", least=0)


class WReinforce(Estimator):
    """A = λ c - (1 - c), so λ for a right answer and -1 for a wrong one. λ = 1 is REINFORCE, λ = 0 is NSR."""

    name = "w_reinforce"
    paper = "Zhu et al. 2025"
    Config = WReinforceConfig
    defaults = WHOLE_ANSWERS
    reads_reward = False
    compares_answers = False

    def advantages(self, batch: Batch) -> Tensor:
        return self.config.lambd * batch.correctness - (1 - batch.correctness)
