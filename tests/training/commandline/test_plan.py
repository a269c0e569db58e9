"""What a plan computes from the options and a model's shape, by hand."""

from __future__ import annotations

import dataclasses

import pytest

from lens_openrlhf.training.commandline import model_shape, plan
from lens_openrlhf.training.commandline.model_shape import ModelShape
from lens_openrlhf.training.commandline.plan import HostMemory, Memory

GIB = 2**30
SHAPE = ModelShape(
    **dict(kind="qwen2", hidden=64, layers=3, heads=8, kv_heads=4, head_size=16, intermediate=100),
    **dict(vocabulary=1000, context=512, tied=False),
)
# A layer: 2 x 64 x (8 + 4) x 16 and biases of 128 + 64 + 64; 3 x 64 x 100; 2 norms of 64.
LAYER = 24_576 + 256 + 19_200 + 128
COUNT = 2 * 1000 * 64 + 3 * LAYER + 64
assert COUNT == 260_544


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, COUNT),
        ({"tied": True}, COUNT - 64_000),
        ({"kind": "llama"}, COUNT - 3 * 256),
        ({"kind": "mistral"}, COUNT - 3 * 256),
        ({"kind": "gpt2"}, None),
        ({"head_size": 32}, COUNT + 3 * (24_576 + 256)),
        ({"vocabulary": 1001}, COUNT + 128),
    ],
)
def test_parameters_by_hand(changes, count):
    shape = dataclasses.replace(SHAPE, **changes)
    assert shape.parameters == count
    assert shape.kv_cache_bytes == 2 * 3 * 4 * shape.head_size * 2


