"""What the advantage functions return. N responses, Q groups; float64 unless said otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class SegmentMean(NamedTuple):
    mean_logprob: Tensor  # [N] mean log-probability of the action tokens, nats; NaN for an empty response
    lengths: Tensor  # [N] int64, number of action tokens


class GroupAdvantages(NamedTuple):
    advantage: Tensor  # [N] the same value holds for every token of the response
    calibrated_reward: Tensor  # [N] what the advantage normalises: eq. 10's reward, or the plain one where GRPO applies
    confidence: Tensor  # [N] probability in [0, 1]; NaN for an empty response
    importance_difficulty: Tensor  # [Q] D_imp, eq. 14; NaN where no response with a token has c > 0
    difficulty: Tensor  # [Q] D, or what a preference has in its place; NaN where every response is empty
    group_kind: Tensor  # [Q] int8, see GroupKind


class LensAdvantages(NamedTuple):
    """The fields of GroupAdvantages, then those of SegmentMean."""

    advantage: Tensor
    calibrated_reward: Tensor
    confidence: Tensor
    importance_difficulty: Tensor
    difficulty: Tensor
    group_kind: Tensor
    mean_logprob: Tensor
    lengths: Tensor
