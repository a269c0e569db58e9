"""slime's function, called as slime 0.3.1 calls it: (args, rollout_data) on every data-parallel rank."""

from __future__ import annotations

import sys
from argparse import Namespace
from types import ModuleType
from typing import ClassVar

import pytest
import torch

from lens_openrlhf.advantages import LensConfig
from lens_openrlhf.advantages.estimators import Estimator, EstimatorError
from lens_openrlhf.advantages.reference import lens_advantages
from lens_openrlhf.outside import slime

LENGTHS, MASKED, OUTCOMES = (3, 5, 2, 4, 5, 1, 2, 3), 1, [0, 0, 0, 0, 1, 0, 0, 1]
PER_PROMPT = 4


def arguments(**changes) -> Namespace:
    """What slime's arguments have by default, as far as advantages are concerned."""
    defaults = {
        "n_samples_per_prompt": PER_PROMPT,
        "use_rollout_logprobs": False,
        "rewards_normalization": True,
        "normalize_advantages": False,
        "context_parallel_size": 1,
    }
    return Namespace(**defaults | changes)


def rollout_data(rows=range(8)) -> dict:
    """Of 8 samples (2 prompts) those at the positions `rows`; one has a token of tool output."""
    generator = torch.Generator().manual_seed(0)
    logprobs = [-torch.rand(n, generator=generator) for n in LENGTHS]
    masks = [torch.ones(n, dtype=torch.int) for n in LENGTHS]
    masks[MASKED][2] = 0
    return {
        "partition": list(rows),
        "log_probs": [logprobs[i] for i in rows],
        "loss_masks": [masks[i] for i in rows],
        "rewards": [float("nan")] * len(rows),  # normalised within groups; must not be read
        "raw_reward": OUTCOMES,
        "local_raw_reward": [OUTCOMES[i] for i in rows],
        "sample_indices": [40 + i for i in rows],  # samples are counted over the whole training
    }


def expected(**options) -> list[torch.Tensor]:
    data = rollout_data()
    masks = [mask.bool() for mask in data["loss_masks"]]
    advantage = lens_advantages(
        torch.cat([values[mask] for values, mask in zip(data["log_probs"], masks, strict=True)]).double(),
        torch.tensor([0, *(int(mask.sum()) for mask in masks)]).cumsum(0),
        torch.tensor(OUTCOMES, dtype=torch.float64),
        torch.tensor([0, 4, 8]),
        LensConfig(**options),
    ).advantage
    return [value * mask for value, mask in zip(advantage, masks, strict=True)]


def check(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-8)


def test_the_advantages_are_the_references():
    data = rollout_data()
    assert slime.lens(arguments(), data) is None
    check(data["advantages"], expected())
    assert (data["advantages"][0] != 0).all(), "an all-wrong group"
    assert data["returns"] is data["advantages"]
    mine = slime.advantage_function("lens", alpha=1.0)
    mine(arguments(), data)
    check(data["advantages"], expected(alpha=1.0))


def test_rewards_after_shaping_and_the_engines_log_probabilities():
    data = rollout_data()
    data["rollout_log_probs"] = data.pop("log_probs")
    data["rewards"] = [0.0, -0.5, 0, 0, 1, 0, 0, 1]
    slime.grpo(arguments(rewards_normalization=False, use_rollout_logprobs=True), data)
    # The shaped rewards of the first group: mean -1/8, std 1/4.
    assert [float(a[0]) for a in data["advantages"][:4]] == pytest.approx([0.5, -1.5, 0.5, 0.5])


class Tokens(Estimator):
    name = "tokens"
    needs = frozenset({"logprobs"})

    def advantages(self, batch):
        return batch.logprobs


def test_numbers_of_tokens_lie_at_their_tokens():
    data = rollout_data()
    # In another order than by group.
    data = {name: values[::-1] for name, values in data.items()}
    slime.advantage_function(Tokens)(arguments(), data)
    for advantage, values, mask in zip(data["advantages"], data["log_probs"], data["loss_masks"], strict=True):
        torch.testing.assert_close(advantage, values * mask)


