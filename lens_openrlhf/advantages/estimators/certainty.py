"""Intuitor (Zhao et al. 2025) and RENT (Prabhudesai et al. 2025): the model's own certainty as the reward.

Neither needs a verifier: correctness and shaped rewards are not read. Both normalise as GRPO does. An empty answer has
no certainty; it has advantage 0 and counts in no mean or std.

Certainty rewards what the model would say anyway, right or wrong. The published runs of both hold it in check with a
small KL term in the loss, which is the default here: it needs the reference model.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .base import Batch, Estimator
from .shared import READS_NO_REWARD


def _kl_loss(coefficient: float) -> dict:
    return {"algo.kl.use_loss": True, "algo.kl.init_coef": coefficient, "algo.kl.estimator": "k3"}


def _grpo_of_certainty(batch: Batch, certainty: Tensor) -> Tensor:
    """[N]: GRPO over the answers that have tokens, the reward being the mean certainty [T] of an answer's tokens."""
    there = batch.lengths > 0
    sizes = batch.group_sum(there.long())
    answers = replace(
        batch,
        mean_logprob=batch.mean_logprob[there],
        lengths=batch.lengths[there],
        correctness=torch.zeros_like(batch.correctness[there]),  # not read, and without a verifier it may be NaN
        cu_groups=torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]),
    )
    reward = batch.token_mean(certainty)
    advantage = torch.zeros_like(reward)
    advantage[there] = answers.grpo(reward[there])
    return advantage


class Intuitor(Estimator):
    """GRPO with self-certainty as the reward: the mean over an answer's tokens of KL(uniform || π), in nats.

    The paper's code leaves out the constant -log V in it, which changes no advantage.
    """

    name = "intuitor"
    paper = "Zhao et al. 2025"
    needs = frozenset({"self_certainty"})
    defaults = _kl_loss(0.005)
    requires = READS_NO_REWARD
    verified = False

    def advantages(self, batch: Batch) -> Tensor:
        return _grpo_of_certainty(batch, batch.self_certainty)


class Rent(Estimator):
    """GRPO with negative entropy as the reward: minus the mean over an answer's tokens of H(π), in nats."""

    name = "rent"
    paper = "Prabhudesai et al. 2025"
    needs = frozenset({"entropies"})
    defaults = _kl_loss(0.001)
    requires = READS_NO_REWARD
    verified = False

    def advantages(self, batch: Batch) -> Tensor:
        return _grpo_of_certainty(batch, -batch.entropies)
