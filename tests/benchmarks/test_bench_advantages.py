"""The benchmark of the operator: its peers are right, none that fails ends it, and it times one device alone."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import bench_advantages
from benchmarks.advantages import means, measuring
from benchmarks.advantages.batches import make_batch
from benchmarks.advantages.means import OURS, SEGMENT_METHODS, Method
from benchmarks.bench_advantages import PEER_TOLERANCE, Bench
from lens_openrlhf.advantages import reference

TORCH = [name for name in SEGMENT_METHODS if bench_advantages._is_torch(name)]
# Their results are rounded to bfloat16, which makes them wrong there.
ROUNDED = ("torch vecdot", "torch einsum", "torch mv with ones")


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Tables of a second; the file that they are written to."""
    file = tmp_path / "build" / "bench.jsonl"
    values = {
        "SIZES": ((64, 30, "small"),),
        "FLAT_TOKENS": (5000, 20_000),
        "GROUPS_ALONE": 50,
        "OUTPUT": file,
    }
    for name, value in values.items():
        monkeypatch.setattr(bench_advantages, name, value)
    monkeypatch.setattr(measuring, "MIN_SECONDS", 0.0)
    return file


def rows_of(table: str, bench: Bench) -> dict[str, dict]:
    """By method, of the first batch alone."""
    found: dict[str, dict] = {}
    for row in bench.rows:
        if row["table"] == table:
            found.setdefault(row["method"], row)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_torch_computes_is_the_reference(dtype):
    batch = make_batch(96, 50, dtype, "cpu")
    truth = reference.segment_mean(batch.logprobs, batch.cu_seqlens).mean_logprob
    errors = {name: measuring.worst_error(SEGMENT_METHODS[name].function(batch), truth) for name in TORCH}
    if dtype == torch.bfloat16:
        # Sums in bfloat16, and results that are rounded to it; the benchmark shows where that is wrong.
        assert errors.pop("torch segment_reduce") > PEER_TOLERANCE
        assert all(errors.pop(name) < 2**-7 for name in ROUNDED)
    assert {name: error for name, error in errors.items() if not error < 1e-5} == {}


