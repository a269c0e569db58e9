"""Pass@k against its definition by enumeration."""

from __future__ import annotations

import itertools
import math

import pytest

from lens_openrlhf.evaluation import mean_and_error, pass_at_k


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_equals_the_share_of_draws_that_hold_a_correct_answer(n):
    for correct, k in itertools.product(range(n + 1), range(1, n + 1)):
        answers = [1] * correct + [0] * (n - correct)
        draws = list(itertools.combinations(answers, k))
        assert pass_at_k(correct, n, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_extremes_are_exact():
    assert pass_at_k(0, 10_000, 16) == 0.0
    assert pass_at_k(10_000, 10_000, 1) == 1.0
    assert pass_at_k(1, 10_000, 10_000) == 1.0


@pytest.mark.parametrize(
    ("correct", "n", "k", "named"),
    [
        (3, 2, 1, "correct=3: expected 0 to n=2"),
        (-1, 2, 1, "correct=-1: expected 0 to n=2"),
        (1, 2, 3, "k=3: expected 1 to n=2; sample more answers"),
        (1, 2, 0, "k=0: expected 1 to n=2"),
        (0, 0, 1, "k=1: expected 1 to n=0"),
    ],
)
def test_impossible_counts_are_named(correct, n, k, named):
    with pytest.raises(ValueError, match=named):
        pass_at_k(correct, n, k)


def test_standard_error():
    mean, error = mean_and_error([0.0, 1.0, 1.0, 0.0])
    assert mean == 0.5 and error == pytest.approx(math.sqrt(1 / 3) / 2)
    assert mean_and_error([1.0, 4.0]) == (2.5, 1.5)
    mean, error = mean_and_error([0.3])
    assert mean == 0.3 and math.isnan(error)
