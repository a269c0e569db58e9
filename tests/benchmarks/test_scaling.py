"""The simulations behind docs/scale.md, against numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scaling import Network, fit_ring, pool_seconds, ring_all_gather


@pytest.mark.parametrize(("ranks", "part", "seconds"), [(1, 100, 0.0), (2, 100, 3.0), (5, 100, 12.0), (5, 0, 8.0)])
def test_a_ring_without_delays_takes_a_hop_for_every_other_rank(ranks, part, seconds):
    """A hop is 2 s, and 100 bytes take 1 s."""
    network = Network(latency=2.0, bandwidth=100.0)
    assert ring_all_gather(ranks, part, network, np.random.default_rng(0)) == pytest.approx(seconds)


def test_delays_travel_around_the_ring():
    """Three ranks, two rounds; the delays are given: a rank waits for itself and for the one before it."""

    class Delays:
        rounds = iter([[0.0, 5.0, 0.0], [0.0, 0.0, 1.0]])

        def exponential(self, mean, size):
            return np.array(next(self.rounds))

    # Round 1: ready at 1, 6, 1. Round 2: rank 1 begins at 6, rank 2 waits for rank 1's 6 and ends at 6 + 1 + 1.
    assert ring_all_gather(3, 0, Network(1.0, 1.0), Delays()) == 8.0


def test_answers_wait_for_the_next_free_worker():
    assert pool_seconds([3, 1, 1, 1], 1) == 6
    assert pool_seconds([3, 1, 1, 1], 2) == 3
    assert pool_seconds([1, 1, 1, 3], 2) == 4  # the long one begins last
    assert pool_seconds([], 3) == 0


@given(st.lists(st.floats(0, 100), max_size=40), st.integers(1, 9))
def test_a_line_is_never_faster_than_its_work_nor_slower_than_one_worker(services, workers):
    seconds = pool_seconds(services, workers)
    least = max(sum(services) / workers, max(services, default=0))
    assert least - 1e-6 <= seconds <= sum(services) + 1e-6
    assert seconds <= sum(services) / workers + max(services, default=0) + 1e-6  # Graham's bound


def test_the_fit_finds_the_ring_that_was_measured():
    cores, true = 2, Network(latency=40e-6, bandwidth=2e9)
    measured = [
        (ranks, part, ranks * (ranks - 1) / 2 * (true.latency + part / true.bandwidth))
        for ranks in (2, 4, 16)
        for part in (1e3, 1e5, 1e7)
    ]
    found, error = fit_ring(measured, cores)
    assert found.latency == pytest.approx(true.latency, rel=1e-6)
    assert found.bandwidth == pytest.approx(true.bandwidth, rel=1e-6)
    assert error < 1e-6
