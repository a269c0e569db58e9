"""Reads run folders and comparisons (docs/run_folder.md), whole, half-written or damaged.

What cannot be read becomes a Problem that names file and fault; the rest is kept.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.splits import ALL, prompts_by_split
from ..inputs import OptionError
from ..run_folder import samples
from ..run_folder.log import EVALUATIONS, EVENTS, METRICS

CONFIG, COMPARISON, SPEC = "config.json", "compare.json", "spec.yaml"
MAX_SPLIT_VALUES = 12  # a column with more values, such as a prompt's id, makes no readable figure


class ReportError(OptionError):
    """What was asked for cannot be shown, with the remedy."""


@dataclass(frozen=True)
class Problem:
    where: str  # file, and line where there is one
    what: str


@dataclass
class Evaluation:
    """One line of eval.jsonl, P prompts with n answers each."""

    step: int
    n: int
    right: dict[str, list[int]]  # how many answers are right, of each prompt of a split: ALL and "column=value"
    splits: dict[str, set]  # {column: its values}
    length: float | None  # mean tokens of an answer
    truncated: float | None  # share of answers that were cut off
    ks: set[int]  # k the run was asked for

    @property
    def prompts(self) -> int:
        return len(self.right[ALL])


@dataclass
class Run:
    """A run folder, read."""

    folder: Path
    name: str  # what the page calls it
    arm: str | None = None  # named by the comparison it is part of
    comparison: Path | None = None
    seed: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)  # by step, each step once
    evaluations: list[Evaluation] = field(default_factory=list)  # by step, each step once
    samples: dict[int, Path] = field(default_factory=dict)  # {step: file}
    planned: int | None = None  # steps the run set out to do
    problems: list[Problem] = field(default_factory=list)

    @property
    def last_step(self) -> int:
        return max([m["step"] for m in self.metrics[-1:]] + [e.step for e in self.evaluations[-1:]], default=0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _lines(path: Path, problems: list[Problem]) -> Iterator[tuple[str, dict]]:
    """Where each record of a JSON lines file stands, and the record; nothing where there is no such file."""
    try:
        text = path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        problems.append(Problem(str(path), f"cannot be read ({error.strerror})"))
        return
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):
                problems.append(Problem(f"{path}, line {number}", "the last line is cut off; it is left out"))
            else:
                problems.append(Problem(f"{path}, line {number}", "is not JSON; the line is left out"))
            continue
        if isinstance(record, dict):
            yield f"{path}, line {number}", record
        else:
            problems.append(Problem(f"{path}, line {number}", "is no JSON object; the line is left out"))


def _read_config(run: Run) -> None:
    path = run.folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
        options = config["options"]
        if not isinstance(options, dict):
            raise TypeError
    except FileNotFoundError:
        # A run that has just been started has nothing yet.
        if is_run(run.folder):
            run.problems.append(
                Problem(str(path), "is missing: the run's options are not known, and its arm is named by its folder")
            )
        return
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        run.problems.append(
            Problem(str(path), "is no config.json of a run: options are not known, and the arm is named by its folder")
        )
        return
    run.options = options
    versions = config.get("versions")
    run.versions = {str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {}
    run.git_commit = config.get("git_commit") if isinstance(config.get("git_commit"), str) else None
    if run.seed is None and "train.seed" in options:
        run.seed = str(options["train.seed"])


def _read_metrics(run: Run) -> None:
    path = run.folder / METRICS
    by_step: dict[int, dict] = {}
    not_numbers: set[str] = set()
    foreign = 0
    for _, record in _lines(path, run.problems):
        if not _is_step(record.get("step")):
            foreign += 1
            continue
        not_numbers |= {k for k, v in record.items() if v is not None and not isinstance(v, int | float | bool)}
        # A run that was continued from a checkpoint logs some steps again: the last time counts.
        by_step[record["step"]] = {k: v for k, v in record.items() if _is_number(v)}
    run.metrics = [by_step[step] for step in sorted(by_step)]
    if foreign:
        run.problems.append(
            Problem(str(path), f"{foreign} lines have no whole number `step`; they are another program's, and left out")
        )
    if not_numbers:
        names = ", ".join(sorted(not_numbers)[:5]) + (" …" if len(not_numbers) > 5 else "")
        run.problems.append(Problem(str(path), f"values that are no numbers are left out: {names}"))


def _table(value: object, key: str, prompts: int, n: int) -> list[list]:
    """The value of a record's `key` if it is [P][n]."""
    if not isinstance(value, list) or len(value) != prompts:
        raise ValueError(f"`{key}` is no list of {prompts} prompts")
    if any(not isinstance(row, list) or len(row) != n for row in value):
        raise ValueError(f"`{key}` does not have {n} answers for every prompt")
    return value


