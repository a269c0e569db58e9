"""Bootstrap intervals and paired differences against exact values, SciPy's own, and what must always hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lens_openrlhf.evaluation.statistics import Estimate, bootstrap_means, paired_difference

numbers = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))


@pytest.mark.parametrize(("right", "prompts"), [(5, 10), (3, 20), (19, 20)])
def test_bounds_of_a_share_are_the_binomials_quantiles(right, prompts):
    # The resampled number of right prompts is Binomial(prompts, right / prompts).
    (estimate,) = bootstrap_means([[1.0]] * right + [[0.0]] * (prompts - right))
    exact = stats.binom.ppf([0.025, 0.975], prompts, right / prompts) / prompts
    assert (estimate.low, estimate.high) == pytest.approx(tuple(exact))
    assert estimate.mean == right / prompts
    assert estimate.error == pytest.approx(np.std([1] * right + [0] * (prompts - right), ddof=1) / math.sqrt(prompts))


def test_bounds_agree_with_scipys_bootstrap():
    values = np.random.default_rng(1).gamma(0.5, size=(80, 2))
    for column, estimate in zip(values.T, bootstrap_means(values), strict=True):
        scipys = stats.bootstrap((column,), np.mean, method="percentile", n_resamples=20_000, rng=2)
        scale = scipys.standard_error
        assert abs(estimate.low - scipys.confidence_interval.low) < 0.1 * scale
        assert abs(estimate.high - scipys.confidence_interval.high) < 0.1 * scale


def test_columns_of_a_prompt_are_drawn_together():
    column = np.random.default_rng(3).random(30)
    one, negative = bootstrap_means(np.column_stack([column, 1 - column]))
    # Drawn apart, the two would not mirror each other to the last bits.
    assert (one.low, one.high) == pytest.approx((1 - negative.high, 1 - negative.low), abs=1e-12)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    truth, trials = 0.3, 500
    draws = (np.random.default_rng(4).random((trials, 100)) < truth).astype(float)
    intervals = [bootstrap_means(draw[:, None], resamples=1000, seed=trial)[0] for trial, draw in enumerate(draws)]
    covered = np.mean([estimate.low <= truth <= estimate.high for estimate in intervals])
    assert 0.91 < covered < 0.98


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=1, max_size=30), st.randoms())
def test_order_of_prompts_changes_nothing_and_bounds_lie_where_they_must(rows, random):
    shuffled = random.sample(rows, len(rows))
    for column, (estimate, again) in enumerate(
        zip(bootstrap_means(rows, 500), bootstrap_means(shuffled, 500), strict=True)
    ):
        assert estimate == pytest.approx(again, nan_ok=True, rel=1e-12, abs=1e-9)
        values = [row[column] for row in rows]
        assert min(values) - 1e-9 <= estimate.low <= estimate.mean + 1e-9
        assert estimate.mean - 1e-9 <= estimate.high <= max(values) + 1e-9


def test_the_same_prompts_give_the_same_interval():
    """Ten thousand resamples with the seed 0, unless others are asked for."""
    values = np.random.default_rng(6).random((7, 2)).tolist()
    assert bootstrap_means(values) == bootstrap_means(values, 10_000) == bootstrap_means(values, seed=0)
    assert bootstrap_means(values) != bootstrap_means(values, 10_001)
    assert bootstrap_means(values) != bootstrap_means(values, seed=1)
    assert [estimate._fields for estimate in bootstrap_means(values)] == [("mean", "error", "low", "high")] * 2


def test_equal_prompts_have_an_interval_without_width():
    assert bootstrap_means([[0.25]] * 7) == [Estimate(0.25, 0.0, 0.25, 0.25)]
    (single,) = bootstrap_means([[0.25]])
    assert math.isnan(single.error) and (single.mean, single.low, single.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([1.0], r"values has the shape \[1\]: expected \[prompts, columns\], at least one prompt"),
        (np.zeros((0, 2)), r"\[0, 2\]"),
        (np.zeros((2, 2, 1)), r"\[2, 2, 1\]"),
        ([[1], [None]], r"values\[1, 0\] is nan"),
        ([[1.0], [math.nan]], r"values\[1, 0\] is nan"),
        ([[1.0, 2.0, -math.inf], [math.nan] * 3], r"values\[0, 2\] is -inf: expected finite numbers"),
    ],
)
def test_values_that_cannot_be_resampled_are_named(values, named):
    with pytest.raises(ValueError, match=named):
        bootstrap_means(values)


def test_paired_difference_by_hand():
    # Differences 1, 2 and 3; the 97.5% quantile of Student's t with two degrees of freedom is 4.3026527...
    found = paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found.mean == 2.0 and found.error == pytest.approx(1 / math.sqrt(3))
    reach = 4.302652729911275 / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((2 - reach, 2 + reach))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=20))
def test_paired_difference_is_scipys_and_changes_sign_with_the_order(pairs):
    a, b = map(list, zip(*pairs, strict=True))
    found, reverse = paired_difference(a, b), paired_difference(b, a)
    assert (found.mean, found.low, found.high) == pytest.approx((-reverse.mean, -reverse.high, -reverse.low))
    if np.std(np.subtract(a, b)) > 1e-6:
        interval = stats.ttest_rel(a, b).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-6)


def test_a_single_pair_has_no_interval():
    found = paired_difference([0.5], [0.25])
    assert found.mean == 0.25 and all(math.isnan(value) for value in found[1:])


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0])])
def test_what_is_not_paired_is_named(a, b):
    with pytest.raises(ValueError, match=f"a has {len(a)} values and b has {len(b)}"):
        paired_difference(a, b)
