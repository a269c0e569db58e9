"""What a machine without CUDA cannot do, or only in hours, told before a run starts."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

from ..inputs import OptionError
from ..process import duration
from .model_shape import ModelShape
from .plan import GIB, HostMemory, actor_gpus, host_memory, most_new_tokens

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
# Operations a token and parameter: 2 to sample it, 2 for its log-probability, 6 to learn from it.
OPERATIONS = 10
# In 16 bits, a second and core: more than a core with AMX was seen to do, so that times are at best.
CORE_SPEED = 2e11
LONG_SECONDS = 3600


def free_memory() -> int:
    """Bytes that processes can still have here, at most."""
    import psutil

    free = psutil.virtual_memory().available
    try:
        return min(free, int(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no such group, or "max"
        return free


def memory_line(found: HostMemory | None) -> str:
    """The estimate for a plan."""
    if found is None:
        return "not estimated for this architecture, LoRA, 4-bit weights or Muon, or a model that is not here"
    return f"about {found.peak / GIB:.1f} GiB at its peak, estimated; {free_memory() / GIB:.1f} are free"


def check(args: SimpleNamespace, shape: ModelShape | None, prompts: int | None) -> list[str]:
    """Warnings of what a run may not have the memory for, or takes hours for.

    Args:
        prompts: of an episode, where that is known.

    Raises:
        OptionError: what is certain not to fit.
    """
    if shape is None or (found := host_memory(args, shape)) is None:
        return []
    free, ranks = free_memory(), actor_gpus(args)
    fewer = f"fewer than {ranks} actor processes (--actor.num_gpus_per_node)" if ranks > 1 else "a machine with more"
    if found.least > free:
        raise OptionError(
            f"--actor.model_name_or_path {args.actor.model_name_or_path}: {ranks} actor and {args.vllm.num_engines} "
            f"vLLM processes take at least {found.least / GIB:.1f} GiB, and {free / GIB:.1f} are free; use {fewer}, or "
            "a smaller model"
        )
    warnings = []
    if found.peak > free:
        warnings.append(
            f"memory may run out: about {found.peak / GIB:.1f} GiB at the peak, and {free / GIB:.1f} are free; use "
            f"{fewer}, or smaller passes (--train.micro_batch_size, --rollout.micro_batch_size, --data.max_len)"
        )
    answers = min(args.rollout.batch_size, prompts or args.rollout.batch_size) * args.rollout.n_samples_per_prompt
    tokens, cores = answers * most_new_tokens(args), len(os.sched_getaffinity(0))
    seconds = OPERATIONS * shape.parameters * tokens / (CORE_SPEED * cores)
    if seconds > LONG_SECONDS:
        warnings.append(
            f"a step of {tokens:,} tokens takes {duration(seconds)} at best on {cores} cores; use a smaller "
            "--rollout.batch_size, --rollout.n_samples_per_prompt or --rollout.max_new_tokens"
        )
    return warnings
