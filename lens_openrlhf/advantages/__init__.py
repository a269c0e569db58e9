"""The algorithm: packed log-probabilities and verified outcomes to advantages. Needs torch alone."""

from .config import GroupKind, LensConfig
from .ops import group_advantages, lens_advantages, segment_mean
from .results import GroupAdvantages, LensAdvantages, SegmentMean

__all__ = [
    "GroupAdvantages",
    "GroupKind",
    "LensAdvantages",
    "LensConfig",
    "SegmentMean",
    "group_advantages",
    "lens_advantages",
    "segment_mean",
]
