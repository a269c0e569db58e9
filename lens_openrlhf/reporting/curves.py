"""Metrics over training, averaged over an arm's runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .arms import Arm
from .evaluations import MAX_EVALUATIONS
from .runs import Run
from .samples import KINDS, StepSamples
from .series import Curve, over_runs, spread

POINTS = 400  # of a curve; longer runs are averaged over neighbouring steps
PHASES = "timing/"
TOTAL_SECONDS = "timing/step_total"
SUMMARISED = ("lens/negative_groups", "lens/rescued_samples", "rollout/reward_mean", TOTAL_SECONDS)
MASS = "mass/"  # share of the advantages' absolute sum that groups of one kind hold


def _advantage_mass(metrics: dict[str, float]) -> dict[str, float]:
    """Share of each group kind in the sum of |advantage|, from the kinds' shares and means."""
    if not any(f"lens/abs_advantage_{kind}" in metrics for kind in KINDS):
        return {}
    # Where a step has no group of a kind, its mean is null.
    mass = {k: metrics.get(f"lens/{k}_groups", 0.0) * metrics.get(f"lens/abs_advantage_{k}", 0.0) for k in KINDS}
    total = math.fsum(mass.values())
    return {MASS + kind: value / total for kind, value in mass.items()} if total > 0 else {}


def step_metrics(run: Run, samples: dict[int, StepSamples]) -> dict[str, Curve]:
    """{metric: {step: value}}: what the run logged; and what its samples tell, where it logged nothing of LENS."""
    logged: dict[str, Curve] = {}
    for record in run.metrics:
        for name, value in (record | _advantage_mass(record)).items():
            if name not in ("step", "time"):
                logged.setdefault(name, {})[record["step"]] = value
    if "lens/negative_groups" in logged:
        return logged
    told: dict[str, Curve] = {}
    for step, answers in samples.items():
        values = {k: v for k, v in answers.metrics().items() if v is not None and math.isfinite(v)}
        for name, value in (values | _advantage_mass(values)).items():
            told.setdefault(name, {})[step] = value
    return told | logged


def _binned(curve: Curve, width: int) -> Curve:
    """Means over `width` neighbouring steps, placed at their middle."""
    if width == 1:
        return curve
    bins: dict[float, list[float]] = {}
    for step, value in curve.items():
        bins.setdefault((step - 1) // width, []).append(value)
    return {number * width + (width + 1) / 2: math.fsum(v) / len(v) for number, v in bins.items()}


def _evaluation_metrics(run: Run) -> dict[str, Curve]:
    evaluations = spread(run.evaluations, MAX_EVALUATIONS)
    return {
        "evaluation/length": {e.step: e.length for e in evaluations if e.length is not None},
        "evaluation/truncated": {e.step: e.truncated for e in evaluations if e.truncated is not None},
    }


def _tenth(values: Curve, end: int) -> float:
    """Mean over the first (end 0) or last (end -1) tenth of the steps."""
    ordered = [values[step] for step in sorted(values)]
    tenth = max(1, len(ordered) // 10)
    part = ordered[:tenth] if end == 0 else ordered[-tenth:]
    return math.fsum(part) / tenth


def curve_data(arms: Sequence[Arm], samples: dict[Path, dict[int, StepSamples]]) -> dict[str, Any]:
    """`curves` {metric: one curve an arm, None where it has none}, each point the mean of `width` steps;
    `seconds` {phase: one [mean, error] an arm}, of a step; `ends` {metric: one [first tenth, last tenth] an arm}."""
    width = max([1] + [-(-run.last_step // POINTS) for arm in arms for run in arm.runs])
    curves: dict[str, list] = {}
    seconds: dict[str, list] = {}
    ends: dict[str, list] = {}
    for number, arm in enumerate(arms):
        runs = [step_metrics(run, samples[run.folder]) for run in arm.runs]
        evaluations = [_evaluation_metrics(run) for run in arm.runs]
        for name in dict.fromkeys(name for run in runs for name in run):
            own = [run[name] for run in runs if run.get(name)]
            curve = over_runs([_binned(values, width) for values in own])
            curves.setdefault(name, [None] * len(arms))[number] = curve
            if name in SUMMARISED:
                first, last = (over_runs([{0: _tenth(values, end)} for values in own])["y"][0] for end in (0, -1))
                ends.setdefault(name, [None] * len(arms))[number] = [first, last]
            if name.startswith(PHASES):
                mean = over_runs([{0: math.fsum(values.values()) / len(values)} for values in own])
                seconds.setdefault(name, [None] * len(arms))[number] = [mean["y"][0], mean["e"][0]]
        for name in ("evaluation/length", "evaluation/truncated"):
            curve = over_runs([run[name] for run in evaluations])
            if curve["x"]:
                curves.setdefault(name, [None] * len(arms))[number] = curve
    return {"curves": dict(sorted(curves.items())), "width": width, "seconds": seconds, "ends": ends}
