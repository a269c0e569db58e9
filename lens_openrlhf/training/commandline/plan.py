"""What a run will do and need, from its options and the model's shape alone: GPUs, steps, memory.

Memory is an estimate. Weights, gradients, optimizer state, keys and values are counted; what a forward and backward
pass holds, and what CUDA, NCCL and a sleeping vLLM keep, follow from the rough formulas below.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from .model_shape import ModelShape

GIB = 1 << 30
# Bytes a parameter: 16-bit weights and gradients; Adam's two moments and the weights in 32 bits.
WEIGHT, GRADIENT, ADAM = 2, 2, 12
FP32 = 4
# DeepSpeed's defaults (elements): what one collective carries, ZeRO-3's gathered parameters, its optimizer's portion.
BUCKET, LIVE_PARAMETERS, SUB_GROUP = 500_000_000, 1_000_000_000, 1_000_000_000
# CUDA contexts of the actor and of vLLM, NCCL's buffers, and what a sleeping vLLM keeps.
SURROUNDINGS = 4 * GIB
# vLLM's own buffers and the activations of its largest batch.
VLLM_BUFFERS = 3 * GIB
# Without CUDA: a process with torch and what else it imports, and vLLM's keys and values (cpu.VLLM_VARIABLES).
PROCESS, CPU_CACHE = GIB, GIB


def planned_steps(args: SimpleNamespace, prompts: int) -> int:
    """Rollout steps of the whole run; dynamic filtering may need more prompts a step and so make fewer."""
    return -(-prompts // args.rollout.batch_size) * args.train.num_episodes


def actor_gpus(args: SimpleNamespace) -> int:
    return args.actor.num_nodes * args.actor.num_gpus_per_node


def data_parallel_ranks(args: SimpleNamespace) -> int:
    return actor_gpus(args) // args.ds.ring_attn_size // args.ds.tensor_parallel_size


def updates_a_step(args: SimpleNamespace) -> int:
    samples = args.rollout.batch_size * args.rollout.n_samples_per_prompt
    return samples // args.train.batch_size * args.train.max_epochs


def odd_samples(args: SimpleNamespace, prompts: int) -> int:
    """Samples of an episode's last step that make no whole update: with dynamic batches they are left out, otherwise
    their gradients go into the next step's first update."""
    return prompts % args.rollout.batch_size * args.rollout.n_samples_per_prompt % args.train.batch_size


def most_new_tokens(args: SimpleNamespace) -> int:
    """Tokens of the longest answer."""
    return args.rollout.max_new_tokens or args.data.max_len


def shares_gpus(args: SimpleNamespace) -> bool:
    """Whether actor and vLLM take turns on the same GPUs."""
    return args.train.colocate_all and not args.train.async_enable


@dataclass(frozen=True)
class Memory:
    """Bytes, by what they are for.

    state: what an actor's GPU holds all the time: weights and, unless on the host, gradients and Adam's state.
    a_pass: what a forward and backward pass adds. step: what the optimizer's step adds, when the pass is over.
    beside_vllm: what an engine's GPU holds beside vLLM's share while it samples. cache: what vLLM's share leaves for
    keys and values, negative where it is too small. host: pinned memory of a machine.
    """

    state: dict[str, int]
    a_pass: dict[str, int]
    step: int
    vllm: int
    beside_vllm: dict[str, int]
    cache: int
    host: dict[str, int]

    @property
    def training_peak(self) -> int:
        return sum(self.state.values()) + max(sum(self.a_pass.values()), self.step) + SURROUNDINGS

    @property
    def sampling_peak(self) -> int:
        return self.vllm + sum(self.beside_vllm.values())


def micro_batch_tokens(args: SimpleNamespace) -> int:
    """Most tokens of one forward and backward pass on a rank."""
    if not args.train.dynamic_batch_enable:
        return args.train.micro_batch_size * args.data.max_len // args.ds.ring_attn_size
    ranks = args.ds.ring_attn_size * args.ds.tensor_parallel_size
    return max(args.train.max_tokens_per_gpu * ranks, args.data.max_len) // args.ds.ring_attn_size


