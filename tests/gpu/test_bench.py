"""The benchmark's tables of a GPU, small."""

from __future__ import annotations

import json

import pytest


def test_the_gpus_tables_alone(device, monkeypatch, tmp_path):
    pytest.importorskip("psutil", reason="the benchmark needs psutil, which is not installed")
    from benchmarks import bench_advantages
    from benchmarks.advantages import measuring

    monkeypatch.setattr(measuring, "MIN_SECONDS", 0.0)
    small = {"SIZES": ((64, 50, "small"),), "FLAT_TOKENS": (5000,), "GROUPS_ALONE": 100}
    for name, value in {**small, "OUTPUT": tmp_path / "build/bench.jsonl"}.items():
        monkeypatch.setattr(bench_advantages, name, value)
    bench_advantages.main(["--repeats", "3"])
    rows = [json.loads(line) for line in (tmp_path / "build/bench.jsonl").read_text().splitlines()]
    assert {row["table"] for row in rows} == {"segment_mean", "whole", "groups", "flatness"}
    assert {row["device"] for row in rows} == {device.kind}
    assert all(row["seconds"] > 0 for row in rows if row["method"].startswith("lens_openrlhf"))
