"""What every rank computes by itself, on CUDA: the same bits in every call, and those of the CPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu_stages.estimators import moved
from lens_openrlhf.advantages.estimators import OURS, Batch, find, run

GROUP = 16
pytestmark = pytest.mark.filterwarnings("ignore:.*that rewards differ from it has no effect")


def batch(device, estimator=None) -> Batch:
    """Responses of 0 to 400 tokens, with values whose sums depend on their order."""
    responses = device.pick(4096, 64)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 400, (responses,), generator=generator)
    right = (torch.rand(responses, generator=generator) < 0.2).double()
    tokens = 10 ** (8 * torch.rand(int(lengths.sum()), generator=generator) - 4)
    groups = responses // GROUP
    return Batch(
        mean_logprob=torch.where(lengths > 0, -torch.rand(responses, generator=generator).double(), torch.nan),
        lengths=lengths,
        correctness=right,
        rewards=right - torch.rand(responses, generator=generator) / 3,
        cu_groups=torch.arange(0, responses + 1, GROUP),
        prompts=torch.randint(0, groups, (groups,), generator=generator),
        entropies=tokens,
        self_certainty=tokens.flip(0),
        logprobs=-tokens,
        cu_seqlens=torch.nn.functional.pad(lengths.cumsum(0), (1, 0)),
        extras={n: torch.rand(responses, generator=generator).double() for n in estimator.extras} if estimator else {},
    )


def test_helpers_give_the_cpus_bits(device):
    there = batch(device)
    here = moved(there, device.kind)
    for name, values in (("group_sum", "rewards"), ("group_mean", "rewards"), ("token_mean", "entropies")):
        expected = getattr(there, name)(getattr(there, values))
        assert torch.equal(getattr(here, name)(getattr(here, values)).cpu(), expected), name


@pytest.mark.parametrize("name", OURS)
def test_every_call_gives_the_same_bits(device, name):
    here = moved(batch(device, find(name)), device.kind)
    first = run(find(name)(), here).advantage
    for _ in range(device.pick(10, 2)):
        assert torch.equal(run(find(name)(), here).advantage, first)
