"""The prompts of an evaluation: rows of a file or a hub data set, checked, as the model will see them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..inputs import SPECIAL, OptionError, data_file, place_and_split, readable, rows_of_file
from ..prompts import Labels, Names, Prompting, Row, with_keys
from .splits import SPLIT_COLUMNS

NAMES = Names(chat="--apply_chat_template", template="--prompt_template", reward="--reward FILE.py")


@dataclass(frozen=True)
class Prompt:
    """A question as the model sees it; `id` is its position in the data, from 0."""

    id: int
    text: str
    tokens: tuple[int, ...]
    label: Any
    splits: dict[str, str | None]


def load(data: str, limit: int | None, keys: Mapping[str, str] | None = None) -> tuple[list[Row], str]:
    """The first `limit` rows of `data`, all without a limit, and a fingerprint of the whole data.

    Args:
        data: a .jsonl, .json, .csv, .parquet or .arrow file; or the name of a data set on the hub, or a folder of such
            files, with the split behind an @.
        keys: {key: option that names it} of what every row must have.
    Returns:
        The rows, and "sha256 <digest of the file>" or "revision <of the hub>".
    Raises:
        OptionError: data that is missing, empty or unreadable, a split that is not there, or a row without a key.
    """
    name, split = place_and_split(data)
    path = data_file("--data", name)
    if path is None:
        rows, fingerprint = _from_hub(data, name, split)
    else:
        if split:
            raise OptionError(f"--data {data}: a file has no splits; leave @{split} out")
        rows = (Row(place, row) for place, row in rows_of_file("--data", path))
        with readable(f"--data {data}"), open(path, "rb") as file:
            fingerprint = f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
    return list(with_keys(f"--data {data}", islice(rows, limit), keys or {})), fingerprint


def _quiet_datasets() -> None:
    """No progress bars, and no errors but the one that is raised."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)


def _from_hub(data: str, name: str, split: str) -> tuple[Iterator[Row], str]:
    import datasets

    _quiet_datasets()
    place = os.path.expanduser(name)
    if name.startswith((".", "/", "~")) and not os.path.isdir(place):
        raise OptionError(f"--data {name}: no such file or folder")
    if os.path.isdir(place) and not SPECIAL.isdisjoint(place):
        raise OptionError(
            f"--data {name}: a folder with one of {' '.join(sorted(SPECIAL))} in its path cannot be read as a data "
            "set; name a file in it, or rename it"
        )
    try:
        builder = datasets.load_dataset_builder(place)
        builder.download_and_prepare()
    except Exception as error:  # whatever the hub, the network or a data set's own files raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OptionError(
            f"--data {name}: neither a file here nor a data set that could be loaded from the hub ({reason}); give a "
            ".jsonl or .parquet file, or check the name and the network"
        ) from None
    there = list(builder.info.splits)
    if not split and len(there) == 1:
        split = there[0]
    if split not in there:
        problem = f"there is no split {split!r}" if split else "which split is not said"
        raise OptionError(f"--data {data}: {problem}; write {name}@SPLIT with one of {', '.join(there)}")
    rows = (Row(f"row {number}", row) for number, row in enumerate(builder.as_dataset(split=split), 1))
    return rows, f"revision {builder.hash}"


def split_columns(rows: Sequence[Row], wanted: Sequence[str] | None, reserved: Sequence[str]) -> list[str]:
    """Columns to split by: `wanted`, or those of SPLIT_COLUMNS that the data has.

    Raises:
        OptionError: a column that no row has, or one named as a column that the samples have anyway.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row.values))
    if wanted is None:
        return [name for name in SPLIT_COLUMNS if name in columns]
    for name in wanted:
        if name not in columns:
            raise OptionError(f"--split_by {name}: the data has no such column; there are: {', '.join(columns)}")
        if name in reserved:
            raise OptionError(
                f"--split_by {name}: the samples have a column of that name already; rename the data's column"
            )
    return list(dict.fromkeys(wanted))


def check_labels(data: str, rows: Sequence[Row], label_key: str) -> None:
    """Math-Verify can compare with every label.

    Raises:
        OptionError: how many labels it cannot, the places of the first ones and why.
    """
    labels = Labels()
    for row in rows:
        labels.add(row, label_key)
    _, problem = labels.problem(f"--data {data}", label_key, NAMES, data_file("--data", data))
    if problem:
        raise OptionError(problem)


def make_prompts(
    rows: Sequence[Row], data: str, input_key: str, label_key: str, splits: Sequence[str],
    template: str | None, tokenizer: Any, chat: bool, max_length: int | None,
) -> list[Prompt]:  # fmt: skip
    """The prompts, tokenized as in training (without special tokens beyond those of the text).

    Args:
        max_length: tokens that the model can take, prompt and answer together; None: without a limit.
    Raises:
        OptionError: a prompt that the model cannot take.
    """
    fill: Callable[[str], str] | None = (lambda prompt: template.replace("{}", prompt)) if template else None
    prompting = Prompting(shown=f"--data {data}", key=input_key, names=NAMES, fill=fill, chat=chat, tokenizer=tokenizer)
    prompts = []
    for number, row in enumerate(rows):
        text = prompting.text(row)
        tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if not tokens:
            raise OptionError(f"--data {data}: to the tokenizer the prompt of {row.place} is empty")
        if max_length is not None and len(tokens) >= max_length:
            raise OptionError(
                f"--data {data}: the prompt of {row.place} has {len(tokens)} tokens, and the model takes {max_length} "
                "for prompt and answer; shorten or drop it"
            )
        values = {name: row.values.get(name) for name in splits}
        values = {name: None if value is None else str(value) for name, value in values.items()}
        prompts.append(Prompt(number, text, tuple(tokens), row.values[label_key], values))
    return prompts