def _mean(record: dict, key: str, prompts: int, n: int, logged: str) -> float | None:
    """Mean of `key` over all answers; what OpenRLHF `logged` where the run kept none."""
    if record.get(key) is None:
        fallback = record.get(logged)
        return fallback if _is_number(fallback) else None
    values = np.array(_table(record[key], key, prompts, n), dtype=float)  # null becomes NaN
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def _evaluation(record: dict) -> Evaluation:
    """Raises ValueError for a record that does not hold what docs/run_folder.md says."""
    if not _is_step(record.get("step")):
        raise ValueError("has no whole number `step`")
    scores = record.get("scores")
    if not isinstance(scores, list) or not scores or not isinstance(scores[0], list) or not scores[0]:
        raise ValueError("has no `scores`, one list of answers a prompt")
    prompts, n = len(scores), len(scores[0])
    scores = _table(scores, "scores", prompts, n)
    if none := sum(not _is_number(score) for row in scores for score in row):
        raise ValueError(f"{none} of {prompts * n} `scores` are no numbers (NaN or null), and would count as wrong")
    splits = record.get("splits") or {}
    if not isinstance(splits, dict) or any(not isinstance(v, list) or len(v) != prompts for v in splits.values()):
        raise ValueError(f"`splits` does not have one value for each of {prompts} prompts")
    if any(not isinstance(v, str | int | float | None) for values in splits.values() for v in values):
        raise ValueError("`splits` has values that are neither texts nor numbers")
    right = [row.count(1) for row in scores]
    asked = record.get("pass_at_k")
    asked = asked.get("all") if isinstance(asked, dict) else None
    return Evaluation(
        step=record["step"],
        n=n,
        right={split: [right[i] for i in chosen] for split, chosen in prompts_by_split(prompts, splits).items()},
        splits={c: {value for value in values if value is not None} for c, values in splits.items()},
        length=_mean(record, "lengths", prompts, n, "eval_response_length_mean"),
        truncated=_mean(record, "truncated", prompts, n, "eval_truncated_rate"),
        ks={int(k) for k in asked if k.isdecimal() and 1 <= int(k) <= n} if isinstance(asked, dict) else set(),
    )


def _read_evaluations(run: Run) -> None:
    path = run.folder / EVALUATIONS
    by_step: dict[int, Evaluation] = {}
    for where, record in _lines(path, run.problems):
        try:
            evaluation = _evaluation(record)
        except (ValueError, TypeError) as error:
            run.problems.append(Problem(where, f"{error}; the evaluation is left out"))
            continue
        by_step[evaluation.step] = evaluation
    if not by_step:
        return
    last = by_step[max(by_step)]
    for step, evaluation in sorted(by_step.items()):
        if evaluation.prompts != last.prompts:
            what = f"{evaluation.prompts} prompts after step {step}, but {last.prompts} after step {last.step}"
            run.problems.append(Problem(str(path), f"evaluates {what}; the earlier evaluation is left out"))
        else:
            run.evaluations.append(evaluation)
    for column, values in last.splits.items():
        if len(values) > MAX_SPLIT_VALUES:
            what = f"split {column!r} has {len(values)} values and is not shown; at most {MAX_SPLIT_VALUES} are"
            run.problems.append(Problem(str(path), what))


