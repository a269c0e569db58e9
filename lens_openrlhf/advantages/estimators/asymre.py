"""AsymRE (Arnal et al. 2025): REINFORCE whose baseline lies a little below the mean, for answers of an older policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config import check_number, option
from .base import Estimator
from .batch import Batch
from .shared import WHOLE_ANSWERS

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AsymreConfig:
    delta: float = option(-0.1, "shift of the baseline from the group's mean reward; below 0 favours right answers")

    def __post_init__(self) -> None:
        check_number("delta", self.delta, "the default is -0.1")


class Asymre(Estimator):
    """A = r - V, V being the mean reward of the group plus δ.

    With δ < 0 every answer of a group of equal rewards, negative or positive, has the small advantage -δ. Rewards are
    the shaped ones, and δ is on their scale.

    The loss is the paper's, too: log π (r - V) over the answers as they come, without an importance ratio.
    """

    name = "asymre"
    paper = "Arnal et al. 2025"
    Config = AsymreConfig
    defaults = WHOLE_ANSWERS
    policy_loss = "reinforce"

    def advantages(self, batch: Batch) -> Tensor:
        return batch.rewards - (batch.group_mean(batch.rewards)[batch.group_of] + self.config.delta)
