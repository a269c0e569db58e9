"""What every rank computes by itself has one order of summation, on CUDA too, so that all come to the same bits."""

from __future__ import annotations

import random
from dataclasses import replace
from operator import add

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_openrlhf.advantages.estimators import OURS, Batch, EstimatorError, find, run, segment_sum

from ..one_order import LISTED, OneOrder, Unordered
from .batches import Answer, answers, batch_of

GROUPS = [
    [Answer(1.0, (0.5, 2.0)), Answer(0.0, ()), Answer(0.3, (0.1, 0.7, 0.2), reward=-0.5)],
    answers(0.0, 0.0, 0.0, 0.0, 0.0),
    answers(1.0, 1.0),
    [Answer(0.0, (1.0, 0.25)), Answer(1.0, (0.3,)), Answer(0.0, (0.9, 0.9))],
    answers(0.0),
]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*that rewards differ from it has no effect"),
    pytest.mark.filterwarnings("ignore:The reduce argument of torch.scatter:UserWarning"),
    pytest.mark.filterwarnings("ignore:index_reduce:UserWarning"),
]
# The last bits of such sums depend on the order.
awkward = st.sampled_from([1e16, -1e16, 1.0, -1.0, 0.1, 3e-9, 7.5e15, -2.5])


def full_batch(estimator) -> Batch:
    """With everything that the estimator may read, groups of one prompt apart from one another."""
    batch = batch_of(GROUPS)
    extras = {name: torch.linspace(0.1, 0.9, len(batch.lengths)).double() for name in estimator.extras}
    return replace(batch, prompts=torch.tensor([7, 3, 9, 7, 3]), extras=extras)


def loop(values, sizes) -> list[float]:
    """One value after the other."""
    sums, left = [], iter(values)
    for size in sizes:
        total = 0.0
        for _ in range(size):
            total = add(total, next(left))
        sums.append(total)
    return sums


@pytest.mark.parametrize("name", OURS)
def test_no_estimator_adds_in_any_order(name):
    estimator = find(name)()
    batch = full_batch(estimator)
    expected = run(find(name)(), batch).advantage
    with OneOrder() as mode:
        found = run(estimator, batch).advantage
        again = run(estimator, batch).advantage  # with what it remembers
    assert torch.equal(found, expected) and len(again) == len(found)
    assert "eq" in mode.seen  # the mode saw what was computed


@pytest.mark.parametrize(
    ("compute", "seen"),
    [
        (lambda batch: batch.group_sum(batch.rewards), "segment_reduce"),
        (lambda batch: batch.group_mean(batch.rewards), "segment_reduce"),
        (lambda batch: batch.token_mean(batch.entropies), "segment_reduce"),
        (lambda batch: batch.grpo(batch.rewards), "group_advantages"),
        (lambda batch: batch.kinds, "scatter_reduce"),
    ],
    ids=["group_sum", "group_mean", "token_mean", "grpo", "kinds"],
)
def test_no_helper_of_a_batch_adds_in_any_order(compute, seen):
    with OneOrder() as mode:
        compute(batch_of(GROUPS))
    assert seen in mode.seen


def test_an_index_add_in_a_helper_is_found(monkeypatch):
    def group_sum(batch, values):
        return values.new_zeros(len(batch.cu_groups) - 1).index_add(0, batch.group_of, values)

    monkeypatch.setattr(Batch, "group_sum", group_sum)
    for name in ("asymre", "ngrpo", "intuitor"):
        estimator = find(name)()
        with pytest.raises(EstimatorError, match="Unordered: aten.index_add.default: adds in any order"), OneOrder():
            run(estimator, full_batch(estimator))


VALUES, INDEX = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0, 1, 1])


def zeros():
    return torch.zeros(2)


def put(index, accumulate):
    zeros().index_put_((index,), VALUES[: len(index)], accumulate=accumulate)


