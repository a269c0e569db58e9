"""LENS in float64 torch, as plain as the paper: what every faster implementation is compared with.

Formulas follow Feng et al. 2025, section 5.1. Only ratios of confidences inside a group matter, so with
m = max mean_logprob and q = exp(mean_logprob - m) the penalty is q / (d - q), d = D / max confidence: the
same number, but it neither underflows for long responses nor divides 0 by 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .config import ROUNDING, GroupKind, LensConfig
from .results import GroupAdvantages, LensAdvantages, SegmentMean

STD_EPS = 1e-9  # as in OpenRLHF's group_norm


def segment_mean(logprobs: Tensor, cu_seqlens: Tensor, mask: Tensor | None = None) -> SegmentMean:
    """Mean log-probability of each response's action tokens; see :func:`lens_openrlhf.advantages.ops.segment_mean`."""
    means, lengths = [], []
    for start, end in zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True):
        tokens = logprobs[start:end].double()
        if mask is not None:
            tokens = tokens[mask[start:end].bool()]
        means.append(tokens.clamp(max=0).mean().item() if len(tokens) else math.nan)
        lengths.append(len(tokens))
    return SegmentMean(torch.tensor(means, dtype=torch.float64), torch.tensor(lengths, dtype=torch.int64))


def group_kind(correctness: list[float]) -> GroupKind:
    low, high = min(correctness, default=0.0), max(correctness, default=0.0)
    if high - low > ROUNDING:
        return GroupKind.MIXED
    return GroupKind.POSITIVE if 1 - high <= ROUNDING else GroupKind.NEGATIVE


def _one_group(
    logprob: list[float], lengths: list[int], c: list[float], s: list[float], config: LensConfig
) -> tuple[list[float], list[float], float, float, GroupKind]:
    """One group: (advantages, calibrated rewards, D_imp, D, kind). `logprob` is the log of the confidence."""
    size = len(c)
    kind = group_kind(c)
    present = [i for i in range(size) if lengths[i] > 0]
    m = max((logprob[i] for i in present), default=math.nan)
    q = [0.0 if lengths[i] == 0 else 1.0 if m == -math.inf else math.exp(logprob[i] - m) for i in range(size)]

    # Eq. 14 relative to the group's maximum: d_imp = D_imp / max confidence.
    terms = [c[i] / q[i] if q[i] > 0 else math.inf for i in present if c[i] > ROUNDING]
    d_imp = size / math.fsum(terms) if terms and math.isfinite(sum(terms)) else 0.0 if terms else math.nan
    d = max(d_imp, 2.0) if terms and config.difficulty == "importance" else 2.0
    largest = torch.tensor(m, dtype=torch.float64).exp().item()  # infinite where a preference near 0 makes it overflow
    importance, difficulty = d_imp * largest, d * largest
    penalty = [q[i] / (d - q[i]) / size for i in range(size)]

    if config.preference == "length":
        # rho = gamma^|o|: what stands in D's place is bounded as D is, and |o| divides (appendix C, at the end).
        difficulty = max(2 * largest, config.gamma)  # in this order NaN, of a group without a token, stays
        d = difficulty / largest if largest > 0 else math.inf if config.gamma > 0 else 2.0
        penalty = [q[i] / (d - q[i]) / size / max(lengths[i], 1) for i in range(size)]
    elif config.preference == "policy":
        # rho = pi: D is one over the share of right answers, and pi / (D rho - pi) = 1 / (D - 1) for every answer, an
        # empty one too. The factor 1/G is not needed where all wrong answers weigh the same.
        right, wrong = math.fsum(c), math.fsum(1 - x for x in c)
        importance = difficulty = size / right if max(c, default=0.0) > ROUNDING else math.inf
        penalty = [0.0 if kind is GroupKind.POSITIVE or not c else right / wrong] * size

    lens = config.penalises_mixed if kind is GroupKind.MIXED else config.penalises_uniform
    r = [s[i] - (1 - c[i]) * penalty[i] if lens else s[i] for i in range(size)]

    if not r or max(r) - min(r) <= ROUNDING * max(1.0, *map(abs, r)):
        advantages = [0.0] * size
    else:
        mean = math.fsum(r) / size
        advantages = [x - mean for x in r]
        scale = config.alpha
        if kind is GroupKind.MIXED or not lens:
            scale = 1 / (math.sqrt(math.fsum(a * a for a in advantages) / (size - 1)) + STD_EPS)
        advantages = [scale * a for a in advantages]
    return advantages, r, importance, difficulty, kind


def _log_preference(preference: Tensor, config: LensConfig, like: Tensor) -> Tensor:
    config.check_preference_tensor()
    if preference.shape != like.shape:
        raise ValueError(f"preference: expected {len(like)} elements, got shape {tuple(preference.shape)}")
    preference = preference.double()
    bad = (~(preference > 0) | preference.isinf()).nonzero()
    if len(bad):
        raise ValueError(
            f"preference: response {bad[0].item()} is {preference[bad[0]].item()!r}, expected a finite number > 0"
        )
    return preference.log()


def group_advantages(
    mean_logprob: Tensor,
    lengths: Tensor,
    correctness: Tensor,
    cu_groups: Tensor,
    config: LensConfig,
    *,
    rewards: Tensor | None = None,
    preference: Tensor | None = None,
) -> GroupAdvantages:
    """Advantages of every group; see :func:`lens_openrlhf.advantages.ops.group_advantages`."""
    log_confidence = mean_logprob.double().clamp(max=0)
    if config.confidence == "sequence":
        log_confidence = torch.where(lengths > 0, log_confidence * lengths, log_confidence)
    log_ratio = log_confidence
    if preference is not None:
        log_ratio = log_confidence - _log_preference(preference, config, mean_logprob)
    c = correctness.double().tolist()
    s = c if rewards is None else rewards.double().tolist()
    advantages, calibrated, importance, difficulty, kinds = [], [], [], [], []
    bounds = cu_groups.tolist()
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        part = slice(start, end)
        a, r, d_imp, d, kind = _one_group(log_ratio[part].tolist(), lengths[part].tolist(), c[part], s[part], config)
        advantages += a
        calibrated += r
        importance.append(d_imp)
        difficulty.append(d)
        kinds.append(kind)
    return GroupAdvantages(
        advantage=torch.tensor(advantages, dtype=torch.float64),
        calibrated_reward=torch.tensor(calibrated, dtype=torch.float64),
        confidence=torch.where(lengths > 0, log_confidence.exp(), torch.nan),
        importance_difficulty=torch.tensor(importance, dtype=torch.float64),
        difficulty=torch.tensor(difficulty, dtype=torch.float64),
        group_kind=torch.tensor(kinds, dtype=torch.int8),
    )


def lens_advantages(
    logprobs: Tensor,
    cu_seqlens: Tensor,
    correctness: Tensor,
    cu_groups: Tensor,
    config: LensConfig | None = None,
    *,
    rewards: Tensor | None = None,
    mask: Tensor | None = None,
    preference: Tensor | None = None,
) -> LensAdvantages:
    """Packed log-probabilities to advantages; see :func:`lens_openrlhf.advantages.ops.lens_advantages`."""
    segments = segment_mean(logprobs, cu_seqlens, mask)
    config = config or LensConfig()
    groups = group_advantages(*segments, correctness, cu_groups, config, rewards=rewards, preference=preference)
    return LensAdvantages(*groups, *segments)
