"""Outside OpenRLHF ranks may compute the same as well: nothing there adds in any order on CUDA."""

from __future__ import annotations

import pytest
import torch

from lens_openrlhf.advantages.estimators import OURS, find
from lens_openrlhf.advantages.responses import Responses, estimate
from tests.advantages.one_order import OneOrder

pytestmark = pytest.mark.filterwarnings("ignore:.*that rewards differ from it has no effect")


@pytest.mark.parametrize("name", OURS)
def test_responses_in_any_order_are_added_in_one(name):
    estimator = find(name)()
    group = torch.tensor([2, 0, 1, 0, 2, 1, 0, 3])
    lengths = torch.tensor([3, 1, 0, 4, 2, 2, 1, 5])
    right = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 0], dtype=torch.float64)
    tokens = {n: -torch.linspace(0.1, 2, int(lengths.sum())) for n in ("logprobs", "entropies", "self_certainty")}
    responses = Responses(
        group=group,
        lengths=lengths,
        correctness=right,
        rewards=right - 0.25,
        tokens=tokens,
        prompts=group % 2,
        extras={extra: torch.linspace(0.1, 0.9, 8) for extra in estimator.extras},
    )
    expected = estimate(find(name)(), responses).advantage
    with OneOrder() as mode:
        found = estimate(estimator, responses).advantage
    assert torch.equal(found, expected) and {"segment_mean", "index_put"} <= mode.seen
