"""Policy losses beside PPO's, for estimators that ask for one (`Estimator.policy_loss`)."""

from __future__ import annotations

import torch
from openrlhf.models.loss import PolicyLoss, aggregate_loss
from openrlhf.models.utils import masked_mean
from torch import Tensor


class PolicyGradientLoss(PolicyLoss):
    """-w · Â · log π, with a constant weight w, and nothing clipped.

    reinforce: w = 1, whatever policy drew the answers (Arnal et al. 2025).
    topr: w = 1 for Â >= 0; for Â < 0 the ratio of the answer's probabilities under the two policies, at most 1
    (Le Roux et al. 2025, "tapered" importance sampling).
    """

    def __init__(self, kind: str, token_level_loss: bool):
        super().__init__(token_level_loss=token_level_loss)
        self.kind = kind

    def forward(
        self,
        log_probs: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        action_mask: Tensor | None = None,
        rollout_log_probs: Tensor | None = None,
        dp_size: int = 1,
        batch_num_tokens: float | None = None,
        global_batch_size: float | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """As PolicyLoss.forward, tensors [B, A]; the second result is the share of tokens whose weight is below 1."""
        log_ratio = (log_probs - old_log_probs).detach()
        weight = torch.ones_like(log_ratio)
        if self.kind == "topr":
            whole = (
                (log_ratio if action_mask is None else log_ratio * action_mask)
                .sum(-1, keepdim=True)
                .clamp(max=0.0)
                .exp()
            )
            weight = torch.where(advantages < 0, whole, 1.0)
        loss = aggregate_loss(
            -weight * advantages * log_probs,
            action_mask,
            token_level_loss=self.token_level_loss,
            dp_size=dp_size,
            batch_num_tokens=batch_num_tokens,
            global_batch_size=global_batch_size,
        )
        tapered = masked_mean((weight < 1).float(), action_mask, dim=None)
        return loss, tapered, masked_mean(-log_ratio, action_mask, dim=None), None, None
