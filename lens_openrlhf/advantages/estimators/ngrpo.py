"""NGRPO (Nan et al. 2025): a virtual right answer in every group, so that wrong ones alone lie below the mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import GroupKind
from ..lazily import torch
from .base import Estimator
from .batch import Batch

if TYPE_CHECKING:
    from torch import Tensor

BEST = 1.0  # r_max, the reward of the virtual answer
STD_EPS = 1e-6


class Ngrpo(Estimator):
    """A = (r - m) / (s + 1e-6), m and s being mean and unbiased std of the group's G rewards and a virtual reward of 1.

    Positive groups have advantage 0: the paper drops them. (Its code samples others in their place, as
    `--algo.dynamic_filtering_enable --algo.dynamic_filtering_range -1 1` does.) Rewards are the shaped ones; the kind
    of a group is decided by raw correctness, and a group of one fraction counts as negative.

    The paper's code gives a lone answer its reward as advantage. Here its group has two rewards as everywhere: -1/√2 if
    it is wrong, 0 if it is right.
    """

    name = "ngrpo"
    paper = "Nan et al. 2025"
    defaults = {"actor.eps_clip_low_high": [0.16, 0.24]}

    def advantages(self, batch: Batch) -> Tensor:
        group, size = batch.group_of, batch.cu_groups.diff()
        mean = (batch.group_sum(batch.rewards) + BEST) / (size + 1)
        centred = batch.rewards - mean[group]
        std = ((batch.group_sum(centred**2) + (BEST - mean) ** 2) / size).sqrt()
        dropped = batch.kinds[group] == GroupKind.POSITIVE
        return torch.where(dropped, 0.0, centred / (std[group] + STD_EPS))
