"""Checks of the surroundings before anything expensive starts."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch

from . import cpu
from .options import MATH_VERIFY, MATH_VERIFY_FILE, OptionError
from .run_log import METRICS

MIN_FREE_BYTES = 1 << 30
READABLE = (".json", ".jsonl", ".csv", ".parquet", ".arrow")  # what OpenRLHF loads as a file


def _check_model(option: str, name: str) -> None:
    """A folder must hold a model. Anything else is a hub name, which is checked to be one, or in the cache."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise OptionError(f"{option} {name}: the folder has no config.json, so it is not a Hugging Face model")
        return
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise OptionError(f"{option} {name}: no such folder")
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"{option} {name}: neither a folder here nor a model that could be loaded from the hub "
            f"({str(error).splitlines()[0]}); give the path of a downloaded model, or check the name and the network"
        ) from None


def _rows(option: str, path: Path) -> Iterator[tuple[str, dict]]:
    """Where each row of a local file is, for messages, and the row."""
    if path.suffix == ".jsonl":
        with open(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise OptionError(f"{option} {path}: line {number} is not JSON ({error.msg})") from None
                yield f"line {number}", row if isinstance(row, dict) else {}
        return
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        rows = load_dataset(path.suffix[1:], data_files=str(path), split="train")
    except (DatasetGenerationError, ValueError, OSError) as error:
        raise OptionError(f"{option} {path}: cannot be read as {path.suffix[1:]} ({error})") from None
    for number, row in enumerate(rows, 1):
        yield f"row {number}", row


def _check_rows(option: str, path: Path, keys: dict[str, str], text_key: str | None) -> None:
    """Every row has `keys` {key: option that names it}, and text or a whole number at `text_key`."""
    empty = True
    for place, row in _rows(option, path):
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
        if path.suffix in READABLE or path.is_absolute() or str(path).startswith("."):
            if not path.exists():
                raise OptionError(f"{option} {path}: no such file")
            if path.suffix in READABLE:
                _check_rows(option, path, keys, text_key)


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


def check_surroundings(args: SimpleNamespace) -> None:
    """Raise OptionError, naming the option and the remedy, for a model, dataset, reward file, disk or network that
    cannot work."""
    _check_gpus(args)
    _check_model("--actor.model_name_or_path", args.actor.model_name_or_path)
    _check_dataset("--data.prompt_dataset", args.data.prompt_dataset, args)
    if args.eval.dataset:
        _check_dataset("--eval.dataset", args.eval.dataset, args, args.eval.split_by or ())
    for url in args.reward.remote_url or []:
        if url.endswith(".py") and not Path(url).is_file():
            raise OptionError(f"--reward.remote_url {url}: no such file")
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
