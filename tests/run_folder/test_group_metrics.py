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


def test_groups_of_any_size_weigh_by_their_responses_and_tokens():
    numbers = torch.tensor
    batch = Batch(
        mean_logprob=numbers([0.5, 0.25, 1.0, 0.5, 0.1, 0.3]).double().log(),
        lengths=numbers([3, 1, 2, 2, 4, 5]),
        correctness=numbers([0.5, 0, 0, 0, 1, 0]).double(),
        # Shaped: those of the wrong differ, and those of the last group are the same.
        rewards=numbers([0.5, 0, 0.25, 0, 1, 1]).double(),
        cu_groups=numbers([0, 1, 4, 6]),
    )
    magnitude = numbers([2.0, 0.25, 1.0, 0.5, 0.0, 4.0]).double()
    found = group_metrics(batch, magnitude, numbers([0.5, 0.25, 1.0, 0.5, 0.1, 0.3]).double())
    assert found == pytest.approx(
        {
            "lens/negative_groups": 2 / 3,  # half right is not right
            "lens/mixed_groups": 1 / 3,
            "lens/positive_groups": 0.0,
            "lens/abs_advantage_negative": (2.0 + 0.25 + 1.0 + 0.5) / 4,
            "lens/abs_advantage_mixed": (0.0 + 4.0) / 2,
            "lens/abs_advantage_positive": None,
            "lens/rescued_samples": 2 / 6,  # the one alone, and the last group's that has an advantage
            "lens/rescued_tokens": (3 + 5) / 17,
            "lens/confidence_right": (0.5 * 0.5 + 0.1) / 1.5,
            "lens/confidence_wrong": (0.5 * 0.5 + 0.25 + 1.0 + 0.5 + 0.3) / 4.5,
            "lens/empty_responses": 0.0,
        }
    )


def test_of_nothing_there_is_no_mean():
    empty = torch.zeros(2, dtype=torch.long)
    batch = Batch(
        mean_logprob=torch.full((2,), math.nan, dtype=torch.float64),
        lengths=empty,
        correctness=empty.double(),
        rewards=empty.double(),
        cu_groups=torch.tensor([0, 2]),
    )
    found = group_metrics(batch, empty.double(), torch.full((2,), math.nan, dtype=torch.float64))
    assert {name for name, value in found.items() if value is None} == {
        *("lens/abs_advantage_mixed", "lens/abs_advantage_positive"),
        *("lens/rescued_tokens", "lens/confidence_right", "lens/confidence_wrong"),
    }
    assert found["lens/empty_responses"] == 2.0 and found["lens/rescued_samples"] == 0.0
