"""Rollouts of any framework, a row a response: which columns they are in, and what is read, checked."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..inputs import OptionError
from .files import File, column_names, shown

# By what is read: the columns looked for where no option names one.
USUAL = {
    "prompt": ("prompt_id", "prompt"),
    "step": ("step",),
    "correctness": ("correctness",),
    "reward": ("reward",),
    "logprobs": ("logprobs",),
    "mean_logprob": ("mean_logprob",),
    "confidence": ("confidence",),
    "length": ("length", "tokens"),
    "entropies": ("entropies",),
    "self_certainty": ("self_certainty",),
}
EXTRA = "extra "  # before the names of what else is read, which are an estimator's own
LISTS = ("logprobs", "entropies", "self_certainty")
LOGPROB_TOLERANCE = 1e-3  # a log-probability up to that is rounding
LOGPROB = "a log-probability is a number of at most 0; leave such responses out, or mend what wrote them"


@dataclass(frozen=True)
class Rollouts:
    """N responses in the order of the files, T tokens.

    Attributes:
        files: where they are from.
        columns: {what was read: column}.
        prompt: [N] int64, a number for each prompt.
        recurs: whether a prompt keeps its number from step to step.
        step: [N] int64; all 1 where no column says.
        correctness, reward: [N] float64.
        mean_logprob: [N] float64, anything where the response has no token; None where tokens has logprobs.
        length: [N] int64.
        tokens: [T] float64 by name, see LISTS.
        extras: [N] float64 by name, what else an estimator reads of every response.
    """

    files: Sequence[Path]
    columns: Mapping[str, str]
    prompt: np.ndarray
    recurs: bool
    step: np.ndarray
    correctness: np.ndarray
    reward: np.ndarray
    mean_logprob: np.ndarray | None
    length: np.ndarray
    tokens: Mapping[str, np.ndarray]
    extras: Mapping[str, np.ndarray]


def choose(
    path: Path, given: Mapping[str, str | None], token_needs: Collection[str], extras: Collection[str]
) -> dict[str, str]:
    """{what: column} to read, from the options `given`, and otherwise the usual names that the file has.

    Raises:
        OptionError: a column that is missing, with what could be named instead.
    """
    there = column_names(path)
    if not there:
        raise OptionError(f"{path}: has no rows")
    for what, column in given.items():
        if column is not None and column not in there:
            raise OptionError(f"--{what} {column}: {path} has no such column; it has {', '.join(there)}")
    found = {what: given.get(what) or next((name for name in USUAL[what] if name in there), None) for what in USUAL}

    def need(problem: str, remedy: str) -> NoReturn:
        raise OptionError(f"{path}: {problem} (columns: {', '.join(there)}); {remedy}")

    if not found["prompt"]:
        need("no column says which responses share a prompt", "name it with --prompt COLUMN")
    if not found["correctness"] and not found["reward"]:
        need("no column has the outcome", "name it with --correctness COLUMN or --reward COLUMN")
    # An option decides which of the three forms is read, else the first that is there.
    forms = ("logprobs", "mean_logprob", "confidence")
    form = next((f for f in forms if given.get(f)), None) or next((f for f in forms if found[f]), None)
    if form is None:
        need("no column has log-probabilities", "name it with --logprobs, --mean_logprob or --confidence COLUMN")
    if form != "logprobs" and not found["length"]:
        need(f"{found[form]} is a response's, but no column has its number of tokens", "name it with --length COLUMN")
    if form == "logprobs" and given.get("length"):
        raise OptionError(
            f"--length {given['length']}: the lists in {found['logprobs']} have their length; leave it out"
        )
    for what in token_needs:
        if not found[what]:
            need(f"no column has the {what} that the estimator needs of every token", f"name it with --{what} COLUMN")
    if "logprobs" in token_needs and form != "logprobs":
        raise OptionError(
            f"--{form} {found[form]}: the estimator needs the log-probability of every token; name their column with "
            "--logprobs COLUMN"
        )
    for what in extras:
        if what not in there:
            need(f"no column is named {what}, which the estimator needs of every response", "add it to the rows")
        found[EXTRA + what] = what
    wanted = ["prompt", "step", "correctness", "reward", form, *token_needs, *(EXTRA + what for what in extras)]
    wanted += [] if form == "logprobs" else ["length"]
    return {what: column for what in dict.fromkeys(wanted) if (column := found[what])}


def _refuse_whole_answers(path: Path, column: str) -> None:
    """A run of `--algo.lens.confidence sequence` keeps the probability of whole answers."""
    try:
        options = json.loads((path.parent.parent / "config.json").read_text())["options"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if isinstance(options, dict) and options.get("algo.lens.confidence") == "sequence":
        raise OptionError(
            f"{path}: the run had --algo.lens.confidence sequence, so its column {column} is the probability of whole "
            "answers, where a mean token's is needed; there is no way back from it"
        )


def _read(
    path: Path, columns: Mapping[str, str], token_needs: Collection[str], extras: Collection[str]
) -> tuple[list, dict[str, np.ndarray]]:
    """The prompts' keys and the checked numbers of one file."""
    file = File(path, columns)
    if not file.rows:
        raise OptionError(f"{path}: has no rows")
    found: dict[str, np.ndarray] = {}
    found["step"] = file.whole("step", 0) if "step" in columns else np.ones(file.rows, dtype=np.int64)
    if "reward" in columns:
        found["reward"] = file.numbers("reward")
        file.check(
            "reward", ~np.isfinite(found["reward"]), lambda row: f"{shown(found['reward'][row])}; a reward is finite"
        )
    outcome = "correctness" if "correctness" in columns else "reward"
    correct = found["correctness"] = file.numbers(outcome)
    remedy = "" if outcome == "correctness" else "; name the verifier's outcome with --correctness COLUMN"
    file.check(
        outcome, ~((correct >= 0) & (correct <= 1)), lambda row: f"{shown(correct[row])}, expected 0 to 1{remedy}"
    )
    found.setdefault("reward", correct)

    if "logprobs" in columns:
        values, lengths = file.lists("logprobs")
        file.check_tokens("logprobs", ~(values <= LOGPROB_TOLERANCE), lengths, LOGPROB, values)
        found["logprobs"], found["length"] = values, lengths
    else:
        lengths = found["length"] = file.whole("length", 0)
        if "mean_logprob" in columns:
            mean, what, top, rule = file.numbers("mean_logprob"), "mean_logprob", LOGPROB_TOLERANCE, LOGPROB
        else:
            _refuse_whole_answers(path, columns["confidence"])
            mean, what, top = file.numbers("confidence"), "confidence", 1.0
            rule = "a mean token probability is in [0, 1] (runs have it with this project's estimators alone)"
        bad = ~(mean <= top) | ((mean < 0) & (what == "confidence"))
        file.check(what, bad & (lengths > 0), lambda row: f"{shown(mean[row])}; {rule}")
        with np.errstate(divide="ignore", invalid="ignore"):
            found["mean_logprob"] = mean if what == "mean_logprob" else np.log(mean)
    for what in token_needs:
        if what not in found:
            values, counts = file.lists(what)

            def other_count(row: int, counts: np.ndarray = counts) -> str:
                source = columns.get("logprobs") or columns["length"]
                return f"has {counts[row]} numbers for {lengths[row]} tokens ({source})"

            file.check(what, counts != lengths, other_count)
            file.check_tokens(what, ~np.isfinite(values), counts, "a finite number is needed", values)
            found[what] = values
    for what in (EXTRA + name for name in extras):
        values = found[what] = file.numbers(what)

        def not_finite(row: int, values: np.ndarray = values) -> str:
            return f"{shown(values[row])}; a finite number is needed"

        file.check(what, ~np.isfinite(values), not_finite)
    return file.keys("prompt"), found


