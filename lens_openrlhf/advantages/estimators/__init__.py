"""Estimators by name: the methods of this project, those of installed packages, and a user's own file.

A package adds one with an entry point of the group `lens_openrlhf.estimators`, whose name is the estimator's and whose
value is an :class:`Estimator` subclass or a function of a :class:`Batch`.
"""

from ..config import option
from .base import SAMPLING, Estimator, EstimatorError, NoConfig, Result
from .batch import Batch, group_kinds, same_rewards, segment_sum, tokens_of
from .registry import CUSTOM, ENTRY_POINTS, OURS, RESERVED, find, from_path, left_out, load, names
from .running import asked, described, made, run

__all__ = [
    "CUSTOM",
    "ENTRY_POINTS",
    "OURS",
    "RESERVED",
    "SAMPLING",
    "Batch",
    "Estimator",
    "EstimatorError",
    "NoConfig",
    "Result",
    "asked",
    "described",
    "find",
    "from_path",
    "group_kinds",
    "left_out",
    "load",
    "made",
    "names",
    "option",
    "run",
    "same_rewards",
    "segment_sum",
    "tokens_of",
]
