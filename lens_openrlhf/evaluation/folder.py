"""The folder of an evaluation: config.json, samples/part-*.parquet, summary.json, evaluate.log.

A part holds all answers to some prompts that follow each other. It appears whole or not at all, so that an evaluation
can be interrupted at any moment.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..inputs import OptionError
from ..process import appearing_whole

CONFIG, SAMPLES, SUMMARY, LOG = "config.json", "samples", "summary.json", "evaluate.log"

_COLUMNS = {
    "prompt_id": pa.int32(),
    "sample": pa.int32(),
    "prompt": pa.string(),
    "label": pa.string(),
    "response": pa.string(),
    "tokens": pa.int32(),
    "truncated": pa.bool_(),
    "correctness": pa.float64(),
    "outcome": pa.string(),
    "answer": pa.string(),
    "same_as": pa.int32(),
}
RESERVED = tuple(_COLUMNS)
TEXTS = ("prompt", "label", "response", "answer")


def write_json(path: Path, record: dict) -> None:
    with appearing_whole(path) as beside:
        beside.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")


def read_config(folder: Path) -> dict:
    """config.json of an evaluation.

    Raises:
        OptionError: where `folder` holds no evaluation.
    """
    try:
        config = json.loads((folder / CONFIG).read_text())
        config["settings"]["model"], config["matched"]  # a run folder has a config.json, too
        return config
    except FileNotFoundError:
        raise OptionError(f"{folder}: no evaluation is there (no {CONFIG}); name the folder of one") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise OptionError(f"{folder / CONFIG}: is not the record of an evaluation ({error!r})") from None


def part_path(folder: Path, part: int) -> Path:
    return folder / SAMPLES / f"part-{part:05d}.parquet"


def write_part(folder: Path, part: int, rows: Sequence[dict[str, Any]], splits: Sequence[str]) -> None:
    """Keep the answers to some prompts; a row an answer, with the columns RESERVED and those of `splits`."""
    schema = pa.schema([*_COLUMNS.items(), *((name, pa.string()) for name in splits)])
    path = part_path(folder, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing_whole(path) as beside:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), beside)


def read_samples(folder: Path) -> pd.DataFrame:
    """All answers kept so far but for their texts, ordered by prompt and number.

    Raises:
        OptionError: where there are none, or a part cannot be read.
    """
    parts = sorted((folder / SAMPLES).glob("part-*.parquet"))
    if not parts:
        raise OptionError(f"{folder}: holds no answers ({SAMPLES}/part-*.parquet); the evaluation has to run first")
    tables = []
    for path in parts:
        try:
            names = pq.read_schema(path).names
            tables.append(pq.read_table(path, columns=[name for name in names if name not in TEXTS]))
        except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
            raise OptionError(
                f"{path}: cannot be read ({str(error).splitlines()[0]}); delete it and run the evaluation again, which "
                "makes up for it"
            ) from None
        if missing := [name for name in RESERVED if name not in names]:
            raise OptionError(f"{path}: the column {missing[0]!r} is missing; it is no part of an evaluation")
    samples = pa.concat_tables(tables).to_pandas()
    if none := int(samples["correctness"].isna().sum()):
        raise OptionError(f"{folder}: {none} answers have a correctness that is no number; sample them again")
    return samples.sort_values(["prompt_id", "sample"], ignore_index=True)
