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

import torch

from ..inputs import MATH_VERIFY, READABLE, OptionError, check_model, rows_of_file
from . import cpu
from .options import MATH_VERIFY_FILE
from .run_log import METRICS

MIN_FREE_BYTES = 1 << 30
SERVER_SECONDS = 5


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
                raise OptionError(f"{option} {path}: no such file")
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


def _check_port() -> None:
    try:
        with socket.socket() as probe:
            probe.bind(("", 0))
    except OSError as error:
        raise OptionError(f"no network port is free on this machine ({error}); Ray and vLLM need some") from None


def gpus_needed(args: SimpleNamespace) -> int:
    """GPUs that OpenRLHF's `train` asks Ray for; without CUDA these are logical."""

    def size(entity: SimpleNamespace) -> int:
        return entity.num_nodes * entity.num_gpus_per_node

    actor = size(args.actor)
    engines = args.vllm.num_engines * args.vllm.tensor_parallel_size
    if args.train.colocate_all:
        return actor + (engines if args.train.async_enable else 0)
    ref = size(args.ref) if args.algo.kl.init_coef > 0 and not args.train.colocate_actor_ref else 0
    reward = 0 if args.reward.remote_url else size(args.reward)
    critic = size(args.critic) if args.critic.model_name_or_path else 0
    if critic and args.train.colocate_critic_reward:
        reward = 0
    return actor + ref + critic + reward + engines


def _check_gpus(args: SimpleNamespace) -> None:
    """A local Ray would wait for ever for GPUs that are not there."""
    if cpu.required() or os.environ.get("RAY_ADDRESS"):
        return
    needed, there = gpus_needed(args), torch.cuda.device_count()
    if needed > there:
        raise OptionError(
            f"the options ask for {needed} GPUs and {there} are visible: use fewer (--actor.num_gpus_per_node, "
            "--vllm.num_engines), share them (--train.colocate_all), or join a cluster with RAY_ADDRESS"
        )


def _models(args: SimpleNamespace) -> Iterator[tuple[str, str]]:
    """Options that name the models that OpenRLHF's `train` loads; the reference model is the actor's."""
    yield "--actor.model_name_or_path", args.actor.model_name_or_path
    if args.critic.model_name_or_path:
        yield "--critic.model_name_or_path", args.critic.model_name_or_path
    if args.reward.model_name_or_path and not args.reward.remote_url:
        yield "--reward.model_name_or_path", args.reward.model_name_or_path


def check_surroundings(args: SimpleNamespace) -> None:
    """Raise OptionError, naming the option and the remedy, for a model, dataset, reward file, disk or network that
    cannot work."""
    _check_gpus(args)
    for option, name in _models(args):
        check_model(option, name, args.model.allow_remote_code)
    _check_dataset("--data.prompt_dataset", args.data.prompt_dataset, args)
    if args.eval.dataset:
        _check_dataset("--eval.dataset", args.eval.dataset, args, args.eval.split_by or ())
    for url in args.reward.remote_url if args.reward.remote_url and not args.train.agent_func_path else []:
        if url.endswith(".py"):
            if not Path(url).is_file():
                raise OptionError(f"--reward.remote_url {url}: no such file")
        else:
            _check_server(url)
    if args.train.agent_func_path and not Path(args.train.agent_func_path).is_file():
        raise OptionError(f"--train.agent_func_path {args.train.agent_func_path}: no such file")
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
    _check_port()
