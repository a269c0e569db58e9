"""Batches from plain Python groups of answers, and random ones."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import torch
from hypothesis import strategies as st

from lens_openrlhf.advantages.estimators import Batch

from ..strategies import ALL_KINDS, group_outcomes, offsets


class Answer(NamedTuple):
    """One response. Its tokens are as many as it has entropies."""

    correctness: float
    entropies: tuple[float, ...] = (1.0,)
    reward: float | None = None  # after shaping; the correctness where it is None
    certainty: tuple[float, ...] | None = None  # self-certainty of its tokens; 3 less the entropy where it is None
    logprob: float = -1.0

    @property
    def shaped(self) -> float:
        return self.correctness if self.reward is None else self.reward

    @property
    def self_certainty(self) -> tuple[float, ...]:
        return tuple(3 - h for h in self.entropies) if self.certainty is None else self.certainty


Group = list[Answer]


def answers(*correctness: float) -> Group:
    return [Answer(c) for c in correctness]


def batch_of(groups: list[Group], needs=("entropies", "self_certainty", "logprobs")) -> Batch:
    """A batch of the groups, with the token numbers named in `needs` alone."""
    flat = [answer for group in groups for answer in group]
    tokens = {
        "entropies": [h for a in flat for h in a.entropies],
        "self_certainty": [s for a in flat for s in a.self_certainty],
        "logprobs": [a.logprob for a in flat for _ in a.entropies],
    }
    lengths = [len(a.entropies) for a in flat]

    def doubles(values):
        return torch.tensor(values, dtype=torch.float64)

    return Batch(
        mean_logprob=doubles([a.logprob if a.entropies else math.nan for a in flat]),
        lengths=torch.tensor(lengths),
        correctness=doubles([a.correctness for a in flat]),
        rewards=doubles([a.shaped for a in flat]),
        cu_groups=offsets([len(group) for group in groups]),
        cu_seqlens=offsets(lengths) if needs else None,
        **{name: torch.tensor(tokens[name], dtype=torch.float32) for name in needs},
    )


@st.composite
def random_groups(draw) -> list[Group]:
    """Groups of every kind and size, some of their answers empty, some shaped, some groups alike in every token."""
    chance = random.Random(draw(st.integers(0, 2**32)))

    def nats() -> float:
        # Multiples of 1/1024: sums are exact, so equal means are equal numbers, in whatever order they are added.
        return chance.choice([0, 1024, chance.randrange(8192)]) / 1024

    groups = []
    for size in draw(st.lists(st.sampled_from([1, 2, 3, 4, 6, 9, 20]), min_size=1, max_size=4)):
        shaping = draw(st.sampled_from([(0.0,), (0.0, -0.5, -1.5, 0.125)]))
        alike = draw(st.sampled_from([None, None, 0.0, 2.5]))
        group = []
        for correctness in draw(group_outcomes(size, ALL_KINDS)):
            entropies, certainty = (
                tuple(nats() if alike is None else alike for _ in range(length)) for length in [chance.randrange(5)] * 2
            )
            reward = correctness + chance.choice(shaping)
            group.append(Answer(correctness, entropies, reward, certainty, chance.choice([-0.25, -1.0, -3.0])))
        groups.append(group)
    return groups


BATCH = batch_of([[Answer(1, (0.5, 1.0)), Answer(0, (2.0,))], answers(0, 0)])
