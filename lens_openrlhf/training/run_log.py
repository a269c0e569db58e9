"""The run folder's own records: metrics.jsonl, eval.jsonl and events.jsonl, one JSON object a line."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

# Tell processes that OpenRLHF gives no options where the run folder is, and how long a reward may take.
RUN_DIR_VARIABLE = "LENS_RUN_DIR"
REWARD_TIMEOUT_VARIABLE = "LENS_REWARD_TIMEOUT"
REWARD_FAILED = "reward_failed"  # an event
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
        line = json.dumps(_plain(record), allow_nan=False) + "\n"
        # One write a line, so that a reader never sees two lines mixed.
        with open(self.folder / name, "a", buffering=1) as file:
            file.write(line)

    def step(self, step: int, status: dict) -> None:
        """A training step's metrics, OpenRLHF's and LENS's."""
        numbers = {k: v for k, v in status.items() if k != "generated_samples"}
        self._append(METRICS, {"step": step, "time": time.time(), **numbers})

    def evaluation(self, step: int, record: dict, logs: dict) -> None:
        """An evaluation (evaluation.evaluation_record), and OpenRLHF's evaluation metrics."""
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


def read(path: str | Path) -> list[dict]:
    """The records of one file; none where it does not exist. A last line cut off by a crash is left out."""
    path = Path(path)
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return records
