"""The run folder's own records: metrics.jsonl, eval.jsonl and events.jsonl, one JSON object a line."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

# Tell processes that OpenRLHF gives no options where the run folder is, and how long a reward may take.
RUN_DIR_VARIABLE = "LENS_RUN_DIR"
REWARD_TIMEOUT_VARIABLE = "LENS_REWARD_TIMEOUT"
# Events.
REWARD_FAILED, SAMPLING, ANSWERS, SAMPLED = "reward_failed", "sampling", "answers", "sampled"
METRICS, EVALUATIONS, EVENTS = "metrics.jsonl", "eval.jsonl", "events.jsonl"


def _plain(value: Any) -> Any:
    """`value` as JSON knows it; NaN and infinities become null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class RunLog:
    """Appends to a run folder's records; several processes may do so at once."""

    def __init__(self, run_dir: str | Path):
        self.folder = Path(run_dir)

    def _append(self, name: str, record: dict) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps(_plain(record), allow_nan=False).encode() + b"\n"
        # One write a line, so that a reader never sees two lines mixed.
        with open(self.folder / name, "a+b", buffering=0) as file:
            if end := file.seek(0, os.SEEK_END):
                file.seek(end - 1)
                if file.read(1) != b"\n":  # cut off by a crash; two of them may say so at once
                    line = b"\n" + line
            file.write(line)
            os.fsync(file.fileno())  # a checkpoint must not outlive the steps before it

    def step(self, step: int, status: dict) -> None:
        """A training step's metrics, OpenRLHF's and LENS's."""
        numbers = {k: v for k, v in status.items() if k != "generated_samples"}
        self._append(METRICS, {"step": step, "time": time.time(), **numbers})

    def evaluation(self, step: int, record: dict, logs: dict) -> None:
        """An evaluation (training/hooks/evaluation.py), and OpenRLHF's evaluation metrics."""
        self._append(EVALUATIONS, {"step": step, "time": time.time(), **record, **logs})

    def evaluated(self, step: int) -> bool:
        """Whether an evaluation after `step` is recorded."""
        return any(record["step"] == step for record in read(self.folder / EVALUATIONS))

    def event(self, name: str, **facts: Any) -> None:
        """Something that happened: a process that took up its work, the beginning of an evaluation.

        For the console and the tests; not written on a node that does not see the run folder.
        """
        if not self.folder.is_dir():
            return
        self._append(EVENTS, {"time": time.time(), "event": name, **facts})


class Follower:
    """What others append to a file of records; what stands there already is left out."""

    def __init__(self, path: str | Path):
        self._path, self._at = Path(path), 0
        self._at = len(self._whole_lines())

    def _whole_lines(self) -> bytes:
        try:
            with open(self._path, "rb") as file:
                file.seek(self._at)
                content = file.read()
        except FileNotFoundError:
            return b""
        return content[: content.rfind(b"\n") + 1]

    def new(self) -> list[dict]:
        """The records since the last call, or since the beginning; only they are read, as a run's files grow long."""
        lines = self._whole_lines()
        self._at += len(lines)
        return _records(lines)


def read(path: str | Path) -> list[dict]:
    """The records of one file; none where it does not exist. A line cut off by a crash is left out."""
    path = Path(path)
    return _records(path.read_bytes()) if path.exists() else []


def _records(lines: bytes) -> list[dict]:
    records = []
    for line in lines.splitlines():
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return records
