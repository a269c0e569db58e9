"""What a stage finds, one JSON object a line, on disk at once; and the tables made of it."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

RESULTS = "results.jsonl"
PASSED, FAILED, MISSING = "passed", "FAILED", "missing"
STAGE = "stage"  # the row that says how a stage ended


class Missing(Exception):
    """This machine lacks what the stage needs: a package, a tool, a GPU. The message names it."""


def need(*packages: str) -> None:
    """Raise Missing unless all of them can be imported."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        raise Missing(f"not installed: {', '.join(absent)}")


class Rows:
    """The rows of one stage."""

    def __init__(self, path: Path, stage: str):
        self.path, self.stage = path, stage
        self.failed: list[str] = []

    def add(self, what: str, **figures: object) -> None:
        """A row; numbers are rounded to four digits."""
        figures = {name: _short(value) for name, value in figures.items() if value is not None}
        with open(self.path, "a") as file:
            file.write(json.dumps({"stage": self.stage, "what": what, **figures}, default=str) + "\n")

    def check(self, what: str, good: bool, **figures: object) -> None:
        """A row that says whether it is as it should be. If it is not, the stage goes on and fails at its end."""
        if not good:
            self.failed.append(what)
        self.add(what, result=PASSED if good else FAILED, **figures)


def _short(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else str(value)
    return value


def read(path: Path) -> list[dict]:
    """All rows so far; a line that was cut off is left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def table(rows: Iterable[dict]) -> Iterator[str]:
    """Lines of text: rows side by side that have the same columns stand under one head."""
    for columns, group in groupby(rows, key=lambda row: [name for name in row if name != "stage"]):
        lines = [columns, *([_text(row[name]) for name in columns] for row in group)]
        # The last column can be long.
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns) - 1)] + [0]
        for line in lines:
            yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
