"""Intuitor (Zhao et al. 2025) and RENT (Prabhudesai et al. 2025): the model's own certainty as the reward.

Neither needs a verifier: correctness and shaped rewards are not read. Both normalise as GRPO does, (s - mean) / (std +
1e-6); the 1e-6 of the code they were run with keeps rounding between equal answers from becoming a signal. An empty
answer has no certainty; it has advantage 0 and counts in no mean or std.

Certainty rewards what the model would say anyway, right or wrong. The published runs of both hold it in check with a
small KL term in the loss, which is the default here: it needs the reference model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Estimator, Result
from .batch import Batch

if TYPE_CHECKING:
    from torch import Tensor

STD_EPS = 1e-6


def _kl_loss(coefficient: float) -> dict:
    return {"algo.kl.use_loss": True, "algo.kl.init_coef": coefficient, "algo.kl.estimator": "k3"}


def _normalised(batch: Batch, certainty: Tensor) -> Tensor:
    """[N]: the mean certainty [T] of each answer's tokens, normalised over the group's answers that have tokens."""
    there = (batch.lengths > 0).double()
    count = batch.group_sum(there)
    score = batch.token_mean(certainty)
    mean = batch.group_sum(score * there) / count.clamp(min=1)
    centred = (score - mean[batch.group_of]) * there
    std = (batch.group_sum(centred**2) / (count - 1).clamp(min=1)).sqrt()
    return centred / (std[batch.group_of] + STD_EPS)


class Intuitor(Estimator):
    """GRPO with self-certainty as the reward: the mean over an answer's tokens of KL(uniform || π), in nats.

    The paper's code leaves out the constant -log V in it, which changes no advantage.
    """

    name = "intuitor"
    paper = "Zhao et al. 2025"
    needs = frozenset({"self_certainty"})
    defaults = _kl_loss(0.005)
    reads_reward = False
    verified = False

    def advantages(self, batch: Batch) -> Result:
        return Result(advantage=_normalised(batch, batch.of_tokens("self_certainty")))


class Rent(Estimator):
    """GRPO with negative entropy as the reward: minus the mean over an answer's tokens of H(π), in nats."""

    name = "rent"
    paper = "Prabhudesai et al. 2025"
    needs = frozenset({"entropies"})
    defaults = _kl_loss(0.001)
    reads_reward = False
    verified = False

    def advantages(self, batch: Batch) -> Result:
        return Result(advantage=_normalised(batch, -batch.of_tokens("entropies")))
