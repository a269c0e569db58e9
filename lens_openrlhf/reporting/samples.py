"""The answers of a run's samples/step-*.parquet: what they say in numbers, and their texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import ArrayLike
from scipy import stats

from ..advantages import GroupAdvantages, GroupKind, LensConfig, group_advantages, theory
from ..advantages.estimators import Batch
from ..run_folder.group_metrics import group_metrics
from .arms import Arm
from .runs import Problem, Run
from .series import short, spread

KINDS = tuple(kind.lower() for kind in GroupKind.__members__)
NUMBERS = ("prompt_id", "index", "correctness", "reward", "tokens", "confidence", "advantage")
TEXTS = ("prompt", "label", "response", "kind")
STATISTIC_STEPS = 50  # steps of a run whose answers are counted; reading all of a long run would take minutes
TEXT_BYTES = 3_000_000  # of all texts on the page
MAX_CHARACTERS = 4000  # of one text
RELIABILITY_BINS = 10
PENALTY_EDGES = np.linspace(0, 0.5, 26)  # D is at least twice every confidence, so z is at most 1/2


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


def windows(steps: Sequence[int]) -> dict[str, range]:
    """Parts of the training whose answers are counted together: all, and its first and last third."""
    if not steps:
        return {}
    low, high = min(steps), max(steps)
    parts = {"all": range(low, high + 1)}
    if high - low >= 2:
        third = (high - low + 1) // 3
        parts |= {"first": range(low, low + third), "last": range(high - third + 1, high + 1)}
    return parts


def _pooled(
    runs: Sequence[dict[int, StepSamples]], window: range, of: Callable[[StepSamples], np.ndarray]
) -> np.ndarray:
    parts = [of(samples) for run in runs for step, samples in run.items() if step in window]
    return np.concatenate(parts) if parts else np.empty(0)


def _confidence_and_right(samples: StepSamples) -> np.ndarray:
    known = np.isfinite(samples.columns["confidence"])
    return np.stack([samples.columns["confidence"], samples.columns["correctness"] == 1], axis=1)[known]


def _bin_means(values: np.ndarray, bins: np.ndarray, count: np.ndarray) -> list[float | None]:
    with np.errstate(invalid="ignore"):
        return [short(mean) for mean in np.bincount(bins, values, len(count)) / count]


def _reliability(pairs: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    """Answers, one at least, binned by confidence: mean confidence x, share right y (both None in an empty bin) and
    count n of each bin; and the chance `auc` that of a right and a wrong answer the right one is the more confident
    (Mann & Whitney 1947)."""
    confidence, right = pairs[:, 0], pairs[:, 1] == 1
    bins = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, len(edges) - 2)
    count = np.bincount(bins, minlength=len(edges) - 1)
    auc = None
    if right.any() and not right.all():
        statistic = stats.mannwhitneyu(confidence[right], confidence[~right], method="asymptotic").statistic
        auc = statistic / (right.sum() * (~right).sum())
    x, y = (_bin_means(values, bins, count) for values in (confidence, right))
    return {"x": x, "y": y, "n": count.tolist(), "auc": short(auc)}


def reliability_data(arms: Sequence[Sequence[dict[int, StepSamples]]], parts: dict[str, range]) -> dict[str, Any]:
    """`windows` {window: one entry an arm}, in bins of equal shares of all arms' answers, as confidences lie close
    together; and the mean `confidence` of each bin over everything."""
    pairs = {
        name: [_pooled(runs, part, _confidence_and_right).reshape(-1, 2) for runs in arms]
        for name, part in parts.items()
    }
    everything = np.concatenate(pairs["all"]) if pairs else np.empty((0, 2))
    if not len(everything):
        return {"confidence": [], "windows": {}}
    edges = np.unique(np.quantile(everything[:, 0], np.linspace(0, 1, RELIABILITY_BINS + 1)))
    if len(edges) == 1:  # one confidence for all
        edges = edges.repeat(2)
    return {
        "confidence": _reliability(everything, edges)["x"],
        "windows": {
            name: [_reliability(p, edges) if len(p) else None for p in by_arm] for name, by_arm in pairs.items()
        },
    }


def weight(z: ArrayLike) -> np.ndarray:
    """The weight function w of :func:`lens_openrlhf.advantages.theory.weight`, on numpy's numbers."""
    return theory.weight(torch.from_numpy(np.asarray(z, dtype=float))).numpy()


