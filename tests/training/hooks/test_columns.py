"""What is taken of a rank's samples, what becomes of it, and what is set and dropped."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from lens_openrlhf.advantages import estimators
from lens_openrlhf.advantages.across_ranks import Gathered
from lens_openrlhf.training.hooks.advantages import compute, dropped_samples, set_advantages
from lens_openrlhf.training.hooks.columns import Needs, needs_of, pack, responses_of
from lens_openrlhf.training.hooks.tags import CARRIERS, EXTRA, PROMPT, ROLLOUT_INDEX, TAGS


def item(position, mask, score=0.0, reward=None, prompt=7, **fields):
    """A sample of the replay buffer, whose numbers of tokens say which they are."""
    width = len(mask)
    numbers = {
        "action_log_probs": -torch.arange(1.0, width + 1) - position,
        "rollout_log_probs": -torch.arange(1.0, width + 1) / 2 - position,
        "values": torch.arange(width) + 100.0 * position,
        "returns": torch.arange(width) - 100.0 * position,
    }
    info = {ROLLOUT_INDEX: torch.tensor(position), PROMPT: torch.tensor(prompt), "reward": torch.tensor(0.5)}
    given = {
        "action_mask": torch.tensor(mask),
        "scores": torch.tensor(score),
        "rewards": torch.tensor(score if reward is None else reward),
        "info": info | {name: value for name, value in fields.items() if name.startswith(EXTRA)},
    }
    more = {name: value for name, value in fields.items() if not name.startswith(EXTRA)}
    return SimpleNamespace(**numbers | given | more)


LARGE = 2**52 - 1  # the largest number of a prompt


def items():
    extra = EXTRA + "drawn"
    return [
        item(5, [0, 1, 1], 1.0, 0.25, LARGE, **{extra: torch.tensor([8.0])}),
        item(2, [1, 0, 1, 1], 0.0, -0.5, 3, **{extra: torch.tensor([16.0])}),
        item(0, [0, 0], 0.5, 0.5, 3, **{extra: torch.tensor([32.0])}),
    ]


ALL = Needs(tokens=("logprobs", "entropies", "self_certainty"), extras=("drawn",))


@pytest.mark.parametrize("source", ["action_log_probs", "rollout_log_probs"])
def test_what_is_taken_of_samples(source):
    columns, tokens = pack(items(), Needs(source, "--option", ALL.tokens, ALL.extras), "cpu")
    scale = 1 if source == "action_log_probs" else 0.5
    found = {name: (values.dtype, values.tolist()) for name, values in columns.items() if name != "mean_logprob"}
    assert found == {
        "position": (torch.int64, [5, 2, 0]),
        "prompts": (torch.int64, [LARGE, 3, 3]),
        "lengths": (torch.int64, [2, 3, 0]),
        "correctness": (torch.float64, [1.0, 0.0, 0.5]),
        "rewards": (torch.float64, [0.25, -0.5, 0.5]),
        EXTRA + "drawn": (torch.float64, [8.0, 16.0, 32.0]),
    }
    mean = columns["mean_logprob"]
    assert list(columns)[:6] == ["position", "prompts", "lengths", "mean_logprob", "correctness", "rewards"]
    assert mean.dtype == torch.float64 and mean[2].isnan()
    assert mean[:2].tolist() == pytest.approx([-2.5 * scale - 5, -8 / 3 * scale - 2])
    assert {name: (values.dtype, values.tolist()) for name, values in tokens.items()} == {
        "logprobs": (torch.float32, [-2 * scale - 5, -3 * scale - 5, *(-i * scale - 2 for i in (1, 3, 4))]),
        "entropies": (torch.float32, [501.0, 502.0, 200.0, 202.0, 203.0]),
        "self_certainty": (torch.float32, [-499.0, -498.0, -200.0, -198.0, -197.0]),
    }
    assert CARRIERS == {"entropies": "values", "self_certainty": "returns"}


def test_a_rank_without_samples_has_its_columns_where_it_is_told():
    columns, tokens = pack([], ALL, "meta")
    assert all(values.is_meta for values in (*columns.values(), *tokens.values()))


def test_a_rank_without_samples_has_the_same_columns():
    some, none = pack(items(), ALL, "cpu"), pack([], ALL, "cpu")
    for kind in (0, 1):
        assert {name: values.dtype for name, values in none[kind].items()} == {
            name: values.dtype for name, values in some[kind].items()
        }
        assert list(none[kind]) == list(some[kind]) and not any(len(values) for values in none[kind].values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": None}, "a sample has no score: the estimator needs the raw correctness of every answer"),
        ({"action_log_probs": None}, "--option: a sample has no action_log_probs"),
        ({"values": None}, "entropies: a sample has no values"),
        ({"returns": None}, "self_certainty: a sample has no returns"),
        ({"info": {}}, "a sample has no drawn, which the estimator needs of the side that sampled it"),
    ],
)
@pytest.mark.parametrize("which", [0, 2])
def test_what_a_sample_lacks_is_named(change, words, which):
    samples = items()
    vars(samples[which]).update(change)
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        pack(samples, Needs("action_log_probs", "--option", ALL.tokens, ALL.extras), "cpu")


def test_what_an_estimator_needs():
    declared = {"needs": frozenset({"self_certainty", "logprobs"}), "extras": ("drawn", "seen"), "name": "mine"}
    kind = type("Mine", (estimators.Estimator,), declared)
    assert needs_of(kind()) == Needs(
        "action_log_probs", "--algo.mine.confidence_from actor", ("logprobs", "self_certainty"), ("drawn", "seen")
    )
    from_rollout = estimators.find("lens")(estimators.find("lens").Config(confidence_from="rollout"))
    assert needs_of(from_rollout) == Needs("rollout_log_probs", "--algo.lens.confidence_from rollout")


def gathered(rank=0, counts=(3,)):
    columns, tokens = pack(items(), ALL, "cpu")
    return Gathered(columns, tokens, list(counts), [5], rank)


def test_samples_of_all_ranks_as_the_responses_of_a_step():
    found = responses_of(gathered(), ALL, 2, 9)
    assert found.group.tolist() == [2, 1, 0] and found.step == 9 and found.position.tolist() == [5, 2, 0]
    assert found.extras.keys() == {"drawn"} and found.extras["drawn"].tolist() == [8, 16, 32]
    assert found.prompts.tolist() == [LARGE, 3, 3] and found.lengths.tolist() == [2, 3, 0]
    assert found.correctness.tolist() == [1, 0, 0.5] and found.rewards.tolist() == [0.25, -0.5, 0.5]
    assert found.tokens is not None and list(found.tokens) == ["logprobs", "entropies", "self_certainty"]
    empty = Gathered(*pack([], ALL, "cpu"), [0, 0], [0, 0], 0)
    with pytest.raises(ValueError, match="^the replay buffer is empty on every rank$"):
        responses_of(empty, ALL, 2, 1)


class Fixed(estimators.Estimator):
    """Of every response what its reward says, or of every token what its log-probability says."""

    def __init__(self, per_token):
        super().__init__()
        self.per_token, self.needs = per_token, frozenset(ALL.tokens)
        self.extras = ALL.extras

    def advantages(self, batch):
        values = -batch.logprobs.double() if self.per_token else batch.rewards * 2
        confidence = torch.tensor([torch.nan, 0.25, 0.5])
        return estimators.Result(
            advantage=values, per_token=self.per_token, confidence=confidence, metrics={"mine": 1.5, "lens/groups": 9.0}
        )


def test_advantages_come_back_clipped_in_the_order_of_the_ranks():
    found = compute(gathered(), Fixed(False), ALL, 2, 1, (-0.75, 0.6))
    assert found.values.tolist() == [0.5, -0.75, 0.6] and found.per_token is False
    assert found.columns == {
        "index": [0, 2, 5],
        "reward": [0.5, -0.5, 0.25],
        "confidence": [None, 0.25, 0.5],
        "advantage": [0.6, -0.75, 0.5],
        "kind": ["negative", "negative", "positive"],
    }
    assert found.metrics["mine"] == 1.5 and found.metrics["lens/groups"] == 9.0  # the estimator has the last word
    assert found.metrics["lens/abs_advantage_negative"] == pytest.approx((0.6 + 0.75) / 2)
    assert compute(gathered(rank=1, counts=(1, 2)), Fixed(False), ALL, 2, 1, (-10, 10)).columns is None


def test_advantages_of_tokens_too():
    found = compute(gathered(), Fixed(True), ALL, 2, 1, (-10, 6.5))
    assert found.values.tolist() == [6.5, 6.5, 3, 5, 6] and found.per_token is True
    assert found.columns["advantage"] == pytest.approx([0, 14 / 3, 6.5])
    assert found.metrics["lens/abs_advantage_positive"] == pytest.approx(6.5)


def test_magnitudes_of_tokens_do_not_cancel():
    estimator = Fixed(True)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    estimator.advantages = lambda batch: estimators.Result(advantage=signs, per_token=True)
    found = compute(gathered(), estimator, ALL, 2, 1, (-10, 10))
    assert found.metrics["lens/abs_advantage_positive"] == pytest.approx(1)
    assert found.columns["advantage"] == pytest.approx([0, 1 / 3, 0])


@pytest.mark.parametrize("per_token", [False, True])
def test_advantages_are_set_in_place_of_the_placeholders(per_token):
    samples = items()
    before = [sample.returns for sample in samples]
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0] if per_token else [1.0, 2.0, 3.0], dtype=torch.float64)
    set_advantages(samples, values, per_token)
    expected = [[0, 1, 2], [3, 0, 4, 5], [0, 0]] if per_token else [[0, 1, 1], [2, 0, 2, 2], [0, 0]]
    means = [1.5, 4, 0] if per_token else [1, 2, 3]
    for sample, old, tokens, mean in zip(samples, before, expected, means, strict=True):
        assert sample.advantages.dtype == torch.float32 and sample.advantages.tolist() == tokens
        assert sample.returns is sample.advantages and sample.values is None
        assert {name: float(value) for name, value in sample.info.items()} == {"reward": 0.5, "return": mean}
        assert not torch.equal(old, sample.returns)  # what came through Ray is not written to
        assert sample.info["return"].dtype == torch.float32 and sample.info["return"].shape == ()
    assert all(name.startswith(TAGS) for name in (ROLLOUT_INDEX, PROMPT, EXTRA))


def step(dynamic, micro=4, batch=8, rollout=6, each=4):
    return SimpleNamespace(
        train=SimpleNamespace(dynamic_batch_enable=dynamic, micro_batch_size=micro, batch_size=batch),
        rollout=SimpleNamespace(batch_size=rollout, n_samples_per_prompt=each),
    )


@pytest.mark.parametrize(
    ("args", "counts", "dropped"),
    [
        (step(False), [8, 4], 0),
        (step(False), [6, 9], 2 + 1),  # each rank's tail, of micro-batches of 4
        (step(False), [3, 0], 3),
        (step(False, micro=1), [5, 7], 0),
        (step(True), [12, 12], 0),  # 24 samples make 3 updates, of 4 on each rank
        (step(True), [10, 14], 8),  # the first rank has enough for 2
        (step(True), [20, 20], 16),  # no more than 3 all the same
        (step(True, batch=16), [12, 12], 8),
        (step(True), [3, 21], 24),  # not one
        (step(True, rollout=5), [12, 8], 4),  # 20 samples are 2 whole updates
    ],
)
def test_samples_that_are_left_out_of_the_update(args, counts, dropped):
    assert dropped_samples(args, counts) == dropped
