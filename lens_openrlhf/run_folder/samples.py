"""The format of samples/step-*.parquet: the answers of a step, one row each (docs/run_folder.md).

training/hooks/samples.py writes them; the report, `grade` and `advantages` read them; a run that is set back deletes
those of later steps (training/checkpoints/resuming.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = "samples"
# Column and Arrow type.
COLUMNS = {
    "step": "int32",
    "index": "int32",
    "prompt_id": "int32",
    "prompt": "string",
    "response": "string",
    "label": "string",
    "correctness": "float64",
    "reward": "float64",
    "tokens": "int32",
    "truncated": "bool",
    "confidence": "float64",
    "advantage": "float64",
    "kind": "string",
}


def files_by_step(run_dir: str | Path) -> dict[int, Path]:
    """{step: its file}, in the order of the steps."""
    found = {}
    for path in (Path(run_dir) / FOLDER).glob("step-*.parquet"):
        if match := re.fullmatch(r"step-(\d+)\.parquet", path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def write(run_dir: str | Path, step: int, columns: Mapping[str, Sequence[Any]]) -> Path:
    """Write a step's answers, every one of COLUMNS; a file is there whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    folder = Path(run_dir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:06}.parquet"
    beside = path.with_suffix(".part")
    parquet.write_table(pa.table(dict(columns)).select(schema.names).cast(schema), beside, compression="zstd")
    os.replace(beside, path)
    return path
