"""Which runs are seeds of one arm, and what the arms are called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .runs import Run

# Options that name a run, place its files or schedule its evaluations, but do not change what it learns.
INCIDENTAL = ("logger.", "ckpt.", "train.seed", "eval.steps", "eval.at_", "eval.k", "local_rank")
MAX_OPTIONS_IN_LABEL = 3


@dataclass
class Arm:
    """Runs that differ in their seed alone."""

    label: str
    runs: list[Run]

    @property
    def seeds(self) -> dict[tuple[str, int], Run]:
        """Runs by seed; the number tells repetitions of one seed apart."""
        found: dict[tuple[str, int], Run] = {}
        for run in self.runs:
            repetition = 0
            while (str(run.seed), repetition) in found:
                repetition += 1
            found[str(run.seed), repetition] = run
        return found


def treatment(run: Run) -> dict[str, Any]:
    """The run's options that can tell one arm from another."""
    options = {k: v for k, v in run.options.items() if not k.startswith(INCIDENTAL)}
    if options.get("algo.advantage.estimator") not in ("lens", "custom"):
        options = {k: v for k, v in options.items() if not k.startswith("algo.lens.")}
    return options


def differing(runs: Sequence[Run]) -> list[str]:
    """Names of the options that are not the same in all runs that have them, in the order of the first such run."""
    treatments = [treatment(run) for run in runs]
    names = list(dict.fromkeys(name for options in treatments for name in options))
    return [name for name in names if len({_frozen(options[name]) for options in treatments if name in options}) > 1]


def _frozen(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def shown(value: Any) -> str:
    """An option's value as people write it; of an absolute path, the last two parts."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return " ".join(map(shown, value))
    if isinstance(value, str) and value.startswith("/"):
        return "/".join(Path(value).parts[-2:])
    return "–" if value is None else str(value)


def _label(run: Run, names: Sequence[str]) -> str:
    if run.arm:
        return run.arm
    told = [name for name in names if name in treatment(run)]
    if not told or len(told) > MAX_OPTIONS_IN_LABEL:
        return run.name
    return ", ".join(f"{name.rsplit('.', 1)[-1]}={shown(run.options[name])}" for name in told)


def group(runs: Sequence[Run]) -> list[Arm]:
    """Runs of a comparison's arm, or with the same options but for the seed, are one arm.

    An arm is named by the comparison, else by the options that tell the arms apart, else by its folder.
    """
    grouped: dict[Any, list[Run]] = {}
    for run in runs:
        key = (run.comparison, run.arm) if run.arm else _frozen(treatment(run)) if run.options else run.folder
        grouped.setdefault(key, []).append(run)
    names = differing([run for run in runs if not run.arm])
    labels = [_label(members[0], names) for members in grouped.values()]
    arms: list[Arm] = []
    for label, members in zip(labels, grouped.values(), strict=True):
        if labels.count(label) > 1:
            label = f"{(members[0].comparison or members[0].folder).resolve().name}: {label}"
        while any(arm.label == label for arm in arms):
            label += "′"
        arms.append(Arm(label, members))
    return arms