def read(
    paths: Sequence[Path],
    given: Mapping[str, str | None],
    token_needs: Collection[str] = (),
    extras: Collection[str] = (),
) -> Rollouts:
    """The responses of all files together.

    Args:
        paths: .jsonl or .parquet files.
        given: columns by option ("prompt", "reward", …), None where the usual name will do.
        token_needs: lists that an estimator reads, see LISTS.
        extras: columns of numbers that an estimator reads.

    Raises:
        OptionError: what cannot be read or used: the file, the row (from 1), the column and the remedy.
    """
    columns = choose(paths[0], given, token_needs, extras)
    numbers: dict[Any, int] = {}
    prompt, parts = [], []
    for path in paths:
        keys, found = _read(path, columns, token_needs, extras)
        prompt += [numbers.setdefault(key, len(numbers)) for key in keys]
        parts.append(found)
    together = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    # Our own runs count the prompts of a step from 0, so that a number says nothing from one step to the next.
    recurs = "step" not in columns or columns["prompt"] != "prompt_id" or bool(given.get("prompt"))
    return Rollouts(
        files=paths,
        columns=columns,
        prompt=np.array(prompt, dtype=np.int64),
        recurs=recurs,
        step=together["step"],
        correctness=together["correctness"],
        reward=together["reward"],
        mean_logprob=together.get("mean_logprob"),
        length=together["length"],
        tokens={name: together[name] for name in LISTS if name in together},
        extras={name: together[EXTRA + name] for name in extras},
    )
