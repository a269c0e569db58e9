"""Responses in any order: as a batch and back, and their advantages on their tokens."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lens_openrlhf.advantages.estimators import Estimator, Result, find, tokens_of
from lens_openrlhf.advantages.responses import Responses, batch_of, by_response, estimate, on_tokens, packed

from .strategies import ALL_KINDS, group_outcomes


class ByToken(Estimator):
    """Of every token what its response, its group and its place decide."""

    name = "by_token"
    needs = frozenset({"logprobs", "entropies"})

    def advantages(self, batch):
        of_response = batch.group_mean(batch.rewards)[batch.group_of] + batch.extra("weight", "give it")
        values = batch.logprobs * batch.entropies + of_response[batch.response_of]
        return Result(advantage=values, per_token=True)


@st.composite
def rollouts(draw) -> Responses:
    """Ragged groups in the order of their positions, which have gaps; some responses are empty."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    n = sum(sizes)
    lengths = torch.tensor(draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    outcomes = [draw(group_outcomes(size, ALL_KINDS)) for size in sizes]
    correctness = torch.tensor([outcome for group in outcomes for outcome in group], dtype=torch.float64)
    return Responses(
        group=torch.repeat_interleave(torch.arange(len(sizes)) * 3, torch.tensor(sizes)),
        position=torch.randint(1, 4, (n,), generator=generator).cumsum(0),
        lengths=lengths,
        correctness=correctness,
        rewards=correctness - torch.rand(n, generator=generator, dtype=torch.float64),
        tokens={name: -torch.rand(int(lengths.sum()), generator=generator) for name in ("logprobs", "entropies")},
        prompts=torch.repeat_interleave(2**62 + torch.arange(len(sizes)) % 2, torch.tensor(sizes)),
        extras={"weight": torch.rand(n, generator=generator)},
    )


def chosen(responses: Responses, order: torch.Tensor) -> Responses:
    """The same responses in another order."""
    tokens = tokens_of(order, responses.lengths)
    columns = {
        field.name: value[order]
        for field in fields(responses)
        if isinstance(value := getattr(responses, field.name), torch.Tensor)
    }
    return replace(
        responses,
        **columns,
        tokens={name: values[tokens] for name, values in responses.tokens.items()},
        extras={name: values[order] for name, values in responses.extras.items()},
    )


def parts(responses: Responses, values: torch.Tensor, per_token: bool) -> list[list[float]]:
    found = by_response(values, per_token, responses.lengths.tolist())
    return [part.tolist() if per_token else [part.item()] for part in found]


@given(rollouts(), st.randoms(use_true_random=False))
def test_a_batch_is_the_rollout_whatever_the_order(responses, chance):
    order = torch.tensor(chance.sample(range(len(responses.group)), len(responses.group)))
    shuffled = chosen(responses, order)
    batch, *_ = ordered = batch_of(shuffled, ByToken())
    whole = batch_of(responses, ByToken()).batch
    assert whole.cu_groups.diff().tolist() == torch.unique(responses.group, return_counts=True)[1].tolist()
    assert whole.prompts.tolist() == responses.prompts[whole.cu_groups[:-1]].tolist()
    for field in fields(batch):
        one, other = getattr(batch, field.name), getattr(whole, field.name)
        if isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype and torch.equal(one.nan_to_num(7), other.nan_to_num(7)), field.name
    assert torch.equal(batch.extras["weight"], responses.extras["weight"].double())
    assert torch.equal(ordered.back(batch.rewards, False), shuffled.rewards)
    assert torch.equal(ordered.back(batch.logprobs, True), shuffled.tokens["logprobs"])


@given(rollouts(), st.randoms(use_true_random=False))
@pytest.mark.filterwarnings("ignore:.*that rewards differ from it has no effect")
@pytest.mark.parametrize("kind", [find("lens"), ByToken])
def test_advantages_keep_to_their_responses_to_the_last_bit(kind, responses, chance):
    order = torch.tensor(chance.sample(range(len(responses.group)), len(responses.group)))
    whole, shuffled = estimate(kind(), responses), estimate(kind(), chosen(responses, order))
    assert whole.per_token == shuffled.per_token and whole.metrics == shuffled.metrics
    before = parts(responses, whole.advantage, whole.per_token)
    after = parts(chosen(responses, order), shuffled.advantage, whole.per_token)
    assert after == [before[i] for i in order.tolist()]


@given(rollouts(), st.randoms(use_true_random=False))
def test_without_positions_responses_of_a_group_stay_as_they_came(responses, chance):
    order = torch.tensor(chance.sample(range(len(responses.group)), len(responses.group)))
    shuffled = replace(chosen(responses, order), position=None)
    numbers = shuffled.group.tolist()
    wanted = sorted(range(len(numbers)), key=numbers.__getitem__)
    assert batch_of(shuffled, find("lens")()).responses.tolist() == wanted


@given(rollouts())
def test_means_that_were_computed_before_are_the_same(responses):
    batch = batch_of(responses, find("lens")()).batch
    again = batch_of(replace(responses, mean_logprob=batch.mean_logprob, tokens={}), find("lens")()).batch
    assert torch.equal(batch.mean_logprob.nan_to_num(7), again.mean_logprob.nan_to_num(7))
    assert batch.logprobs is None and batch.cu_seqlens is None


def test_a_position_that_comes_twice_is_named():
    three = {name: torch.zeros(3, dtype=torch.float64) for name in ("correctness", "rewards", "mean_logprob")}
    position = torch.tensor([9, 4, 9])
    responses = Responses(group=position // 4, position=position, lengths=torch.ones(3).long(), tokens={}, **three)
    with pytest.raises(ValueError, match=r"rollout sample 9 was gathered twice: copies of a rank \(ring attention"):
        batch_of(responses, find("lens")())


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=6), st.booleans())
def test_values_lie_on_their_action_tokens(mask, per_token):
    mask = torch.tensor(mask)
    assume(mask.any())
    count = int(mask.sum()) if per_token else len(mask)
    values = torch.rand(count, dtype=torch.float64) - 0.5
    found = on_tokens(values, per_token, mask.long())
    assert found.dtype == torch.float32 and found.shape == mask.shape and not found[~mask].any()
    expected = values if per_token else values.repeat_interleave(mask.sum(1))
    assert torch.equal(packed(found, mask), expected.float())
    alone = [
        on_tokens(part, per_token, row)
        for part, row in zip(by_response(values, per_token, mask.sum(1).tolist()), mask, strict=True)
    ]
    assert torch.equal(torch.stack(alone), found)


