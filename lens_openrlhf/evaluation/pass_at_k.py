"""Pass@k from n samples a prompt (Chen et al. 2021, "Evaluating Large Language Models Trained on Code")."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pass_at_k(correct: int, n: int, k: int) -> float:
    """Probability that at least one of k answers, drawn without replacement from n, is correct.

    The unbiased estimator 1 - C(n - correct, k) / C(n, k), from exact integers.

    Raises:
        ValueError: unless 0 <= correct <= n and 1 <= k <= n.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"correct={correct}: expected 0 to n={n}")
    if not 1 <= k <= n:
        raise ValueError(f"k={k}: expected 1 to n={n}; sample more answers a prompt, or ask for a smaller k")
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error, sample std / sqrt(n); the error of a single value is NaN."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
