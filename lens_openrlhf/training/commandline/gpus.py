"""How many GPUs a run asks for, and where: on this machine or in a Ray cluster."""

from __future__ import annotations

import os
from types import SimpleNamespace

from ... import cpu_runtime
from ...advantages.lazily import torch
from ...inputs import OptionError
from .plan import actor_gpus


def gpus_needed(args: SimpleNamespace) -> int:
    """GPUs that OpenRLHF's `train` asks Ray for; without CUDA these are logical."""

    def size(entity: SimpleNamespace) -> int:
        return entity.num_nodes * entity.num_gpus_per_node

    actor = actor_gpus(args)
    engines = args.vllm.num_engines * args.vllm.tensor_parallel_size
    if args.train.colocate_all:
        return actor + (engines if args.train.async_enable else 0)
    ref = size(args.ref) if args.algo.kl.init_coef > 0 and not args.train.colocate_actor_ref else 0
    reward = 0 if args.reward.remote_url else size(args.reward)
    critic = size(args.critic) if args.critic.model_name_or_path else 0
    if critic and args.train.colocate_critic_reward:
        reward = 0
    return actor + ref + critic + reward + engines


def ray_cluster() -> str | None:
    """Address of the Ray cluster to join, or None where the run starts a Ray of its own.

    Only RAY_ADDRESS says so (`ray job submit` sets it): a Ray that happens to run on the machine is left alone.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    return None if address in ("", "local") else address


def check_gpus(args: SimpleNamespace) -> None:
    """A local Ray would wait for ever for GPUs that are not there."""
    if cpu_runtime.required() or ray_cluster():
        return
    needed, there = gpus_needed(args), torch.cuda.device_count()
    if needed > there:
        share = "leave out --train.async_enable" if args.train.async_enable else "share them (--train.colocate_all)"
        raise OptionError(
            f"the options ask for {needed} GPUs and {there} are visible: use fewer (--gpus with a profile, else "
            f"--actor.num_gpus_per_node, --vllm.num_engines), {share}, or join a cluster with RAY_ADDRESS"
        )
