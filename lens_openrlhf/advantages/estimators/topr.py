"""TOPR (Le Roux et al. 2025): plain likelihood for right answers, truncated importance sampling for wrong ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Estimator
from .batch import Batch
from .shared import WHOLE_ANSWERS

if TYPE_CHECKING:
    from torch import Tensor


class Topr(Estimator):
    """A = 2c - 1, so +1 for a right answer and -1 for a wrong one; the rest of TOPR is its loss.

    With R = A and the sampling policy μ, the gradient is the sum of R ∇ log π over answers with R >= 0 and of
    min(π/μ, 1) R ∇ log π over those with R < 0; π and μ are probabilities of whole answers. There is no baseline and no
    KL term. A fraction c lies between; at 1/2 nothing is learned. The shaped reward is not read.
    """

    name = "topr"
    paper = "Le Roux et al. 2025"
    defaults = WHOLE_ANSWERS
    reads_reward = False
    compares_answers = False
    policy_loss = "topr"

    def advantages(self, batch: Batch) -> Tensor:
        return 2 * batch.correctness - 1