def _read_rest(run: Run) -> None:
    for _, event in _lines(run.folder / EVENTS, run.problems):
        if event.get("event") == "steps" and _is_step(event.get("total")):
            run.planned = event["total"]
    run.samples = samples.files_by_step(run.folder)


def read_run(folder: Path, arm: str | None = None, comparison: Path | None = None) -> Run:
    """One run folder. Nothing in it has to be there: what is missing is told in `problems`."""
    name = f"{arm}/{folder.name}" if arm else folder.resolve().name
    run = Run(folder, name, arm, comparison, _seed(folder) if comparison else None)
    for read in (_read_config, _read_metrics, _read_evaluations, _read_rest):
        read(run)
    return run


def is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in (CONFIG, METRICS, EVALUATIONS, EVENTS, samples.FOLDER))


def is_comparison(folder: Path) -> bool:
    return any((folder / name).exists() for name in (COMPARISON, SPEC)) or bool(_members(folder))


def _seed(folder: Path) -> str | None:
    """The seed of a comparison's run; None for what `compare` moved aside, such as seed-1.unfinished-1."""
    match = re.fullmatch(r"seed-(\d+)", folder.name)
    return match[1] if match else None


def _members(comparison: Path) -> list[Path]:
    """Run folders of a comparison, its arms in the spec's order."""
    found = [path for path in comparison.glob("runs/*/seed-*") if path.is_dir() and _seed(path)]
    order = _arm_order(comparison)
    return sorted(found, key=lambda p: (order.get(p.parent.name, len(order)), p.parent.name, int(_seed(p) or 0)))


def _arm_order(folder: Path) -> dict[str, int]:
    try:
        arms = json.loads((folder / COMPARISON).read_bytes())["arms"]
        return {name: position for position, name in enumerate(arms)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def find_runs(paths: Sequence[Path], *, may_be_empty: bool = False) -> list[Run]:
    """All runs of run folders and comparisons, in the order given.

    Raises:
        ReportError: for a path that is neither; `may_be_empty` accepts an existing folder without anything in it.
    """
    runs: dict[Path, Run] = {}
    for path in paths:
        if not path.is_dir():
            raise ReportError(f"{path}: no such folder; name a run folder (--logger.run_dir) or a comparison's")
        if is_comparison(path):
            for folder in _members(path):
                runs.setdefault(folder.resolve(), read_run(folder, folder.parent.name, path))
        elif is_run(path) or may_be_empty:
            runs.setdefault(path.resolve(), read_run(path))
        else:
            inner = sorted(child for child in path.iterdir() if child.is_dir() and is_run(child))
            remedy = f"; but the folders in it are runs: name them, such as {inner[0]}" if inner else ""
            raise ReportError(
                f"{path}: neither a run folder (it holds none of {CONFIG}, {METRICS}, {EVALUATIONS}, {EVENTS}, "
                f"{samples.FOLDER}/) nor a comparison's{remedy}"
            )
    return list(runs.values())


def check_same_data(runs: Sequence[Run]) -> str | None:
    """What tells two runs' evaluation data apart, naming both; None where there is nothing."""

    def facts() -> Iterator[tuple[Run, str, Any]]:
        for run in runs:
            if run.options.get("eval.dataset"):
                # An archive, from which runs can be taken over, writes ~ for the home folder.
                yield run, "evaluates on", os.path.expanduser(str(run.options["eval.dataset"]))
        for run in runs:
            if run.evaluations:
                yield run, "evaluates prompts numbering", run.evaluations[-1].prompts

    first: dict[str, tuple[Run, Any]] = {}
    for run, verb, value in facts():
        other, expected = first.setdefault(verb, (run, value))
        if value != expected:
            return f"{other.folder} {verb} {expected}, but {run.folder} {verb} {value}"
    return None
