"""Numbers of every rank, gathered by two real processes on gloo."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lens_openrlhf.advantages import across_ranks
from lens_openrlhf.advantages.across_ranks import Gathered, gather

# Whole numbers of 64 bits, NaN and -0 among the real ones, and two numbers of every token; by rank.
WHOLE = ([2**62 + 1, -(2**63), 7], [0, 2**53 + 1])
REAL = ([math.nan, -0.0, 0.1], [math.inf, 5e-324])
LENGTHS = ([2, 0, 1], [4, 1])
ERRORS = {
    "one fails": (None, ValueError("position 3: größer als 1")),
    "both fail": (ValueError("no score"), KeyError()),
}


def numbers(name: str, rank: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What the rank brings in a case."""
    count = {"the first has none": (0, 2), "the second has none": (3, 0), "none at all": (0, 0)}.get(name, (3, 2))[rank]
    columns = {
        "whole": torch.tensor(WHOLE[rank][:count], dtype=torch.int64),
        "real": torch.tensor(REAL[rank][:count], dtype=torch.float64),
    }
    total = 0 if name == "no tokens" else sum(LENGTHS[rank][:count])
    tokens = {key: scale * torch.arange(total) - 100.0 * rank for key, scale in (("logprobs", 0.5), ("entropies", 2))}
    return columns, {} if name == "columns alone" else tokens


CASES = ("both", "the first has none", "the second has none", "none at all", "no tokens", "columns alone")


def _rank(rank: int, store: str, results) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for name in CASES:
        found = gather(*numbers(name, rank), None, dist.group.WORLD)
        own = found.own(torch.arange(sum(found.counts)), False), found.own(torch.arange(sum(found.token_counts)), True)
        # As bytes, as torch would pass tensors by memory that ends with the process.
        columns, tokens = (
            {key: (values.dtype, values.contiguous().view(torch.uint8).tolist()) for key, values in kind.items()}
            for kind in (found.columns, found.tokens)
        )
        results.put((name, rank, (columns, tokens, found.counts, found.token_counts, *(o.tolist() for o in own))))
    for name, errors in ERRORS.items():
        mine = ({}, {}) if errors[rank] else numbers(name, rank)
        try:
            gather(*mine, errors[rank], dist.group.WORLD)
        except ValueError as error:
            results.put((name, rank, (str(error), repr(error.__cause__))))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """{(case, rank): what the rank had}."""
    context = mp.get_context("spawn")
    results, store = context.SimpleQueue(), str(tmp_path_factory.mktemp("ranks") / "store")
    ranks = [context.Process(target=_rank, args=(rank, store, results), daemon=True) for rank in range(2)]
    for process in ranks:
        process.start()
    found = [results.get() for _ in range(2 * (len(CASES) + len(ERRORS)))]
    for process in ranks:
        process.join(timeout=60)
        assert process.exitcode == 0
    return {(name, rank): result for name, rank, result in found}


@pytest.mark.parametrize("name", CASES)
def test_both_ranks_hold_the_numbers_of_both_to_the_last_bit(two_ranks, name):
    parts = [numbers(name, rank) for rank in range(2)]
    for rank in range(2):
        columns, tokens, counts, token_counts, own, own_tokens = two_ranks[name, rank]
        for found, kind in ((columns, 0), (tokens, 1)):
            expected = {key: torch.cat([part[kind][key] for part in parts]) for key in parts[0][kind]}
            assert found == {key: (values.dtype, values.view(torch.uint8).tolist()) for key, values in expected.items()}
        assert counts == [len(columns["real"]) for columns, _ in parts]
        assert token_counts == [len(tokens.get("logprobs", ())) for _, tokens in parts]
        for found, sizes in ((own, counts), (own_tokens, token_counts)):
            assert found == list(range(sum(sizes)))[sum(sizes[:rank]) :][: sizes[rank]]


def test_an_error_of_one_rank_is_raised_on_both(two_ranks):
    for rank, cause in enumerate(("None", repr(ERRORS["one fails"][1]))):
        assert two_ranks["one fails", rank] == ("data-parallel rank 1: position 3: größer als 1", cause)
    for rank in range(2):
        text = "data-parallel rank 0: no score; data-parallel rank 1: KeyError"
        assert two_ranks["both fail", rank] == (text, repr(ERRORS["both fail"][rank]))


def test_one_rank_alone():
    columns, tokens = numbers("both", 0)
    assert gather(columns, tokens, None, None) == Gathered(columns, tokens, [3], [3], 0)
    with pytest.raises(ValueError, match="^KeyError$"):
        gather({}, {}, KeyError(), None)


def test_only_the_ranks_of_the_group_are_asked(monkeypatch):
    """In the place of one of two alike, whose group is not that of all processes."""
    asked = []

    def all_gather(parts, local, group):
        asked.append(group)
        for part in parts:
            part.copy_(local)

    def known(number):
        return lambda group: {"group": number}[group]

    both = SimpleNamespace(all_gather=all_gather, get_rank=known(1), get_world_size=known(2))
    monkeypatch.setattr(across_ranks, "dist", both)
    columns, tokens = numbers("both", 0)
    found = gather(columns, tokens, None, "group")
    assert (found.rank, found.counts, found.token_counts) == (1, [3, 3], [3, 3]) and asked == ["group"] * 3
    assert found.columns["whole"].tolist() == WHOLE[0] * 2
    assert found.own(torch.arange(6), False).tolist() == [3, 4, 5]
    with pytest.raises(ValueError, match="^data-parallel rank 0: no; data-parallel rank 1: no$"):
        gather(columns, tokens, ValueError("no"), "group")


def test_a_group_of_one_rank_asks_nobody(monkeypatch):
    monkeypatch.setattr(across_ranks, "dist", SimpleNamespace(get_world_size=lambda group: {"group": 1}[group]))
    columns, tokens = numbers("both", 0)
    assert gather(columns, tokens, None, "group") == Gathered(columns, tokens, [3], [3], 0)
    with pytest.raises(ValueError, match="^no$"):
        gather(columns, tokens, ValueError("no"), "group")
