"""Numbers of the distribution that each token was drawn from. Logits [..., V] to [...], float32, nats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

CHUNK = 1024  # positions at a time: a copy of all logits would not fit


def entropy(logits: Tensor) -> Tensor:
    """-sum p log p; a token of probability 0 adds nothing."""
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    return -torch.where(p > 0, p * log_p, 0.0).sum(-1)


def self_certainty(logits: Tensor) -> Tensor:
    """KL(uniform || p) = -mean log p - log V (Kang et al. 2025); infinite where a token has probability 0."""
    return -logits.log_softmax(-1).mean(-1) - math.log(logits.shape[-1])


STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {"entropies": entropy, "self_certainty": self_certainty}


def statistics(logits: Tensor, names: Sequence[str]) -> Tensor:
    """[..., V] to [..., K], the statistics of these names side by side."""
    flat = logits.reshape(-1, logits.shape[-1])
    parts = [torch.stack([STATISTICS[name](chunk.float()) for name in names], dim=-1) for chunk in flat.split(CHUNK)]
    return torch.cat(parts).reshape(*logits.shape[:-1], len(names))