def _rank(rank: int, store: str, rows, queue) -> None:
    """One of two ranks: its advantages, one a response and one a token, and what it raises when rank 1 has an outcome
    that is none."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    core = ModuleType("megatron.core")
    core.mpu = Namespace(get_data_parallel_group_gloo=lambda with_context_parallel: torch.distributed.group.WORLD)
    sys.modules |= {"megatron": ModuleType("megatron"), "megatron.core": core}
    data = rollout_data(rows)
    slime.advantage_function(Tokens)(arguments(), data)
    of_tokens = [advantage.tolist() for advantage in data["advantages"]]
    slime.lens(arguments(), data)
    if rank == 1:
        data["local_raw_reward"][0] = -1
    problem = None
    try:
        slime.lens(arguments(), data)
    except EstimatorError as error:
        problem = str(error)
    queue.put((rank, [advantage.tolist() for advantage in data["advantages"]], of_tokens, problem))
    torch.distributed.destroy_process_group()


def test_groups_that_straddle_ranks_and_errors_that_reach_them_all(tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    queue, rows = context.SimpleQueue(), ([7, 0, 3], [1, 2, 4, 6, 5])
    ranks = [
        context.Process(target=_rank, args=(rank, str(tmp_path / "store"), rows[rank], queue), daemon=True)
        for rank in (0, 1)
    ]
    for process in ranks:
        process.start()
    found = sorted(queue.get() for _ in ranks)
    wanted, problem = expected(), "slime: sample 41 has the raw reward -1"
    for rank, advantages, of_tokens, raised in found:
        check([torch.tensor(a) for a in advantages], [wanted[i] for i in rows[rank]])
        data = rollout_data(rows[rank])
        masked = [values * mask for values, mask in zip(data["log_probs"], data["loss_masks"], strict=True)]
        assert of_tokens == [values.tolist() for values in masked]
        assert raised.startswith(problem if rank == 1 else f"data-parallel rank 1: {problem}")
    for process in ranks:
        process.join()


class Seen(Tokens):
    """Keeps its batches; none of the class's own, so that every function has one of its own."""

    batches: ClassVar[list] = []

    def advantages(self, batch):
        self.batches.append((id(self), batch))
        return batch.logprobs


class Short(Seen):
    name = "short"
    needs = frozenset()

    def advantages(self, batch):
        self.batches.append((id(self), batch))
        return batch.rewards


@pytest.mark.parametrize("kind", [Seen, Short])
def test_what_the_estimator_gets(monkeypatch, kind):
    """Of samples in any order, those of two rollouts of the training, in which prompts 3 and 10 come."""
    monkeypatch.setattr(Seen, "batches", [])
    rows = [7, 0, 3, 1, 2, 4, 6, 5]
    data = rollout_data(rows)
    data["sample_indices"] = [(12 if row < 4 else 36) + row for row in rows]
    data["rewards"] = [row / 8 - 1 for row in rows]
    data["local_raw_reward"] = [[0, 1, True, False, 0.5, 1.0, 0.0, 1][row] for row in rows]
    slime.advantage_function(kind)(arguments(rewards_normalization=False), data)
    ((_, batch),) = Seen.batches
    order = [0, 3, 1, 2, 7, 4, 6, 5]  # the prompts' samples, each prompt's in the order in which they came
    assert batch.cu_groups.tolist() == [0, 4, 8] and batch.prompts is None and batch.step == 1
    assert batch.rewards.tolist() == [row / 8 - 1 for row in order]
    assert batch.correctness.tolist() == [[0, 1, 1, 0, 0.5, 1, 0, 1][row] for row in order]
    assert batch.lengths.tolist() == [(3, 4, 2, 4, 5, 1, 2, 3)[row] for row in order]
    every = rollout_data()
    kept = [every["log_probs"][row][every["loss_masks"][row].bool()] for row in order]
    assert batch.mean_logprob.tolist() == pytest.approx([values.double().mean().item() for values in kept], rel=1e-6)
    if kind is Seen:
        assert torch.equal(batch.logprobs, torch.cat(kept))
    else:
        assert batch.logprobs is None and batch.cu_seqlens is None
        for advantage, row, mask in zip(data["advantages"], rows, data["loss_masks"], strict=True):
            assert advantage.tolist() == [(row / 8 - 1) * on for on in mask.tolist()]


def test_a_function_counts_its_steps_and_keeps_its_estimator(monkeypatch):
    monkeypatch.setattr(Seen, "batches", [])
    one, other = slime.advantage_function(Seen), slime.advantage_function(Seen)
    for function in (one, one, other, one):
        function(arguments(), rollout_data())
    with pytest.raises(EstimatorError):
        one(arguments(), rollout_data() | {"log_probs": None})  # a step that is none
    one(arguments(), rollout_data())
    assert [batch.step for _, batch in Seen.batches] == [1, 2, 1, 3, 4]
    makers = [made for made, _ in Seen.batches]
    assert makers == [makers[0], makers[0], makers[2], makers[0], makers[0]] and makers[0] != makers[2]


def test_by_default_rewards_have_been_normalised_and_the_outcome_is_the_reward(monkeypatch):
    monkeypatch.setattr(Seen, "batches", [])
    slime.advantage_function(Short)(arguments(), rollout_data())
    ((_, batch),) = Seen.batches
    assert batch.rewards.tolist() == batch.correctness.tolist() == OUTCOMES


def test_other_groups_of_other_sizes():
    data = rollout_data()
    data["sample_indices"] = list(range(8))
    data["local_raw_reward"] = [1, 0, 0, 1, 0, 0, 1, 1]
    slime.grpo(arguments(n_samples_per_prompt=2), data)
    half = 0.5**0.5
    assert [float(a[0]) for a in data["advantages"]] == pytest.approx([half, -half, -half, half, 0, 0, 0, 0])
    advantage = data["advantages"][MASKED]
    assert advantage.tolist() == pytest.approx([-half, -half, 0, -half, -half])


