"""The paper's formulas word for word, in decimals of 60 digits and almost unbounded exponent.

Nothing under- or overflows here, so this needs none of the rewriting that doubles need: confidences are
confidences, D is D, and the penalty is their quotient.
"""

from __future__ import annotations

from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from typing import NamedTuple

from lens_openrlhf.advantages import GroupKind, LensConfig

from .strategies import Groups

CONTEXT = Context(prec=60, Emax=MAX_EMAX, Emin=MIN_EMIN)
EPS = Decimal("1e-9")
ROUNDING = Decimal("1e-9")
NAN = float("nan")


class ExactGroup(NamedTuple):
    advantage: list[float]
    calibrated_reward: list[float]
    confidence: list[float]
    importance_difficulty: float
    difficulty: float
    kind: GroupKind
    divisor: float  # what the centred rewards were divided by: std + eps, or 1/alpha (0 for alpha 0)


def _kind(c: list[Decimal]) -> GroupKind:
    if max(c) - min(c) > ROUNDING:
        return GroupKind.MIXED
    return GroupKind.POSITIVE if 1 - max(c) <= ROUNDING else GroupKind.NEGATIVE


def exact_group(groups: Groups, span: slice, config: LensConfig) -> ExactGroup:
    lengths = groups.lengths[span].tolist()
    logs = [min(x, 0.0) for x in groups.mean_logprob[span].tolist()]
    if config.confidence == "sequence":
        # The log of a confidence is a double; its product with the length rounds, like any implementation's.
        logs = [x * n if n else x for x, n in zip(logs, lengths, strict=True)]
    correctness = groups.correctness[span].tolist()
    rewards = correctness if groups.rewards is None else groups.rewards[span].tolist()
    with localcontext(CONTEXT):
        return _exact(
            [Decimal(x).exp() if n else None for x, n in zip(logs, lengths, strict=True)],
            [Decimal(x) for x in correctness],
            [Decimal(x) for x in rewards],
            config,
        )


def _exact(pi: list[Decimal | None], c: list[Decimal], s: list[Decimal], config: LensConfig) -> ExactGroup:
    size = Decimal(len(c))
    kind = _kind(c)
    confidence = [NAN if p is None else float(p) for p in pi]
    largest = max((p for p in pi if p is not None), default=None)
    impossible = largest == 0
    if impossible:  # every log-probability is -inf: all equally confident
        pi = [None if p is None else Decimal(1) for p in pi]
        largest = Decimal(1)

    weighted = [(x, p) for x, p in zip(c, pi, strict=True) if x > ROUNDING and p is not None]
    d_imp = None
    if weighted:
        zero = any(p == 0 for _, p in weighted)
        d_imp = Decimal(0) if zero else 1 / (sum(x / p for x, p in weighted) / size)
    difficulty = None if largest is None else 2 * largest
    if d_imp is not None and config.difficulty == "importance":
        difficulty = max(d_imp, difficulty)

    part = "mixed" if kind is GroupKind.MIXED else "negative"
    lens = config.scope in ("both", part)
    r = list(s)
    if lens:
        r = [
            s_i if p is None else s_i - (1 - c_i) * (1 / size) * p / (difficulty - p)
            for s_i, c_i, p in zip(s, c, pi, strict=True)
        ]

    centred = [x - sum(r) / size for x in r]
    if max(r) - min(r) <= ROUNDING * max(1, *map(abs, r)):
        advantage, divisor = [0 * x for x in r], Decimal(1)
    elif lens and kind is not GroupKind.MIXED:
        alpha = Decimal(config.alpha)
        advantage, divisor = [alpha * x for x in centred], 1 / alpha if alpha else Decimal(0)
    else:
        divisor = (sum(x * x for x in centred) / (size - 1)).sqrt() + EPS
        advantage = [x / divisor for x in centred]

    def report(d: Decimal | None) -> float:
        return NAN if d is None else 0.0 if impossible else float(d)

    return ExactGroup(
        [float(x) for x in advantage],
        [float(x) for x in r],
        confidence,
        report(d_imp),
        report(difficulty),
        kind,
        float(divisor),
    )
