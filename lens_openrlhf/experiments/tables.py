"""The tables of a comparison, from nothing but its folder: spec.yaml, compare.json and the runs' records."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..evaluation import mean_and_error
from ..evaluation.splits import ALL, default_ks, pass_at_k_by_split
from ..inputs import OptionError
from ..run_folder.log import EVALUATIONS, METRICS, read
from . import paper
from .spec import Spec
from .spec import read as read_spec
from .state import FINISHED, RUNS, SPEC, load

WIDTH = 100
COLUMN = 17  # "[-0.012, +0.032]" and a space
TRAINING = {"negative groups": "lens/negative_groups", "seconds a step": "timing/step_total"}

Scores = Sequence[Sequence[float]]  # [P][n] correctness


class TableError(OptionError):
    """Records that no table can be made of, with the file and what is wrong."""


class Outcome(NamedTuple):
    """What a finished run left for the tables."""

    scores: Scores
    splits: Mapping[str, Sequence]  # {column: [P]}
    training: Mapping[str, float]  # {row of TRAINING: mean over the steps}
    versions: Mapping[str, str]


def final_pass_at_1(folder: Path) -> float:
    """Pass@1 over all prompts of the run's last evaluation."""
    return pass_at_k_by_split(_last_evaluation(folder)["scores"], {}, [1])[ALL]["1"][0]


def _last_evaluation(folder: Path) -> dict:
    path = folder / EVALUATIONS
    evaluations = read(path)
    if not evaluations:
        raise TableError(f"{path}: holds no evaluation")
    scores = evaluations[-1].get("scores")
    if not scores or not all(scores):
        raise TableError(f"{path}: the last evaluation holds no answers (`scores`)")
    if none := sum(not isinstance(score, int | float) or score != score for row in scores for score in row):
        raise TableError(
            f"{path}: {none} `scores` of the last evaluation are no numbers (NaN or null), and would count as wrong; "
            "mend the reward, and repeat the run"
        )
    return evaluations[-1]


def read_outcome(folder: Path) -> Outcome:
    """Records of a finished run.

    Raises:
        TableError: naming the file that lacks something.
    """
    try:
        return _read_outcome(folder)
    except TableError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise TableError(f"{folder}: its records are not those of a run ({error!r}); restore them") from None


def _read_outcome(folder: Path) -> Outcome:
    evaluation = _last_evaluation(folder)
    splits = evaluation.get("splits") or {}
    for column, values in splits.items():
        if len(values) != len(evaluation["scores"]):
            raise TableError(
                f"{folder / EVALUATIONS}: splits has {len(values)} values of {column!r} for "
                f"{len(evaluation['scores'])} prompts"
            )
    steps = read(folder / METRICS)
    training = {}
    for row, metric in TRAINING.items():
        values = [step[metric] for step in steps if step.get(metric) is not None]
        if values:
            training[row] = math.fsum(values) / len(values)
    config = folder / "config.json"
    versions = json.loads(config.read_text()).get("versions", {}) if config.exists() else {}
    return Outcome(evaluation["scores"], splits, training, versions)


def _chosen(splits: Mapping[str, Sequence], columns: Sequence[str] | None) -> dict[str, Sequence]:
    """The columns to split by: of those recorded all, or those that the spec names."""
    return {column: splits[column] for column in (splits if columns is None else columns) if column in splits}


def _summary(values: Mapping[int, float]) -> dict:
    mean, error = mean_and_error(list(values.values()))
    return {"mean": mean, "error": _finite(error), "by_seed": {str(seed): value for seed, value in values.items()}}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _difference(arm: Mapping[int, float], baseline: Mapping[int, float]) -> dict | None:
    """Paired over the seeds that both arms have; None where there is no such seed."""
    from ..evaluation.statistics import paired_difference

    seeds = [seed for seed in arm if seed in baseline]
    if not seeds:
        return None
    found = paired_difference([arm[seed] for seed in seeds], [baseline[seed] for seed in seeds])
    return {
        "mean": found.mean,
        "error": _finite(found.error),
        "low": _finite(found.low),
        "high": _finite(found.high),
        "favoured": sum(arm[seed] > baseline[seed] for seed in seeds),
        "tied": sum(arm[seed] == baseline[seed] for seed in seeds),
        "seeds": len(seeds),
    }


