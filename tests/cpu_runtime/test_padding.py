"""The stand-ins for flash-attention's padding helpers."""

from __future__ import annotations

import torch

from lens_openrlhf.cpu_runtime.padding import index_first_axis, pad_input, unpad_input

MASK = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]])


def test_unpad_keeps_the_masked_tokens_in_order():
    hidden = torch.arange(24.0).view(3, 4, 2)
    tokens, indices, cu_seqlens, longest, lengths = unpad_input(hidden, MASK)
    assert torch.equal(tokens, hidden[MASK.bool()])
    assert cu_seqlens.tolist() == [0, 2, 6, 8] and cu_seqlens.dtype == torch.int32
    assert (longest, lengths.tolist()) == (4, [2, 4, 2])
    assert torch.equal(index_first_axis(hidden.flatten(0, 1), indices), tokens)


def test_pad_is_the_inverse_and_carries_gradients():
    tokens = torch.randn(8, 2, requires_grad=True)
    _, indices, *_ = unpad_input(torch.zeros(3, 4, 2), MASK)
    padded = pad_input(tokens, indices, 3, 4)
    assert torch.equal(padded[MASK.bool()], tokens)
    assert not padded[~MASK.bool()].any()
    padded.sum().backward()
    assert torch.equal(tokens.grad, torch.ones_like(tokens))
