"""The metrics of a step's groups, by hand and as README lists them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from lens_openrlhf.advantages.estimators import Batch
from lens_openrlhf.run_folder.group_metrics import group_metrics

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def metrics():
    """Of a negative, a mixed and a positive group of two responses each."""
    numbers = torch.tensor
    batch = Batch(
        mean_logprob=numbers([0.5, 0.25, 1.0, 0.5, 0.1, 1.0]).double().log(),
        lengths=numbers([3, 1, 2, 2, 4, 0]),
        correctness=numbers([0.0, 0, 1, 0, 1, 1]).double(),
        rewards=numbers([0.0, 0, 1, 0, 1, 1]).double(),
        cu_groups=numbers([0, 2, 4, 6]),
    )
    magnitude = numbers([0.5, 0.25, 1.0, 2.0, 0.0, 0.0]).double()
    return group_metrics(batch, magnitude, numbers([0.5, 0.25, 1.0, 0.5, 0.1, math.nan]).double())


def test_by_hand(metrics):
    assert metrics == pytest.approx(
        {
            **dict.fromkeys(("lens/negative_groups", "lens/mixed_groups", "lens/positive_groups"), 1 / 3),
            "lens/abs_advantage_negative": 0.375,
            "lens/abs_advantage_mixed": 1.5,
            "lens/abs_advantage_positive": 0.0,
            "lens/rescued_samples": 2 / 6,  # both wrong ones of the negative group
            "lens/rescued_tokens": 4 / 12,
            "lens/confidence_right": (1.0 + 0.1) / 2,  # the empty response has none
            "lens/confidence_wrong": (0.5 + 0.25 + 0.5) / 3,
            "lens/empty_responses": 1.0,
        }
    )


def test_readme_has_every_metric(metrics):
    text = README.read_text()
    missing = [name for name in metrics if name not in text and "lens/abs_advantage_" not in name]
    assert not missing and "`lens/abs_advantage_…` by group kind" in text