def small(**changes):
    """Two responses to one prompt, of two tokens and of one."""
    given = {
        "group": torch.tensor([4, 4]),
        "lengths": torch.tensor([2, 1]),
        "correctness": torch.tensor([1, 0]),
        "rewards": torch.tensor([0.5, 0.0]),
        "tokens": {"logprobs": torch.tensor([-1.0, -2.0, -4.0], dtype=torch.float64)},
    }
    return Responses(**given | changes)


def test_what_is_not_known_of_responses():
    batch = batch_of(small(), find("lens")()).batch
    assert (batch.step, batch.prompts, batch.logprobs, batch.cu_seqlens, dict(batch.extras)) == (
        1,
        None,
        None,
        None,
        {},
    )
    assert batch.mean_logprob.tolist() == [-1.5, -4] and batch.cu_groups.tolist() == [0, 2]
    assert batch.correctness.dtype == batch.rewards.dtype == torch.float64
    later = batch_of(small(step=8), find("lens")()).batch
    assert later.step == 8


def test_only_the_token_numbers_that_are_needed_are_in_the_batch():
    ordered = batch_of(small(tokens=small().tokens | {"other": torch.zeros(3)}), ByToken())
    batch = ordered.batch
    assert batch.logprobs.dtype == torch.float32 and batch.entropies is None and batch.cu_seqlens.tolist() == [0, 2, 3]
    assert ordered.tokens.tolist() == [0, 1, 2] and batch_of(small(), find("lens")()).tokens is None


def test_positions_decide_the_order_and_the_first_of_a_group_its_prompt():
    changes = {
        "group": torch.tensor([2, 0, 2]),
        "position": torch.tensor([9, 1, 8]),
        "prompts": torch.tensor([5, 6, 5]),
    }
    changes |= {name: torch.tensor([1.0, 2.0, 3.0]) for name in ("correctness", "rewards", "mean_logprob")}
    ordered = batch_of(small(**changes, lengths=torch.tensor([1, 1, 1]), tokens={}), find("lens")())
    assert ordered.responses.tolist() == [1, 2, 0] and ordered.batch.prompts.tolist() == [6, 5]
    assert ordered.batch.cu_groups.tolist() == [0, 1, 3] and ordered.batch.rewards.tolist() == [2, 3, 1]
    assert ordered.back(torch.tensor([10, 20, 30]), False).tolist() == [30, 10, 20]