UNORDERED = {
    "index_add": lambda: zeros().index_add(0, INDEX, VALUES),
    "index_add_": lambda: zeros().index_add_(0, INDEX, VALUES),
    "scatter_add": lambda: zeros().scatter_add(0, INDEX, VALUES),
    "scatter_reduce sum": lambda: zeros().scatter_reduce(0, INDEX, VALUES, "sum"),
    "scatter_reduce_ mean": lambda: zeros().scatter_reduce_(0, INDEX, VALUES, "mean"),
    "scatter with a reduction": lambda: zeros().scatter_(0, INDEX, VALUES, reduce="add"),
    "scatter onto one place": lambda: zeros().scatter(0, INDEX, VALUES),
    "index_reduce": lambda: zeros().index_reduce(0, INDEX, VALUES, "mean"),
    "index_copy onto one place": lambda: zeros().index_copy(0, INDEX, VALUES),
    "index_put that adds": lambda: put(INDEX, True),
    "index_put onto one place": lambda: put(INDEX, False),
    "assignment to one place": lambda: zeros().__setitem__(INDEX, VALUES),
    "put_ that adds": lambda: zeros().put_(INDEX, VALUES, accumulate=True),
    "bincount with weights": lambda: torch.bincount(INDEX, VALUES),
    "cumsum": lambda: VALUES.cumsum(0),
    "histc": lambda: VALUES.histc(2),
}
ORDERED = {
    "segment_reduce": lambda: segment_sum(VALUES, torch.tensor([2, 0, 1])),
    "sum": lambda: (VALUES.sum(), VALUES.mean(), VALUES.std()),
    "amax": lambda: zeros().scatter_reduce(0, INDEX, VALUES, "amax"),
    "whole numbers": lambda: (torch.zeros(2).long().index_add(0, INDEX, INDEX), INDEX.cumsum(0), torch.bincount(INDEX)),
    "assignment to places": lambda: put(torch.tensor([1, 0]), False),
    "assignment by a mask": lambda: zeros().__setitem__(torch.tensor([True, False]), 1.0),
}


@pytest.mark.parametrize("name", UNORDERED)
def test_what_torch_lists_is_refused(name):
    with pytest.raises(Unordered, match="in any order on CUDA"), OneOrder():
        UNORDERED[name]()


@pytest.mark.parametrize("name", ORDERED)
def test_what_has_an_order_passes(name):
    with OneOrder():
        ORDERED[name]()


def test_torch_still_lists_them():
    text = torch.use_deterministic_algorithms.__doc__
    assert [name for name in LISTED if name not in text] == []


@given(st.lists(st.lists(awkward, max_size=6), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_a_sum_goes_from_the_first_to_the_last_whatever_stands_around_it(segments, chance):
    order = chance.sample(range(len(segments)), len(segments))
    for chosen in (range(len(segments)), order):
        values = [value for i in chosen for value in segments[i]]
        sizes = [len(segments[i]) for i in chosen]
        found = segment_sum(torch.tensor(values, dtype=torch.float64), torch.tensor(sizes))
        assert found.tolist() == loop(values, sizes)


def test_a_groups_sum_does_not_depend_on_the_other_groups():
    groups = [[1e16, 1.0, -1e16], [1e16, -1e16, 1.0], [0.1] * 9, [3e-9, 1e16, 0.3, -1e16], [2.5]]
    alone = [loop(group, [len(group)])[0] for group in groups]
    assert alone[:2] == [0.0, 1.0]  # the order decides
    chance = random.Random(0)
    for _ in range(20):
        order = chance.sample(range(len(groups)), len(groups))
        shaped = [[Answer(0.0, (1.0,), reward=reward) for reward in groups[i]] for i in order]
        batch = batch_of(shaped)
        assert batch.group_sum(batch.rewards).tolist() == [alone[i] for i in order]
        assert batch.group_mean(batch.rewards).tolist() == [alone[i] / len(groups[i]) for i in order]
        tokens = batch_of([[Answer(0.0, tuple(groups[i]))] for i in order])  # a response has a group's values
        wide = torch.tensor([value for i in order for value in groups[i]], dtype=torch.float64)
        assert tokens.token_mean(wide).tolist() == [alone[i] / len(groups[i]) for i in order]


def test_sums_of_nothing_and_of_numbers_that_are_none():
    batch = batch_of([answers(1, 0), answers(), answers(0, 0)])
    nan, inf = float("nan"), float("inf")
    assert batch.group_sum(torch.tensor([inf, 1.0, inf, -inf])).nan_to_num(nan=-7).tolist()[1:] == [0.0, -7.0]
    assert batch.group_sum(torch.tensor([inf, 1.0, 0.0, nan])).tolist()[0] == inf
    empty = segment_sum(torch.empty(0), torch.empty(0, dtype=torch.int64))
    assert empty.shape == (0,) and empty.dtype == torch.float64
    assert segment_sum(torch.empty(0), torch.zeros(3, dtype=torch.int64)).tolist() == [0.0] * 3


def test_sums_keep_the_dtype_of_what_is_summed():
    batch = batch_of([answers(1, 0, 1), answers(0)])
    right = batch.correctness == 1
    assert batch.group_sum(right.long()).tolist() == [2, 0] and batch.group_sum(right.long()).dtype == torch.int64
    assert batch.group_sum(right.float()).dtype == torch.float32


@pytest.mark.parametrize("sizes", [[2], [4], [4, -1]])
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(RuntimeError, match="lengths"):
        segment_sum(torch.ones(3), torch.tensor(sizes))
