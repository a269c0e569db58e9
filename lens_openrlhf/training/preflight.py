"""Checks of the surroundings before anything expensive starts."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

from ..advantages.estimators import EstimatorError
from ..advantages.lazily import torch
from ..inputs import MATH_VERIFY, READABLE, OptionError, check_model, rows_of_file
from . import cpu, model_shape
from .checkpoints import check_state
from .model_shape import ModelShape
from .options import MATH_VERIFY_FILE, make_estimator, step_scorer
from .plan import GIB, Memory, actor_gpus, memory
from .profiles import cache_folder
from .run_log import METRICS

MIN_FREE_BYTES = 1 << 30
SERVER_SECONDS = 5
# Folders of the prompt sets that `lens-openrlhf data` makes.
PROMPT_SETS = ("math+dapo", "math+numina")


def not_here(option: str, name: str) -> str:
    """That a model or file is not on this machine, and what brings it."""
    path = Path(name)
    if cache_folder() in path.parents:
        return f"{option} {name}: the profile makes it when the run starts"
    if path.parent.name in PROMPT_SETS:
        return f"{option} {name}: no such file; make it with `lens-openrlhf data {path.parent.name}`, or name another"
    if option == "--actor.model_name_or_path" and not path.is_absolute():
        return f"{option} {name}: is fetched from the hub when the run starts, or name the folder of a downloaded model"
    return f"{option} {name}: no such {'file' if path.suffix else 'folder'}"


def count_rows(path: Path) -> int | None:
    """Rows of a local file of prompts, without reading more than is needed; None for a file of another format, or none
    at all."""
    if path.suffix == ".jsonl":
        with open(path, "rb") as file:
            return sum(1 for line in file if line.strip())
    if path.suffix == ".parquet":
        from pyarrow.parquet import ParquetFile

        with contextlib.suppress(ValueError), ParquetFile(path) as file:  # ArrowInvalid: no parquet
            return file.metadata.num_rows
    return None


def _check_rows(option: str, path: Path, keys: dict[str, str], text_key: str | None) -> None:
    """Every row has `keys` {key: option that names it}, and text or a whole number at `text_key`."""
    empty = True
    for place, row in rows_of_file(option, path):
        empty = False
        for key, named_by in keys.items():
            if row.get(key) in (None, ""):
                raise OptionError(
                    f"{option} {path}: {place} has no {key!r}, the key of {named_by}; mend the data or name another key"
                )
        value = row.get(text_key)
        if text_key and (isinstance(value, bool) or not isinstance(value, str | int)):
            raise OptionError(
                f"{option} {path}: {place} has the label {value!r}, but {MATH_VERIFY} compares with text or whole "
                "numbers; write it as text"
            )
    if empty:
        raise OptionError(f"{option} {path}: the file is empty")


def _check_dataset(option: str, names: str, args: SimpleNamespace, columns: Sequence[str] = ()) -> None:
    keys = {args.data.input_key: "--data.input_key"} | {column: "--eval.split_by" for column in columns}
    if args.data.label_key:
        keys[args.data.label_key] = "--data.label_key"
    text_key = args.data.label_key if str(MATH_VERIFY_FILE) in (args.reward.remote_url or []) else None
    for name in names.split(","):
        path = Path(name.strip().split("@")[0])
        for script in (path, path / f"{path.name}.py"):  # what OpenRLHF would load as a script
            if script.suffix == ".py" and script.is_file():
                raise OptionError(
                    f"{option} {path}: {script} is Python code, and data is not run; save it as .jsonl or .parquet"
                )
        if path.suffix in READABLE or path.is_absolute() or str(path).startswith("."):
            if not path.exists():
                raise OptionError(not_here(option, str(path)))
            if path.suffix in READABLE:
                _check_rows(option, path, keys, text_key)


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


def _check_gpus(args: SimpleNamespace) -> None:
    """A local Ray would wait for ever for GPUs that are not there."""
    if cpu.required() or ray_cluster():
        return
    needed, there = gpus_needed(args), torch.cuda.device_count()
    if needed > there:
        raise OptionError(
            f"the options ask for {needed} GPUs and {there} are visible: use fewer (--gpus with a profile, else "
            "--actor.num_gpus_per_node, --vllm.num_engines), share them (--train.colocate_all), or join a cluster with "
            "RAY_ADDRESS"
        )


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
    for option, name in _models(args):
        check_model(option, name, args.model.allow_remote_code)


def _check_model(args: SimpleNamespace) -> None:
    _check_models(args)
    shape, _ = model_shape.find(args.actor.model_name_or_path)
    if shape is None:
        return
    check_shape(args, shape)
    if not cpu.required() and torch.cuda.is_available() and not ray_cluster():
        gpu = torch.cuda.get_device_properties(0).total_memory
        if found := memory(args, shape, gpu):
            check_memory(args, found, gpu)


def _check_prompts(args: SimpleNamespace) -> None:
    _check_dataset("--data.prompt_dataset", args.data.prompt_dataset, args)


def _check_evaluation(args: SimpleNamespace) -> None:
    if args.eval.dataset:
        _check_dataset("--eval.dataset", args.eval.dataset, args, args.eval.split_by or ())


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
    problem = None if ray_cluster() else cpu.without_sampler()
    if problem:
        raise OptionError(problem)


# What needs neither a network nor the model.
_CHECKS = (
    _check_gpus,
    _check_prompts,
    _check_evaluation,
    _check_functions,
    _check_run_folder,
    _check_port,
    _check_sampler,
)


def check_surroundings(args: SimpleNamespace) -> None:
    """Raise OptionError, naming the option and the remedy, for a model, dataset, reward file, disk or network that
    cannot work."""
    _check_gpus(args)
    _check_model(args)
    for check in _CHECKS[1:]:
        check(args)


def problems(args: SimpleNamespace, with_models: bool) -> list[str]:
    """What check_surroundings would say of this machine, and all of it; of models only whether they can be taken."""
    found = []
    for check in (*_CHECKS, *([_check_models] if with_models else [])):
        try:
            check(args)
        except OptionError as error:
            found.append(str(error))
    return found
