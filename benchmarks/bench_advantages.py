"""The compiled operator against what else computes the same: on the GPU where there is one, and otherwise on the CPU.

Every result is compared with the float64 reference before it is timed: a wrong operator ends the benchmark, a wrong
peer is shown as wrong, and one that fails with its error. (GRPO from rewards alone is shown for scale and compared with
nothing.) Of every peer it says what was made beforehand and is not in its time; that may be anything that follows from
the answers' lengths, which are known before the log-probabilities are, and zeros in the padding, which the model's
forward pass may leave there.

All times are medians of one run, with a yardstick beside them: torch.sum over the same bytes, which reads them once
with every thread. On a GPU they are the device's own, from one event to the next, each call with a cold L2 cache. The
operator's then end when the host has read its status. Prints tables and writes one JSON object a row to
build/bench.jsonl.

    make bench [ARGS="--repeats 50 --device cpu"]
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.advantages.batches import GROUP, Batch, make_batch
from benchmarks.advantages.means import COMPILED, OURS, SEGMENT_METHODS, by_operator, compiled
from benchmarks.advantages.measuring import Others, machine, median_seconds, read_seconds, worst_error
from benchmarks.advantages.whole import (
    GRPO_PEERS,
    torch_group_stage,
    whole_by,
    whole_compiled,
    whole_operator,
)
from lens_openrlhf.advantages import LensConfig, group_advantages, reference

# (responses, mean tokens, what it stands for); lengths are ragged, groups have 16 responses.
SIZES = (
    (512, 200, "tiny profile, one step"),
    (2048, 1270, "the paper's batch, short answers"),
    (12500, 4000, "50 million tokens"),
)
FLAT_TOKENS = (1_000_000, 5_000_000, 20_000_000, 50_000_000, 200_000_000)
GROUPS_ALONE = 1_000_000
OP_TOLERANCE = 1e-9
# Of fp32 arithmetic over thousands of tokens; a method that is worse than this is shown as wrong, without a time.
PEER_TOLERANCE = 2e-3
YARDSTICK = "torch.sum of the same bytes"
OUTPUT = Path(__file__).parents[1] / "build" / "bench.jsonl"
# H100 SXM's memory bandwidth, for the prediction that a GPU's owner can check.
H100_GB_PER_S = 3350


class Bench:
    def __init__(self, repeats: int, device: str):
        self.repeats = repeats
        self.device = device
        self.rows: list[dict] = []

    def row(self, table: str, method: str, seconds: float | None, note: str = "", **facts) -> None:
        facts["device"] = self.device
        self.rows.append({"table": table, "method": method, "seconds": seconds, "note": note, **facts})
        speed = f"{facts['bytes'] / seconds / 1e9:8.1f} GB/s" if seconds and "bytes" in facts else " " * 13
        shown = f"{seconds * 1e6:12.1f} µs" if seconds else " " * 15
        print(f"  {method:<42}{shown}{speed}  {note}", flush=True)

    def seconds(self, function: Callable[[], object]) -> float:
        return median_seconds(function, self.repeats, self.device)

    def peer(
        self, table: str, name: str, method: Callable[[Batch], Tensor], batch: Batch, truth: Tensor, note: str, **facts
    ) -> None:
        """A row of what another one computes; it may be wrong, or fail in whatever way."""
        try:
            error = worst_error(method(batch), truth)
            seconds = self.seconds(lambda: method(batch)) if error <= PEER_TOLERANCE else None
        except Exception as failure:
            self.row(table, name, None, _failed(failure), failed=True, **facts)
            return
        note = note if seconds is not None else f"wrong: relative error {error:.1e}"
        self.row(table, name, seconds, note, **facts)

    def ours(self, name: str, method: Callable[[Batch], Tensor], batch: Batch, truth: Tensor, facts: dict) -> float:
        """Seconds of the operator, which must be right.

        Raises:
            SystemExit: it is not.
        """
        error = worst_error(method(batch), truth)
        if not error <= OP_TOLERANCE:
            raise SystemExit(f"{name} is wrong at {facts}: relative error {error:.2e}")
        return self.seconds(lambda: method(batch))

    def segment_means(self) -> None:
        """Packed or padded log-probabilities to one mean a response, by every method that is installed."""
        for batch, facts, truth, title in self.batches("segment_mean", SIZES):
            print(f"\nmean of each response: {title}")
            limit = read_seconds(batch, self.repeats, self.device)
            self.row("segment_mean", YARDSTICK, limit, **facts)
            for name, method in SEGMENT_METHODS.items():
                more = {"layout": method.layout, "beforehand": method.beforehand}
                if name.startswith(OURS):
                    seconds = self.ours(name, method.function, batch, truth, facts)
                    note = f"{method}; {limit / seconds:.2f} of torch.sum's speed"
                    self.row("segment_mean", name, seconds, note, **more, **facts)
                elif method.package in ("numpy", "numba") and self.device == "cuda":
                    continue  # they have no GPU
                elif method.package in ("numpy", "numba") and batch.logprobs.dtype == torch.bfloat16:
                    self.row("segment_mean", name, None, "NumPy has no bfloat16", **more, **facts)
                elif method.package and not _importable(method.package):
                    self.row("segment_mean", name, None, f"{method.package} is not installed", **more, **facts)
                else:
                    self.peer("segment_mean", name, method.function, batch, truth, str(method), **more, **facts)

    def batches(self, table: str, sizes: Iterable[tuple[int, int, str]]):
        """(batch, facts of its rows, truth, title) for every size and dtype."""
        for responses, mean_tokens, purpose in sizes:
            for dtype in (torch.float32, torch.bfloat16):
                batch = make_batch(responses, mean_tokens, dtype, self.device)
                facts = {
                    "responses": responses,
                    "mean_tokens": mean_tokens,
                    "tokens": batch.logprobs.numel(),
                    "dtype": str(dtype)[6:],
                    "bytes": batch.bytes,
                }
                if table == "whole":
                    tensors = (batch.logprobs, batch.cu_seqlens, batch.correctness, batch.cu_groups)
                    truth = reference.lens_advantages(*(tensor.cpu() for tensor in tensors)).advantage
                else:
                    truth = reference.segment_mean(batch.logprobs.cpu(), batch.cu_seqlens.cpu()).mean_logprob
                title = f"{responses} x {mean_tokens} {facts['dtype']} ({purpose}), {self.device}"
                yield batch, facts, truth.to(self.device), title

    def fastest(self, layout: str, facts: dict) -> str | None:
        """The fastest of torch's methods for this layout and batch, as measured by `segment_means`; if any ran."""
        same = ("responses", "mean_tokens", "dtype")
        rows = [
            row
            for row in self.rows
            if row["table"] == "segment_mean"
            and _is_torch(row["method"])
            and row.get("layout") == layout
            and row["seconds"]
            and all(row[name] == facts[name] for name in same)
        ]
        return min(rows, key=lambda row: row["seconds"], default={"method": None})["method"]

    def whole(self) -> None:
        """Log-probabilities to advantages: both stages, the checks and Python. Torch with its best means."""
        for batch, facts, truth, title in self.batches("whole", SIZES[:2]):
            print(f"\nlog-probs to advantages: {title}")
            self.row("whole", OURS, self.ours(OURS, whole_operator, batch, truth, facts), **facts)
            for layout in ("packed", "padded"):
                name = self.fastest(layout, facts)
                if name is None:
                    self.row("whole", f"torch, {layout}", None, "none of its means could be computed", **facts)
                    continue
                method = SEGMENT_METHODS[name]
                more = {"layout": layout, "beforehand": method.beforehand, **facts}
                self.peer("whole", name, whole_by(method.function), batch, truth, str(method), **more)
            method = SEGMENT_METHODS[COMPILED]
            more = {"layout": method.layout, "beforehand": method.beforehand, **facts}
            self.peer("whole", "torch.compile of it all", whole_compiled, batch, truth, str(method), **more)
            if self.device == "cpu":
                for name, make in GRPO_PEERS.items():
                    self.grpo_peer(name, make, batch, facts)

    def grpo_peer(self, name: str, make: Callable[[], Callable], batch: Batch, facts: dict) -> None:
        note = "GRPO from rewards alone, for scale"
        try:
            method = make()
            seconds = self.seconds(lambda: method(batch))
        except ImportError as missing:
            self.row("whole", name, None, f"{note}; not importable ({missing.name})", **facts)
        except Exception as failure:
            self.row("whole", name, None, _failed(failure), failed=True, **facts)
        else:
            self.row("whole", name, seconds, note, **facts)

    def groups(self) -> None:
        """The group stage alone."""
        n, device = GROUPS_ALONE * GROUP, self.device
        mean = -2 * torch.rand(n, dtype=torch.float64, device=device)
        lengths = torch.full((n,), 100, device=device)
        correctness = (torch.rand(n, device=device) < 0.2).double()
        cu_groups = torch.arange(0, n + 1, GROUP, device=device)
        print(f"\ngroup stage alone: {GROUPS_ALONE:,} groups of {GROUP}, {device}")
        # Read: mean, length, correctness. Written: advantage, calibrated reward, confidence.
        facts = {"groups": GROUPS_ALONE, "bytes": n * 8 * 6}
        repeats = max(3, self.repeats // 4)
        outputs = lambda: [torch.empty_like(mean).fill_(0.0) for _ in range(3)]  # noqa: E731
        limit = median_seconds(lambda: (outputs(), mean.sum(), correctness.sum(), lengths.sum()), repeats, device)
        self.row("groups", "torch: reading and writing as much once", limit, **facts)
        call = lambda: group_advantages(mean, lengths, correctness, cu_groups, LensConfig())  # noqa: E731
        seconds = median_seconds(call, repeats, device)
        self.row("groups", OURS, seconds, f"{limit / seconds:.2f} of that speed", **facts)
        truth = call().advantage
        for name, stage in {
            "torch, groups of one size": torch_group_stage,
            "torch.compile of that": compiled(torch_group_stage),
        }.items():
            # What it gives is compared with the operator's, whose own truth stands in the tables above.
            self.peer("groups", name, lambda _, f=stage: f(mean, correctness), None, truth, "", **facts)

    def flatness(self) -> None:
        """Cost per token from small to large."""
        print(f"\ncost per token, float32, responses of 1,000 tokens, {self.device}")
        for tokens in FLAT_TOKENS:
            batch = make_batch(max(1, tokens // 1000), 1000, torch.float32, self.device, padded=False)
            repeats = self.repeats if tokens < 10**8 else max(3, self.repeats // 4)
            seconds = median_seconds(lambda b=batch: by_operator(b), repeats, self.device)
            limit = read_seconds(batch, repeats, self.device)
            count = batch.logprobs.numel()
            note = f"{seconds / count * 1e9:.3f} ns a token; {limit / seconds:.2f} of torch.sum's speed"
            facts = {"tokens": count, "bytes": batch.bytes, "read_seconds": limit}
            self.row("flatness", f"{count:,} tokens", seconds, note, **facts)
            if self.device == "cuda":
                print(f"      an H100 cannot take less than {batch.bytes / H100_GB_PER_S / 1e3:.0f} µs")

    def in_short(self) -> None:
        """The segmented mean's table with the best of each kind, as README has it."""
        columns = {
            "compiled op": lambda row: row["method"] == OURS,
            "best torch, packed": lambda row: _is_torch(row["method"]) and row["layout"] == "packed",
            "best torch, padded": lambda row: _is_torch(row["method"]) and row["layout"] == "padded",
            "NumPy reduceat": lambda row: row["method"].startswith("numpy"),
            YARDSTICK: lambda row: row["method"] == YARDSTICK,
        }
        print("\n| log-probabilities to one mean a response | " + " | ".join(columns) + " |")
        print("|---" * (len(columns) + 1) + "|")
        table = [row for row in self.rows if row["table"] == "segment_mean" and row["seconds"]]
        for size in dict.fromkeys((row["responses"], row["mean_tokens"], row["dtype"]) for row in table):
            rows = [row for row in table if (row["responses"], row["mean_tokens"], row["dtype"]) == size]
            cells = []
            for belongs in columns.values():
                best = min(filter(belongs, rows), key=lambda row: row["seconds"], default=None)
                cells.append("" if best is None else f"{_short(best['seconds'])} ({best['method']})")
            print(f"| {size[0]} x {size[1]}, {size[2]} | " + " | ".join(cells) + " |")


def _failed(failure: Exception) -> str:
    return f"failed: {type(failure).__name__}: {(str(failure).strip() or 'no message').splitlines()[0][:160]}"


def _is_torch(method: str) -> bool:
    return method.split()[0] in ("torch", "torch.compile")


def _short(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} µs" if seconds < 1e-4 else f"{seconds * 1e3:.2g} ms"


def _importable(package: str) -> bool:
    try:
        importlib.import_module(package)
    except (ImportError, OSError):
        return False
    return True


def chosen_device(wanted: str | None) -> str:
    """The GPU where there is one and nothing else is wanted.

    Raises:
        SystemExit: a GPU is wanted and torch has none.
    """
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise SystemExit(
            f"--device cuda: torch {torch.__version__} sees no GPU here; leave it out for the CPU's tables"
        )
    return wanted or ("cuda" if there else "cpu")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repeats",
        type=int,
        default=20,
        help="timed calls a row, of which the median is shown; more of short ones, fewer of long ones (default: 20)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the GPU where there is one")
    settings = parser.parse_args(words)
    bench = Bench(settings.repeats, chosen_device(settings.device))
    name = machine(bench.device)
    print(f"torch {torch.__version__}; {name}; medians")
    others = Others()
    time.sleep(1)
    if warning := others.warning():
        print(warning)
    others = Others()
    bench.segment_means()
    bench.whole()
    bench.groups()
    bench.flatness()
    bench.in_short()
    if warning := others.warning():
        print(f"\nover the whole run: {warning}")
    OUTPUT.parent.mkdir(exist_ok=True)
    with open(OUTPUT, "w") as file:
        for row in bench.rows:
            file.write(json.dumps(row | {"machine": name, "torch": torch.__version__}) + "\n")
    print(f"\nevery row as JSON: {OUTPUT}")


if __name__ == "__main__":
    main()
