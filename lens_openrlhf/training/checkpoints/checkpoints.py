"""Checkpoints that a crash cannot spoil, and going on from the last whole one.

OpenRLHF makes room for a checkpoint before it writes it, so that a crash in between can leave none, and DeepSpeed
points `latest` at whatever was written last. Here a checkpoint is written under another name, listed in a manifest and
renamed; only then are older ones deleted. A run that goes on takes the newest one whose manifest is right, and forgets
what it had recorded of later steps, because they will come again.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...advantages.estimators import Estimator, EstimatorError, asked, described
from ...advantages.lazily import torch
from ...inputs import OptionError
from ...process import write_atomically
from ...run_folder.log import EVALUATIONS, METRICS, read
from . import manifest

ACTOR, LATEST, METRIC = "_actor", "latest", "metric.json"
UNFINISHED = "unfinished-"
REPLACED = f"{UNFINISHED}old-"
FACTS = "run.json"  # in a checkpoint: its step, and the run's options
ESTIMATOR = "estimator.pt"  # in a checkpoint: the estimator's state
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
ARCHITECTURE = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    "num_key_value_heads",
)


def architecture(model: str) -> dict[str, Any]:
    """What a model's config.json says of its shape; nothing for a model that cannot be reached."""
    from transformers import PretrainedConfig

    try:
        config, _ = PretrainedConfig.get_config_dict(model)
    except (OSError, ValueError):
        return {}
    return {key: config[key] for key in ARCHITECTURE if key in config}


# Writing, in the PPO actor


@contextlib.contextmanager
def nothing_deleted(limits: SimpleNamespace) -> Iterator[None]:
    """Inside, OpenRLHF finds room for any number of checkpoints (`--ckpt.max_num`, `--ckpt.max_mem`)."""
    before = limits.max_num, limits.max_mem
    limits.max_num, limits.max_mem = sys.maxsize, math.inf
    try:
        yield
    finally:
        limits.max_num, limits.max_mem = before


def sweep(folder: Path) -> None:
    """Delete what interrupted checkpoints left in the checkpoint folder; one that was to be replaced comes back."""
    for left in [*folder.glob(f"{UNFINISHED}*"), *(folder / ACTOR).glob(f"{UNFINISHED}*")]:
        place = left.with_name(left.name.removeprefix(REPLACED))
        if place != left and not place.exists():
            left.rename(place)
        else:
            shutil.rmtree(left)


def save_estimator(folder: Path, tag: str, estimator: Estimator) -> None:
    """Write the estimator's state into the checkpoint that was written as UNFINISHED + tag."""
    written = folder / ACTOR / (UNFINISHED + tag)
    if written.is_dir():
        with asked(estimator, "state_dict"):
            state = estimator.state_dict()
        torch.save(state, written / ESTIMATOR)


def check_state(estimator: Estimator) -> None:
    """Raises EstimatorError unless the estimator's state can be written and read: no checkpoint is loaded that could
    run code, so tensors, numbers, texts, lists and dicts alone."""
    if not estimator.remembers:
        return
    file = io.BytesIO()
    try:
        torch.save(estimator.state_dict(), file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as error:
        raise EstimatorError(
            f"{described(estimator)}: its state_dict() cannot be kept in a checkpoint, which holds tensors, "
            f"numbers, texts, lists and dicts ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error


def load_estimator(folder: Path, estimator: Estimator) -> None:
    """Give the estimator the state in the checkpoint that `latest` names.

    Raises:
        EstimatorError: it keeps state, and the checkpoint, one of OpenRLHF's own, has none.
    """
    states = folder / ACTOR
    path = states / (states / LATEST).read_text().strip() / ESTIMATOR
    if path.exists():
        state = torch.load(path, weights_only=True)
        with asked(estimator, "load_state_dict"):
            estimator.load_state_dict(state)
    elif estimator.remembers:
        raise EstimatorError(f"{path}: is missing, and the {estimator.name} estimator goes on from its state alone")


def not_written(folder: Path, tag: str, error: Exception) -> OSError:
    """The error for a checkpoint whose writing failed; what torch's own says does not name the place."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free / 2**20
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return OSError(
        f"--ckpt.path {folder}: checkpoint {tag} cannot be written, with {free:.0f} MiB free there ({said}); earlier "
        "ones are as they were, and --ckpt.load_enable goes on from the last"
    )


def finish(folder: Path, tag: str, facts: Mapping[str, Any], limits: SimpleNamespace) -> None:
    """Give the checkpoint that was written as UNFINISHED + tag its name, and delete those that are too many.

    Args:
        folder: `--ckpt.path`, on a file system that all nodes share.
        facts: what a run that goes on must know: `step`, `options`, `architecture`.
        limits: `--ckpt.max_num` and `.max_mem` (GiB).
    """
    states = folder / ACTOR
    written = states / (UNFINISHED + tag)
    if written.is_dir():
        write_atomically(written / FACTS, json.dumps(facts, default=str) + "\n")
        for file in written.rglob("*"):
            _to_disk(file)  # a reboot must not leave a manifest of files that are not there yet
        manifest.write(written)
        _put_in_place(written, states / tag)
        write_atomically(states / LATEST, tag)
        make_room(states, tag, limits.max_num, limits.max_mem)
    for_transformers = folder / f"{UNFINISHED}{tag}_hf"
    if for_transformers.is_dir():
        _put_in_place(for_transformers, folder / f"{tag}_hf")


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(new: Path, place: Path) -> None:
    """Rename a folder to one that may exist: a run that was set back writes a step's checkpoint again."""
    old = place.with_name(REPLACED + place.name)
    if place.exists():
        place.rename(old)
    new.rename(place)
    _to_disk(place.parent)
    if old.exists():
        shutil.rmtree(old)


def make_room(states: Path, newest: str, max_num: int, max_mem: float) -> None:
    """Delete checkpoints by OpenRLHF's rules, never the newest: first those without a metric, then by the worst metric,
    then by age; of the best ones, which do not count, only the last stays."""
    kept = [path for path in states.iterdir() if path.is_dir() and path.name != newest]
    best = [path for path in kept if path.name.startswith("best")]
    if newest.startswith("best"):
        for path in best:
            shutil.rmtree(path)
        best = []
    regular = sorted((path for path in kept if not path.name.startswith("best")), key=_worth)
    size = sum(_size(path) for path in [*regular, *best, states / newest])
    counted = len(regular) + (not newest.startswith("best"))
    for path in regular:
        if counted <= max_num and size <= max_mem * 2**30:
            break
        size, counted = size - _size(path), counted - 1
        shutil.rmtree(path)


def _worth(path: Path) -> tuple[bool, float, float]:
    metric = None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        metric = json.loads((path / METRIC).read_text())["metric_value"]
    return metric is not None, metric if metric is not None else 0.0, path.stat().st_mtime


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def resumable(client_states: Mapping[str, Any]) -> dict[str, Any]:
    """OpenRLHF's record of where the data stands, in a form that it can go on from.

    After an episode's last prompt it names that episode still, and a run that went on would train on all of it again.
    """
    states = dict(client_states)
    if states.get("data_loader_state_dict", {}).get("_iterator_finished"):
        states["episode"] += 1
    return states


# Going on, in the driver


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
        if not path.is_dir() or path.name.startswith(UNFINISHED):
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
    for samples in (folder / "samples").glob("step-*.parquet"):
        if int(samples.stem.removeprefix("step-")) > step:
            samples.unlink()
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
