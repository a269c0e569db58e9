"""What every rank knows of its responses, gathered on all ranks. Needs torch alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Gathered:
    """What every rank holds of all N responses and their T tokens, in rank order."""

    columns: dict[str, Tensor]  # [N] by name
    tokens: dict[str, Tensor]  # [T] by name, of one response after another
    counts: list[int]  # responses of each rank
    token_counts: list[int]
    rank: int

    def own(self, values: Tensor, per_token: bool) -> Tensor:
        """Of values [N], or [T] if per_token, those of this rank's responses."""
        counts = self.token_counts if per_token else self.counts
        return values.split(counts)[self.rank]


def gather(
    columns: Mapping[str, Tensor],
    tokens: Mapping[str, Tensor],
    error: Exception | None,
    group: dist.ProcessGroup | None,
) -> Gathered:
    """All ranks' numbers. If any rank brings an error, every rank raises it, so that none waits for another.

    Args:
        columns: [n] by name, int64 or float64, of this rank's n responses; not one bit is lost.
        tokens: [t] by name, float32, of their tokens. Names, dtypes and order are the same on every rank, which may
            have no response; what a rank brings beside an error is not read.
        error: why this rank has nothing to bring.
        group: the ranks; None for one alone. Its backend must serve the columns' device, the CPU where there is none.

    Raises:
        ValueError: the errors of all ranks.
    """
    if group is None or dist.get_world_size(group) == 1:
        if error is not None:
            raise ValueError(_text(error)) from error
        return Gathered(dict(columns), dict(tokens), [_count(columns)], [_count(tokens)], 0)
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    device = next((column.device for column in columns.values()), torch.device("cpu"))
    text = b"" if error is None else _text(error).encode()
    message = torch.tensor(list(text), dtype=torch.uint8, device=device)
    sizes = torch.tensor([_count(columns), _count(tokens), len(text)], device=device)
    all_sizes = [torch.empty_like(sizes) for _ in range(world)]
    dist.all_gather(all_sizes, sizes, group=group)
    counts, token_counts, message_sizes = torch.stack(all_sizes).T.tolist()

    def collect(local: Tensor, lengths: list[int]) -> list[Tensor]:
        """Tensors that differ in the last dimension, by way of the longest."""
        padded = torch.nn.functional.pad(local, (0, max(lengths) - local.shape[-1]))
        parts = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(parts, padded, group=group)
        return [part[..., :length] for part, length in zip(parts, lengths, strict=True)]

    if any(message_sizes):
        texts = [bytes(part.tolist()).decode() for part in collect(message, message_sizes)]
        raise ValueError(
            "; ".join(f"data-parallel rank {r}: {text}" for r, text in enumerate(texts) if text)
        ) from error
    # 64 bits a number, whatever they mean: those of prompts need all of them.
    bits = torch.stack([column.view(torch.int64) for column in columns.values()])
    found = torch.cat(collect(bits, counts), dim=1)
    all_columns = {name: part.view(column.dtype) for (name, column), part in zip(columns.items(), found, strict=True)}
    all_tokens = dict(tokens)
    if any(token_counts):
        numbers = torch.cat(collect(torch.stack(list(tokens.values())), token_counts), dim=1)
        all_tokens = dict(zip(tokens, numbers, strict=True))
    return Gathered(all_columns, all_tokens, counts, token_counts, rank)


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _count(numbers: Mapping[str, Tensor]) -> int:
    return len(next(iter(numbers.values()), ()))
