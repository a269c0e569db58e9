"""What every data-parallel rank knows of its responses, gathered on all of them. Needs torch alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Gathered:
    """What every data-parallel rank holds, in rank order: rows [N, 6 + extras], and tokens [T, K] of the same
    responses one after another."""

    rows: Tensor
    tokens: Tensor
    counts: list[int]  # rows of each rank
    token_counts: list[int]
    rank: int

    @property
    def mine(self) -> slice:
        return _part(self.counts, self.rank)

    @property
    def my_tokens(self) -> slice:
        return _part(self.token_counts, self.rank)


def _part(counts: list[int], rank: int) -> slice:
    start = sum(counts[:rank])
    return slice(start, start + counts[rank])


def gather(rows: Tensor, tokens: Tensor, error: str, group: dist.ProcessGroup | None) -> Gathered:
    """All ranks' rows and tokens. If any rank brings an error, every rank raises it, so that none waits for another.

    Raises:
        ValueError: the errors of all ranks.
    """
    if group is None or dist.get_world_size(group) == 1:
        if error:
            raise ValueError(error)
        return Gathered(rows, tokens, [len(rows)], [len(tokens)], 0)
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    message = torch.tensor(list(error.encode()), dtype=torch.uint8, device=rows.device)
    sizes = torch.tensor([len(rows), len(tokens), len(message)], dtype=torch.int64, device=rows.device)
    all_sizes = [torch.empty_like(sizes) for _ in range(world)]
    dist.all_gather(all_sizes, sizes, group=group)
    counts, token_counts, message_sizes = torch.stack(all_sizes).T.tolist()

    def collect(local: Tensor, lengths: list[int]) -> list[Tensor]:
        """Tensors of different lengths, by way of the longest."""
        padded = local.new_zeros(max(lengths), *local.shape[1:])
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(parts, padded, group=group)
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]

    if any(message_sizes):
        texts = [bytes(part.tolist()).decode() for part in collect(message, message_sizes)]
        raise ValueError("; ".join(f"data-parallel rank {r}: {text}" for r, text in enumerate(texts) if text))
    all_tokens = torch.cat(collect(tokens, token_counts)) if any(token_counts) else tokens
    return Gathered(torch.cat(collect(rows, counts)), all_tokens, counts, token_counts, rank)
