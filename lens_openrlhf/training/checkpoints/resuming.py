"""Going on, in the driver: from which checkpoint, whether it fits the options, and a run folder that is set back to it.

A run that goes on takes the newest checkpoint whose manifest is right, and forgets what it had recorded of later steps,
because they will come again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...inputs import OptionError
from ...process import write_atomically
from ...run_folder import samples
from ...run_folder.log import EVALUATIONS, METRICS, read
from . import manifest
from .layout import ACTOR, FACTS, LATEST, UNFINISHED, architecture
from .writing import sweep

SUPERSEDED = "superseded.jsonl"
# What says whose state a checkpoint holds.
IDENTITY = ("algo.advantage.estimator", "algo.lens.estimator_path")
# Options that a checkpoint cannot be loaded with, if they differ, and those that decide which prompts come next.
FIXED = (
    *(*IDENTITY, "actor.num_nodes", "actor.num_gpus_per_node", "ds.zero_stage", "ds.lora.rank"),
    *("ds.ring_attn_size", "ds.tensor_parallel_size"),
)
DATA_ORDER = (
    *("data.prompt_dataset", "data.prompt_probs", "data.prompt_split", "data.max_samples", "train.seed"),
    *("rollout.batch_size", "rollout.vllm_generate_batch_size"),
)
# May differ without a word.
UNIMPORTANT = ("logger.", "ckpt.", "eval.", "vllm.", "local_rank")


@dataclass(frozen=True)
class Resume:
    """The checkpoint that a run goes on from, and what its user should know."""

    tag: str
    step: int
    notes: list[str] = field(default_factory=list)


def newest(folder: Path) -> Resume | None:
    """The checkpoint of the latest step in `--ckpt.path` that is whole; None where there is none.

    One without a manifest, as OpenRLHF itself writes them, is taken only where DeepSpeed's `latest` names it.
    """
    states = folder / ACTOR
    found, notes = [], []
    for path in states.iterdir() if states.is_dir() else ():
        if path.name.startswith(UNFINISHED):
            continue
        try:
            found.append((json.loads((path / FACTS).read_text())["step"], path.stat().st_mtime, path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            if manifest.has_one(path):  # ours, then
                notes.append(f"checkpoint {path.name} is left out: {FACTS} cannot be read ({error})")
    for step, _, path in sorted(found, reverse=True):
        try:
            manifest.check(path)
        except manifest.ManifestError as error:
            notes.append(f"checkpoint {path.name} is left out: {error}")
            continue
        return Resume(path.name, step, notes)
    latest = states / LATEST
    tag = latest.read_text().strip() if latest.is_file() else ""
    step = "" if tag.startswith(UNFINISHED) else tag.rpartition("global_step")[2]
    if step.isdigit() and (states / tag).is_dir() and not manifest.has_one(states / tag):
        return Resume(tag, int(step), [*notes, f"checkpoint {tag} has no manifest, so that it could not be checked"])
    if notes:
        raise OptionError(
            f"--ckpt.load_enable: no checkpoint in {states} is whole ({'; '.join(notes)}); restore one, or name "
            "another --ckpt.path to begin anew"
        )
    return None


def check(args: SimpleNamespace, options: Mapping[str, Any]) -> Resume | None:
    """What `--ckpt.load_enable` goes on from, with changed options among its notes; None where the run begins.

    Raises:
        OptionError: a checkpoint of another model, estimator or number of ranks; only damaged checkpoints.
    """
    if not args.ckpt.load_enable:
        return None
    folder = Path(args.ckpt.path)
    sweep(folder)
    found = newest(folder)
    if found is None:
        _check_nothing_is_lost(args)
        return None
    if args.train.enable_ema:
        raise OptionError(
            f"--train.enable_ema: OpenRLHF's checkpoints, {folder / ACTOR / found.tag} too, do not hold the averaged "
            "weights; leave the option out to go on, or name another --ckpt.path to begin anew"
        )
    facts = folder / ACTOR / found.tag / FACTS
    if not facts.exists():
        return found
    written = json.loads(facts.read_text())
    before, notes = written["options"], list(found.notes)
    now_shape = architecture(args.actor.model_name_or_path)
    for key, value in written["architecture"].items():
        if now_shape and now_shape.get(key) != value:
            raise OptionError(
                f"--actor.model_name_or_path {args.actor.model_name_or_path}: has {key} {now_shape.get(key)}, but the "
                f"checkpoint {folder / ACTOR / found.tag} is of a model with {value} "
                f"({before['actor.model_name_or_path']}); name that model, or another --ckpt.path"
            )
    plain = json.loads(json.dumps(dict(options), default=str))
    for name in sorted(before.keys() | plain.keys()):
        old, new = before.get(name), plain.get(name)
        if old == new or name.startswith(UNIMPORTANT):
            continue
        if name in FIXED and not (args.ds.use_universal_ckpt and name not in IDENTITY):
            raise OptionError(
                f"--{name} {new}: the checkpoint {folder / ACTOR / found.tag} was written with {old}, and cannot be "
                f"continued otherwise; use {old}, or name another --ckpt.path to begin anew"
            )
        effect = ", so that prompts do not come in the order of one run" if name in DATA_ORDER else ""
        notes.append(f"--{name} was {old} until step {found.step} and is {new} from now on{effect}")
    return Resume(found.tag, found.step, notes)


def _check_nothing_is_lost(args: SimpleNamespace) -> None:
    """Raises OptionError where a run would begin over the records of one that must have had checkpoints."""
    recorded = len(read(Path(args.logger.run_dir) / METRICS))
    if recorded > max(args.ckpt.save_steps, 0):
        raise OptionError(
            f"--ckpt.path {args.ckpt.path}: has no checkpoint to go on from, but {args.logger.run_dir} holds the "
            f"records of {recorded} steps; name the path of its checkpoints, or another --logger.run_dir to begin anew"
        )


def rewind(folder: Path, step: int) -> int:
    """Take what a run folder records of steps after `step` out of its files; their metrics go to superseded.jsonl.

    Returns how many steps these were.
    """
    cut = 0
    for name in (METRICS, EVALUATIONS):
        records = read(folder / name)
        kept = [record for record in records if record["step"] <= step]
        if name == METRICS and len(kept) < len(records):
            cut = len(records) - len(kept)
            with open(folder / SUPERSEDED, "a") as file:
                file.writelines(json.dumps(record) + "\n" for record in records if record["step"] > step)
        if (folder / name).exists():
            write_atomically(folder / name, "".join(json.dumps(record) + "\n" for record in kept))
    for at, written in samples.files_by_step(folder).items():
        if at > step:
            written.unlink()
    return cut


def go_on(args: SimpleNamespace, resume: Resume | None) -> list[str]:
    """Prepare the run folder and DeepSpeed's `latest` for a run with `--ckpt.load_enable`; returns lines for its user.

    Where there is nothing to go on from, OpenRLHF is told so: it would fail on a folder without a checkpoint.
    """
    if not args.ckpt.load_enable:
        return []
    folder = Path(args.logger.run_dir)
    step = resume.step if resume else 0
    cut = rewind(folder, step)
    args.ckpt.load_enable = resume is not None
    if resume:
        write_atomically(Path(args.ckpt.path) / ACTOR / LATEST, resume.tag)
        lines = [f"goes on after step {step}, from the checkpoint {resume.tag}"]
        lines += [f"warning: {note}" for note in resume.notes]
    else:
        lines = [f"no checkpoint in {args.ckpt.path}: begins with the first step"]
    if cut:
        lines.append(f"{cut} steps that were recorded after it come again; their metrics were moved to {SUPERSEDED}")
    return lines


def history(folder: Path, resume: Resume | None) -> list[dict]:
    """config.json's `resumed`: when a run went on, after which step, with what changed."""
    try:
        before = json.loads((folder / "config.json").read_text()).get("resumed", [])
    except (OSError, ValueError):
        before = []
    return [*before, {"time": time.time(), "step": resume.step, "notes": resume.notes}] if resume else before
