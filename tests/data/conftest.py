"""The sources as files, and a cache for labels that all tests of this folder share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from . import rows


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """Copies of all sources: `math`, its `snapshot` and `numina` are folders, `dapo` and `math500` files."""
    folder = tmp_path_factory.mktemp("sources")
    half = len(rows.NUMINA) // 2
    rows.write_parquet(folder / "numina/train-00000-of-00002.parquet", rows.NUMINA[:half])
    rows.write_parquet(folder / "numina/train-00001-of-00002.parquet", rows.NUMINA[half:])
    math500 = [{**row, "answer": "", "subject": row["type"], "level": 3, "unique_id": ""} for row in rows.MATH_TEST[:3]]
    for row in math500:
        del row["type"]
    return SimpleNamespace(
        math=rows.math_files(folder / "math"),
        snapshot=rows.math_snapshot(folder / "snapshot"),
        dapo=rows.write_parquet(folder / "dapo-math-17k.parquet", rows.DAPO * 3),
        numina=folder / "numina",
        math500=rows.write_jsonl(folder / "math500.jsonl", math500),
    )


@pytest.fixture(scope="session")
def caches(tmp_path_factory):
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(autouse=True)
def own_caches(monkeypatch, caches):
    """Nothing of the user's caches is read or written."""
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setenv("XDG_CACHE_HOME", str(caches))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(caches / "datasets"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(caches / "hub"))