def penalty_data(arms: Sequence[Sequence[dict[int, StepSamples]]], parts: dict[str, range]) -> dict[str, Any]:
    """w on a grid, and how the z's of each arm's wrong answers spread over [0, 1/2]."""
    grid = np.concatenate([np.linspace(0, 0.9, 91), np.linspace(0.91, 0.98, 8)])
    histograms: dict[str, list[dict[str, Any] | None]] = {}
    for name, part in parts.items():
        histograms[name] = []
        for runs in arms:
            z = _pooled(runs, part, lambda samples: samples.z)
            count, _ = np.histogram(np.minimum(z, PENALTY_EDGES[-1]), PENALTY_EDGES)
            known = {"n": count.tolist(), "mean_weight": short(weight(z).mean())} if len(z) else None
            histograms[name].append(known)
    return {
        "z": [short(v) for v in grid],
        "w": [short(v) for v in weight(grid)],
        "edges": [short(v) for v in PENALTY_EDGES],
        "histograms": histograms,
    }


def _cut(text: str | None, characters: int) -> str | None:
    if text is None or len(text) <= characters:
        return text
    return f"{text[:characters]} … ({len(text) - characters:,} more characters)"


def _rows(path: Path) -> list[dict]:
    """All columns of a step's answers, ordered by prompt. Raises ValueError as `_read` does."""
    table = _read(path, (*NUMBERS, *TEXTS, "truncated"))
    for name in TEXTS:
        try:
            table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.string()))
        except pa.ArrowException:
            raise ValueError(f"column {name} is {table[name].type}, expected texts") from None
    return table.sort_by([("prompt_id", "ascending"), ("index", "ascending")]).to_pylist()


def _step_texts(path: Path, samples: StepSamples, budget: int) -> list[dict]:
    """Prompts with texts and their answers, in rollout order: the first, and more as fit into `budget` characters."""
    difficulty = samples.groups.difficulty.tolist()
    groups: dict[int, list[dict]] = {}
    for row, number in zip(_rows(path), samples.group.tolist(), strict=True):
        if row["response"] is not None:
            groups.setdefault(number, []).append(row)
    answers = max(map(len, groups.values()), default=0)
    characters = min(MAX_CHARACTERS, max(200, budget // (answers + 1)))
    prompts: list[dict] = []
    for number, group in groups.items():
        prompt = {
            "prompt": _cut(group[0]["prompt"], characters),
            "label": _cut(group[0]["label"], characters),
            "kind": group[0]["kind"],
            "difficulty": short(difficulty[number]),
            "answers": [
                {
                    "text": _cut(row["response"], characters),
                    "correctness": short(row["correctness"]),
                    "reward": short(row["reward"]),
                    "confidence": short(row["confidence"]),
                    "advantage": short(row["advantage"]),
                    "tokens": row["tokens"],
                    "truncated": bool(row["truncated"]),
                }
                for row in group
            ],
        }
        budget -= sum(len(a["text"]) + 120 for a in prompt["answers"]) + len(prompt["prompt"] or "")
        if prompts and budget < 0:
            break
        prompts.append(prompt)
    return prompts


def text_data(arms: Sequence[Arm], samples: dict[Path, dict[int, StepSamples]], steps: int) -> list[dict]:
    """Texts for the page: one entry a run that has samples, `steps` of its steps at most, evenly apart."""
    chosen = {
        run.folder: spread(list(samples[run.folder]), steps)
        for arm in arms
        for run in arm.runs
        if samples[run.folder] and steps
    }
    total = sum(map(len, chosen.values()))
    entries = []
    for number, arm in enumerate(arms):
        for run in arm.runs:
            texts = {}
            for step in chosen.get(run.folder, ()):
                try:
                    texts[step] = _step_texts(run.samples[step], samples[run.folder][step], TEXT_BYTES // total)
                except ValueError as error:
                    run.problems.append(Problem(str(run.samples[step]), f"{error}; the step's texts are left out"))
            entries.append(
                {
                    "arm": number,
                    "run": run.name,
                    "seed": run.seed,
                    "recorded": len(run.samples),
                    "texts": {str(step): prompts for step, prompts in texts.items() if prompts},
                }
            )
    return entries
