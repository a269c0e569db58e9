"""Sizes that the user left to us: GPUs, prompts, batches and lengths that suit this machine and divide each other."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from .records import ESTIMATOR

# What a step has without CUDA where the user names no size; OpenRLHF's are for eight GPUs.
CPU_PROMPTS, CPU_NEW_TOKENS, CPU_LENGTH = 8, 256, 1024
CPU_MICRO_BATCH = 4  # a pass over one answer takes hardly less time than over four: every weight is read and added to
# What actor and vLLM take turns with on the same GPUs.
IN_TURNS = {"vllm.enable_sleep": True, "ds.enable_sleep": True, "vllm.gpu_memory_utilization": 0.6}


def choose_sizes(values: dict, given: set[str], on_cpu: bool, there: int | None) -> dict[str, object]:
    """Options that the user left to us, so that the run suits this machine: {option: value}, in the order to be told.
    What OpenRLHF's defaults can do here stays as it is.

    Args:
        values: all options by dotted name; the sizes are put into it.
        given: those that the user gave.
        there: GPUs that are visible; None where others are used, or none.
    """
    chosen = {}

    def choose(option: str, value: object) -> None:
        if option not in given and values[option] != value:
            chosen[option] = values[option] = value

    together = values["vllm.num_engines"] is None
    if on_cpu or together or "actor.num_gpus_per_node" not in given:
        _choose_gpus(values, given, on_cpu, there, choose)
    if on_cpu or together or "actor.num_gpus_per_node" in chosen:
        for other in ("ref", "critic", "reward"):
            if f"{other}.num_gpus_per_node" not in given:
                values[f"{other}.num_gpus_per_node"] = values["actor.num_gpus_per_node"]
    _choose_batches(values, given, on_cpu, choose)
    if "data.max_len" not in given:
        # With a length of answers in the options a CPU's may leave no room for them.
        most = CPU_LENGTH if on_cpu and "rollout.max_new_tokens" not in given else values["data.max_len"]
        choose("data.max_len", min(most, _context(values["actor.model_name_or_path"]) or most))
    if on_cpu:
        choose("rollout.max_new_tokens", max(1, min(CPU_NEW_TOKENS, values["data.max_len"] // 2)))
    return chosen


def _choose_gpus(values: dict, given: set[str], on_cpu: bool, there: int | None, choose: Callable) -> None:
    """As many for the actor as its batches allow, on which vLLM takes turns with it; or, with engines whose number was
    given or that sample beside it, those that are left."""
    option, engines = "actor.num_gpus_per_node", values["vllm.num_engines"]
    parallel = values["vllm.tensor_parallel_size"]
    nodes, most = max(1, values["actor.num_nodes"]), 1 if on_cpu else min(values[option], there or values[option])
    beside, colocated = values["train.async_enable"], values["train.colocate_all"]
    # Models that have GPUs of their own, each as many as the actor.
    critic = values[ESTIMATOR] == "gae"
    reward = not (values["reward.remote_url"] or values["train.agent_func_path"])
    reference = values["algo.kl.init_coef"] > 0 and not values["train.colocate_actor_ref"]
    apart = reference + critic + (reward and not (critic and values["train.colocate_critic_reward"]))
    models = 1 + (0 if colocated else apart)
    shared, least = not beside and (engines is None or colocated), 1
    if engines is None and beside and not on_cpu:
        total = there or nodes * most
        most = min(most, total // nodes // (models + 1), (total - parallel) // nodes // models)
    elif engines is not None:
        left = None if there is None else (there - engines * parallel) // nodes // models
        if left is not None and left < 1 and not beside:
            shared = shared or engines * parallel <= there
        if shared:
            most = least = engines * parallel // nodes
        elif left is not None:
            most = min(most, left)
    batch, micro, copies = _fixed_batch(values, given), micro_batch(values), sequence_gpus(values)

    def suits(gpus: int) -> bool:
        actor = nodes * gpus
        return not (actor % copies or (shared and actor % parallel) or batch % (actor // copies * micro))

    most, least = max(1, most), max(1, least)
    choose(option, next((gpus for gpus in range(most, least - 1, -1) if suits(gpus)), most))
    if engines is None:
        actor = values["actor.num_nodes"] * values[option]
        choose("vllm.num_engines", max(1, (actor if shared or not there else there - models * actor) // parallel))
    if shared and (engines is None or not colocated):
        choose("train.colocate_all", True)
        for name, value in {} if on_cpu else IN_TURNS.items():
            choose(name, value)


def _fixed_batch(values: dict, given: set[str]) -> int:
    """Samples that the ranks must divide, as the user gave them; 0 where they are for us to choose."""
    if "train.batch_size" in given:
        return values["train.batch_size"]
    samples = values["rollout.batch_size"] * values["rollout.n_samples_per_prompt"]
    return samples if "rollout.batch_size" in given else 0


def micro_batch(values: Mapping[str, Any]) -> int:
    return 1 if values["train.dynamic_batch_enable"] else values["train.micro_batch_size"]


def sequence_gpus(values: Mapping[str, Any]) -> int:
    """GPUs that share a sequence."""
    return values["ds.ring_attn_size"] * values["ds.tensor_parallel_size"]


def data_parallel_ranks(values: Mapping[str, Any]) -> int:
    """Data-parallel ranks."""
    return values["actor.num_nodes"] * values["actor.num_gpus_per_node"] // sequence_gpus(values)


def _choose_batches(values: dict, given: set[str], on_cpu: bool, choose: Callable) -> None:
    """Prompts and an update's samples that the ranks and their micro-batches divide, next to those of the defaults."""
    answers, batch, ranks = (
        values["rollout.n_samples_per_prompt"],
        values["train.batch_size"],
        max(1, data_parallel_ranks(values)),
    )
    micro = micro_batch(values)
    smaller = on_cpu and not values["train.dynamic_batch_enable"]
    if smaller and "train.micro_batch_size" not in given:
        micro = math.gcd(CPU_MICRO_BATCH, _fixed_batch(values, given) // ranks)
    unit, is_given = ranks * micro, "train.batch_size" in given
    whole = math.lcm(answers, batch if is_given else unit) // answers
    choose("rollout.batch_size", whole * -(-(CPU_PROMPTS if on_cpu else values["rollout.batch_size"]) // whole))
    samples = values["rollout.batch_size"] * answers
    if not is_given:
        fitting = [n for n in range(unit, max(unit, 2 * batch) + 1, unit) if samples % n == 0]
        choose("train.batch_size", min(fitting, key=lambda n: abs(n - batch), default=samples))
    if smaller:
        choose("rollout.micro_batch_size", max(1, min(CPU_MICRO_BATCH, samples // ranks)))
        choose("train.micro_batch_size", micro)


def _context(model: str) -> int | None:
    """Tokens that a model takes, prompt and answer together; None where nothing here says so."""
    from .model_shape import find

    model = os.path.expanduser(model)
    if model.startswith((".", "/")) and not os.path.isdir(model):  # no name of the hub's; the preflight tells of it
        return None
    shape, _ = find(model)
    return shape.context if shape and shape.context > 0 else None


def as_words(chosen: dict[str, object]) -> str:
    return " ".join(f"--{option}" if value is True else f"--{option} {value}" for option, value in chosen.items())
