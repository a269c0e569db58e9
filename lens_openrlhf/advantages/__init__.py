"""The algorithm: packed log-probabilities and verified outcomes to advantages. Needs torch alone."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .config import GroupKind, LensConfig
from .results import GroupAdvantages, LensAdvantages, SegmentMean

if TYPE_CHECKING:
    from .ops import group_advantages, lens_advantages, segment_mean

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


def __getattr__(name: str) -> Any:
    """The operators bring torch and the compiled extension along, which take seconds; command lines have no need of
    them to refuse an option."""
    if name in __all__:
        return getattr(import_module(".ops", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
