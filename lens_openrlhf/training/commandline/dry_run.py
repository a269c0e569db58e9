"""`lens-openrlhf train … --dry_run`: the plan of a run, and what is missing here, without starting anything."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from ... import cpu_runtime
from ...advantages.lazily import torch
from ...commands import Parser
from ...inputs import OptionError, data_names, place_and_split
from . import machine, model_shape, options, preflight
from .checks import NeedsCuda
from .gpus import gpus_needed, ray_cluster
from .model_shape import ModelShape
from .plan import (
    GIB,
    SURROUNDINGS,
    Memory,
    actor_gpus,
    cached_tokens,
    data_parallel_ranks,
    host_memory,
    memory,
    micro_batch_tokens,
    most_new_tokens,
    odd_samples,
    planned_steps,
    shares_gpus,
    updates_a_step,
)
from .prompt_data import count_rows, not_here

USUAL_GPU_GIB = 79  # of what is sold as 80 GB
LABEL, WIDTH = 12, 100


def count_prompts(args: SimpleNamespace) -> tuple[int | None, bool]:
    """Training prompts of an episode, and whether that is known; else it is the most, or None where nothing says."""
    counts: list[int | None] = []
    for name in data_names(args.data.prompt_dataset):
        path = Path(place_and_split(name)[0])
        if not path.is_file() or args.data.prompt_probs:
            counts = [None]
            break
        counts.append(count_rows(path))
    limit = args.data.max_samples
    known = [count for count in counts if count is not None]
    if len(known) == len(counts):
        return min(limit, sum(known)), True
    return (limit if limit < 10**8 else None), False


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _model(args: SimpleNamespace, shape: ModelShape | None, here: bool) -> str:
    name = args.actor.model_name_or_path
    if shape is None:
        return f"{name}: its size is not known" + ("" if here else ", as it is not on this machine")
    count = shape.parameters
    if count is None:
        size = f"{shape.kind}, whose parameters are not counted"
    else:
        size = f"{count / 1e9:.2f} billion parameters" if count >= 1e9 else f"{count / 1e6:.1f} million parameters"
    origin = "" if here else " (known by its name; it is not on this machine)"
    return f"{name}: {size}, {shape.layers} layers, context {shape.context}{origin}"


def _devices(args: SimpleNamespace, on_cpu: bool) -> str:
    total = _count(gpus_needed(args), "logical GPU" if on_cpu else "GPU")
    nodes = f" on {_count(args.actor.num_nodes, 'machine')}" if args.actor.num_nodes > 1 else ""
    ranks = _count(data_parallel_ranks(args), "data-parallel rank")
    parallel = args.vllm.tensor_parallel_size
    engines = _count(args.vllm.num_engines, "vLLM engine") + (f" of {parallel} GPUs" if parallel > 1 else "")
    where = "on GPUs of their own"
    if shares_gpus(args):
        where = "on the same, in turns" if args.vllm.enable_sleep else "on the same"
    return (
        f"{total}{' of the CPU' if on_cpu else ''}: the actor on {actor_gpus(args)}{nodes} ({ranks}, ZeRO "
        f"{args.ds.zero_stage}), {engines} {where}"
    )


def _step(args: SimpleNamespace) -> str:
    prompts, answers, most = args.rollout.batch_size, args.rollout.n_samples_per_prompt, most_new_tokens(args)
    return (
        f"{prompts} prompts x {answers} answers = {prompts * answers} samples of at most {most} new tokens, together "
        f"{prompts * answers * most:,}; {_count(updates_a_step(args), 'update')} of {args.train.batch_size} samples; "
        f"at most {micro_batch_tokens(args)} tokens in one pass of a rank"
    )


def _length(args: SimpleNamespace) -> str:
    prompts, known = count_prompts(args)
    if prompts is None:
        return "as many steps as the prompts fill, which are not here to be counted"
    steps = planned_steps(args, prompts)
    each = -(-prompts // args.rollout.batch_size)
    answers = prompts * args.train.num_episodes * args.rollout.n_samples_per_prompt
    return (
        f"{'' if known else 'at most '}{prompts} prompts: {_count(each, 'step')} x "
        f"{_count(args.train.num_episodes, 'episode')} = {_count(steps, 'step')}, with "
        f"{_count(updates_a_step(args), 'update')} each; {'' if known else 'at most '}{answers:,} answers, together at "
        f"most {answers * most_new_tokens(args):,} new tokens"
    )


def _evaluation(args: SimpleNamespace) -> str:
    if not args.eval.dataset:
        return "none"
    when = [
        *(["at the start"] if args.eval.at_start else []),
        *([f"every {args.eval.steps} steps"] if args.eval.steps > 0 else []),
        *(["at the end"] if args.eval.at_end else []),
    ]
    answers, temperature = args.eval.n_samples_per_prompt, args.eval.temperature
    return f"{args.eval.dataset}: {answers} answers a prompt, temperature {temperature:g}; {', '.join(when) or 'never'}"


def _parts(parts: dict[str, int]) -> str:
    return ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items() if size)


def _memory(args: SimpleNamespace, shape: ModelShape, found: Memory, gpu: int, assumed: bool) -> list[tuple[str, str]]:
    size = f"{gpu / GIB:.0f} GiB{', assumed' if assumed else ''}"
    peaks = found.training_peak, found.sampling_peak
    tokens = cached_tokens(args, shape, found.cache)
    rows = [
        (
            "training",
            f"about {peaks[0] / GIB:.0f} of {size}: {_parts({**found.state, **found.a_pass})}, CUDA and others "
            f"{SURROUNDINGS / GIB:.1f}"
            + (f"; the optimizer's step {found.step / GIB:.1f} instead of the pass" if found.step else ""),
        ),
        (
            "sampling",
            f"about {peaks[1] / GIB:.0f} of {size}: vLLM {found.vllm / GIB:.1f}"
            + (f" ({found.cache / GIB:.1f} for keys and values of {tokens} tokens)" if tokens else "")
            + (f", {_parts(found.beside_vllm)}" if found.beside_vllm else ""),
        ),
    ]
    if found.host:
        total = sum(found.host.values()) / GIB
        rows.append(("host", f"about {total:.0f} of a machine's memory, pinned: {_parts(found.host)}"))
    return rows


def _remarks(args: SimpleNamespace, found: Memory | None, gpu: int) -> list[str]:
    """What the reader of the plan should know or do."""
    remarks = []
    prompts, known = count_prompts(args)
    odd = odd_samples(args, prompts) if prompts and known else 0
    if odd:
        batch = args.rollout.batch_size
        fate = "are left out" if args.train.dynamic_batch_enable else "are mixed into the next step's first update"
        whole = prompts // batch * batch
        remedy = f"--data.max_samples {whole} avoids it" if whole else f"use a --data.max_samples of at least {batch}"
        remarks.append(f"{odd} samples of an episode's last step fill no update and {fate}; {remedy}")
    if found and found.training_peak > gpu:
        remarks.append(
            f"training may not fit: about {found.training_peak / GIB:.0f} of {gpu / GIB:.0f} GiB; use more GPUs, "
            "--ds.zero_stage 3, --actor.gradient_checkpointing_enable, fewer tokens at once "
            "(--train.max_tokens_per_gpu or --train.micro_batch_size), or --ds.adam_offload"
        )
    if found and found.sampling_peak > gpu:
        remarks.append(
            f"sampling may not fit: about {found.sampling_peak / GIB:.0f} of {gpu / GIB:.0f} GiB; use a smaller "
            "--vllm.gpu_memory_utilization, or --vllm.enable_sleep and --ds.enable_sleep"
        )
    return remarks


def _rows(args: SimpleNamespace, shape: ModelShape | None, here: bool, on_cpu: bool) -> list[tuple[str, str]]:
    return [
        ("model", _model(args, shape, here)),
        ("devices", _devices(args, on_cpu)),
        ("a step", _step(args)),
        ("the run", _length(args)),
        ("evaluation", _evaluation(args)),
    ]


def _width() -> int:
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns)


def _wrapped(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Labelled texts in lines of at most WIDTH characters, as the terminal allows."""
    lines = []
    for label, text in rows:
        lines += textwrap.wrap(
            f"{label:{LABEL}}{text}",
            _width(),
            subsequent_indent=" " * LABEL,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def _host_row(args: SimpleNamespace, shape: ModelShape | None) -> tuple[str, str]:
    return "memory", machine.memory_line(host_memory(args, shape) if shape else None)


def announcement(args: SimpleNamespace) -> list[str]:
    """The plan of a run that is about to start, in lines, and warnings.

    Raises:
        OptionError: what this machine's memory cannot hold.
    """
    shape, here = model_shape.find(args.actor.model_name_or_path)
    on_cpu = cpu_runtime.required()
    rows = _rows(args, shape, here, on_cpu)
    if not on_cpu or ray_cluster():
        return _wrapped(rows)
    warnings = machine.check(args, shape, count_prompts(args)[0])
    return _wrapped([*rows, _host_row(args, shape)]) + [f"warning: {warning}" for warning in warnings]


def plan(argv: Sequence[str], gpu_memory_gib: float | None = None) -> str:
    """The plan in at most WIDTH characters a line.

    Args:
        argv: options as for training, with profiles expanded.
        gpu_memory_gib: of a GPU to plan for; None for this machine's, or USUAL_GPU_GIB.

    Raises:
        OptionError: options that can work nowhere, or not with the model.
    """
    missing: list[str] = []
    chosen: list[str] = []
    try:
        args = options.parse(argv, say=chosen.append)
        on_cpu = cpu_runtime.required()
    except NeedsCuda:
        missing.append("CUDA: the options are for machines that have it, and so is this plan")
        args = options.parse(argv, anywhere=True, say=chosen.append)
        on_cpu = False
    shape, here = model_shape.find(args.actor.model_name_or_path)
    if shape:
        preflight.check_shape(args, shape)
    if not here:
        missing.append(not_here("--actor.model_name_or_path", args.actor.model_name_or_path))
    wrong, warnings = preflight.problems(args, with_models=here)
    missing += wrong

    rows = [*_rows(args, shape, here, on_cpu), ("run folder", args.logger.run_dir)]
    found, gpu = None, 0
    if on_cpu:
        rows.append(_host_row(args, shape))
        try:
            chosen += machine.check(args, shape, count_prompts(args)[0])
        except OptionError as error:
            missing.append(str(error))
    elif shape:
        assumed = gpu_memory_gib is None and cpu_runtime.required()
        if gpu_memory_gib is None:
            gpu = USUAL_GPU_GIB * GIB if assumed else torch.cuda.get_device_properties(0).total_memory
        else:
            gpu = int(gpu_memory_gib * GIB)
        found = memory(args, shape, gpu)
        if found:
            preflight.check_memory(args, found, gpu)
            rows += [("memory", "of a GPU at its peak, estimated, in GiB"), *_memory(args, shape, found, gpu, assumed)]
        else:
            rows.append(("memory", "not estimated for this architecture, LoRA, 4-bit weights or Muon"))

    lines = ["plan (nothing is started)", *_wrapped(rows)]
    remarks = [*chosen, *warnings, *_remarks(args, found, gpu)]
    for title, texts in (("remarks", remarks), ("before it can run on this machine", missing)):
        if texts:
            lines += ["", f"{title}:"]
            for text in texts:
                lines += textwrap.wrap(
                    f"- {text}", _width(), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
                )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> str:
    """The plan of a training command that has --dry_run in it.

    Raises:
        OptionError, SystemExit: as options.parse.
    """
    parser = Parser(prog="lens-openrlhf train", add_help=False, allow_abbrev=False)
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("--gpu_memory_gib", type=float)
    own, rest = parser.parse_known_args(argv)
    if own.gpu_memory_gib is not None and not 0 < own.gpu_memory_gib < math.inf:
        raise OptionError(f"--gpu_memory_gib {own.gpu_memory_gib:g}: expected the memory of a GPU in GiB, such as 79")
    return plan(rest, own.gpu_memory_gib)