SPLIT = {
    **{"actor.num_nodes": 2, "actor.num_gpus_per_node": 4, "ds.tensor_parallel_size": 2, "ds.ring_attn_size": 2},
    **{"train.micro_batch_size": 3, "data.max_len": 101, "vllm.num_engines": 4, "vllm.tensor_parallel_size": 2},
    **{"vllm.gpu_memory_utilization": 0.5, "ds.zero_stage": 2},
}
# A pass of 3 x 101 tokens, of which two GPUs have 151 each: the inputs of 3 layers, and the insides of one layer.
CHECKPOINTS, INSIDES = 2 * 151 * 64 * 3, 2 * 151 * (8 * 64 + 4 * 100) // 2
HALF, EIGHTH = 130_272, 32_568
CACHE = 5_000_000_000 - COUNT - 3 * GIB


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            Memory(
                state={"weights": 2 * HALF, "gradients": 2 * EIGHTH, "Adam": 12 * EIGHTH},
                a_pass={"activations": 3 * INSIDES, "logits": 10 * 151 * 1000, "collectives": 2 * HALF},
                step=4 * EIGHTH,
                vllm=5_000_000_000,
                beside_vllm={},
                cache=CACHE,
                host={},
            ),
        ),
        (
            {
                **{"ds.zero_stage": 1, "ds.grad_accum_dtype": "fp32", "actor.gradient_checkpointing_enable": True},
                **{"algo.kl.init_coef": 1e-9, "train.colocate_all": True, "ds.enable_sleep": True},
            },
            Memory(
                state={"weights": 2 * HALF, "gradients": 4 * HALF, "Adam": 12 * EIGHTH, "reference": 2 * HALF},
                a_pass={
                    **{"activations": CHECKPOINTS + INSIDES, "logits": 10 * 151 * 1000, "collectives": 2 * HALF},
                    "vLLM, awake": 5_000_000_000,
                },
                step=4 * EIGHTH,
                vllm=5_000_000_000,
                beside_vllm={"actor": 2 * HALF, "CUDA, NCCL": 4 * GIB},
                cache=CACHE,
                host={"sleeping actor": (12 * EIGHTH + 4 * HALF) * 4},
            ),
        ),
        (
            {
                **{"ds.zero_stage": 3, "ds.adam_offload": True, "ds.enable_sleep": True, "vllm.enable_sleep": True},
                **{"algo.kl.init_coef": 0.1, "train.colocate_actor_ref": True, "train.colocate_all": True},
                **{"ref.offload": True, "vllm.num_engines": 6},
            },
            Memory(
                state={"weights": 2 * EIGHTH, "reference": 0},
                a_pass={"activations": 3 * INSIDES, "logits": 10 * 151 * 1000, "collectives": 2 * (HALF + HALF)},
                step=0,
                vllm=5_000_000_000,
                beside_vllm={"actor": 2 * EIGHTH, "CUDA, NCCL": 4 * GIB},
                cache=CACHE,
                host={"Adam and gradients": 16 * COUNT // 2, "sleeping vLLM": 2 * COUNT * 6 // 2},
            ),
        ),
        (
            {
                **{"ds.zero_stage": 0, "algo.kl.init_coef": 0.1, "train.colocate_actor_ref": True},
                **{"train.colocate_all": True, "train.async_enable": True, "vllm.enable_sleep": True},
            },
            Memory(
                state={"weights": 2 * HALF, "gradients": 2 * HALF, "Adam": 12 * HALF, "reference": 2 * HALF},
                a_pass={"activations": 3 * INSIDES, "logits": 10 * 151 * 1000, "collectives": 2 * HALF},
                step=4 * HALF,
                vllm=5_000_000_000,
                beside_vllm={},
                cache=CACHE,
                host={},
            ),
        ),
        (
            {"ds.zero_stage": 3, "algo.kl.init_coef": 0.1, "ds.enable_sleep": True},
            Memory(
                state={"weights": 2 * EIGHTH, "gradients": 2 * EIGHTH, "Adam": 12 * EIGHTH},
                a_pass={"activations": 3 * INSIDES, "logits": 10 * 151 * 1000, "collectives": 2 * (HALF + HALF)},
                step=4 * EIGHTH,
                vllm=5_000_000_000,
                beside_vllm={},
                cache=CACHE,
                host={"sleeping actor": 14 * EIGHTH * 4},
            ),
        ),
        (
            {
                **{"train.colocate_all": True, "vllm.enable_sleep": True, "algo.kl.init_coef": 0.0},
                **{"train.colocate_actor_ref": True},
            },
            Memory(
                state={"weights": 2 * HALF, "gradients": 2 * EIGHTH, "Adam": 12 * EIGHTH},
                a_pass={"activations": 3 * INSIDES, "logits": 10 * 151 * 1000, "collectives": 2 * HALF},
                step=4 * EIGHTH,
                vllm=5_000_000_000,
                beside_vllm={"actor": 2 * HALF + 14 * EIGHTH, "CUDA, NCCL": 4 * GIB},
                cache=CACHE,
                host={"sleeping vLLM": 2 * COUNT * 4 // 2},
            ),
        ),
    ],
    ids=["apart", "zero 1", "offloaded", "asynchronous", "zero 3", "in turns"],
)
def test_all_memory_by_hand(args, changes, expected):
    found = plan.memory(args({**SPLIT, **changes}), SHAPE, 10_000_000_000)
    assert found == expected
    assert found.sampling_peak == 5_000_000_000 + sum(expected.beside_vllm.values())
    state, a_pass = sum(expected.state.values()), sum(expected.a_pass.values())
    assert found.training_peak == state + max(a_pass, expected.step) + 4 * GIB


def test_a_peak_is_that_of_the_pass_or_of_the_optimizers_step():
    for a_pass, step in ((100, 7), (7, 100)):
        memory = Memory({"weights": 2, "Adam": 3}, {"logits": a_pass}, step, 20, {"actor": 5, "CUDA": 6}, 0, {})
        assert memory.training_peak == 2 + 3 + 100 + 4 * GIB and memory.sampling_peak == 20 + 5 + 6


def test_what_deepspeed_moves_at_once_has_a_limit(args):
    shape = model_shape.KNOWN["llama-3.1-8b"]
    shards = args({"ds.zero_stage": 3})
    assert plan.memory(shards, shape, 0).a_pass["collectives"] == 2 * (500_000_000 + 1_000_000_000)
    assert plan.memory(shards, shape, 0).step == 4 * 1_000_000_000
    assert plan.memory(args({}), shape, 0).a_pass["collectives"] == 2 * 500_000_000
    assert plan.memory(args({}), shape, 0).step == 4 * shape.parameters


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({"ds.lora.rank": 1}, SHAPE),
        ({"ds.load_in_4bit": True}, SHAPE),
        ({"actor.optim": "muon"}, SHAPE),
        ({}, dataclasses.replace(SHAPE, kind="gpt2")),
    ],
)
def test_memory_that_is_not_estimated(args, changes, shape):
    assert plan.memory(args(changes), shape, 0) is plan.host_memory(args(changes), shape) is None


