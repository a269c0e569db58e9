"""flash-attn's padding helpers in plain torch.

OpenRLHF imports them at module level, and flash-attn itself installs only beside CUDA. With packed samples they
are called: they gather the tokens that the attention mask keeps, and scatter them back.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def index_first_axis(tokens: Tensor, indices: Tensor) -> Tensor:
    """Rows `indices` of `tokens` [batch * seqlen, ...]."""
    return tokens[indices]


def unpad_input(hidden: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor, int, Tensor]:
    """The kept tokens of `hidden` [batch, seqlen, ...].

    Returns:
        tokens [total, ...], their flat indices [total], cu_seqlens int32 [batch+1], the longest sequence, and
        the sequences' lengths [batch].
    """
    lengths = attention_mask.sum(dim=-1, dtype=torch.int32)
    indices = attention_mask.flatten().nonzero().flatten()
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return hidden.flatten(0, 1)[indices], indices, cu_seqlens, int(lengths.max()), lengths


def pad_input(tokens: Tensor, indices: Tensor, batch: int, seqlen: int) -> Tensor:
    """The inverse of `unpad_input`: [batch, seqlen, ...] with zeros where nothing was kept."""
    padded = tokens.new_zeros(batch * seqlen, *tokens.shape[1:])
    return padded.index_copy(0, indices, tokens).unflatten(0, (batch, seqlen))


def all_gather(tensor: Tensor, group: Any) -> Tensor:
    """Concatenation of every rank's `tensor` along dimension 0, with gradients."""
    from torch.distributed.nn.functional import all_gather as gather

    return torch.cat(gather(tensor, group or dist.group.WORLD), dim=0)


def register() -> None:
    """Make the helpers importable under flash-attn's names."""
    from einops import rearrange

    contents: dict[str, dict[str, Callable]] = {
        "flash_attn": {},
        "flash_attn.bert_padding": {
            "index_first_axis": index_first_axis,
            "pad_input": pad_input,
            "rearrange": rearrange,
            "unpad_input": unpad_input,
        },
        "flash_attn.utils": {},
        "flash_attn.utils.distributed": {"all_gather": all_gather},
    }
    for name, members in contents.items():
        module = ModuleType(name, "Stand-in of lens_openrlhf for machines without CUDA.")
        is_package = not members
        module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, is_package=is_package)
        if is_package:
            module.__path__ = []
        vars(module).update(members)
        sys.modules[name] = module
