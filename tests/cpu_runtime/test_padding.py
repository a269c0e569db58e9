"""The stand-ins for flash-attention's padding helpers."""

from __future__ import annotations

import importlib
import sys

import torch

from lens_openrlhf.cpu_runtime import padding
from lens_openrlhf.cpu_runtime.padding import index_first_axis, pad_input, unpad_input

MASK = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]])


def test_unpad_keeps_the_masked_tokens_in_order():
    hidden = torch.arange(24.0).view(3, 4, 2)
    tokens, indices, cu_seqlens, longest, lengths = unpad_input(hidden, MASK)
    assert torch.equal(tokens, hidden[MASK.bool()])
    assert cu_seqlens.tolist() == [0, 2, 6, 8] and cu_seqlens.dtype == torch.int32
    assert (longest, lengths.tolist()) == (4, [2, 4, 2]) and type(longest) is int
    assert indices.tolist() == [0, 1, 4, 5, 6, 7, 9, 10] and lengths.dtype == torch.int32
    assert torch.equal(index_first_axis(hidden.flatten(0, 1), indices), tokens)


def test_pad_is_the_inverse_and_carries_gradients():
    tokens = torch.randn(8, 2, requires_grad=True)
    _, indices, *_ = unpad_input(torch.zeros(3, 4, 2), MASK)
    padded = pad_input(tokens, indices, 3, 4)
    assert torch.equal(padded[MASK.bool()], tokens)
    assert not padded[~MASK.bool()].any()
    assert padded.shape == (3, 4, 2) and padded.dtype == tokens.dtype
    padded.sum().backward()
    assert torch.equal(tokens.grad, torch.ones_like(tokens))


def test_tokens_of_one_number_and_of_any_kind():
    tokens, indices, *_ = unpad_input(torch.arange(12).view(3, 4), MASK)
    assert tokens.tolist() == indices.tolist()
    padded = pad_input(tokens, indices, 3, 4)
    assert padded.dtype == torch.int64 and padded.tolist() == [[0, 1, 0, 0], [4, 5, 6, 7], [0, 9, 10, 0]]


def test_all_ranks_parts_are_joined_in_their_order(monkeypatch):
    import torch.distributed.nn.functional as functional

    asked = []

    def gather(tensor, group):
        asked.append(group)
        return [tensor + 10 * rank for rank in range(3)]

    monkeypatch.setattr(functional, "all_gather", gather)
    tensor = torch.arange(4.0).view(2, 2)
    expected = [[0, 1], [2, 3], [10, 11], [12, 13], [20, 21], [22, 23]]
    assert padding.all_gather(tensor, "ring").tolist() == padding.all_gather(tensor, None).tolist() == expected
    assert asked == ["ring", torch.distributed.group.WORLD]


def test_the_stand_ins_are_imported_as_flash_attentions_are(monkeypatch):
    from einops import rearrange

    names = ("flash_attn", "flash_attn.bert_padding", "flash_attn.utils", "flash_attn.utils.distributed")
    for name in names:  # what is there comes back afterwards
        monkeypatch.setitem(sys.modules, name, None)
    padding.register()
    from flash_attn import bert_padding as found
    from flash_attn.utils.distributed import all_gather

    assert (found.index_first_axis, found.pad_input, found.unpad_input) == (index_first_axis, pad_input, unpad_input)
    assert found.rearrange is rearrange and all_gather is padding.all_gather
    packages = {}
    for name in names:
        spec = importlib.util.find_spec(name)
        assert spec.name == name and spec.loader is None
        packages[name] = spec.submodule_search_locations
        assert getattr(sys.modules[name], "__path__", None) == packages[name]
    assert packages == {name: [] if name in ("flash_attn", "flash_attn.utils") else None for name in names}
    assert importlib.util.find_spec("flash_attn.flash_attn_interface") is None, "transformers looks for it"