def memory(args: SimpleNamespace, shape: ModelShape, gpu: int) -> Memory | None:
    """The memory of full training with Adam on GPUs of `gpu` bytes; None where it is not estimated: for a model whose
    parameters are not counted, and for LoRA, 4-bit weights and Muon.

    A pass over T tokens in 16 bits holds 2·T·h·L of checkpoints (the inputs of L layers) and one layer, computed again,
    of about 2·T·(8·h + 4·i); without checkpoints L such layers. The logits over the vocabulary V take 10·T·V: in 32
    bits with their gradient, and its 16-bit copy.
    """
    if shape.parameters is None or args.ds.lora.rank or args.ds.load_in_4bit or args.actor.optim != "adam":
        return None
    slices, stage = args.ds.tensor_parallel_size, args.ds.zero_stage
    whole, shard = shape.parameters // slices, shape.parameters // actor_gpus(args)
    # ZeRO's stages split Adam's state first, then gradients, then weights.
    adam, gradients, weights = (shard if stage >= least else whole for least in (1, 2, 3))
    gradient = FP32 if args.ds.grad_accum_dtype == "fp32" else GRADIENT
    on_host = args.ds.adam_offload
    state = {"weights": WEIGHT * weights}
    if not on_host:
        state |= {"gradients": gradient * gradients, "Adam": ADAM * adam}

    tokens = micro_batch_tokens(args)
    layer = 2 * tokens * (8 * shape.hidden + 4 * shape.intermediate) // slices
    checkpoints = 2 * tokens * shape.hidden * shape.layers
    a_pass = {
        "activations": checkpoints + layer if args.actor.gradient_checkpointing_enable else layer * shape.layers,
        "logits": 10 * tokens * shape.vocabulary,
        "collectives": WEIGHT * (min(whole, BUCKET) + (min(whole, LIVE_PARAMETERS) if stage == 3 else 0)),
    }
    step = 0 if on_host else FP32 * (min(shard, SUB_GROUP) if stage == 3 else adam)
    if args.algo.kl.init_coef > 0 and (args.train.colocate_all or args.train.colocate_actor_ref):
        state["reference"] = 0 if args.ref.offload else WEIGHT * weights

    vllm = int(args.vllm.gpu_memory_utilization * gpu)
    engine = WEIGHT * shape.parameters // args.vllm.tensor_parallel_size
    beside, host = {}, {}
    if shares_gpus(args):
        if not args.vllm.enable_sleep:
            a_pass["vLLM, awake"] = vllm
        beside = {
            "actor": state["weights"] if args.ds.enable_sleep else sum(state.values()),
            "CUDA, NCCL": SURROUNDINGS,
        }
    if on_host:
        host["Adam and gradients"] = (ADAM + FP32) * whole * slices // args.actor.num_nodes
    elif args.ds.enable_sleep:
        host["sleeping actor"] = (ADAM * adam + gradient * gradients) * args.actor.num_gpus_per_node
    if shares_gpus(args) and args.vllm.enable_sleep:
        host["sleeping vLLM"] = WEIGHT * shape.parameters * args.vllm.num_engines // args.actor.num_nodes
    return Memory(state, a_pass, step, vllm, beside, vllm - engine - VLLM_BUFFERS, host)


@dataclass(frozen=True)
class HostMemory:
    """Bytes of a machine without CUDA. least: what all processes hold all the time; peak: with every rank's pass."""

    least: int
    peak: int


def host_memory(args: SimpleNamespace, shape: ModelShape) -> HostMemory | None:
    """The memory of a run without CUDA; None where :func:`memory` estimates none."""
    found = memory(args, shape, 0)
    if found is None or shape.parameters is None:
        return None
    ranks, engines = actor_gpus(args), args.vllm.num_engines
    rank = PROCESS + sum(found.state.values())
    engine = PROCESS + CPU_CACHE + WEIGHT * shape.parameters
    least = ranks * rank + engines * engine + (sum(found.host.values()) if args.ds.adam_offload else 0)
    return HostMemory(least, least + ranks * max(found.a_pass["activations"] + found.a_pass["logits"], found.step))


def cached_tokens(args: SimpleNamespace, shape: ModelShape, cache: int) -> int:
    """Tokens whose keys and values fit an engine with `cache` bytes on each of its GPUs."""
    parallel = args.vllm.tensor_parallel_size
    heads = max(1, shape.kv_heads // parallel)
    return max(0, cache) * shape.kv_heads // (shape.kv_cache_bytes * heads)
