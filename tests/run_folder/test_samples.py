"""The files of a run's answers."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from lens_openrlhf.run_folder import samples

ROWS = {
    "step": [7, 7],
    "index": [0, 1],
    "prompt_id": [3, None],
    "prompt": ["1 + 1", None],
    "response": ["2", "3"],
    "label": ["2", "two"],
    "correctness": [1.0, 0.5],
    "reward": [0.5, -0.25],
    "tokens": [4, 5],
    "truncated": [True, False],
    "confidence": [0.25, None],
    "advantage": [1.5, -2.5],
    "kind": ["MIXED", "NEGATIVE"],
}
SCHEMA = [
    *(("step", pa.int32()), ("index", pa.int32()), ("prompt_id", pa.int32()), ("prompt", pa.string())),
    *(("response", pa.string()), ("label", pa.string()), ("correctness", pa.float64()), ("reward", pa.float64())),
    *(("tokens", pa.int32()), ("truncated", pa.bool_()), ("confidence", pa.float64()), ("advantage", pa.float64())),
    ("kind", pa.string()),
]


def test_a_steps_file_whole(tmp_path):
    given = dict(reversed(ROWS.items()))
    path = samples.write(str(tmp_path / "runs" / "a"), 7, given | {"of no column": [1, 2]})
    assert path == tmp_path / "runs" / "a" / "samples" / "step-000007.parquet"
    table = parquet.read_table(path)
    assert [(field.name, field.type) for field in table.schema] == SCHEMA
    assert table.to_pydict() == ROWS
    assert [file.name for file in path.parent.iterdir()] == ["step-000007.parquet"]
    assert parquet.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    samples.write(tmp_path / "runs" / "a", 7, {name: values[:1] for name, values in ROWS.items()})
    assert parquet.read_table(path).num_rows == 1


@pytest.mark.parametrize("name", ROWS)
def test_every_column_must_be_there(tmp_path, name):
    columns = {column: values for column, values in ROWS.items() if column != name}
    with pytest.raises(KeyError, match=name):
        samples.write(tmp_path, 1, columns)
    assert samples.files_by_step(tmp_path) == {}


def test_a_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    """What a crash before its end leaves is no step's file."""
    monkeypatch.setattr(os, "replace", lambda *paths: None)
    samples.write(tmp_path, 1, ROWS)
    assert samples.files_by_step(tmp_path) == {} and len(list((tmp_path / "samples").iterdir())) == 1


def test_files_are_found_by_step_and_in_order(tmp_path):
    assert samples.files_by_step(tmp_path) == {}
    folder = tmp_path / "samples"
    folder.mkdir()
    names = ("step-000010.parquet", "step-000009.parquet", "step-1000000.parquet", "step-000002.parquet")
    for name in (*names, "step-1.part", "step-x.parquet", "step-3.parquet.parquet", "xstep-4.parquet"):
        (folder / name).touch()
    found = samples.files_by_step(str(tmp_path))
    assert list(found.items()) == [
        *((2, folder / "step-000002.parquet"), (9, folder / "step-000009.parquet")),
        *((10, folder / "step-000010.parquet"), (1000000, folder / "step-1000000.parquet")),
    ]