def compute(folder: Path) -> dict:
    """results.json of a comparison's folder: see docs/run_folder.md. What is not finished is left out and listed.

    Raises:
        TableError: no comparison, no finished run, or records that do not fit together.
        SpecError: a spec.yaml or compare.json that cannot be read.
    """
    if not (folder / SPEC).is_file():
        raise TableError(f"{folder}: holds no {SPEC}, so it is not the folder of a comparison")
    spec: Spec = read_spec(folder / SPEC)
    states = load(folder)["runs"]
    outcomes: dict[str, dict[int, Outcome]] = {label: {} for label in spec.arms}
    missing = []
    for seed in spec.seeds:
        for label in spec.arms:
            key = f"{label}/seed-{seed}"
            state = states.get(key, {}).get("state", "not started")
            if state == FINISHED:
                outcomes[label][seed] = read_outcome(folder / RUNS / key)
            else:
                missing.append({"arm": label, "seed": seed, "state": state})
    every = [(f"{arm}/seed-{seed}", one) for arm, of_arm in outcomes.items() for seed, one in of_arm.items()]
    if not every:
        raise TableError(f"{folder}: no run is finished yet")
    shapes = {key: (len(one.scores), min(map(len, one.scores))) for key, one in every}
    _check_prompts(spec, outcomes)
    answers = min(n for _, n in shapes.values())
    ks = list(spec.k or default_ks(answers))
    for key, (_, n) in shapes.items():
        if max(ks) > n:
            raise TableError(f"{folder / RUNS / key / EVALUATIONS}: k {max(ks)} is more than its {n} answers a prompt")
    for column in spec.split_by or []:
        if not any(column in one.splits for _, one in every):
            known = sorted({name for _, one in every for name in one.splits}) or ["none"]
            raise TableError(f"split_by: no run recorded {column!r}; recorded: {', '.join(known)}")

    baseline = next(iter(spec.arms))
    by_run = {
        (label, seed): pass_at_k_by_split(one.scores, _chosen(one.splits, spec.split_by), ks)
        for label, of_arm in outcomes.items()
        for seed, one in of_arm.items()
    }
    table: dict[str, dict[str, dict[str, dict]]] = {}
    differences: dict[str, dict[str, dict[str, dict]]] = {}
    for split in dict.fromkeys(split for found in by_run.values() for split in found):
        for k in map(str, ks):
            values: dict[str, dict[int, float]] = {label: {} for label in spec.arms}
            for (label, seed), found in by_run.items():
                if split in found:
                    values[label][seed] = found[split][k][0]
            table.setdefault(split, {})[k] = {label: _summary(v) for label, v in values.items() if v}
            differences.setdefault(split, {})[k] = {
                label: paired
                for label, v in values.items()
                if label != baseline and (paired := _difference(v, values[baseline]))
            }
    return {
        "name": spec.name,
        "arms": list(spec.arms),
        "seeds": list(spec.seeds),
        "k": ks,
        "prompts": sorted({p for p, _ in shapes.values()}),
        "answers": sorted({n for _, n in shapes.values()}),
        "missing": missing,
        "pass_at_k": table,
        "differences": differences,
        "training": {
            row: {
                label: _summary(means)
                for label, of_arm in outcomes.items()
                if (means := {seed: one.training[row] for seed, one in of_arm.items() if row in one.training})
            }
            for row in TRAINING
        },
        "different_versions": _different_versions(one for _, one in every),
        "paper": spec.paper
        and {
            "table": spec.paper,
            "setting": paper.setting(spec.paper),
            "pass_at_k": paper.pass_at_k(spec.paper),
        },
    }


def _check_prompts(spec: Spec, outcomes: Mapping[str, Mapping[int, Outcome]]) -> None:
    """The arms of a seed must have answered the same questions, unless the spec lets evaluations differ."""
    if any(option.startswith("eval.") for option in spec.allow_unfair):
        return
    for seed in spec.seeds:
        there = [(label, of_arm[seed]) for label, of_arm in outcomes.items() if seed in of_arm]
        for label, one in there[1:]:
            first, other = there[0]
            splits_differ = one.splits and other.splits and one.splits != other.splits
            if len(one.scores) != len(other.scores) or splits_differ:
                raise TableError(
                    f"{label}/seed-{seed} and {first}/seed-{seed} were evaluated on different prompts: their last "
                    f"records in {EVALUATIONS} do not match"
                )


def _different_versions(outcomes: Iterable[Outcome]) -> dict[str, list[str]]:
    """{package: versions} where the runs do not all have the same."""
    found: dict[str, set[str]] = {}
    for outcome in outcomes:
        for package, version in outcome.versions.items():
            found.setdefault(package, set()).add(version)
    return {package: sorted(versions) for package, versions in sorted(found.items()) if len(versions) > 1}


