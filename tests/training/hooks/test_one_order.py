"""What the ranks compute together has one order of summation, on CUDA too: advantages, metrics and records."""

from __future__ import annotations

import pytest
import torch

from lens_openrlhf.advantages.across_ranks import Gathered
from lens_openrlhf.advantages.estimators import OURS, find
from lens_openrlhf.training.hooks.advantages import compute
from lens_openrlhf.training.hooks.columns import REAL, WHOLE, needs_of
from lens_openrlhf.training.hooks.tags import EXTRA
from tests.advantages.one_order import OneOrder

GROUP, SAMPLES = 4, 24
pytestmark = pytest.mark.filterwarnings("ignore:.*that rewards differ from it has no effect")


def gathered(needs) -> Gathered:
    """Answers in any order, one without tokens, prompts that come twice, and their tokens."""
    generator = torch.Generator().manual_seed(0)
    index = torch.randperm(SAMPLES, generator=generator)
    lengths = torch.randint(1, 9, (SAMPLES,), generator=generator)
    lengths[5] = 0
    logprob = -torch.rand(SAMPLES, generator=generator, dtype=torch.float64)
    logprob[5] = torch.nan
    right = (torch.rand(SAMPLES, generator=generator) < 0.3).double()
    values = (index, index // GROUP % 4, lengths, logprob, right, right - 0.25 * (lengths > 5))
    columns = dict(zip((*WHOLE, *REAL), values, strict=True))
    columns |= {EXTRA + name: torch.rand(SAMPLES, generator=generator).double() for name in needs.extras}
    total = int(lengths.sum())
    tokens = {name: torch.rand(total, generator=generator) for name in needs.tokens}
    return Gathered(columns, tokens, [SAMPLES], [total if tokens else 0], 0)


@pytest.mark.parametrize("name", OURS)
def test_what_ranks_compute_together_adds_in_one_order(name):
    estimator = find(name)()
    needs = needs_of(estimator)
    together = gathered(needs)
    expected = compute(together, find(name)(), needs, GROUP, 1, (-10, 10))
    with OneOrder() as mode:
        found = compute(together, estimator, needs, GROUP, 1, (-10, 10))
    assert torch.equal(found.values, expected.values) and found.metrics == expected.metrics
    assert {"scatter_reduce", "index_put"} <= mode.seen  # of the metrics, and of putting back into the ranks' order
