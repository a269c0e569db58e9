"""What confidence says of the answers: how often they are right by it, and what their penalties are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import stats

from ..advantages import theory
from .samples import StepSamples
from .series import short

RELIABILITY_BINS = 10
PENALTY_EDGES = np.linspace(0, 0.5, 26)  # D is at least twice every confidence, so z is at most 1/2


def windows(steps: Sequence[int]) -> dict[str, range]:
    """Parts of the training whose answers are counted together: all, and its first and last third."""
    if not steps:
        return {}
    low, high = min(steps), max(steps)
    parts = {"all": range(low, high + 1)}
    if high - low >= 2:
        third = (high - low + 1) // 3
        parts |= {"first": range(low, low + third), "last": range(high - third + 1, high + 1)}
    return parts


def _pooled(
    runs: Sequence[dict[int, StepSamples]], window: range, of: Callable[[StepSamples], np.ndarray]
) -> np.ndarray:
    parts = [of(samples) for run in runs for step, samples in run.items() if step in window]
    return np.concatenate(parts) if parts else np.empty(0)


def _confidence_and_right(samples: StepSamples) -> np.ndarray:
    known = np.isfinite(samples.columns["confidence"])
    return np.stack([samples.columns["confidence"], samples.columns["correctness"] == 1], axis=1)[known]


def _bin_means(values: np.ndarray, bins: np.ndarray, count: np.ndarray) -> list[float | None]:
    with np.errstate(invalid="ignore"):
        return [short(mean) for mean in np.bincount(bins, values, len(count)) / count]


def _reliability(pairs: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    """Answers, one at least, binned by confidence: mean confidence x, share right y (both None in an empty bin) and
    count n of each bin; and the chance `auc` that of a right and a wrong answer the right one is the more confident
    (Mann & Whitney 1947)."""
    confidence, right = pairs[:, 0], pairs[:, 1] == 1
    bins = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, len(edges) - 2)
    count = np.bincount(bins, minlength=len(edges) - 1)
    auc = None
    if right.any() and not right.all():
        statistic = stats.mannwhitneyu(confidence[right], confidence[~right], method="asymptotic").statistic
        auc = statistic / (right.sum() * (~right).sum())
    x, y = (_bin_means(values, bins, count) for values in (confidence, right))
    return {"x": x, "y": y, "n": count.tolist(), "auc": short(auc)}


def reliability_data(arms: Sequence[Sequence[dict[int, StepSamples]]], parts: dict[str, range]) -> dict[str, Any]:
    """`windows` {window: one entry an arm}, in bins of equal shares of all arms' answers, as confidences lie close
    together; and the mean `confidence` of each bin over everything."""
    pairs = {
        name: [_pooled(runs, part, _confidence_and_right).reshape(-1, 2) for runs in arms]
        for name, part in parts.items()
    }
    everything = np.concatenate(pairs["all"]) if pairs else np.empty(0)
    if not len(everything):
        return {"confidence": [], "windows": {}}
    edges = np.unique(np.quantile(everything[:, 0], np.linspace(0, 1, RELIABILITY_BINS + 1)))
    if len(edges) == 1:  # one confidence for all
        edges = edges.repeat(2)
    return {
        "confidence": _reliability(everything, edges)["x"],
        "windows": {
            name: [_reliability(p, edges) if len(p) else None for p in by_arm] for name, by_arm in pairs.items()
        },
    }


def weight(z: ArrayLike) -> np.ndarray:
    """The weight function w of :func:`lens_openrlhf.advantages.theory.weight`, on numpy's numbers."""
    return theory.weight(torch.from_numpy(np.asarray(z, dtype=float))).numpy()


def penalty_data(arms: Sequence[Sequence[dict[int, StepSamples]]], parts: dict[str, range]) -> dict[str, Any]:
    """w on a grid, and how the z's of each arm's wrong answers spread over [0, 1/2]."""
    grid = np.concatenate([np.linspace(0, 0.9, 91), np.linspace(0.91, 0.98, 8)])
    histograms: dict[str, list[dict[str, Any] | None]] = {}
    for name, part in parts.items():
        histograms[name] = []
        for runs in arms:
            z = _pooled(runs, part, lambda samples: samples.z)
            count, _ = np.histogram(np.minimum(z, PENALTY_EDGES[-1]), PENALTY_EDGES)
            known = {"n": count.tolist(), "mean_weight": short(weight(z).mean())} if len(z) else None
            histograms[name].append(known)
    return {
        "z": [short(v) for v in grid],
        "w": [short(v) for v in weight(grid)],
        "edges": [short(v) for v in PENALTY_EDGES],
        "histograms": histograms,
    }
