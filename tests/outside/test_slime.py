"""slime's function, called as slime 0.3.1 calls it: (args, rollout_data) on every data-parallel rank."""

from __future__ import annotations

import sys
from argparse import Namespace
from types import ModuleType

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


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"context_parallel_size": 2}, {}, "--context-parallel-size 2"),
        ({"normalize_advantages": True}, {}, "--normalize-advantages"),
        ({"n_samples_per_prompt": 1}, {}, "n_samples_per_prompt=1: so few answers to a prompt teach lens"),
        ({}, {"log_probs": None}, "no log_probs, the log-probabilities before the update"),
        ({"use_rollout_logprobs": True}, {}, "no rollout_log_probs"),
        ({}, {"local_raw_reward": [2] * 8}, r"sample 40 has the raw reward 2, .* in \[0, 1\]"),
        ({}, {"local_raw_reward": [None] * 8}, "sample 40 has the raw reward None"),
        ({}, {"sample_indices": [None] * 8}, "a sample has no index"),
        ({}, {"loss_masks": [torch.ones(9)] * 8}, "sample 40 has 3 log-probabilities for a loss mask of 9 tokens"),
    ],
)
def test_what_cannot_work_is_refused(settings, change, message):
    with pytest.raises(EstimatorError, match=message):
        slime.lens(arguments(**settings), rollout_data() | change)


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