@pytest.mark.parametrize(
    ("changes", "rank", "host", "a_pass"),
    [
        ({}, 4 * COUNT + 12 * COUNT // 6, 0, 3 * 2 * 303 * 912 + 10 * 303 * 1000),
        # With a pass of one token the optimizer's step takes more.
        ({"data.max_len": 1, "train.micro_batch_size": 1}, 4 * COUNT + 12 * COUNT // 6, 0, 4 * COUNT // 6),
        ({"ds.adam_offload": True}, 2 * COUNT, 16 * COUNT // 2, 3 * 2 * 303 * 912 + 10 * 303 * 1000),
        # What sleeps stays in the same memory, and is counted once.
        ({"ds.enable_sleep": True}, 4 * COUNT + 12 * COUNT // 6, 0, 3 * 2 * 303 * 912 + 10 * 303 * 1000),
    ],
)
def test_a_hosts_memory_by_hand(args, changes, rank, host, a_pass):
    """Six ranks on two nodes, and five engines."""
    sizes = {"actor.num_nodes": 2, "actor.num_gpus_per_node": 3, "vllm.num_engines": 5, "ds.zero_stage": 1}
    sizes |= {"train.micro_batch_size": 3, "data.max_len": 101}
    least = 6 * (GIB + rank) + 5 * (2 * GIB + 2 * COUNT) + host
    assert plan.host_memory(args({**sizes, **changes}), SHAPE) == HostMemory(least, least + 6 * a_pass)


@pytest.mark.parametrize(
    ("parallel", "cache", "tokens"),
    # A token's keys and values: 2 x 3 layers x 4 heads of 16, in 16 bits; each GPU has its share of the heads.
    [(1, 768, 1), (1, 767, 0), (1, 7680, 10), (2, 7680, 20), (4, 7680, 40), (8, 7680, 40), (1, -7680, 0)],
)
def test_tokens_that_are_kept(args, parallel, cache, tokens):
    assert plan.cached_tokens(args({"vllm.tensor_parallel_size": parallel}), SHAPE, cache) == tokens


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({"train.micro_batch_size": 3, "data.max_len": 101}, 303),
        ({"train.micro_batch_size": 3, "data.max_len": 101, "ds.ring_attn_size": 2}, 151),
        ({"train.dynamic_batch_enable": True, "train.max_tokens_per_gpu": 500, "data.max_len": 101}, 500),
        ({"train.dynamic_batch_enable": True, "train.max_tokens_per_gpu": 50, "data.max_len": 101}, 101),
        (
            {
                **{"train.dynamic_batch_enable": True, "train.max_tokens_per_gpu": 500, "data.max_len": 101},
                **{"ds.ring_attn_size": 3, "ds.tensor_parallel_size": 2},
            },
            1000,
        ),
    ],
)
def test_tokens_of_a_pass(args, changes, tokens):
    assert plan.micro_batch_tokens(args(changes)) == tokens


def test_steps_and_updates(args):
    sizes = {"rollout.batch_size": 6, "rollout.n_samples_per_prompt": 4, "train.batch_size": 8, "train.max_epochs": 2}
    run = args({**sizes, "train.num_episodes": 3})
    assert [plan.planned_steps(run, prompts) for prompts in (1, 6, 7, 12)] == [3, 3, 6, 6]
    assert plan.updates_a_step(run) == 6
    # Prompts of the last step, four answers each; of which eight fill an update.
    assert [plan.odd_samples(run, prompts) for prompts in (6, 7, 8, 15, 17)] == [0, 4, 0, 4, 4]


def test_who_shares_what(args):
    sizes = {"actor.num_nodes": 2, "actor.num_gpus_per_node": 12, "ds.ring_attn_size": 3, "ds.tensor_parallel_size": 2}
    assert plan.actor_gpus(args(sizes)) == 24 and plan.data_parallel_ranks(args(sizes)) == 4
    shared = [
        plan.shares_gpus(args({"train.colocate_all": colocated, "train.async_enable": beside}))
        for colocated in (False, True)
        for beside in (False, True)
    ]
    assert shared == [False, False, True, False]
    assert plan.most_new_tokens(args({"data.max_len": 101})) == 101
    assert plan.most_new_tokens(args({"data.max_len": 101, "rollout.max_new_tokens": 7})) == 7
