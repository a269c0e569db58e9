"""Columns to split by, the order of their values, and Pass@k of each part."""

from __future__ import annotations

import math

import pytest

from lens_openrlhf.evaluation.splits import (
    MAX_SPLIT_VALUES,
    SPLIT_COLUMNS,
    default_ks,
    default_split_columns,
    pass_at_k_by_split,
    prompts_by_split,
)


def test_columns_that_name_kinds_of_prompts_are_split_by():
    """In their own order, with at most 32 different values, which are texts, numbers or missing."""
    assert SPLIT_COLUMNS == ("level", "source", "datasource", "type") and MAX_SPLIT_VALUES == 32
    columns = {
        "type": ["algebra", None, "algebra"],
        "other": ["x", "y", "z"],
        "source": [f"source {i % 32}" for i in range(64)],
        "level": [1, 2.5, True],
    }
    assert default_split_columns(columns) == ["level", "source", "type"]
    assert default_split_columns({"datasource": ["a"]}) == ["datasource"]
    assert default_split_columns({"level": list(range(33)), "type": [["a"], "b"], "source": [{}]}) == []


@pytest.mark.parametrize(
    ("samples", "ks"), [(1, [1]), (2, [1, 2]), (3, [1, 2]), (4, [1, 2, 4]), (7, [1, 2, 4]), (16, [1, 2, 4, 8, 16])]
)
def test_ks_are_the_powers_of_two_up_to_the_samples(samples, ks):
    assert default_ks(samples) == ks


def test_prompts_of_each_value_in_the_order_of_values():
    """Numbers by size, also where they are texts; then texts. Columns in their own order."""
    splits = {"level": ["b", "10", "9", "a", "9"], "type": [None, 2, -1, None, 2]}
    found = prompts_by_split(5, splits)
    assert list(found.items()) == [
        ("all", [0, 1, 2, 3, 4]),
        ("level=9", [2, 4]),
        ("level=10", [1]),
        ("level=a", [3]),
        ("level=b", [0]),
        ("type=-1", [2]),
        ("type=2", [1, 4]),
        ("type=None", [0, 3]),
    ]
    assert prompts_by_split(0, {}) == {"all": []}


def test_pass_at_k_of_each_part():
    """One score alone is right; prompts may have unequal numbers of answers."""
    scores = [[1, 0, 0, 0], [1, 1, 0.5, 2], [1, 0]]
    found = pass_at_k_by_split(scores, {"level": [1, 1, 2]}, [1, 2])
    assert list(found) == ["all", "level=1", "level=2"] and list(found["all"]) == ["1", "2"]
    mean, error = found["level=1"]["1"]
    assert (mean, error) == (pytest.approx((1 / 4 + 2 / 4) / 2), pytest.approx(1 / 8))
    assert found["level=1"]["2"][0] == pytest.approx((1 / 2 + 5 / 6) / 2)
    assert found["all"]["1"][0] == pytest.approx((1 / 4 + 2 / 4 + 1 / 2) / 3)
    assert found["level=2"]["1"][0] == 0.5 and found["level=2"]["2"][0] == 1.0
    assert math.isnan(found["level=2"]["1"][1])
