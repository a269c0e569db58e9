"""All that is chosen where the user names no sizes, in the order in which it is told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lens_openrlhf.training.commandline import model_shape, records, sizes

GPUS, ENGINES, NODES = "actor.num_gpus_per_node", "vllm.num_engines", "actor.num_nodes"
PARALLEL, RING, SLICES = "vllm.tensor_parallel_size", "ds.ring_attn_size", "ds.tensor_parallel_size"
ASYNC, TOGETHER = "train.async_enable", "train.colocate_all"
PROMPTS, ANSWERS, BATCH = "rollout.batch_size", "rollout.n_samples_per_prompt", "train.batch_size"
MICRO, SAMPLED_AT_ONCE = "train.micro_batch_size", "rollout.micro_batch_size"
KL, METHOD, REWARD = "algo.kl.init_coef", "algo.advantage.estimator", "reward.remote_url"
IN_TURNS = {**{TOGETHER: True, "vllm.enable_sleep": True, "ds.enable_sleep": True, "vllm.gpu_memory_utilization": 0.6}}


@pytest.fixture
def choose(parsed):
    """choose(given, there, on_cpu) -> what is chosen and told, and what goes with it untold."""
    values = records.flatten(parsed) | {ENGINES: None, GPUS: 8, ANSWERS: 8, MICRO: 4, SAMPLED_AT_ONCE: 8}
    values |= {METHOD: "lens"}

    def run(given: dict, there: int | None, on_cpu: bool = False) -> tuple[dict, dict]:
        assert given.keys() <= values.keys()
        before = values | given
        after = dict(before)
        told = sizes.choose_sizes(after, set(given), on_cpu, there)
        changed = {option: value for option, value in after.items() if value != before[option]}
        assert {option: changed.pop(option) for option in told} == told
        return told, changed

    return run


def of_others(told: dict, given: dict) -> dict:
    """The other models have as many GPUs as the actor, untold."""
    parts = {f"{part}.num_gpus_per_node" for part in ("ref", "critic", "reward")} - given.keys()
    return dict.fromkeys(parts, told[GPUS] if GPUS in told else given.get(GPUS, 8))


@pytest.mark.parametrize(
    ("given", "there", "chosen"),
    [
        ({}, 4, {GPUS: 4, ENGINES: 4, **IN_TURNS}),
        ({}, 1, {GPUS: 1, ENGINES: 1, **IN_TURNS}),
        ({}, 12, {ENGINES: 8, **IN_TURNS}),
        ({}, None, {ENGINES: 8, **IN_TURNS}),
        ({NODES: 2}, None, {ENGINES: 16, **IN_TURNS}),
        ({KL: 0.1}, 8, {ENGINES: 8, **IN_TURNS}),
        ({"ref.num_gpus_per_node": 3}, 4, {GPUS: 4, ENGINES: 4, **IN_TURNS}),
        ({"vllm.enable_sleep": False, "vllm.gpu_memory_utilization": 0.5}, 8, {ENGINES: 8, **IN_TURNS}),
        # Engines beside the actor get what is left of the GPUs.
        ({ASYNC: True}, None, {GPUS: 4, ENGINES: 4}),
        ({ASYNC: True, NODES: 2}, None, {GPUS: 4, ENGINES: 8}),
        ({ASYNC: True, NODES: 2, PARALLEL: 2}, 16, {GPUS: 4, ENGINES: 4}),
        ({ASYNC: True, PARALLEL: 4}, 8, {GPUS: 4, ENGINES: 1}),
        ({ASYNC: True, GPUS: 3}, 8, {ENGINES: 5, PROMPTS: 1026, BATCH: 144}),
        # So do the reference model, the critic and the reward model, where they share none.
        ({ASYNC: True, KL: 0.1}, 8, {GPUS: 2, ENGINES: 4}),
        ({ASYNC: True, KL: 0.1, "train.colocate_actor_ref": True}, 8, {GPUS: 4, ENGINES: 4}),
        ({ASYNC: True, METHOD: "gae"}, 8, {GPUS: 2, ENGINES: 4}),
        ({ASYNC: True, REWARD: None}, 8, {GPUS: 2, ENGINES: 4}),
        ({ASYNC: True, REWARD: None, "train.agent_func_path": "a.py"}, 8, {GPUS: 4, ENGINES: 4}),
        ({ASYNC: True, REWARD: None, METHOD: "gae"}, 8, {GPUS: 2, ENGINES: 2}),
        ({ASYNC: True, REWARD: None, METHOD: "gae", "train.colocate_critic_reward": True}, 8, {GPUS: 2, ENGINES: 4}),
        ({ASYNC: True, REWARD: None, "train.colocate_critic_reward": True}, 8, {GPUS: 2, ENGINES: 4}),
        ({ASYNC: True, REWARD: None, METHOD: "gae", TOGETHER: True}, 8, {GPUS: 4, ENGINES: 4}),
        # Engines whose number was given stay beside the actor while there are GPUs for both.
        ({ENGINES: 3}, 8, {GPUS: 5, PROMPTS: 1025, BATCH: 100}),
        ({ENGINES: 4, NODES: 2}, 16, {GPUS: 6, PROMPTS: 1026, BATCH: 144}),
        ({ENGINES: 2, KL: 0.1}, 8, {GPUS: 3, PROMPTS: 1026, BATCH: 144}),
        ({ENGINES: 4, PARALLEL: 2}, 9, {GPUS: 1}),
        ({ENGINES: 4, PARALLEL: 2}, 8, IN_TURNS),
        ({ENGINES: 8}, 8, IN_TURNS),
        ({ENGINES: 1}, 2, {GPUS: 1}),
        ({ENGINES: 1}, 1, {GPUS: 1, **IN_TURNS}),
        ({ENGINES: 2}, 1, {GPUS: 1}),
        ({ENGINES: 6, TOGETHER: True, NODES: 2}, None, {GPUS: 3, PROMPTS: 1026, BATCH: 144}),
        ({ENGINES: 5, TOGETHER: True}, 8, {GPUS: 5, PROMPTS: 1025, BATCH: 100}),
        # Not fewer than the engines that share them need, though they do not divide what was given.
        ({ENGINES: 3, TOGETHER: True, BATCH: 128}, 8, {GPUS: 3}),
        ({ENGINES: 1, TOGETHER: True, NODES: 2}, None, {GPUS: 1}),
        # As many as can share sequences, engines and batches.
        ({RING: 2}, 5, {GPUS: 4, ENGINES: 4, **IN_TURNS}),
        ({SLICES: 3}, 8, {GPUS: 6, ENGINES: 6, **IN_TURNS}),
        ({PARALLEL: 3}, 8, {GPUS: 6, ENGINES: 2, **IN_TURNS, PROMPTS: 1026, BATCH: 144}),
        ({BATCH: 24}, 8, {GPUS: 6, ENGINES: 6, **IN_TURNS, PROMPTS: 1026}),
        ({BATCH: 40, MICRO: 2}, 8, {GPUS: 5, ENGINES: 5, **IN_TURNS, PROMPTS: 1025}),
        ({BATCH: 10, "train.dynamic_batch_enable": True}, 8, {GPUS: 5, ENGINES: 5, **IN_TURNS, PROMPTS: 1025}),
        ({PROMPTS: 6}, 8, {GPUS: 6, ENGINES: 6, **IN_TURNS, BATCH: 48}),
        ({GPUS: 3}, 8, {ENGINES: 3, **IN_TURNS, PROMPTS: 1026, BATCH: 144}),
    ],
)
def test_with_cuda(choose, given, there, chosen):
    told, others = choose(given, there)
    expected = {option: value for option, value in chosen.items() if option not in given}
    assert list(told.items()) == list(expected.items())
    assert others == {option: n for option, n in of_others(told, given).items() if n != 8}


@pytest.mark.parametrize("given", [{ENGINES: 3}, {ENGINES: 8, NODES: 2}, {ENGINES: 4, PARALLEL: 2}])
def test_openrlhfs_defaults_stay_where_the_gpus_are_elsewhere(choose, given):
    assert choose(given, None) == ({}, {})


def test_gpus_that_were_given_leave_the_others_alone(choose):
    assert choose({GPUS: 3, ENGINES: 2}, 8) == ({PROMPTS: 1026, BATCH: 144}, {})


SMALL = {GPUS: 1, ENGINES: 1, TOGETHER: True, PROMPTS: 8, BATCH: 64, SAMPLED_AT_ONCE: 4}
LENGTHS = {"data.max_len": 1024, "rollout.max_new_tokens": 256}


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, {**SMALL, **LENGTHS}),
        ({TOGETHER: True}, {**SMALL, **LENGTHS}),
        ({GPUS: 2}, {**SMALL, ENGINES: 2, **LENGTHS}),
        ({GPUS: 3}, {**SMALL, ENGINES: 3, PROMPTS: 9, BATCH: 72, **LENGTHS}),
        ({ENGINES: 3, TOGETHER: False}, {**SMALL, **LENGTHS}),
        ({ENGINES: 2, TOGETHER: True}, {**SMALL, GPUS: 2, **LENGTHS}),
        ({ASYNC: True, TOGETHER: False}, {**SMALL, **LENGTHS}),
        ({PROMPTS: 5}, {**SMALL, BATCH: 40, **LENGTHS}),
        ({PROMPTS: 1, GPUS: 16, ANSWERS: 2}, {**SMALL, ENGINES: 16, BATCH: 2, SAMPLED_AT_ONCE: 1, **LENGTHS}),
        ({BATCH: 6}, {**SMALL, PROMPTS: 9, MICRO: 2, **LENGTHS}),
        ({BATCH: 24, GPUS: 4}, {**SMALL, ENGINES: 4, PROMPTS: 9, MICRO: 2, **LENGTHS}),
        ({ANSWERS: 3}, {**SMALL, BATCH: 24, **LENGTHS}),
        ({ANSWERS: 3, BATCH: 7}, {**SMALL, PROMPTS: 14, MICRO: 1, **LENGTHS}),
        ({MICRO: 3}, {**SMALL, PROMPTS: 9, BATCH: 72, **LENGTHS}),
        ({SAMPLED_AT_ONCE: 2}, {**SMALL, **LENGTHS}),
        ({"data.max_len": 96}, {**SMALL, "rollout.max_new_tokens": 48}),
        ({"data.max_len": 1}, {**SMALL, "rollout.max_new_tokens": 1}),
        ({"data.max_len": 4096}, {**SMALL, "rollout.max_new_tokens": 256}),
        ({"rollout.max_new_tokens": 1000}, SMALL),
    ],
)
def test_without_cuda(choose, given, chosen):
    told, others = choose(given, None, on_cpu=True)
    expected = {option: value for option, value in chosen.items() if option not in given}
    assert list(told.items()) == list(expected.items())
    assert others == of_others(told, given)


@pytest.mark.parametrize("ranks", [1, 3])
def test_passes_of_any_size_need_no_number_of_answers(choose, ranks):
    told, _ = choose({"train.dynamic_batch_enable": True, GPUS: ranks}, None, on_cpu=True)
    prompts = {1: 8, 3: 9}[ranks]
    assert told == {ENGINES: ranks, TOGETHER: True, PROMPTS: prompts, BATCH: 8 * prompts, **LENGTHS}


@pytest.mark.parametrize(
    ("model", "context", "length"),
    [
        ("model", 100, 100),
        ("some/model", 100, 100),
        ("./model", 100, 100),
        ("model", 5000, 1024),
        ("model", 0, 1024),
        ("model", -1, 1024),
        ("model", None, 1024),
        # No name that the hub could have: it is not looked for.
        ("./absent", 100, 1024),
        ("/absent", 100, 1024),
        ("~/absent", 100, 1024),
        ("~/model", 100, 100),
    ],
)
def test_the_context_of_a_model_is_a_limit(choose, tmp_path, monkeypatch, model, context, length):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    looked_for = []

    def find(name):
        looked_for.append(name)
        return context is not None and SimpleNamespace(context=context), True

    monkeypatch.setattr(model_shape, "find", find)
    told, _ = choose({"actor.model_name_or_path": model}, None, on_cpu=True)
    assert (told["data.max_len"], told["rollout.max_new_tokens"]) == (length, min(256, length // 2))
    assert looked_for == ([] if model.endswith("absent") else [model.replace("~", str(tmp_path))])


def test_the_words_of_what_is_chosen():
    chosen = {"a.b": True, "c": 3, "d": 0.5}
    assert sizes.as_words(chosen) == "--a.b --c 3 --d 0.5" and sizes.as_words({}) == ""
