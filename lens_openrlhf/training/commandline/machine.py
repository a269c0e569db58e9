"""What a machine without CUDA cannot do, or only in hours, told before a run starts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from ...inputs import OptionError
from ...process import duration
from .model_shape import ModelShape
from .plan import GIB, HostMemory, actor_gpus, host_memory, most_new_tokens

GROUPS, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# Operations a token and parameter: 2 to sample it, 2 for its log-probability, 6 to learn from it; 4 with LoRA, where
# most weights have no gradients.
OPERATIONS, LORA_OPERATIONS = 10, 8
# In 16 bits, a second and core: more than a core with AMX was seen to do, so that times are at best.
CORE_SPEED = 2e11
LONG_SECONDS = 3600


def _left_in_cgroups() -> Iterator[int]:
    """Bytes that each group of processes that this one is in may still have, where it has a limit. What was read of
    files, and not lately, counts as free: Linux takes it back first."""
    for line in GROUPS.read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:  # version 2
            root, most, used, cached = CGROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, most, used = CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        # In a container the root may be the group itself, whose name outside says nothing here.
        for part in (Path(group.lstrip("/")), *Path(group.lstrip("/")).parents):
            folder = root / part
            with contextlib.suppress(OSError, ValueError, LookupError):  # no such group, or "max"
                limit = int((folder / most).read_text())
                numbers = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield max(0, limit - int((folder / used).read_text()) + int(numbers[cached]))


def free_memory() -> int:
    """Bytes that processes can still have here, at most: of the machine, and of the container that this one is in."""
    import psutil

    free = psutil.virtual_memory().available
    try:
        return min([free, *_left_in_cgroups()])
    except OSError:  # not Linux
        return free


def memory_line(found: HostMemory | None) -> str:
    """The estimate for a plan."""
    if found is None:
        return "not estimated for this architecture, LoRA, 4-bit weights or Muon, or a model that is not here"
    return f"about {found.peak / GIB:.1f} GiB at its peak, estimated; {free_memory() / GIB:.1f} are free"


def _memory_warnings(args: SimpleNamespace, shape: ModelShape) -> list[str]:
    found = host_memory(args, shape)
    if found is None:
        return []
    free, ranks = free_memory(), actor_gpus(args)
    fewer = f"fewer than {ranks} actor processes (--actor.num_gpus_per_node)" if ranks > 1 else "a machine with more"
    if found.least > free:
        raise OptionError(
            f"--actor.model_name_or_path {args.actor.model_name_or_path}: {ranks} actor and {args.vllm.num_engines} "
            f"vLLM processes take at least {found.least / GIB:.1f} GiB, and {free / GIB:.1f} are free; use {fewer}, or "
            "a smaller model"
        )
    if found.peak <= free:
        return []
    return [
        f"memory may run out: about {found.peak / GIB:.1f} GiB at the peak, and {free / GIB:.1f} are free; use "
        f"{fewer}, or smaller passes (--train.micro_batch_size, --rollout.micro_batch_size, --data.max_len)"
    ]


def check(args: SimpleNamespace, shape: ModelShape | None, prompts: int | None) -> list[str]:
    """Warnings of what a run may not have the memory for, or takes hours for.

    Args:
        prompts: of an episode, where that is known.

    Raises:
        OptionError: what is certain not to fit.
    """
    if shape is None or shape.parameters is None:
        return []
    warnings = _memory_warnings(args, shape)
    answers = min(args.rollout.batch_size, prompts or args.rollout.batch_size) * args.rollout.n_samples_per_prompt
    tokens, cores = answers * most_new_tokens(args), len(os.sched_getaffinity(0))
    operations = LORA_OPERATIONS if args.ds.lora.rank > 0 else OPERATIONS
    seconds = operations * shape.parameters * tokens / (CORE_SPEED * cores)
    if seconds > LONG_SECONDS:
        warnings.append(
            f"a step of {tokens:,} tokens takes {duration(seconds)} at best on {cores} cores; use a smaller "
            "--rollout.batch_size, --rollout.n_samples_per_prompt or --rollout.max_new_tokens"
        )
    return warnings
