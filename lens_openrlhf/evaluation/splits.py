"""Pass@k of all prompts and of parts of them, such as a level of difficulty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .pass_at_k import mean_and_error, pass_at_k

ALL = "all"
SPLIT_COLUMNS = ("level", "source", "datasource", "type")  # of a data set, split by where it has them

MAX_SPLIT_VALUES = 32  # a column with more of them (an address, say) names prompts rather than kinds of them


def default_split_columns(columns: Mapping[str, Sequence]) -> list[str]:
    """Those of SPLIT_COLUMNS that are there and hold texts or numbers, at most MAX_SPLIT_VALUES different ones."""
    return [
        name
        for name in SPLIT_COLUMNS
        if name in columns
        and all(isinstance(value, str | int | float | None) for value in columns[name])
        and len(set(columns[name])) <= MAX_SPLIT_VALUES
    ]


def default_ks(samples: int) -> list[int]:
    """The powers of two up to the number of samples."""
    return [2**exponent for exponent in range(samples.bit_length())]


def split_order(value: object) -> tuple[bool, float, str]:
    """Sort key of a column's values: numbers by size, then texts."""
    try:
        return False, float(value), ""  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError):
        return True, 0.0, str(value)


def prompts_by_split(prompts: int, splits: Mapping[str, Sequence]) -> dict[str, list[int]]:
    """Positions of the prompts in each split: `all`, then `column=value` in the columns' order.

    Args:
        prompts: number of prompts P.
        splits: {column: [P] values}.
    """
    found = {ALL: list(range(prompts))}
    for column, values in splits.items():
        for value in sorted(set(values), key=split_order):
            found[f"{column}={value}"] = [i for i, other in enumerate(values) if other == value]
    return found


def pass_at_k_by_split(
    scores: Sequence[Sequence[float]], splits: Mapping[str, Sequence], ks: Sequence[int]
) -> dict[str, dict[str, tuple[float, float]]]:
    """{split: {k: (mean, standard error)}} over prompts; an answer is right where its score is 1.

    Args:
        scores: [P][n] raw correctness.
        splits: {column: [P] values}.
        ks: each at most n.
    """
    right = [sum(score == 1 for score in prompt) for prompt in scores]
    return {
        split: {str(k): mean_and_error([pass_at_k(right[i], len(scores[i]), k) for i in chosen]) for k in ks}
        for split, chosen in prompts_by_split(len(scores), splits).items()
    }
