"""Four streams at once beside a busy device: the same bits every time, and memory that comes back."""

from __future__ import annotations

import random

import torch

from . import batches
from .device import Cpu, Cuda
from .rows import Rows

STREAMS = 4


def run(device: Cuda | Cpu, rows: Rows) -> None:
    chance = random.Random(3)
    lengths = [0, 1, 129, 4097, 70_000, *(chance.randrange(1, 5000) for _ in range(device.pick(700, 40)))]
    n = len(lengths)
    tokens = batches.random_tokens(chance, lengths)._replace(mask=None)
    correctness, rewards = batches.random_outcomes(chance, n)
    arguments = correctness, rewards, batches.offsets(batches.random_sizes(chance, n))
    want = batches.lens_advantages(tokens, *arguments)
    tokens, arguments = batches.to(tokens, device.kind), batches.to(arguments, device.kind)
    # Not a matrix product: its library keeps memory for every stream.
    noise = torch.ones(device.pick(1 << 26, 64), device=device.kind)
    batches.lens_advantages(tokens, *arguments), noise.sin()  # whatever is set up once is set up
    device.synchronize()

    before, rounds, different = device.allocated(), device.pick(75, 3), 0
    device.forget_peak()
    for i in range(rounds):
        found = []
        for k in range(STREAMS):  # all are in flight before any is looked at
            with device.stream():
                if k == i % STREAMS:
                    noise.sin()
                found.append(batches.lens_advantages(tokens, *arguments))
        device.synchronize()
        different += sum(
            not all(batches.same_bits(a, b) for a, b in zip(results, want, strict=True)) for results in found
        )
        del found
    rows.check("results of four streams", different == 0, calls=rounds * STREAMS, different=different)
    device.synchronize()
    left = device.allocated() - before
    rows.check("memory", left == 0, bytes_left=left, peak_mib=(device.peak() - before) / 2**20)
