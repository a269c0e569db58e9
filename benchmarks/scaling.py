"""What cannot be run here, simulated: a ring all-gather over a network, and a pool of verifiers."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Network:
    """Seconds of a hop, bytes a second of a link, and the mean of the exponential delay that a hop has besides."""

    latency: float
    bandwidth: float
    jitter: float = 0.0


def ring_all_gather(ranks: int, part: float, network: Network, rng: np.random.Generator) -> float:
    """Seconds until every rank of a ring has the parts of all.

    In each of ranks - 1 rounds a rank passes on to its neighbour what it got in the round before; it begins when it has
    got that, and has sent its own, so that a delay travels on around the ring.

    Args:
        ranks: how many.
        part: bytes that one rank brings.
        network: of every hop.
        rng: for the delays.
    """
    ready = np.zeros(ranks)
    for _ in range(ranks - 1):
        hop = network.latency + part / network.bandwidth + rng.exponential(network.jitter, ranks)
        ready = np.maximum(ready, np.roll(ready, 1)) + hop
    return float(ready.max())


def pool_seconds(services: Sequence[float], workers: int) -> float:
    """Seconds until the last of some answers is checked, if all come at once and wait in one line.

    Args:
        services: seconds that each takes, in the order of the line.
        workers: that serve it.
    """
    free = [0.0] * workers
    for seconds in services:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def fit_ring(measured: Sequence[tuple[int, float, float]], cores: int) -> tuple[Network, float]:
    """The network under which measured all-gathers of one machine would take what they took, and how far off that is.

    All ranks(ranks - 1) hops of a ring share the machine's cores there. Seconds a hop and seconds a byte are fitted to
    the least relative error.

    Args:
        measured: (ranks, bytes of a rank's part, seconds).
        cores: of the machine.

    Returns:
        The network, and the median relative error.
    """
    ranks, part, seconds = (np.array(column, dtype=float) for column in zip(*measured, strict=True))
    hops = ranks * (ranks - 1) / np.minimum(ranks, cores)
    columns = np.stack([hops / seconds, hops * part / seconds], axis=1)
    scale = np.abs(columns).max(axis=0)
    (hop, byte), *_ = np.linalg.lstsq(columns / scale, np.ones(len(seconds)), rcond=None)
    hop, byte = max(hop / scale[0], 1e-9), max(byte / scale[1], 1e-15)
    error = np.abs(hops * (hop + byte * part) / seconds - 1)
    return Network(latency=float(hop), bandwidth=float(1 / byte)), float(np.median(error))
