"""Uncertainty of means over prompts, and of paired differences. Needs numpy and scipy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit  # scipy.stats takes half a second to import

from .pass_at_k import mean_and_error

LEVEL = 0.95
RESAMPLES = 10_000


class Estimate(NamedTuple):
    """A mean over prompts, its standard error and the bounds of a 95% interval."""

    mean: float
    error: float
    low: float
    high: float


class PairedDifference(NamedTuple):
    """Mean of paired differences, its standard error and the bounds of a 95% interval."""

    mean: float
    error: float
    low: float
    high: float


def bootstrap_means(values: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> list[Estimate]:
    """The mean of each column over prompts, with a 95% percentile bootstrap interval (Efron 1979).

    Prompts are drawn with replacement, all columns of a prompt together; the bounds are the 2.5% and 97.5% quantiles of
    the resampled means. The bootstrap knows only what the prompts showed: where all of them have the same value, the
    interval has no width, however few they are.

    Prompts with equal rows are interchangeable, so that how often each distinct row is drawn is one multinomial draw.
    The result therefore depends on which rows there are and not on their order, and costs little for many prompts.

    Args:
        values: [P, M] finite numbers, one row a prompt.
        resamples: number of resampled means.
        seed: of the resampling.
    Returns:
        M estimates; with a single prompt the error is NaN and the interval has no width.
    Raises:
        ValueError: where `values` has another shape, no row, or a value that is not finite.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"values has the shape {list(values.shape)}: expected [prompts, columns], at least one prompt")
    if not np.isfinite(values).all():
        prompt, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(f"values[{prompt}, {column}] is {values[prompt, column]}: expected finite numbers")
    rows, counts = np.unique(values, axis=0, return_counts=True)
    prompts = len(values)
    drawn = np.random.default_rng(seed).multinomial(prompts, counts / prompts, size=resamples)
    tail = (1 - LEVEL) / 2
    lows, highs = np.quantile(drawn @ rows / prompts, [tail, 1 - tail], axis=0)
    return [
        Estimate(*mean_and_error(column), float(low), float(high))
        for column, low, high in zip(values.T.tolist(), lows, highs, strict=True)
    ]


def paired_difference(a: Sequence[float], b: Sequence[float]) -> PairedDifference:
    """Mean of a[i] - b[i] with a 95% interval by Student's t with n - 1 degrees of freedom.

    The interval is exact for normal differences, however few; a positive mean favours `a`. With a single pair the error
    and both bounds are NaN.

    Raises:
        ValueError: unless `a` and `b` are as long as each other and not empty.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"a has {len(a)} values and b has {len(b)}: expected pairs, at least one")
    mean, error = mean_and_error([float(x) - float(y) for x, y in zip(a, b, strict=True)])
    reach = error * stdtrit(len(a) - 1, (1 + LEVEL) / 2)
    return PairedDifference(mean, error, float(mean - reach), float(mean + reach))
