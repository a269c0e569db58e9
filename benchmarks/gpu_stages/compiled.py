"""The operators inside torch: opcheck, torch.compile without a graph break, autocast."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from lens_openrlhf.advantages import lens_advantages

from . import batches
from .device import Cpu, Cuda
from .rows import Rows

MODES = ("default", "reduce-overhead")  # the latter replays a graph


def run(device: Cuda | Cpu, rows: Rows) -> None:
    chance, lengths = random.Random(6), [3, 40, 1, 700, 9]
    cu_seqlens = batches.offsets(lengths)
    values = batches.logprobs(sum(lengths), torch.float32, 6)
    tokens = batches.Tokens(values, cu_seqlens, torch.arange(len(values)) % 5 != 1)
    outcomes = batches.random_outcomes(chance, len(lengths))
    outcomes[0][0], outcomes[0][1] = 0, 1  # no group of one kind, whose difficulty is NaN
    outcomes[0][2], outcomes[0][3] = 0, 1
    arguments = *outcomes, batches.offsets([2, 3])
    on_cpu = lens_advantages(tokens.values, tokens.cu_seqlens, outcomes[0], arguments[2], mask=tokens.mask)
    tokens, arguments = batches.to(tokens, device.kind), batches.to(arguments, device.kind)

    ops = torch.ops.lens_openrlhf
    mean, counts, _ = batches.segment_mean(tokens)
    groups = batches.Groups(mean, counts, *arguments)
    padded = batches.Tokens(tokens.values[:700].view(7, 100)[:, 30:], None, None)
    calls = {
        "segment_mean": (ops.segment_mean, tokens),
        "segment_mean, padded": (ops.segment_mean, padded),
        "group_advantages": (ops.group_advantages, (*groups, *batches.PAPER, None)),
        "lens_advantages": (ops.lens_advantages, (*tokens, *arguments, *batches.PAPER, None)),
    }
    for name, (operator, values_given) in calls.items():
        torch.library.opcheck(operator.default, tuple(values_given))
        rows.check(f"opcheck {name}", True)

    def step(tokens: batches.Tokens, *arguments: Tensor) -> Tensor:
        late = tokens._replace(values=tokens.values.float() * 1.0)
        responses, *_ = batches.lens_advantages(late, *arguments)
        return responses[0] * 2

    for mode in MODES:
        torch._dynamo.reset()
        compiled = torch.compile(step, fullgraph=True, mode=mode)
        same = all(batches.same_bits(compiled(tokens, *arguments).clone(), step(tokens, *arguments)) for _ in range(4))
        rows.check(f"torch.compile, mode {mode}", same)
    with torch.autocast(device.kind, dtype=torch.bfloat16):
        found = lens_advantages(tokens.values, tokens.cu_seqlens, arguments[0], arguments[2], mask=tokens.mask)
    rows.check("autocast", batches.same_bits(found.advantage, on_cpu.advantage))
