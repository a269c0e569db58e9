"""The short table at the end of a run."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean

from ...evaluation import mean_and_error, pass_at_k
from ...run_folder.log import EVALUATIONS, METRICS, read


def _evaluations(folder: Path) -> list[str]:
    evaluations = read(folder / EVALUATIONS)
    if not evaluations:
        return []
    first, last = evaluations[0], evaluations[-1]
    rows = [f"{'held-out prompts: ' + str(len(last['scores'])):<28}{'before':>17}{'after':>17}{'change':>17}"]
    n = len(last["scores"][0])
    for k in sorted({1, n}):
        before, after = ([pass_at_k(sum(s == 1 for s in p), n, k) for p in e["scores"]] for e in (first, last))
        change = [b - a for a, b in zip(before, after, strict=True)]
        found = map(mean_and_error, (before, after, change))
        cells = "".join(
            f"{mean:>{form}} ± {0 if math.isnan(error) else error:.3f}"  # of one prompt there is no error
            for (mean, error), form in zip(found, ("9.3f", "9.3f", "+9.3f"), strict=True)
        )
        rows.append(f"{f'Pass@{k}':<28}{cells}")
    return rows


def summary_table(folder: Path, seconds: float, width: int = 100) -> str:
    """What came of the run in `folder`: Pass@1 and Pass@n before and after with standard errors (over prompts;
    of the paired change in the last column), group shares over the first and last tenth of the steps."""
    steps = read(folder / METRICS)
    rows = ["", "─" * min(width, 79), *_evaluations(folder)]
    tenth = max(1, len(steps) // 10)
    for label, key in (
        ("negative groups", "lens/negative_groups"),
        ("rescued samples", "lens/rescued_samples"),
        ("mean reward in training", "rollout/reward_mean"),
    ):
        values = [s[key] for s in steps if s.get(key) is not None]
        if values:
            first, last = fmean(values[:tenth]), fmean(values[-tenth:])
            rows.append(f"{label:<28}{first:>9.3f}{'':8}{last:>9.3f}{'':8}{last - first:>+9.3f}")
    rows.append(f"{len(steps)} steps in {seconds:.0f} s; metrics, log and model: {folder}")
    return "\n".join(rows)
