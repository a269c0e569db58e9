"""What commands are given: the error for what cannot work, models, and files of prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

MATH_VERIFY = "math-verify"  # as a reward: answers checked by Math-Verify
READABLE = (".json", ".jsonl", ".csv", ".parquet", ".arrow")  # what OpenRLHF loads as a file


class OptionError(ValueError):
    """An option's value that cannot work, with the remedy."""


def check_model(option: str, name: str) -> None:
    """A folder must hold a model. Anything else is a hub name, which is checked to be one, or in the cache."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise OptionError(f"{option} {name}: the folder has no config.json, so it is not a Hugging Face model")
        return
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise OptionError(f"{option} {name}: no such folder")
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"{option} {name}: neither a folder here nor a model that could be loaded from the hub "
            f"({str(error).splitlines()[0]}); give the path of a downloaded model, or check the name and the network"
        ) from None


def rows_of_file(option: str, path: Path) -> Iterator[tuple[str, dict]]:
    """Where each row of a local file is, for messages, and the row."""
    if path.suffix == ".jsonl":
        with open(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise OptionError(f"{option} {path}: line {number} is not JSON ({error.msg})") from None
                yield f"line {number}", row if isinstance(row, dict) else {}
        return
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        rows = load_dataset(path.suffix[1:], data_files=str(path), split="train")
    except (DatasetGenerationError, ValueError, OSError) as error:
        raise OptionError(f"{option} {path}: cannot be read as {path.suffix[1:]} ({error})") from None
    for number, row in enumerate(rows, 1):
        yield f"row {number}", row
