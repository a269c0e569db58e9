"""The paper's own figures, to be laid beside measured ones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("paper.yaml")


@cache
def _content() -> dict:
    import yaml

    return yaml.safe_load(FILE.read_text())


def names() -> list[str]:
    """Of all tables, as a spec names them: `table 1, Qwen-2.5-3B-Base`."""
    return list(_content()["tables"])


def setting(name: str) -> str:
    """What the table was made with, and where in the paper it is."""
    return _content()["tables"][name]["setting"]


def pass_at_k(name: str) -> Mapping[str, Mapping[str, float]]:
    """{arm: {k: Pass@k in [0, 1]}} of a table."""
    content = _content()
    arms = content["tables"][name]["arms"]
    return {
        arm: {str(k): round(percent / 100, 4) for k, percent in zip(content["k"], row, strict=True)}
        for arm, row in arms.items()
    }
