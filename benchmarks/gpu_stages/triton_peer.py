"""The segmented mean in Triton, as one would write it: a program a response, blocks of 1,024 tokens, float32 sums."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def mean_kernel(values, mask, cu_seqlens, out, MASKED: tl.constexpr, BLOCK: tl.constexpr):
    response = tl.program_id(0)
    begin = tl.load(cu_seqlens + response)
    end = tl.load(cu_seqlens + response + 1)
    total = tl.zeros([BLOCK], tl.float32)
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(begin, end, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < end
        if MASKED:
            inside = inside & (tl.load(mask + place, mask=inside, other=0) != 0)
        total += tl.load(values + place, mask=inside, other=0.0).to(tl.float32)
        count += inside.to(tl.int32)
    tl.store(out + response, tl.sum(total, 0) / tl.sum(count, 0))


def mean(values: Tensor, cu_seqlens: Tensor, mask: Tensor | None) -> Tensor:
    """[T], [N+1] and bool [T] or None to [N] float32."""
    n = len(cu_seqlens) - 1
    out = torch.empty(n, device=values.device)
    bits = values if mask is None else mask.view(torch.uint8)
    mean_kernel[(n,)](values, bits, cu_seqlens, out, MASKED=mask is not None, BLOCK=BLOCK)
    return out
