"""The prompts of an evaluation: rows of a file or a hub data set, checked, as the model will see them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import rewards
from ..inputs import READABLE, OptionError, rows_of_file
from .splits import SPLIT_COLUMNS


@dataclass(frozen=True)
class Row:
    """One row of the data and where it stands ("line 5"), for messages."""

    place: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Prompt:
    """A question as the model sees it; `id` is its position in the data, from 0."""

    id: int
    text: str
    tokens: tuple[int, ...]
    label: Any
    splits: dict[str, str | None]


def load(data: str, limit: int | None) -> tuple[list[Row], str]:
    """The first `limit` rows of `data`, all without a limit, and a fingerprint of the whole data.

    Args:
        data: a .jsonl, .json, .csv, .parquet or .arrow file; or the name of a data set on the hub, or a folder of such
            files, with the split behind an @.
    Returns:
        The rows, and "sha256 <digest of the file>" or "revision <of the hub>".
    Raises:
        OptionError: data that is missing, empty or unreadable, or a split that is not there.
    """
    name, _, split = data.partition("@")
    path = Path(name).expanduser()
    if path.suffix in READABLE and not path.is_dir():
        if not path.is_file():
            raise OptionError(f"--data {name}: no such file")
        if split:
            raise OptionError(f"--data {data}: a file has no splits; leave @{split} out")
        if path.suffix != ".jsonl":
            _quiet_datasets()
        rows: Iterable[Row] = (Row(place, row) for place, row in rows_of_file("--data", path))
        fingerprint = f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    else:
        rows, fingerprint = _from_hub(data, name, split)
    chosen = [row for _, row in zip(range(limit), rows, strict=False)] if limit else list(rows)
    if not chosen:
        raise OptionError(f"--data {data}: there is no row in it")
    return chosen, fingerprint


def _quiet_datasets() -> None:
    """No progress bars, and no errors but the one that is raised."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)


def _from_hub(data: str, name: str, split: str) -> tuple[Iterator[Row], str]:
    import datasets

    _quiet_datasets()
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise OptionError(f"--data {name}: no such file or folder")
    try:
        builder = datasets.load_dataset_builder(str(Path(name).expanduser()) if name.startswith("~") else name)
        builder.download_and_prepare()
    except Exception as error:  # whatever the hub, the network or a data set's own files raise
        raise OptionError(
            f"--data {name}: neither a file here nor a data set that could be loaded from the hub "
            f"({str(error).strip().splitlines()[0]}); give a .jsonl or .parquet file, or check the name and the network"
        ) from None
    there = list(builder.info.splits)
    if not split and len(there) == 1:
        split = there[0]
    if split not in there:
        problem = f"there is no split {split!r}" if split else "which split is not said"
        raise OptionError(f"--data {data}: {problem}; write {name}@SPLIT with one of {', '.join(there)}")
    rows = (Row(f"row {number}", row) for number, row in enumerate(builder.as_dataset(split=split), 1))
    return rows, f"revision {builder.hash}"


def check_keys(data: str, rows: Sequence[Row], input_key: str, label_key: str) -> None:
    """Every row has a prompt and a label.

    Raises:
        OptionError: naming the place and the key.
    """
    for row in rows:
        for option, key in (("--input_key", input_key), ("--label_key", label_key)):
            if row.values.get(key) in (None, "", []):
                raise OptionError(
                    f"--data {data}: {row.place} has no {key!r}, the key of {option}; mend the data or name another "
                    f"key (there are: {', '.join(row.values) or 'none'})"
                )


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
        OptionError: how many labels it cannot, the place of the first one and why.
    """
    labels = [row.values[label_key] for row in rows]
    problems = rewards.check_labels(label for label in labels if type(label) in (str, int))
    bad = []
    for row, label in zip(rows, labels, strict=True):
        # By type: True is no label, and is equal to 1, which is one.
        why = problems.get(label) if type(label) in (str, int) else f"the label {label!r} is not text"
        if why:
            bad.append((row, why))
    if bad:
        row, why = bad[0]
        raise OptionError(
            f"--data {data}: Math-Verify cannot grade by {len(bad)} of {len(rows)} labels, the first in {row.place}: "
            f"{why}; mend or drop these rows, or grade with a file of your own (--reward FILE.py)"
        )


def prompt_text(row: Row, data: str, input_key: str, template: str | None, tokenizer: Any, chat: bool) -> str:
    """The prompt of a row: through the template, then through the tokenizer's chat template.

    Raises:
        OptionError: a prompt of another type than these can take.
    """
    prompt = row.values[input_key]
    if isinstance(prompt, str):
        prompt = template.replace("{}", prompt) if template else prompt
    elif not chat or template or not isinstance(prompt, list):
        raise OptionError(
            f"--data {data}: the {input_key!r} of {row.place} is a {type(prompt).__name__}; it must be text, or a list "
            "of messages with --apply_chat_template and without --prompt_template"
        )
    if not chat:
        return prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


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
    prompts = []
    for number, row in enumerate(rows):
        text = prompt_text(row, data, input_key, template, tokenizer, chat)
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
