"""The figures of an evaluation, computed from its kept answers alone, and the table that shows them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from ..inputs import OptionError
from .folder import RESERVED
from .pass_at_k import pass_at_k
from .splits import ALL, default_ks, prompts_by_split
from .statistics import LEVEL, RESAMPLES, Estimate, bootstrap_means

FAILURES = ("no_answer", "timeout", "error")
WIDTH, NAME, CELL = 80, 20, 10


def majority(correct: Sequence[bool], same_as: Sequence[int | None]) -> float:
    """Probability that the majority vote over one prompt's answers is right.

    Equal numbers in `same_as` are one answer; None did not answer and has no vote. Among answers with equally many
    votes one is drawn at random, hence a probability. 0 where nobody voted.
    """
    votes = Counter(number for number in same_as if number is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    # Answers that are read alike but graded apart (a time-out, say) count with their share of right ones.
    shares = [
        sum(right for right, number in zip(correct, same_as, strict=True) if number == winner) / most
        for winner, count in votes.items()
        if count == most
    ]
    return math.fsum(shares) / len(shares)


def _record(estimate: Estimate) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in estimate._asdict().items()}


def summarise(samples: pd.DataFrame, ks: Sequence[int] | None = None, split_by: Sequence[str] | None = None) -> dict:
    """All figures of an evaluation, as JSON knows them.

    Args:
        samples: see `folder.read_samples`.
        ks: for Pass@k; by default the powers of two up to the number of samples.
        split_by: columns to split by; by default all that were kept.
    Returns:
        "prompts", "samples" (a prompt), "interval" (what the bounds are), and "splits": for "all" and each
        "column=value" the number of prompts, Pass@k and majority vote as {mean, error, low, high}, the mean length in
        tokens, and the shares of answers that were truncated, gave no answer, ran into the verifier's limits, or failed
        (None where a reward file graded).
    Raises:
        OptionError: a k that is more than the samples, an unknown column.
    """
    sizes = samples.groupby("prompt_id").size()
    n = int(sizes.iloc[0])
    if (sizes != n).any():
        odd = sizes.index[sizes != n][0]
        raise OptionError(f"prompt {odd} has {sizes[odd]} answers and others have {n}; the answers are not complete")
    ks = sorted(set(ks)) if ks else default_ks(n)
    check_ks(ks, n)
    columns = [name for name in samples if name not in RESERVED]
    for name in split_by or ():
        if name not in columns:
            raise OptionError(
                f"--split_by {name}: was not kept with the answers; there are: {', '.join(columns) or 'none'}"
            )
    chosen = columns if split_by is None else list(dict.fromkeys(split_by))
    by_column = {name: samples[name].iloc[::n].fillna("none").tolist() for name in chosen}

    correct = (samples["correctness"].to_numpy() == 1).reshape(-1, n)
    same_as = samples["same_as"].astype(object).where(samples["same_as"].notna(), None).to_numpy().reshape(-1, n)
    by_count = np.array([[pass_at_k(count, n, k) for k in ks] for count in range(n + 1)])
    votes = [majority(*answers) for answers in zip(correct, same_as, strict=True)]
    values = np.column_stack([by_count[correct.sum(axis=1)], votes])
    outcomes = samples["outcome"].to_numpy().reshape(-1, n)
    means = {name: samples[name].to_numpy().reshape(-1, n) for name in ("tokens", "truncated")}
    graded = samples["outcome"].notna().all()  # not by a reward file, which has no such outcomes

    splits = {}
    for split, prompts in prompts_by_split(len(sizes), by_column).items():
        *passes, vote = map(_record, bootstrap_means(values[prompts]))
        splits[split] = {
            "prompts": len(prompts),
            "pass_at_k": {str(k): estimate for k, estimate in zip(ks, passes, strict=True)},
            "majority": vote,
            "mean_tokens": float(means["tokens"][prompts].mean()),
            "truncated": float(means["truncated"][prompts].mean()),
            **{name: float((outcomes[prompts] == name).mean()) if graded else None for name in FAILURES},
        }
    return {
        "prompts": len(sizes),
        "samples": n,
        "interval": f"{LEVEL:.0%}, percentile bootstrap over prompts, {RESAMPLES} resamples",
        "splits": splits,
    }


def check_ks(ks: Sequence[int], samples: int) -> None:
    """Raises OptionError unless 1 <= k <= samples for every k."""
    for k in ks:
        if k < 1:
            raise OptionError(f"--k {k}: k counts answers and is at least 1")
        if k > samples:
            raise OptionError(f"--k {k}: there are {samples} answers to a prompt; use a smaller k, or more --samples")


def _lines(summary: dict, header: Sequence[str], cells: Callable[[dict], list[list[str]]]) -> Iterator[str]:
    """A block of the table: a header, and for each split the lines of cells that `cells(figures)` gives."""
    yield " " * NAME + "".join(f"{name:>{CELL}}" for name in header)
    column = None
    for split, figures in summary["splits"].items():
        name, _, value = split.partition("=")
        if split != ALL:
            if name != column:
                yield name
                column = name
            name = f"  {value}"
        count = f" ({figures['prompts']})"
        room = NAME - len(count)
        name = name if len(name) <= room else f"{name[: room - 1]}…"
        first, *more = cells(figures)
        yield f"{name + count:<{NAME}}" + "".join(f"{cell:>{CELL}}" for cell in first)
        for line in more:
            yield " " * NAME + "".join(f"{cell:>{CELL}}" for cell in line)


def table(summary: dict) -> str:
    """The summary in at most 80 columns."""
    n = summary["samples"]
    lines = [f"{summary['prompts']} prompts, {n} answers each; below each figure its {LEVEL:.0%} interval"]

    def estimates(figures: dict) -> dict[str, dict]:
        passes = {f"Pass@{k}": estimate for k, estimate in figures["pass_at_k"].items()}
        return {**passes, f"maj@{n}": figures["majority"]}

    header = list(estimates(summary["splits"][ALL]))
    fit = (WIDTH - NAME) // CELL
    for start in range(0, len(header), fit):
        chosen = header[start : start + fit]

        def cells(figures: dict, chosen: Sequence[str] = chosen) -> list[list[str]]:
            shown = [estimates(figures)[name] for name in chosen]
            return [[f"{e['mean']:.3f}" for e in shown], [f"{e['low']:.2f}–{e['high']:.2f}" for e in shown]]

        lines += ["", *_lines(summary, chosen, cells)]

    def shares(figures: dict) -> list[list[str]]:
        known = [figures[name] for name in ("truncated", *FAILURES)]
        return [[f"{figures['mean_tokens']:.1f}", *("–" if share is None else f"{share:.1%}" for share in known)]]

    lines += ["", *_lines(summary, ["tokens", "truncated", "no answer", "time-outs", "errors"], shares)]
    return "\n".join(lines)
