"""Both kernels and little else, for the profiler and the sanitizer to look at.

    python -m benchmarks.gpu_stages.launch large|small [cpu]

`large` fills a card; `small` takes every path of the kernels, good data and bad.
"""

from __future__ import annotations

import sys

import torch

from . import batches

GROUP = 16


def large(kind: str) -> int:
    """The paper's arguments at 131,072 responses of about 1,000 tokens; the number of calls."""
    generator = torch.Generator().manual_seed(0)
    responses = 131_072 if kind == "cuda" else 64
    lengths = torch.randint(500, 1501, (responses,), generator=generator)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(kind)
    correctness = (torch.rand(responses, generator=generator) < 0.3).double().to(kind)
    cu_groups = torch.arange(0, responses + 1, GROUP).to(kind)
    calls = 0
    for dtype in (torch.float32, torch.bfloat16):
        values = (-2 * torch.rand(int(cu_seqlens[-1]), device=kind)).to(dtype)
        for mask in (None, torch.rand(len(values), device=kind) < 0.9):
            tokens = batches.Tokens(values, cu_seqlens, mask)
            batches.lens_advantages(tokens, correctness, correctness, cu_groups)
            calls += 1
    return calls


def small(kind: str) -> int:
    """Lengths around every boundary, every dtype, both offset types, slices, preferences and faults."""
    lengths, calls = [*batches.LENGTHS, 40_000], 0
    n, total = len(lengths), sum(lengths)
    correctness = (torch.arange(n) % 3 == 0).double().to(kind)
    rho = torch.linspace(0.5, 2, n, dtype=torch.float64).to(kind)
    keep = (torch.arange(total + 3) % 7 != 0).to(kind)
    for dtype in batches.DTYPES:
        values = batches.logprobs(total + 3, dtype, 0).to(kind)
        for offset in batches.OFFSETS:
            cu_seqlens = batches.offsets(lengths, offset).to(kind)
            cu_groups = batches.offsets([1, 2, n - 3], offset).to(kind)
            for mask in (None, keep):
                tokens = batches.Tokens(values[3:], cu_seqlens, None if mask is None else mask[3:])
                for switches, preferred in ((batches.PAPER, None), (batches.PAPER, rho), (batches.SWITCHES[4], None)):
                    batches.lens_advantages(tokens, correctness, correctness, cu_groups, switches, preferred)
                    calls += 1
        slices = values[:8000].view(8, 1000)[:, 7:], None, keep[:8000].view(8, 1000)[:, 7:]
        batches.segment_mean(batches.Tokens(*slices))
        spoilt = values[3:].clone()
        spoilt[total // 2] = torch.nan
        batches.segment_mean(batches.Tokens(spoilt, batches.offsets(lengths).to(kind), None))
        wild = batches.offsets(lengths)
        wild[5], wild[9] = 2**40, -(2**40)
        batches.segment_mean(batches.Tokens(values[3:], wild.to(kind), None))
        calls += 3
    return calls


if __name__ == "__main__":
    program, kind = {"large": large, "small": small}[sys.argv[1]], sys.argv[2] if len(sys.argv) > 2 else "cuda"
    calls = program(kind)
    if kind == "cuda":
        torch.cuda.synchronize()
    print(f"{calls} calls done")
