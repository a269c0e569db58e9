"""Every estimator on the device: the CPU's advantages, and the same bits twice, under torch's deterministic mode."""

from __future__ import annotations

import random

import torch

from lens_openrlhf.advantages import estimators
from lens_openrlhf.advantages.estimators import Batch

from . import batches
from .device import Cpu, Cuda
from .rows import Rows

# torch's exp and log on a GPU are not the CPU's to the last bit; float64 throughout.
TOLERANCE = 1e-9


def run(device: Cuda | Cpu, rows: Rows) -> None:
    torch.use_deterministic_algorithms(True)
    here = make_batch(device.pick(256, 8))
    for name in estimators.names():
        kind = estimators.find(name)
        there = moved(here, device.kind)
        first, second = (estimators.run(kind(), there).advantage for _ in range(2))
        on_cpu = estimators.run(kind(), here).advantage
        error = ((first.cpu() - on_cpu).abs() / on_cpu.abs().clamp(min=1e-3)).max().item()
        same = batches.same_bits(first, second)
        rows.check(name, error <= TOLERANCE and same, relative_error=error, same_bits_twice=same, of=first.numel())


def make_batch(groups: int) -> Batch:
    """Groups of 8 with all that any estimator asks for."""
    chance, generator, n = random.Random(4), torch.Generator().manual_seed(4), groups * 8
    lengths = torch.tensor([chance.choice([0, 1, 5, 33, 200]) for _ in range(n)])
    cu_seqlens = batches.offsets(lengths.tolist())
    logprobs, entropies, certainty = (3 * torch.rand(3, int(lengths.sum()), generator=generator)).unbind()
    tokens = batches.Tokens(-logprobs, cu_seqlens, None)
    correctness, rewards = torch.zeros(2, n, dtype=torch.float64).unbind()
    for first in range(0, n, 8):
        correctness[first : first + 8], rewards[first : first + 8] = batches.random_outcomes(chance, 8)
    drawn = torch.full((n,), 16.0, dtype=torch.float64)
    share = torch.rand(groups, generator=generator, dtype=torch.float64).repeat_interleave(8)
    return Batch(
        mean_logprob=batches.segment_mean(tokens)[0],
        lengths=lengths,
        correctness=correctness,
        rewards=rewards,
        cu_groups=torch.arange(0, n + 1, 8),
        prompts=torch.arange(groups) % max(1, groups // 2),
        logprobs=-logprobs,
        entropies=entropies,
        self_certainty=certainty,
        cu_seqlens=cu_seqlens,
        extras={
            "drawn_mean": share,
            "drawn_std": (share * (1 - share)).sqrt(),
            "drawn": drawn,
            "step_score": torch.rand(n, generator=generator, dtype=torch.float64),
        },
    )


def moved(batch: Batch, kind: str) -> Batch:
    fields = {name: value.to(kind) if isinstance(value, torch.Tensor) else value for name, value in vars(batch).items()}
    return Batch(**fields | {"extras": {name: value.to(kind) for name, value in batch.extras.items()}})