def show(results: Mapping) -> str:
    """The tables in at most WIDTH characters."""
    arms, seeds, ks = results["arms"], results["seeds"], [str(k) for k in results["k"]]
    first = max(map(len, [*arms, "  95% interval"])) + 1
    prompts, answers = (" or ".join(map(str, results[key])) for key in ("prompts", "answers"))
    rows = [
        f"{results['name']}: Pass@k after the last step, {prompts} prompts, {answers} answers to each",
        f"mean ± standard error over {len(seeds)} seeds; differences to {arms[0]} are paired by seed",
        "in favour: seeds on which the arm did better than it",
    ]
    per_row = max(1, (WIDTH - first) // COLUMN)
    for split, by_k in results["pass_at_k"].items():
        for begin in range(0, len(ks), per_row):
            shown = ks[begin : begin + per_row]
            fits = len(split) < first
            rows += ["", *([] if fits else [split[:WIDTH]])]
            rows.append(_row(split if fits else "", first, [f"Pass@{k}" for k in shown]))
            for label in arms:
                rows.append(_row(label, first, [_mean(by_k[k].get(label), "{:.3f}") for k in shown]))
                found = [results["differences"][split][k].get(label) for k in shown]
                if any(found):
                    rows.append(_row("  difference", first, [_mean(f, "{:+.3f}") for f in found]))
                    if any(f and f["low"] is not None for f in found):
                        rows.append(_row("  95% interval", first, map(_interval, found)))
                    rows.append(_row("  in favour", first, map(_favoured, found)))
    if results.get("paper"):
        rows += ["", *_beside_the_paper(results, first)]
    rows += ["", f"{'training':{first}}" + "".join(f"{row:>{COLUMN}}" for row in TRAINING)]
    for label in arms:
        cells = [_mean(results["training"][row].get(label), "{:.3f}") for row in TRAINING]
        rows.append(_row(label, first, cells))
    return "\n".join(line.rstrip() for line in [*rows, *_notes(results)])


def _beside_the_paper(results: Mapping, first: int) -> list[str]:
    """The paper's Pass@k over ours, arm by arm, and the differences to the baseline likewise."""
    table, theirs = results["paper"]["table"], results["paper"]["pass_at_k"]
    ours, differences = results["pass_at_k"]["all"], results["differences"]["all"]
    baseline = results["arms"][0]
    arms = [arm for arm in results["arms"] if arm in theirs]
    ks = [str(k) for k in results["k"] if str(k) in theirs[arms[0]]]
    rows = [f"the paper's {table}: {results['paper']['setting']}"]
    rows.append(_row("", first, [f"Pass@{k}" for k in ks]))
    for arm in arms:
        rows.append(arm)
        rows.append(_row("  the paper", first, [f"{theirs[arm][k]:.3f}" for k in ks]))
        rows.append(_row("  here", first, [_mean(ours[k].get(arm), "{:.3f}") for k in ks]))
        if arm != baseline and baseline in theirs:
            rows.append(f"{arm} less {baseline}")
            rows.append(_row("  the paper", first, [f"{theirs[arm][k] - theirs[baseline][k]:+.3f}" for k in ks]))
            rows.append(_row("  here", first, [_mean(differences[k].get(arm), "{:+.3f}") for k in ks]))
    return rows


def _row(label: str, first: int, cells: Iterable[str]) -> str:
    return f"{label:{first}}" + "".join(f"{cell:>{COLUMN}}" for cell in cells)


def _mean(value: Mapping | None, form: str) -> str:
    if value is None:
        return "-"
    error = "" if value["error"] is None else f" ± {value['error']:.3f}"
    return form.format(value["mean"]) + error


def _interval(found: Mapping | None) -> str:
    return "-" if not found or found["low"] is None else f"[{found['low']:+.3f}, {found['high']:+.3f}]"


def _favoured(found: Mapping | None) -> str:
    if not found:
        return "-"
    tied = f", {found['tied']} tied" if found["tied"] else ""
    return f"{found['favoured']}/{found['seeds']}{tied}"


def _notes(results: Mapping) -> list[str]:
    """What the reader of the tables must know: missing runs, different versions."""
    notes = []
    by_state: dict[tuple[str, str], list[str]] = {}
    for run in results["missing"]:
        by_state.setdefault((run["arm"], run["state"]), []).append(str(run["seed"]))
    for (arm, state), seeds in by_state.items():
        notes.append(f"missing: {arm}, seed{'s' * (len(seeds) > 1)} {', '.join(seeds)} ({state})")
    if notes:
        notes.append("means are over the runs there are; differences over the seeds that both arms have")
    for package, versions in results["different_versions"].items():
        notes.append(f"the runs were not all made with the same {package}: {', '.join(versions)}")
    return ["", *notes] if notes else []
