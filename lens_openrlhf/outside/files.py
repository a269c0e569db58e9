"""The files that rollouts are in: which they are, and their columns, checked by kind. .jsonl and .parquet alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..inputs import OptionError, rows_of_file
from ..run_folder.samples import files_by_step

SUFFIXES = (".jsonl", ".parquet")


def find_files(places: Sequence[str]) -> list[Path]:
    """The files; a run folder stands for its samples/step-*.parquet.

    Raises:
        OptionError: what is neither a file of a known kind nor a run folder.
    """
    files = []
    for place in places:
        path = Path(place)
        if path.is_dir():
            found = list(files_by_step(path).values())
            if not found:
                raise OptionError(f"{place}: a folder without samples/step-*.parquet; name a run folder, or files")
            files += found
        elif path.suffix not in SUFFIXES:
            raise OptionError(f"{place}: expected a {' or '.join(SUFFIXES)} file, or a run folder")
        elif not path.is_file():
            raise OptionError(f"{place}: no such file")
        else:
            files.append(path)
    if doubled := [path for path in files if files.count(path) > 1]:
        raise OptionError(f"{doubled[0]}: is named twice; its responses would count double")
    return files


def labels(paths: Sequence[Path]) -> list[str | int]:
    """The distinct labels of the files, where they have a column `label` of texts or whole numbers."""
    found: dict[str | int, None] = {}
    for path in paths:
        if path.suffix == ".parquet":
            if "label" not in pq.read_schema(path).names:
                continue
            values = pq.read_table(path, columns=["label"])["label"].to_pylist()
        else:
            values = [row.get("label") for _, row in rows_of_file("ROLLOUTS", path)]
        found.update(dict.fromkeys(value for value in values if type(value) in (str, int)))
    return list(found)


def column_names(path: Path) -> list[str]:
    """The columns of a file; of .jsonl those of the first row."""
    if path.suffix == ".jsonl":
        return list(next((row for _, row in rows_of_file("ROLLOUTS", path)), {}))
    try:
        return pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise OptionError(f"{path}: cannot be read as parquet ({str(error).splitlines()[0]})") from None


class File:
    """The columns of one file that are read, and where its rows are."""

    def __init__(self, path: Path, columns: Mapping[str, str]):
        self.path, self.columns = path, columns
        if missing := [name for name in columns.values() if name not in column_names(path)]:
            raise OptionError(f"{path}: has no column {missing[0]}; all files need the same columns")
        wanted = list(dict.fromkeys(columns.values()))
        if path.suffix == ".jsonl":
            self.data: dict[str, Any] = {name: [] for name in wanted}
            for _, row in rows_of_file("ROLLOUTS", path):
                for name in wanted:
                    self.data[name].append(row.get(name))
            self.rows = len(self.data[wanted[0]])
        else:
            try:
                table = pq.read_table(path, columns=wanted)
            except (OSError, pa.ArrowException) as error:
                raise OptionError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
            self.data = {name: table[name].combine_chunks() for name in wanted}
            self.rows = len(table)

    def fail(self, row: int, what: str, problem: str) -> None:
        raise OptionError(f"{self.path}: row {row + 1}, column {self.columns[what]}: {problem}")

    def check(self, what: str, bad: np.ndarray, problem: Callable[[int], str]) -> None:
        """Refuse the first row where `bad` [N] holds."""
        if bad.any():
            row = int(bad.argmax())
            self.fail(row, what, problem(row))

    def _arrow(self, what: str, kind: pa.DataType, is_kind: Callable[[pa.DataType], bool], expected: str) -> pa.Array:
        data = self.data[self.columns[what]]
        if isinstance(data, pa.Array):
            if not is_kind(data.type) and not pa.types.is_null(data.type):
                raise OptionError(f"{self.path}: column {self.columns[what]} is {data.type}, expected {expected}")
            return data.cast(kind)
        try:
            return pa.array(data, kind)
        except pa.ArrowException:
            for row, value in enumerate(data):
                try:
                    pa.array([value], kind)
                except pa.ArrowException:
                    self.fail(row, what, f"{json.dumps(value)[:80]}, expected {expected}")
            raise

    def numbers(self, what: str) -> np.ndarray:
        """[N] float64, NaN where there is nothing."""
        return self._arrow(what, pa.float64(), _is_number, "numbers").to_numpy(zero_copy_only=False)

    def whole(self, what: str, least: int) -> np.ndarray:
        """[N] int64."""
        values = self.numbers(what)
        self.check(
            what,
            ~((values == np.floor(values)) & (values >= least)),
            lambda row: f"{shown(values[row])}, expected a whole number of at least {least}",
        )
        return values.astype(np.int64)

    def lists(self, what: str) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of every token [T] float64, and how many each row has [N] int64."""
        column = self._arrow(what, pa.large_list(pa.float64()), _is_list_of_numbers, "lists of numbers")
        self.check(what, column.is_null().to_numpy(zero_copy_only=False), lambda row: "is empty, expected a list")
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
        return column.flatten().to_numpy(zero_copy_only=False), lengths

    def check_tokens(self, what: str, bad: np.ndarray, lengths: np.ndarray, problem: str, values: np.ndarray) -> None:
        if bad.any():
            token = int(bad.argmax())
            row = int(np.searchsorted(np.cumsum(lengths), token, side="right"))
            place = token - int(lengths[:row].sum())
            self.fail(row, what, f"token {place + 1} of the list is {shown(values[token])}; {problem}")

    def keys(self, what: str) -> list:
        """[N] what tells prompts apart; of chats and other nested values their JSON."""
        data = self.data[self.columns[what]]
        keys = []
        for row, value in enumerate(data if isinstance(data, list) else data.to_pylist()):
            if value is None or value != value:  # NaN is not equal to itself
                self.fail(row, what, "is empty or NaN; every response needs its prompt")
            keys.append(value if isinstance(value, str | int) else json.dumps(value, sort_keys=True, default=str))
        return keys


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)


def _is_list_of_numbers(kind: pa.DataType) -> bool:
    types = pa.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and (_is_number(kind.value_type) or types.is_null(kind.value_type))


def shown(value: float) -> str:
    return "empty or NaN" if np.isnan(value) else repr(float(value))
