"""What every rank computes by itself, on CUDA: the same bits in every call, and those of the CPU."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from lens_openrlhf.advantages.estimators import _OURS, Batch, find, run

RESPONSES, GROUP = 4096, 16
pytestmark = pytest.mark.filterwarnings("ignore:.*that rewards differ from it has no effect")


def batch(estimator=None) -> Batch:
    """Responses of 0 to 400 tokens, with values whose sums depend on their order."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 400, (RESPONSES,), generator=generator)
    right = (torch.rand(RESPONSES, generator=generator) < 0.2).double()
    tokens = 10 ** (8 * torch.rand(int(lengths.sum()), generator=generator) - 4)
    groups = RESPONSES // GROUP
    return Batch(
        mean_logprob=torch.where(lengths > 0, -torch.rand(RESPONSES, generator=generator).double(), torch.nan),
        lengths=lengths,
        correctness=right,
        rewards=right - torch.rand(RESPONSES, generator=generator) / 3,
        cu_groups=torch.arange(0, RESPONSES + 1, GROUP),
        prompts=torch.randint(0, groups, (groups,), generator=generator),
        entropies=tokens,
        self_certainty=tokens.flip(0),
        logprobs=-tokens,
        cu_seqlens=torch.nn.functional.pad(lengths.cumsum(0), (1, 0)),
        extras={n: torch.rand(RESPONSES, generator=generator).double() for n in estimator.extras} if estimator else {},
    )


def on_gpu(batch: Batch) -> Batch:
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    moved = {name: value.cuda() for name, value in values.items() if isinstance(value, torch.Tensor)}
    return replace(batch, extras={name: value.cuda() for name, value in batch.extras.items()}, **moved)


def test_helpers_give_the_cpus_bits():
    there = batch()
    here = on_gpu(there)
    for name, values in (("group_sum", "rewards"), ("group_mean", "rewards"), ("token_mean", "entropies")):
        expected = getattr(there, name)(getattr(there, values))
        assert torch.equal(getattr(here, name)(getattr(here, values)).cpu(), expected), name


@pytest.mark.parametrize("name", _OURS)
def test_every_call_gives_the_same_bits(name):
    here = on_gpu(batch(find(name)))
    first = run(find(name)(), here).advantage
    for _ in range(10):
        assert torch.equal(run(find(name)(), here).advantage, first)
