"""The rows of rollout files once more, with more columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..inputs import OptionError, rows_of_file
from ..process import appearing_whole


def write(out: Path, paths: Sequence[Path], columns: Mapping[str, Sequence]) -> None:
    """The rows of `paths`, one file after the other, with more columns: {name: [N] numbers or lists of numbers}.

    Raises:
        OptionError: rows that have no common form as a parquet table, or a place that cannot be written.
    """
    try:
        with appearing_whole(out) as beside:
            if out.suffix == ".parquet":
                pq.write_table(_table(paths, columns), beside, compression="zstd")
            else:
                _write_lines(beside, paths, columns)
    except OSError as error:
        raise OptionError(f"-o {out}: cannot be written ({error.strerror or error})") from None


def _table(paths: Sequence[Path], columns: Mapping[str, Sequence]) -> pa.Table:
    tables = []
    for path in paths:
        try:
            if path.suffix == ".parquet":
                tables.append(pq.read_table(path))
            else:
                tables.append(pa.Table.from_pylist([row for _, row in rows_of_file("ROLLOUTS", path)]))
        except pa.ArrowException as error:
            raise OptionError(f"{path}: its rows have no common form as a table ({error}); write .jsonl") from None
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise OptionError(f"{paths[0]} and the others have no common form as a table ({error}); write .jsonl") from None
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, pa.array(values))
    return table


def _write_lines(out: Path, paths: Sequence[Path], columns: Mapping[str, Sequence]) -> None:
    number = 0
    with open(out, "w") as file:
        for path in paths:
            for row in _rows(path):
                added = {name: values[number] for name, values in columns.items()}
                added = {name: v.tolist() if isinstance(v, np.ndarray) else float(v) for name, v in added.items()}
                file.write(json.dumps(row | added, default=str) + "\n")
                number += 1


def _rows(path: Path) -> Iterator[dict]:
    if path.suffix == ".jsonl":
        yield from (row for _, row in rows_of_file("ROLLOUTS", path))
    else:
        for batch in pq.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
