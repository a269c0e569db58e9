"""Reads a run's samples/step-*.parquet (docs/run_folder.md): numbers of every answer, and whole rows with texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..advantages import GroupAdvantages, GroupKind, LensConfig, group_advantages
from ..advantages.estimators import Batch
from ..run_folder.group_metrics import group_metrics
from .runs import Problem, Run
from .series import spread

KINDS = tuple(kind.lower() for kind in GroupKind.__members__)
NUMBERS = ("prompt_id", "index", "correctness", "reward", "tokens", "confidence", "advantage")
TEXTS = ("prompt", "label", "response", "kind")
STATISTIC_STEPS = 50  # steps of a run whose answers are counted; reading all of a long run would take minutes


@dataclass(frozen=True)
class StepSamples:
    """The answers of one step, N answers to Q prompts, ordered by prompt."""

    columns: dict[str, np.ndarray]  # [N] each of NUMBERS
    groups: GroupAdvantages
    group: np.ndarray  # [N] which of the Q groups an answer belongs to

    @property
    def z(self) -> np.ndarray:
        """Confidence over difficulty of the wrong answers (the argument of w, eq. 12b)."""
        z = self.columns["confidence"] / self.groups.difficulty.numpy()[self.group]
        return z[(self.columns["correctness"] != 1) & np.isfinite(z)]

    def metrics(self) -> dict[str, float | None]:
        """The metrics that training logs with the lens estimator, of any estimator's answers."""
        column = {name: torch.from_numpy(values) for name, values in self.columns.items()}
        sizes = torch.from_numpy(np.bincount(self.group))
        batch = Batch(
            mean_logprob=column["confidence"].log(),
            lengths=column["tokens"].long(),
            correctness=column["correctness"],
            rewards=column["reward"],
            cu_groups=torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]),
        )
        known = self.groups.difficulty[self.groups.difficulty.isfinite()]
        return group_metrics(batch, self.groups.advantage.abs(), self.groups.confidence) | {
            "lens/difficulty": known.mean().item() if len(known) else None,
            "rollout/reward_mean": column["reward"].mean().item(),
            "rollout/response_length_mean": column["tokens"].mean().item(),
        }


def _read(path: Path, names: Sequence[str]) -> pa.Table:
    """The named columns. Raises ValueError where it is no parquet file with these columns and rows."""
    try:
        file = pq.ParquetFile(path)
        missing = [name for name in names if name not in file.schema_arrow.names]
        if missing:
            raise ValueError(f"has no column {', '.join(missing)}")
        table = file.read(columns=list(names))
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"cannot be read as parquet ({str(error).splitlines()[0]})") from None
    if not len(table):
        raise ValueError("has no rows")
    return table


def _floats(table: pa.Table, name: str) -> np.ndarray:
    try:
        return table[name].cast(pa.float64()).to_numpy().copy()  # null becomes NaN
    except pa.ArrowException:
        raise ValueError(f"column {name} is {table[name].type}, expected numbers") from None


@lru_cache(maxsize=8192)
def _step_samples(path: Path, config: LensConfig, changed: int) -> StepSamples:
    """`changed`, the file's time of change, makes a file that was written anew be read anew."""
    table = _read(path, NUMBERS)
    columns = {name: _floats(table, name) for name in NUMBERS}
    for name in ("prompt_id", "index", "correctness", "reward", "tokens"):
        if not np.isfinite(columns[name]).all():
            raise ValueError(f"column {name} has rows without a number")
    order = np.lexsort((columns["index"], columns["prompt_id"]))
    columns = {name: values[order] for name, values in columns.items()}
    _, group, sizes = np.unique(columns["prompt_id"], return_inverse=True, return_counts=True)
    confidence = columns["confidence"]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_confidence = np.log(confidence)
    # `confidence` is the run's own, of a token or of the whole answer: as one token's it keeps its scale.
    groups = group_advantages(
        torch.from_numpy(log_confidence),
        torch.from_numpy(np.isfinite(confidence).astype(np.int64)),
        torch.from_numpy(columns["correctness"]),
        torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)])),
        config,
    )
    # The advantages the update used, whatever the estimator.
    return StepSamples(columns, groups._replace(advantage=torch.from_numpy(columns["advantage"])), group)


def read_samples(run: Run) -> dict[int, StepSamples]:
    """Answers of at most STATISTIC_STEPS of the run's steps, evenly apart; what cannot be read joins its problems."""
    names = ("difficulty", "preference", "gamma")  # what decides about D
    given = {name: run.options.get(f"algo.lens.{name}") for name in names}
    try:
        config = LensConfig(**{name: value for name, value in given.items() if value is not None})
    except ValueError:  # a damaged record
        config = LensConfig()
    found = {}
    for step in spread(list(run.samples), STATISTIC_STEPS):
        path = run.samples[step]
        try:
            found[step] = _step_samples(path, config, path.stat().st_mtime_ns)
        except (OSError, ValueError) as error:
            run.problems.append(Problem(str(path), f"{error}; the step's answers are left out"))
    return found


def read_rows(path: Path) -> list[dict]:
    """All columns of a step's answers, texts too, ordered by prompt.

    Raises:
        ValueError: it is no parquet file with these columns and rows.
    """
    table = _read(path, (*NUMBERS, *TEXTS, "truncated"))
    for name in TEXTS:
        try:
            table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.string()))
        except pa.ArrowException:
            raise ValueError(f"column {name} is {table[name].type}, expected texts") from None
    return table.sort_by([("prompt_id", "ascending"), ("index", "ascending")]).to_pylist()
