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
import functools
import importlib
import json
import math
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lens_openrlhf.advantages import LensConfig, group_advantages, lens_advantages, reference, segment_mean

# (responses, mean tokens, what it stands for); lengths are ragged, groups have 16 responses.
SIZES = (
    (512, 200, "tiny profile, one step"),
    (2048, 1270, "the paper's batch, short answers"),
    (12500, 4000, "50 million tokens"),
)
FLAT_TOKENS = (1_000_000, 5_000_000, 20_000_000, 50_000_000, 200_000_000)
GROUP = 16
GROUPS_ALONE = 1_000_000
ALPHA = 0.25
STD_EPS = 1e-9
OP_TOLERANCE = 1e-9
# Of fp32 arithmetic over thousands of tokens; a method that is worse than this is shown as wrong, without a time.
PEER_TOLERANCE = 2e-3
YARDSTICK = "torch.sum of the same bytes"
BUSY_CORES = 0.2  # of other processes
MIN_SECONDS = 0.2  # short calls need many to tell them from noise
MOST_SECONDS, FEWEST_CALLS = 10.0, 5  # of a row whose calls are long
OUTPUT = Path(__file__).parents[1] / "build" / "bench.jsonl"
# H100 SXM's memory bandwidth, for the prediction that a GPU's owner can check.
H100_GB_PER_S = 3350


@dataclass
class Batch:
    logprobs: Tensor  # [T] packed
    cu_seqlens: Tensor  # [N+1]
    correctness: Tensor  # [N] float64
    cu_groups: Tensor  # [Q+1]
    padded: Tensor | None  # [N, longest], 0 in the padding
    mask: Tensor | None  # [N, longest]

    # What peers may have beforehand; made when it is first asked for, which is not in a time.

    @functools.cached_property
    def all_tokens(self) -> Tensor:
        return torch.ones(len(self.logprobs), dtype=torch.bool, device=self.logprobs.device)

    @functools.cached_property
    def lengths(self) -> Tensor:
        return self.cu_seqlens.diff()

    @functools.cached_property
    def row(self) -> Tensor:
        """[T] response of each token."""
        return torch.repeat_interleave(torch.arange(len(self.lengths), device=self.lengths.device), self.lengths)

    @functools.cached_property
    def positions(self) -> Tensor:
        """[T] int64, 0 to T - 1."""
        return torch.arange(len(self.logprobs), device=self.logprobs.device)

    @functools.cached_property
    def selection(self) -> Tensor:
        """[N, T] float32 in CSR layout: 1 where the token is the response's."""
        ones = torch.ones(len(self.logprobs), device=self.logprobs.device)
        kind = torch.int32 if len(ones) < 2**31 else torch.int64
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a beta, and of checks that are left out
            return torch.sparse_csr_tensor(self.cu_seqlens.to(kind), self.positions.to(kind), ones)

    @functools.cached_property
    def weights(self) -> Tensor:
        """[N, longest] of the log-probabilities' dtype: the mask as numbers."""
        return self.mask.to(self.padded.dtype)

    @functools.cached_property
    def padding(self) -> Tensor:
        """[N, longest] true where nothing is."""
        return ~self.mask

    @functools.cached_property
    def column(self) -> Tensor:
        """[longest] ones of the log-probabilities' dtype."""
        return self.padded.new_ones(self.padded.shape[1])

    @property
    def bytes(self) -> int:
        """What any method has to read at least: the log-probabilities, once."""
        return self.logprobs.numel() * self.logprobs.element_size()


