"""Numbers of the distribution of every token."""

from __future__ import annotations

import math

import pytest
import torch

from lens_openrlhf.advantages import token_statistics
from lens_openrlhf.advantages.token_statistics import STATISTICS, entropy, self_certainty, statistics


def test_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]])) + 7
    # ln 2 / 2 + 2 ln 4 / 4 = 1.5 ln 2; ln 3; ln 2, and nothing of the third.
    assert entropy(logits).tolist() == pytest.approx([1.5 * math.log(2), math.log(3), math.log(2)])
    # (ln 2 + 2 ln 4) / 3 - ln 3; 0; a token that cannot come.
    assert self_certainty(logits)[:2].tolist() == pytest.approx([5 * math.log(2) / 3 - math.log(3), 0], abs=1e-6)
    assert self_certainty(logits)[2] == math.inf


def test_they_stand_side_by_side_whatever_the_shape():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    found = statistics(logits, ("self_certainty", "entropies"))
    assert found.shape == (2, 3, 2) and found.dtype == torch.float32
    assert torch.equal(found[..., 0], self_certainty(logits.float())) and torch.equal(
        found[..., 1], entropy(logits.float())
    )
    assert statistics(logits, ("entropies",)).shape == (2, 3, 1)
    assert STATISTICS == {"entropies": entropy, "self_certainty": self_certainty}


@pytest.mark.parametrize("positions", [1, 4, 5, 9])
def test_chunks_come_together_in_order(monkeypatch, positions):
    logits = torch.randn(positions, 7, generator=torch.Generator().manual_seed(positions))
    whole, sizes = statistics(logits, ("entropies", "self_certainty")), []
    monkeypatch.setattr(token_statistics, "CHUNK", 4)
    monkeypatch.setitem(STATISTICS, "entropies", lambda chunk: sizes.append(len(chunk)) or entropy(chunk))
    assert torch.equal(statistics(logits, ("entropies", "self_certainty")), whole)
    assert max(sizes) <= 4 and sum(sizes) == positions  # a copy of all logits would not fit
