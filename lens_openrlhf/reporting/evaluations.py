"""Pass@k of the arms: curves over training, and the tables at the last evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from ..evaluation import mean_and_error, pass_at_k
from ..evaluation.splits import ALL, default_ks, split_order
from ..evaluation.statistics import paired_difference
from .arms import Arm
from .runs import MAX_SPLIT_VALUES, Evaluation, Run
from .series import Curve, over_runs, short, spread

MAX_EVALUATIONS = 150  # of a run, in a figure


@cache
def _by_count(n: int, k: int) -> list[float]:
    """Pass@k by how many of n answers are right."""
    return [pass_at_k(right, n, k) for right in range(n + 1)]


def pass_values(evaluation: Evaluation, split: str, k: int) -> list[float]:
    """Pass@k of each prompt of the split; none where there are fewer than k answers, or no such prompts."""
    if k > evaluation.n:
        return []
    table = _by_count(evaluation.n, k)
    return [table[right] for right in evaluation.right.get(split, [])]


def _ks(evaluations: Sequence[Evaluation]) -> list[int]:
    """Powers of two up to n, n, and what the runs were asked for."""
    ks = {k for e in evaluations for k in e.ks}
    for n in {e.n for e in evaluations}:
        ks |= {n, *default_ks(n)}
    return sorted(ks)


def _splits(evaluations: Sequence[Evaluation]) -> list[dict]:
    """All prompts, then each column's values."""
    found: dict[str, set] = {}
    for evaluation in evaluations:
        for column, values in evaluation.splits.items():
            found.setdefault(column, set()).update(values)
    splits: list[dict] = [{"key": ALL, "column": None, "value": None}]
    for column, values in found.items():
        if 1 < len(values) <= MAX_SPLIT_VALUES:
            splits += [
                {"key": f"{column}={value}", "column": column, "value": str(value)}
                for value in sorted(values, key=split_order)
            ]
    for split in splits:
        split["prompts"] = max(len(e.right.get(split["key"], [])) for e in evaluations)
    return splits


def _curve(arm: Arm, split: str, k: int) -> dict[str, list] | None:
    curves, errors = [], {}
    for run in arm.runs:
        curve: Curve = {}
        for evaluation in spread(run.evaluations, MAX_EVALUATIONS):
            if values := pass_values(evaluation, split, k):
                if len(arm.runs) > 1:
                    curve[evaluation.step] = math.fsum(values) / len(values)
                else:
                    curve[evaluation.step], errors[evaluation.step] = mean_and_error(values)
        curves.append(curve)
    result = over_runs(curves)
    if len(arm.runs) == 1:
        result["e"] = [short(errors[x]) for x in result["x"]]
    return result if result["x"] else None


def last_step(arms: Sequence[Arm]) -> int | None:
    """The last step after which every evaluated arm was evaluated; None where there is no such step."""
    steps = [{e.step for run in arm.runs for e in run.evaluations} for arm in arms]
    return max(set.intersection(*[s for s in steps if s]), default=None) if any(steps) else None


def _at(run: Run, step: int | None) -> Evaluation | None:
    """The run's evaluation after `step`; its last, where there is no step that fits all."""
    if step is None:
        return run.evaluations[-1] if run.evaluations else None
    return next((e for e in run.evaluations if e.step == step), None)


def _pairs(arm: Arm, base: Arm, step: int | None) -> list[tuple[Evaluation, Evaluation]]:
    """Evaluations of runs of equal seed; of the only runs, where each arm has one."""
    if len(arm.runs) == len(base.runs) == 1:
        runs = [(arm.runs[0], base.runs[0])]
    else:
        others = base.seeds
        runs = [(run, others[seed]) for seed, run in arm.seeds.items() if seed in others]
    evaluations = [(_at(run, step), _at(other, step)) for run, other in runs]
    return [(a, b) for a, b in evaluations if a is not None and b is not None]


def _difference(pairs: Sequence[tuple[Evaluation, Evaluation]], split: str, k: int) -> dict[str, Any] | None:
    values = [(pass_values(a, split, k), pass_values(b, split, k)) for a, b in pairs]
    values = [(a, b) for a, b in values if a and b]
    if not values:
        return None
    if len(values) > 1:
        over = "seeds"
        a, b = ([math.fsum(v) / len(v) for v in side] for side in zip(*values, strict=True))
    else:
        over = "prompts"
        a, b = values[0]
        if len(a) != len(b):
            return None
    mean, error, low, high = map(short, paired_difference(a, b))
    won = sum(x > y for x, y in zip(a, b, strict=True))
    return {"mean": mean, "error": error, "low": low, "high": high, "over": over, "pairs": len(a), "won": won}


def _cell(arm: Arm, step: int | None, split: str, k: int) -> dict[str, Any] | None:
    values = [v for run in arm.runs if (e := _at(run, step)) and (v := pass_values(e, split, k))]
    if not values:
        return None
    mean, error = mean_and_error([math.fsum(v) / len(v) for v in values] if len(values) > 1 else values[0])
    return {"mean": short(mean), "error": short(error), "n": len(values)}


def evaluation_data(arms: Sequence[Arm]) -> dict[str, Any] | None:
    """Everything the page says about Pass@k; None where no run was evaluated.

    `curves[split][k]` and `table[split][k]` have one entry an arm, None where it has nothing; errors are standard
    errors over the arm's runs, over prompts where it has one run. `difference` is paired with the first arm.
    """
    evaluations = [e for arm in arms for run in arm.runs for e in run.evaluations]
    if not evaluations:
        return None
    ks, splits, step = _ks(evaluations), _splits(evaluations), last_step(arms)
    pairs = [_pairs(arm, arms[0], step) if arm is not arms[0] else [] for arm in arms]

    def table(cell: Callable[[int, str, int], dict | None]) -> dict[str, dict[str, list]]:
        """One cell an arm, for each split and k."""
        arm_range = range(len(arms))
        keys = [split["key"] for split in splits]
        return {key: {str(k): [cell(i, key, k) for i in arm_range] for k in ks} for key in keys}

    return {
        "ks": ks,
        "splits": splits,
        "step": step,
        "left_out": [run.name for arm in arms for run in arm.runs if run.evaluations and _at(run, step) is None],
        "curves": table(lambda i, split, k: _curve(arms[i], split, k)),
        "table": table(lambda i, split, k: _cell(arms[i], step, split, k)),
        "difference": table(lambda i, split, k: _difference(pairs[i], split, k)),
    }
