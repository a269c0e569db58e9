"""RL-ZVP (Le et al. 2025): groups of one outcome teach by its sign, weighted by the entropy of each token."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import GroupKind, check_number, option
from ..lazily import torch
from .base import Estimator, Result
from .batch import Batch


@dataclass(frozen=True, kw_only=True)
class RlZvpConfig:
    alpha: float = option(0.1, "scale of the advantages of groups of one outcome, per nat of entropy")

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, "the default is 0.1", least=0)


class RlZvp(Estimator):
    """One advantage a token, H_t being the entropy of the distribution it was drawn from, in nats:

    - positive groups: A_t = α H_t;
    - negative groups: A_t = -α (max_k H_k - H_t), the maximum taken within the response, so that its most uncertain
      token is spared;
    - mixed groups: GRPO of the shaped rewards, the same for all tokens of a response.

    Groups of one outcome read no reward. One of equal fractions counts as negative. Entropies are data: nothing is
    differentiated through them.
    """

    name = "rl_zvp"
    paper = "Le et al. 2025"
    Config = RlZvpConfig
    needs = frozenset({"entropies"})

    def advantages(self, batch: Batch) -> Result:
        response, entropy = batch.response_of, batch.of_tokens("entropies").double()
        largest = entropy.new_zeros(len(batch.lengths))
        largest = largest.scatter_reduce(0, response, entropy, "amax", include_self=False)[response]
        kind = batch.kinds[batch.group_of][response]
        uniform = self.config.alpha * torch.where(kind == GroupKind.POSITIVE, entropy, entropy - largest)
        advantage = torch.where(kind == GroupKind.MIXED, batch.grpo(batch.rewards)[response], uniform)
        return Result(advantage=advantage, per_token=True)