def test_every_estimator_is_an_attribute_that_is_made_once():
    assert slime.lens is slime.lens is not slime.grpo
    for name in ("_lens", "__path__", "nonesuch"):
        with pytest.raises(
            AttributeError, match=f"lens_openrlhf.outside.slime has no {name}; estimators: lens, grpo, "
        ):
            getattr(slime, name)
    with pytest.raises(EstimatorError, match="^topr: computes the loss in its own way, which slime does not; "):
        slime.topr  # noqa: B018


def test_the_ranks_are_those_that_share_the_data(monkeypatch):
    asked = []
    core = ModuleType("megatron.core")
    core.mpu = Namespace(get_data_parallel_group_gloo=lambda **given: asked.append(given))
    for name, module in {"megatron": ModuleType("megatron"), "megatron.core": core}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    data = rollout_data()
    slime.lens(arguments(), data)
    check(data["advantages"], expected())
    assert asked == [{"with_context_parallel": False}]


NO_LOGPROBS = (
    "slime: rollout_data has no {}, the log-probabilities before the update; leave out the option that skips them, or "
    "give --use-rollout-logprobs with an engine that returns them"
)
NO_OUTCOME = (
    "slime: sample {} has the raw reward {}, but the verifier's outcome is a number in [0, 1]; let the reward function "
    "return that, or put it into metadata['raw_reward']"
)


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (
            {"context_parallel_size": 2},
            {},
            "slime: --context-parallel-size 2 splits a response's log-probabilities over ranks, which is not "
            "supported; use 1",
        ),
        (
            {"normalize_advantages": True},
            {},
            "slime: --normalize-advantages would shift and scale the estimator's advantages; leave it out",
        ),
        (
            {"n_samples_per_prompt": 1},
            {},
            "slime: n_samples_per_prompt=1: so few answers to a prompt teach lens nothing; use at least 2",
        ),
        ({}, {"log_probs": None}, NO_LOGPROBS.format("log_probs")),
        ({"use_rollout_logprobs": True}, {}, NO_LOGPROBS.format("rollout_log_probs")),
        ({}, {"local_raw_reward": [0, 1, 2, 2, 0, 0, 0, 0]}, NO_OUTCOME.format(42, 2)),
        ({}, {"local_raw_reward": [0, 1, 1, -0.5, 0, 0, 0, 0]}, NO_OUTCOME.format(43, -0.5)),
        ({}, {"local_raw_reward": [float("nan")] * 8}, NO_OUTCOME.format(40, "nan")),
        ({}, {"local_raw_reward": [None] * 8}, NO_OUTCOME.format(40, None)),
        ({}, {"local_raw_reward": ["1"] * 8}, NO_OUTCOME.format(40, "'1'")),
        (
            {},
            {"sample_indices": [40, None, None, 43, 44, 45, 46, 47]},
            "slime: a sample has no index, which tells groups; keep Sample.index while sampling",
        ),
        (
            {},
            {"loss_masks": [torch.ones(9)] * 8},
            "slime: sample 40 has 3 log-probabilities for a loss mask of 9 tokens",
        ),
    ],
)
def test_what_cannot_work_is_refused(settings, change, message):
    with pytest.raises(EstimatorError) as refused:
        slime.lens(arguments(**settings), rollout_data() | change)
    assert str(refused.value) == message


def test_an_older_slime_without_outcomes_or_settings():
    data = rollout_data()
    del data["local_raw_reward"]
    with pytest.raises(EstimatorError) as refused:
        slime.lens(arguments(), data)
    assert str(refused.value) == (
        "slime: rollout_data has no local_raw_reward, the verifier's outcomes; use slime 0.3.1"
    )
    args = arguments()
    del args.context_parallel_size
    data = rollout_data()
    slime.lens(args, data)
    check(data["advantages"], expected())


def test_what_goes_wrong_on_this_rank_is_raised_as_it_is():
    with pytest.raises(KeyError, match="sample_indices"):
        slime.lens(arguments(), {k: v for k, v in rollout_data().items() if k != "sample_indices"})
    data = rollout_data()
    data["log_probs"][2][1] = float("nan")
    with pytest.raises(ValueError, match=r"response 2 has a token with log-probability NaN"):
        slime.lens(arguments(), data)


def test_estimators_that_slime_cannot_serve():
    class Remembers(Tokens):
        def state_dict(self):
            return {"seen": 1}

    with pytest.raises(EstimatorError, match="tokens: remembers what slime would not save"):
        slime.advantage_function(Remembers)
    Tokens.needs, needs = frozenset({"entropies"}), Tokens.needs
    try:
        with pytest.raises(EstimatorError, match="needs entropies, which slime does not hand on"):
            slime.advantage_function(Tokens)
    finally:
        Tokens.needs = needs
    with pytest.raises(AttributeError, match="has no nonesuch; estimators: lens, grpo"):
        slime.nonesuch  # noqa: B018
