"""Where LENS comes from: the population formulas of Feng et al. 2025, section 4 and appendix C, differentiable.

The model is p(q, o) = pi(o | q) / scale, the probability that answer o to question q is right. `scale` is D(q) (eq. 6),
or D(q) rho(q, o) with a preference rho (eq. 20), and a constant: no gradient may flow through it. Everything works on
floating-point tensors that broadcast, one element an answer. docs/theory.md tells the story, and
tests/advantages/test_theory.py checks the theorems; what a training step computes from samples is in reference.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

SERIES_BELOW = 1 / 16  # where w's closed form has lost a digit to cancellation
SERIES_TERMS = 12  # the first one left out is below 1e-15 of w there


def weight(z: Tensor) -> Tensor:
    """The weight function w(z) = (1/z) log(1/(1-z)) - 1 of eq. 13, for z < 1; w(0) = 0.

    Infinite at 1 and NaN above, where it is not defined. Near 0 it is the sum of z^n / (n+1).
    """
    small = z.abs() < SERIES_BELOW
    near_zero = torch.where(small, z, 0.0)
    series = torch.zeros_like(z)
    for n in range(SERIES_TERMS, 0, -1):
        series = near_zero * (1 / (n + 1) + series)
    elsewhere = torch.where(small, 0.5, z)  # autograd must not meet the quotient at 0
    return torch.where(small, series, -torch.log1p(-elsewhere) / elsewhere - 1)


def odds(z: Tensor) -> Tensor:
    """z / (1-z): the penalty of a wrong answer in the gradient. It is w(z) + z w'(z), the slope of z w(z) (B.2)."""
    return z / (1 - z)


def difficulty(correct: Tensor, preference: Tensor | float = 1.0) -> Tensor:
    """D = 1 / sum of p* rho over the answers (eq. 5, 21): [..., A] to [..., 1]. Infinite if no answer can be right."""
    return 1 / (correct * preference).sum(-1, keepdim=True)


def _z(pi: Tensor, outcome: Tensor, scale: Tensor | float) -> Tensor:
    """pi / scale where the answer is not wholly right. For a right one it may be 1 or more, and is not needed."""
    return torch.where(outcome < 1, pi / scale, 0.0)


def log_likelihood(log_pi: Tensor, outcome: Tensor, scale: Tensor | float) -> Tensor:
    """r log pi + (1-r) log(1 - pi/scale) of every answer: eq. 8, and 22 with a preference, without the minus sign.

    It is the log-likelihood of eq. 7 plus r log(scale), a constant. `outcome` is r in [0, 1]; pi < scale where r < 1.
    """
    right = torch.where(outcome > 0, outcome * log_pi, 0.0)
    return right + (1 - outcome) * torch.log1p(-_z(log_pi.exp(), outcome, scale))


def calibrated_reward(pi: Tensor, outcome: Tensor, scale: Tensor | float) -> Tensor:
    """r - (1-r) pi / (scale - pi) of every answer: eq. 10, the factor of grad log pi in eq. 9, 15 and 23."""
    return outcome - (1 - outcome) * odds(_z(pi, outcome, scale))


def value(pi: Tensor, outcome: Tensor, scale: Tensor | float) -> Tensor:
    """J_MLE of every question (eq. 11 and 12): [..., A] to [...], the expectation over answers drawn from pi itself."""
    penalty = weight(_z(pi, outcome, scale)) * (1 - outcome)
    return (pi * (outcome - penalty)).sum(-1)
