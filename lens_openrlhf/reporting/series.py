"""Means over runs, and numbers on their way to the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from ..evaluation import mean_and_error

DIGITS = 5  # significant; more would only make the page heavier

T = TypeVar("T")
Curve = dict[float, float]  # {x: y}, x mostly a step


def short(value: float | None) -> float | None:
    """`value` to five significant digits; None, which JSON knows, for what is no number."""
    return float(f"{value:.{DIGITS}g}") if value is not None and math.isfinite(value) else None


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, evenly apart, the last always and the first if there are two."""
    if len(items) <= count:
        return list(items)
    if count < 2:
        return list(items[-1:])[:count]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def over_runs(curves: Sequence[Curve]) -> dict[str, list]:
    """Curves {x: y} of one arm's runs to their mean: x, y, its standard error e (None with one run) and runs n."""
    xs = sorted({x for curve in curves for x in curve})
    points = [[curve[x] for curve in curves if x in curve] for x in xs]
    means = [mean_and_error(values) for values in points]
    return {
        "x": xs,
        "y": [short(mean) for mean, _ in means],
        "e": [short(error) for _, error in means],
        "n": [len(values) for values in points],
    }
