"""Checks of the surroundings before anything expensive starts."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

from ... import cpu_runtime
from ...advantages.estimators import EstimatorError
from ...advantages.lazily import torch
from ...inputs import (
    MATH_VERIFY,
    OptionError,
    check_model,
)
from ...run_folder.log import METRICS
from ..checkpoints.estimator_state import check_state
from . import model_shape
from .estimator import make_estimator, step_scorer
from .gpus import check_gpus, ray_cluster
from .model_shape import ModelShape
from .plan import GIB, Memory, memory
from .prompt_data import check_evaluation_prompts, check_prompts

MIN_FREE_BYTES = 1 << 30
SERVER_SECONDS = 5


def _check_server(url: str) -> None:
    """A reward server that is down would be found out by the first answers, after minutes of starting up."""
    parts, port = urlsplit(url), None
    with contextlib.suppress(ValueError):
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    if not parts.hostname or not port:
        raise OptionError(
            f"--reward.remote_url {url}: expected {MATH_VERIFY}, a .py file with a reward_func, or an address such as "
            "http://host:port/path"
        )
    try:
        socket.create_connection((parts.hostname, port), SERVER_SECONDS).close()
    except OSError as error:
        raise OptionError(
            f"--reward.remote_url {url}: the reward server cannot be reached ({error}); start it, or mend the address"
        ) from None


def _models(args: SimpleNamespace) -> Iterator[tuple[str, str]]:
    """Options that name the models that OpenRLHF's `train` loads; the reference model is the actor's."""
    yield "--actor.model_name_or_path", args.actor.model_name_or_path
    if args.critic.model_name_or_path:
        yield "--critic.model_name_or_path", args.critic.model_name_or_path
    if args.reward.model_name_or_path and not args.reward.remote_url:
        yield "--reward.model_name_or_path", args.reward.model_name_or_path


def check_shape(args: SimpleNamespace, shape: ModelShape) -> None:
    """The context and the heads of the model suit the options; vLLM would say so only when it loads.

    Raises:
        OptionError
    """
    model = args.actor.model_name_or_path
    if args.data.max_len > shape.context:
        raise OptionError(
            f"--data.max_len {args.data.max_len}: {model} takes {shape.context} tokens, prompt and answer together; "
            "use at most that"
        )
    for option, parts in (
        ("--vllm.tensor_parallel_size", args.vllm.tensor_parallel_size),
        ("--ds.tensor_parallel_size", args.ds.tensor_parallel_size),
    ):
        if shape.heads % parts:
            raise OptionError(
                f"{option} {parts}: does not divide the {shape.heads} attention heads of {model}; use a divisor of that"
            )


def check_memory(args: SimpleNamespace, found: Memory, gpu: int) -> None:
    """What is certain not to fit a GPU of `gpu` bytes.

    Raises:
        OptionError
    """
    state = sum(found.state.values())
    if state > gpu:
        raise OptionError(
            f"weights, gradients and Adam's state take {state / GIB:.0f} GiB on each GPU, which has {gpu / GIB:.0f}: "
            "use more GPUs, --ds.zero_stage 3, or --ds.adam_offload, which keeps Adam's state in the machine's memory"
        )
    if found.cache <= 0:
        raise OptionError(
            f"--vllm.gpu_memory_utilization {args.vllm.gpu_memory_utilization:g}: of {gpu / GIB:.0f} GiB this leaves "
            "vLLM no room for keys and values beside the weights; use more, or split the model over GPUs "
            "(--vllm.tensor_parallel_size)"
        )


def _check_models(args: SimpleNamespace) -> None:
    """Quickly, where all that a plan needs stands in config.json."""
    for option, name in _models(args):
        quick = os.path.isdir(name) and model_shape.as_written(name) is not None
        check_model(option, name, args.model.allow_remote_code, quick=quick)


def _load_configs(args: SimpleNamespace) -> None:
    for option, name in _models(args):
        check_model(option, name, args.model.allow_remote_code)


def _check_model(args: SimpleNamespace) -> None:
    _check_models(args)
    shape, _ = model_shape.find(args.actor.model_name_or_path)
    if shape is None:
        return
    check_shape(args, shape)
    if not cpu_runtime.required() and torch.cuda.is_available() and not ray_cluster():
        gpu = torch.cuda.get_device_properties(0).total_memory
        if found := memory(args, shape, gpu):
            check_memory(args, found, gpu)


def _check_functions(args: SimpleNamespace) -> None:
    for url in args.reward.remote_url if args.reward.remote_url and not args.train.agent_func_path else []:
        if url.endswith(".py"):
            if not Path(url).is_file():
                raise OptionError(f"--reward.remote_url {url}: no such file")
        else:
            _check_server(url)
    if args.train.agent_func_path and not Path(args.train.agent_func_path).is_file():
        raise OptionError(f"--train.agent_func_path {args.train.agent_func_path}: no such file")
    estimator = make_estimator(args)
    if estimator:
        try:
            check_state(estimator)
        except EstimatorError as error:
            raise OptionError(str(error)) from None
        step_scorer(args, estimator)


def _check_run_folder(args: SimpleNamespace) -> None:
    folder = Path(args.logger.run_dir)
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    if (folder / METRICS).exists() and not args.ckpt.load_enable:
        raise OptionError(
            f"--logger.run_dir {folder}: holds a run already, and two would be mixed; name another folder, or continue "
            "that run with --ckpt.load_enable"
        )
    if not os.access(parent, os.W_OK):
        raise OptionError(f"--logger.run_dir {folder}: {parent} is not writable")
    for place, option in ((parent, "--logger.run_dir"), (Path("/tmp"), "Ray's temporary folder")):
        free = shutil.disk_usage(place).free
        if free < MIN_FREE_BYTES:
            raise OptionError(
                f"{option} {place}: only {free / 2**20:.0f} MiB are free on its disk, and a run needs at least "
                f"{MIN_FREE_BYTES / 2**20:.0f} MiB; free some or choose another disk"
            )


def _check_port(args: SimpleNamespace) -> None:
    try:
        with socket.socket() as probe:
            probe.bind(("", 0))
    except OSError as error:
        raise OptionError(f"no network port is free on this machine ({error}); Ray and vLLM need some") from None


def _check_sampler(args: SimpleNamespace) -> None:
    problem = None if ray_cluster() else cpu_runtime.without_sampler()
    if problem:
        raise OptionError(problem)


# What needs neither a network nor the model.
_CHECKS = (
    check_gpus,
    check_prompts,
    check_evaluation_prompts,
    _check_functions,
    _check_run_folder,
    _check_port,
    _check_sampler,
)


def check_surroundings(args: SimpleNamespace) -> list[str]:
    """Raise OptionError, naming the option and the remedy, for a model, dataset, reward file, disk or network that
    cannot work. Returns warnings of what can, but perhaps should not."""
    check_gpus(args)
    _check_model(args)
    warnings = [warning for check in _CHECKS[1:] for warning in check(args) or ()]
    _load_configs(args)
    return warnings


def problems(args: SimpleNamespace, with_models: bool) -> tuple[list[str], list[str]]:
    """What check_surroundings would say of this machine, and all of it; of models only whether they can be taken. And
    its warnings."""
    found: list[str] = []
    warnings: list[str] = []
    for check in (*_CHECKS, *([_check_models] if with_models else [])):
        try:
            warnings += check(args) or ()
        except OptionError as error:
            found.append(str(error))
    return found, warnings
