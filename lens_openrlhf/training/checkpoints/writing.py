"""Checkpoints that a crash cannot spoil, written by the PPO actor.

OpenRLHF makes room for a checkpoint before it writes it, so that a crash in between can leave none, and DeepSpeed
points `latest` at whatever was written last. Here a checkpoint is written under another name, listed in a manifest and
renamed: from then on it is valid. Only then are older ones deleted.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...process import write_atomically
from . import manifest
from .layout import ACTOR, FACTS, LATEST, METRIC, REPLACED, UNFINISHED


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
    try:
        metric = json.loads((path / METRIC).read_text())["metric_value"]
    except (OSError, ValueError, KeyError, TypeError):
        metric = None
    return metric is not None, metric or 0.0, path.stat().st_mtime


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
