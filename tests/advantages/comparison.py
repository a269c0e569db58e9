"""How close two implementations must come, and why."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

EPS = torch.finfo(torch.float64).eps

# name: (rtol, atol)
TOLERANCES = {
    # Summands of one sign, in trees at most 200 deep: 200 roundings.
    "mean_logprob": (1e-12, 0.0),
    # exp(x) for x > -745 (below it is 0) turns a rounding of x into 745 roundings of exp(x). The last
    # subnormal numbers have few digits.
    "confidence": (1e-12, 1e-300),
    # A quotient and a sum of such terms.
    "importance_difficulty": (1e-12, 1e-300),
    "difficulty": (1e-12, 1e-300),
}


def reward_error(size: int, rewards: Tensor) -> float:
    """Bound for the error of a calibrated reward and of its group's mean.

    The penalty is at most 1/G, so that the roundings of D's sum of G terms come to a few; the mean has up to
    G roundings of the largest reward.
    """
    return (size + 16) * EPS * max(1.0, rewards.abs().max().item())


def advantage_error(calibrated: Tensor, divisor: float) -> float:
    """Bound for the error of an advantage, (reward - mean) / divisor: twice a reward's, and the divisor's.

    It matters where almost equal rewards are divided by a std that is rounding itself: its eps of 1e-9 is
    then all that the divisor has.
    """
    size = len(calibrated)
    return 2 * (1 + math.sqrt(size)) * reward_error(size, calibrated) / divisor if divisor else 0.0


def assert_near(actual, expected, name: str) -> None:
    rtol, atol = TOLERANCES[name]
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(
        actual, expected, rtol=rtol, atol=atol, equal_nan=True, msg=lambda text: f"{name}: {text}"
    )


def assert_within(actual: Tensor, expected, error: float, name: str) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=0, atol=error, msg=lambda text: f"{name}: {text}")


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    if actual.is_floating_point():
        width = {8: torch.int64, 4: torch.int32, 2: torch.int16}[actual.element_size()]
        actual, expected = actual.contiguous().view(width), expected.contiguous().view(width)
    assert torch.equal(actual, expected)


def near(expected):
    """Equal to a number worked by hand: log-probabilities are rounded logs, and the std's eps of 1e-9 is left out."""
    return pytest.approx(expected, rel=1e-8, abs=1e-12, nan_ok=True)