def make_batch(responses: int, mean_tokens: int, dtype: torch.dtype, device: str, padded: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(mean_tokens // 2, mean_tokens * 3 // 2 + 1, (responses,), generator=generator)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    logprobs = -2 * torch.rand(int(cu_seqlens[-1]), generator=generator)
    mask = filled = None
    if padded:
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        filled = torch.zeros(mask.shape)
        filled[mask] = logprobs
        filled, mask = filled.to(dtype).to(device), mask.to(device)
    # Half of the groups have no right answer, as early in training.
    hard = torch.rand(responses // GROUP + 1, generator=generator) < 0.5
    correct = torch.rand(responses, generator=generator) < 0.3
    correctness = (correct & ~hard.repeat_interleave(GROUP)[:responses]).double()
    cu_groups = torch.arange(0, responses + 1, GROUP)
    if cu_groups[-1] != responses:
        cu_groups = torch.cat([cu_groups, torch.tensor([responses])])
    packed, offsets, outcome, groups = (
        tensor.to(device) for tensor in (logprobs.to(dtype), cu_seqlens, correctness, cu_groups)
    )
    return Batch(packed, offsets, outcome, groups, filled, mask)


# ---- the segmented mean: [T] to [N]


def zeros(batch: Batch) -> Tensor:
    return torch.zeros(len(batch.lengths), device=batch.logprobs.device)


def by_index_add(batch: Batch) -> Tensor:
    return zeros(batch).index_add_(0, batch.row, batch.logprobs.float()) / batch.lengths


def by_scatter_reduce(batch: Batch) -> Tensor:
    return zeros(batch).scatter_reduce_(0, batch.row, batch.logprobs.float(), "mean", include_self=False)


def by_segment_reduce(batch: Batch) -> Tensor:
    return torch.segment_reduce(batch.logprobs, "mean", offsets=batch.cu_seqlens, unsafe=True)


def by_segment_reduce_float(batch: Batch) -> Tensor:
    return torch.segment_reduce(batch.logprobs.float(), "mean", offsets=batch.cu_seqlens, unsafe=True)


def by_cumsum(batch: Batch) -> Tensor:
    """Differences of prefix sums; wrong in anything less than float64."""
    sums = torch.nn.functional.pad(batch.logprobs.cumsum(0, dtype=torch.float64), (1, 0))[batch.cu_seqlens]
    return sums.diff() / batch.lengths


def by_csr(batch: Batch) -> Tensor:
    return torch.mv(batch.selection, batch.logprobs.float()) / batch.lengths


def by_embedding_bag(batch: Batch) -> Tensor:
    table = batch.logprobs.float()[:, None]
    return torch.nn.functional.embedding_bag(batch.positions, table, batch.cu_seqlens[:-1], mode="mean")[:, 0]


def by_padding(batch: Batch) -> Tensor:
    return (batch.padded.float() * batch.mask).sum(1) / batch.mask.sum(1)


def by_product(batch: Batch) -> Tensor:
    return (batch.padded * batch.weights).sum(1, dtype=torch.float32) / batch.lengths


def by_vecdot(batch: Batch) -> Tensor:
    return torch.linalg.vecdot(batch.padded, batch.weights).float() / batch.lengths


def by_einsum(batch: Batch) -> Tensor:
    return torch.einsum("na,na->n", batch.padded, batch.weights).float() / batch.lengths


def by_masked_fill(batch: Batch) -> Tensor:
    return batch.padded.masked_fill(batch.padding, 0).sum(1, dtype=torch.float32) / batch.lengths


def by_rows(batch: Batch) -> Tensor:
    return batch.padded.sum(1, dtype=torch.float32) / batch.lengths


def by_matvec(batch: Batch) -> Tensor:
    return torch.mv(batch.padded, batch.column).float() / batch.lengths


@functools.cache
def compiled(function: Callable) -> Callable:
    """A full graph of its own for every shape, so that nothing runs uncompiled in secret."""
    import torch._inductor.config

    torch._inductor.config.compile_threads = 1  # no workers beside the timed calls
    return torch.compile(function, dynamic=False, fullgraph=True)


def masked_mean(padded: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, padded.float(), 0.0).sum(1) / mask.sum(1)


def by_compiled(batch: Batch) -> Tensor:
    return compiled(masked_mean)(batch.padded, batch.mask)


def by_numpy(batch: Batch) -> Tensor:
    sums = np.add.reduceat(batch.logprobs.numpy(), batch.cu_seqlens[:-1].numpy())
    return torch.from_numpy(sums) / batch.lengths


def by_torch_scatter(batch: Batch) -> Tensor:
    from torch_scatter import segment_csr

    return segment_csr(batch.logprobs.float(), batch.cu_seqlens, reduce="mean")


def by_pyg_lib(batch: Batch) -> Tensor:
    import pyg_lib  # noqa: F401  (registers its operators)

    return torch.ops.pyg.segment_mean_csr(batch.logprobs.float(), batch.cu_seqlens)


def by_numba(batch: Batch) -> Tensor:
    return torch.from_numpy(_numba_kernel()(batch.logprobs.numpy(), batch.cu_seqlens.numpy()))


_compiled: list[Callable] = []


def _numba_kernel() -> Callable:
    if not _compiled:
        import numba

        @numba.njit(parallel=True, fastmath={"reassoc", "nsz"})  # without it the sums cannot be vectorised
        def means(values, offsets):
            found = np.empty(len(offsets) - 1)
            for i in numba.prange(len(found)):
                total = 0.0
                for j in range(offsets[i], offsets[i + 1]):
                    total += values[j]
                found[i] = total / (offsets[i + 1] - offsets[i])
            return found

        _compiled.append(means)
    return _compiled[0]


def by_operator(batch: Batch) -> Tensor:
    return segment_mean(batch.logprobs, batch.cu_seqlens).mean_logprob


def by_raw_operator(batch: Batch) -> Tensor:
    return torch.ops.lens_openrlhf.segment_mean(batch.logprobs, batch.cu_seqlens, None)[0]


def by_operator_masked(batch: Batch) -> Tensor:
    """With a mask that selects everything, as training passes one."""
    return segment_mean(batch.logprobs, batch.cu_seqlens, batch.all_tokens).mean_logprob


def by_operator_padded(batch: Batch) -> Tensor:
    return segment_mean(batch.padded, None, batch.mask).mean_logprob


@dataclass(frozen=True)
class Method:
    function: Callable[[Batch], Tensor]
    layout: str  # "packed" or "padded"
    beforehand: str = ""  # what is made from the lengths alone, or, of zeros, by the model's forward pass; not timed
    note: str = ""
    package: str = ""  # that it needs

    def __str__(self) -> str:
        made = f"beforehand: {self.beforehand}" if self.beforehand else ""
        return "; ".join(part for part in (self.layout, self.note, made) if part)


OURS, COMPILED = "lens_openrlhf", "torch.compile of a masked mean"
SEGMENT_METHODS = {
    OURS: Method(by_operator, "packed"),
    f"{OURS}, with a mask": Method(by_operator_masked, "packed", note="one more byte a token"),
    f"{OURS}, padded": Method(by_operator_padded, "padded", note="half as much again and a mask to read"),
    f"{OURS}, raw operator": Method(by_raw_operator, "packed", note="its status is not read"),
    "torch index_add": Method(by_index_add, "packed", "each token's row, lengths"),
    "torch scatter_reduce": Method(by_scatter_reduce, "packed", "each token's row"),
    "torch segment_reduce": Method(by_segment_reduce, "packed"),
    "torch segment_reduce in float32": Method(by_segment_reduce_float, "packed"),
    "torch cumsum in float64": Method(by_cumsum, "packed", "lengths"),
    "torch sparse CSR matrix x values": Method(by_csr, "packed", "the matrix, lengths"),
    "torch embedding_bag": Method(by_embedding_bag, "packed", "positions 0 to T - 1"),
    "torch float() * bool mask": Method(by_padding, "padded"),
    "torch product and sum": Method(by_product, "padded", "the mask as numbers, lengths"),
    "torch vecdot": Method(by_vecdot, "padded", "the mask as numbers, lengths"),
    "torch einsum": Method(by_einsum, "padded", "the mask as numbers, lengths"),
    "torch masked_fill and sum": Method(by_masked_fill, "padded", "the inverted mask, lengths"),
    "torch sum of rows": Method(by_rows, "padded", "zeros in the padding, lengths"),
    "torch mv with ones": Method(by_matvec, "padded", "zeros in the padding, ones, lengths"),
    COMPILED: Method(by_compiled, "padded", "the compiled code, for this shape"),
    "numpy add.reduceat": Method(by_numpy, "packed", "lengths", package="numpy"),
    "torch_scatter segment_csr": Method(by_torch_scatter, "packed", package="torch_scatter"),
    "pyg-lib segment_mean_csr": Method(by_pyg_lib, "packed", package="pyg_lib"),
    "numba": Method(by_numba, "packed", "the compiled code", package="numba"),
}


# ---- advantages: [T] or [N] to [N]


def torch_group_stage(mean: Tensor, correctness: Tensor) -> Tensor:
    """LENS's advantages in plain torch for groups of one size: [N] means to [N] advantages."""
    lp, c = mean.view(-1, GROUP), correctness.view(-1, GROUP).to(mean.dtype)
    q = (lp - lp.amax(1, keepdim=True)).exp()
    inverse = (c / q).sum(1, keepdim=True) / GROUP
    d = torch.where(inverse > 0, 1 / inverse.clamp(min=1e-30), 0).clamp(min=2)
    r = c - (1 - c) / GROUP * q / (d - q)
    centred = r - r.mean(1, keepdim=True)
    mixed = c.amax(1, keepdim=True) != c.amin(1, keepdim=True)
    return torch.where(mixed, centred / (r.std(1, keepdim=True) + STD_EPS), ALPHA * centred).flatten()


def whole_operator(batch: Batch) -> Tensor:
    return lens_advantages(batch.logprobs, batch.cu_seqlens, batch.correctness, batch.cu_groups, LensConfig()).advantage


def whole_by(means: Callable[[Batch], Tensor]) -> Callable[[Batch], Tensor]:
    """Torch's group stage after one of the methods above."""
    return lambda batch: torch_group_stage(means(batch), batch.correctness)


def masked_whole(padded: Tensor, mask: Tensor, correctness: Tensor) -> Tensor:
    return torch_group_stage(masked_mean(padded, mask), correctness)


def whole_compiled(batch: Batch) -> Tensor:
    return compiled(masked_whole)(batch.padded, batch.mask, batch.correctness)


# GRPO as other packages compute it: from rewards alone, without log-probabilities. Shown for scale. OpenRLHF's also
# spreads the advantages over tokens. TRL computes it inside a method of its trainer, so it cannot be called.
def verl_grpo() -> Callable[[Batch], Tensor]:
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    def compute(batch: Batch) -> Tensor:
        n = len(batch.correctness)
        index = np.arange(n) // GROUP
        return compute_grpo_outcome_advantage(batch.correctness[:, None].float(), torch.ones(n, 1), index)[0]

    return compute


def openrlhf_grpo() -> Callable[[Batch], Tensor]:
    from types import SimpleNamespace

    from lens_openrlhf import cpu_runtime
    from lens_openrlhf.training.commandline import options

    if cpu_runtime.required():
        cpu_runtime.install()
    from openrlhf.trainer.ppo_utils.experience import Experience
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

    args = options.parse(
        [
            *("--actor.model_name_or_path", "none", "--data.prompt_dataset", "none", "--reward.remote_url", "none"),
            *(
                "--vllm.num_engines",
                "1",
                "--actor.num_gpus_per_node",
                "1",
                "--rollout.n_samples_per_prompt",
                str(GROUP),
            ),
            *("--algo.advantage.estimator", "group_norm", "--algo.kl.init_coef", "0"),
            *("--rollout.micro_batch_size", "1"),
        ]
    )
    args.algo.advantage.gamma = 1.0
    strategy = SimpleNamespace(args=args)
    maker = RemoteExperienceMaker(None, None, None, None, SimpleNamespace(value=0.0), strategy, None)

    def compute(batch: Batch) -> list[Experience]:
        n, width = batch.mask.shape
        experience = Experience(
            index=list(range(n)),
            rewards=batch.correctness.float(),
            action_mask=batch.mask,
            action_log_probs=batch.padded,
            kl=torch.zeros(1).expand(n, width),
            info={},
        )
        return maker.compute_advantages_and_returns([experience])

    return compute


GRPO_PEERS = {
    "OpenRLHF compute_advantages_and_returns": openrlhf_grpo,
    "verl compute_grpo_outcome_advantage": verl_grpo,
}


# ---- measuring


def median_seconds(function: Callable[[], object], repeats: int, device: str) -> float:
    """Median of `repeats` calls after three that are not counted: more where they are short, fewer where long."""
    once = functools.partial(gpu_seconds if device == "cuda" else host_seconds, function)
    warm = min(once() for _ in range(3))
    calls = min(max(repeats, round(MIN_SECONDS / warm)), max(FEWEST_CALLS, round(MOST_SECONDS / warm)))
    return statistics.median(once() for _ in range(calls))


def host_seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def gpu_seconds(function: Callable[[], object]) -> float:
    """From one event to the next, with nothing of the function's data in the L2 cache.

    The host enqueues while the device still writes over the cache, so that what it needs for that is not in the time
    unless it is longer, or the function waits for the device.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    _more_than_the_cache().zero_()
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


@functools.cache
def _more_than_the_cache() -> Tensor:
    size = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    return torch.empty(max(4 * size, 2**28), dtype=torch.uint8, device="cuda")


def worst_error(found: Tensor, truth: Tensor) -> float:
    """Largest relative error; NaN where any value is."""
    return ((found.double() - truth).abs() / truth.abs().clamp(min=1e-3)).max().item()


def read_seconds(batch: Batch, repeats: int, device: str) -> float:
    """torch.sum over the same bytes, taken as float32."""
    words = batch.logprobs[: batch.logprobs.numel() // 2 * 2].view(torch.float32)
    return median_seconds(words.sum, repeats, device)


def machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as cpuinfo:
            model = next(line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux: the platform's own name stands
    return f"{model}, {torch.get_num_threads()} threads"


class Others:
    """What other processes do to the times: the cores that they have used since this was made."""

    def __init__(self) -> None:
        self.start, self.before = time.perf_counter(), self._seconds()

    @staticmethod
    def _seconds() -> float:
        """CPU seconds of all processes but this one and those that it started and that have ended."""
        try:
            import psutil
        except ImportError:
            return math.nan
        everything = psutil.cpu_times()
        idle = everything.idle + getattr(everything, "iowait", 0.0)
        guests = getattr(everything, "guest", 0.0) + getattr(everything, "guest_nice", 0.0)  # counted as user, too
        return sum(everything) - idle - guests - sum(os.times()[:4])

    def warning(self) -> str:
        """Empty where they left the cores alone."""
        cores = (self._seconds() - self.before) / (time.perf_counter() - self.start)
        if math.isnan(cores):
            return "psutil is not installed: whether other processes use the cores is not known"
        if cores > BUSY_CORES:
            return f"warning: other processes use {cores:.1f} cores; the times are not to be trusted"
        return ""


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