def test_every_kind_of_preparation_is_named_and_made_from_the_lengths():
    assert {m.layout for m in SEGMENT_METHODS.values()} == {"packed", "padded"}
    first, second = (make_batch(32, 20, torch.float32, "cpu") for _ in range(2))
    second.logprobs.neg_()
    second.padded.neg_()
    for name in ("row", "lengths", "positions", "weights", "padding", "column", "all_tokens"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert torch.equal(first.selection.to_dense(), second.selection.to_dense())
    assert not first.padded[~first.mask].any()  # the zeros that some peers count on


def test_a_peer_that_fails_is_a_row_and_not_the_end(small, monkeypatch, capsys):
    def fails(batch):
        raise RuntimeError("no kernel image\nis available")

    def later(batch, calls=[]):  # noqa: B006
        calls.append(0)
        if len(calls) > 1:
            raise MemoryError
        return means.by_index_add(batch)

    def wrong(batch):
        return means.by_index_add(batch) + 1

    peers = {"torch fails": fails, "torch later": later, "torch wrong": wrong, "torch right": means.by_rows}
    methods = {name: Method(function, "packed") for name, function in peers.items()}
    monkeypatch.setattr(bench_advantages, "SEGMENT_METHODS", {**methods, OURS: SEGMENT_METHODS[OURS]})
    bench = Bench(2, "cpu")
    bench.segment_means()
    rows = rows_of("segment_mean", bench)
    assert rows["torch fails"]["note"] == "failed: RuntimeError: no kernel image"
    assert rows["torch later"]["note"] == "failed: MemoryError: no message"
    assert rows["torch wrong"]["note"].startswith("wrong: relative error") and rows["torch wrong"]["seconds"] is None
    assert all(rows[name]["failed"] for name in ("torch fails", "torch later"))
    assert rows["torch right"]["seconds"] > 0 and rows[OURS]["seconds"] > 0
    assert "failed: RuntimeError: no kernel image" in capsys.readouterr().out


def test_advantages_without_a_single_peer_that_works(small, monkeypatch):
    def fails(*_):
        raise RuntimeError("no")

    methods = {name: Method(fails, "packed") if name != OURS else m for name, m in SEGMENT_METHODS.items()}
    monkeypatch.setattr(
        bench_advantages, "SEGMENT_METHODS", methods | {k: m for k, m in SEGMENT_METHODS.items() if OURS in k}
    )
    monkeypatch.setattr(bench_advantages, "whole_compiled", fails)
    monkeypatch.setattr(bench_advantages, "GRPO_PEERS", {"someone's": fails, "nobody's": lambda: __import__("nobody")})
    bench = Bench(2, "cpu")
    bench.segment_means()
    bench.whole()
    rows = rows_of("whole", bench)
    assert rows[OURS]["seconds"] > 0
    assert {name: row["note"] for name, row in rows.items() if name != OURS} == {
        "torch, packed": "none of its means could be computed",
        "torch, padded": "none of its means could be computed",
        "torch.compile of it all": "failed: RuntimeError: no",
        "someone's": "failed: RuntimeError: no",
        "nobody's": "GRPO from rewards alone, for scale; not importable (nobody)",
    }


def test_a_wrong_operator_ends_it(small, monkeypatch):
    monkeypatch.setitem(SEGMENT_METHODS, OURS, Method(lambda batch: means.by_operator(batch) * 1.001, "packed"))
    with pytest.raises(SystemExit, match="lens_openrlhf is wrong at .*relative error 1.00e-03"):
        Bench(2, "cpu").segment_means()


def test_the_whole_of_it_on_one_device(small, capsys):
    bench_advantages.main(["--repeats", "2", "--device", "cpu"])
    rows = [json.loads(line) for line in small.read_text().splitlines()]
    assert {row["table"] for row in rows} == {"segment_mean", "whole", "groups", "flatness"}
    assert {row["device"] for row in rows} == {"cpu"}
    assert [row["method"] for row in rows if row.get("failed")] == []
    assert all(row["seconds"] > 0 for row in rows if row["method"].startswith(OURS))
    # The best of torch goes all the way to the advantages, too.
    means = [r for r in rows if r["table"] == "segment_mean" and (r["responses"], r["dtype"]) == (64, "float32")]
    best = min((r for r in means if r["method"] in TORCH and r["layout"] == "padded" and r["seconds"]), key=seconds)
    whole = [r for r in rows if r["table"] == "whole" and (r["responses"], r["dtype"]) == (64, "float32")]
    assert any(r["method"] == best["method"] and r["seconds"] for r in whole)
    assert any(r["method"] == "torch.compile of it all" and r["seconds"] for r in whole)
    text = capsys.readouterr().out
    assert f"({best['method']})" in text and "beforehand: zeros in the padding, lengths" in text


def seconds(row: dict) -> float:
    return row["seconds"]


def test_the_device_is_the_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [bench_advantages.chosen_device(wanted) for wanted in (None, "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_advantages.chosen_device(None) == bench_advantages.chosen_device("cpu") == "cpu"
    with pytest.raises(SystemExit, match="--device cuda: torch .* sees no GPU here; leave it out"):
        bench_advantages.main(["--device", "cuda"])


def test_calls_are_counted_by_what_they_take(monkeypatch):
    def calls(of_one: float, repeats: int) -> int:
        done = []
        monkeypatch.setattr(measuring, "host_seconds", lambda function: done.append(0) or of_one)
        assert measuring.median_seconds(lambda: None, repeats, "cpu") == of_one
        return len(done) - 3

    assert calls(1e-5, 20) == 20_000  # short: as many as fit into 0.2 s
    assert calls(0.1, 20) == 20
    assert calls(1.0, 20) == 10  # long: as many as fit into 10 s
    assert calls(60.0, 20) == 5


def test_other_processes_are_noticed(monkeypatch):
    others = measuring.Others()
    others.start, others.before = others.start - 10, others.before - 20
    assert others.warning() == "warning: other processes use 2.0 cores; the times are not to be trusted"
    others.before = others._seconds()
    assert others.warning() == ""
    monkeypatch.setitem(__import__("sys").modules, "psutil", None)
    assert "psutil is not installed" in measuring.Others().warning()
