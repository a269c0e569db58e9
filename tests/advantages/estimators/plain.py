"""Every method once more, loop-wise on one group of plain Python answers, as the papers have it.

A method maps a group to a list with an entry for each answer: its advantage, or a list of those of its tokens.
"""

from __future__ import annotations

import math
from itertools import combinations
from statistics import fmean, pstdev, stdev

from .batches import Group


def is_positive(group: Group) -> bool:
    return all(a.correctness == 1 for a in group)


def is_mixed(group: Group) -> bool:
    return len({a.correctness for a in group}) > 1


def normalised(rewards: list[float], eps: float = 1e-9) -> list[float]:
    if len(set(rewards)) < 2:
        return [0.0] * len(rewards)
    mean, std = fmean(rewards), stdev(rewards)
    return [(r - mean) / (std + eps) for r in rewards]


def grpo(group: Group) -> list[float]:
    return normalised([a.shaped for a in group])


def ngrpo(group: Group) -> list[float]:
    if is_positive(group):
        return [0.0] * len(group)
    rewards = [a.shaped for a in group]
    mean, std = fmean([*rewards, 1.0]), stdev([*rewards, 1.0])
    return [(r - mean) / (std + 1e-6) for r in rewards]


def rl_zvp(group: Group, alpha: float) -> list[list[float]]:
    if is_mixed(group):
        return [[advantage] * len(a.entropies) for a, advantage in zip(group, grpo(group), strict=True)]
    if is_positive(group):
        return [[alpha * h for h in a.entropies] for a in group]
    return [[-alpha * (max(a.entropies) - h) for h in a.entropies] for a in group]


def nsr(group: Group) -> list[float]:
    return [-(1 - a.correctness) for a in group]


def psr(group: Group) -> list[float]:
    return [a.correctness for a in group]


def w_reinforce(group: Group, lambd: float) -> list[float]:
    return [lambd * right + wrong for right, wrong in zip(psr(group), nsr(group), strict=True)]


def topr(group: Group) -> list[float]:
    return [right + wrong for right, wrong in zip(psr(group), nsr(group), strict=True)]


def asymre(group: Group, delta: float) -> list[float]:
    baseline = fmean(a.shaped for a in group) + delta
    return [a.shaped - baseline for a in group]


def passk(group: Group, k: int) -> list[float]:
    """Eq. 14 and 15 as printed, in exact binomials."""
    right = [a.correctness == 1 for a in group]
    total, wrong = len(group), right.count(False)
    mean = 1 - math.comb(wrong, k) / math.comb(total, k) if k <= total else 1.0
    sigma = math.sqrt(mean * (1 - mean))
    if sigma == 0:
        return [0.0] * total
    without = math.comb(wrong - 1, k - 1) / math.comb(total - 1, k - 1)
    return [(1 - mean) / sigma if r else (1 - mean - without) / sigma for r in right]


def of_certainty(group: Group, certainties: list[tuple[float, ...]]) -> list[float]:
    advantages = iter(normalised([fmean(tokens) for tokens in certainties if tokens], 1e-6))
    return [next(advantages) if tokens else 0.0 for tokens in certainties]


def intuitor(group: Group) -> list[float]:
    return of_certainty(group, [a.self_certainty for a in group])


def rent(group: Group) -> list[float]:
    return of_certainty(group, [tuple(-h for h in a.entropies) for a in group])


def passk_by_counting(group: Group, k: int) -> list[float]:
    """The rewards of all sets of k answers, each the best of its answers, normalised; an answer has the mean of its."""
    sets = list(combinations(range(len(group)), k))
    rewards = [float(any(group[i].correctness == 1 for i in chosen)) for chosen in sets]
    if len(set(rewards)) < 2:
        return [0.0] * len(group)
    mean, std = fmean(rewards), pstdev(rewards)
    return [
        fmean((r - mean) / std for chosen, r in zip(sets, rewards, strict=True) if i in chosen)
        for i in range(len(group))
    ]
