"""The compiled operator against what else computes the same, on CPU and, where there is one, on a GPU.

Every result is compared with the float64 reference before it is timed: a wrong operator ends the benchmark, a wrong
peer is shown as wrong. All times are medians of one run, with a yardstick beside them: torch.sum over the same bytes,
which reads them once with every thread. Prints tables and writes one JSON object a row to build/bench.jsonl.

    make bench [ARGS="--repeats 50"]
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
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
BUSY_CORES = 0.2  # of other processes, before the first call
MIN_SECONDS = 0.2  # short calls need many to tell them from noise
OUTPUT = Path(__file__).parents[1] / "build" / "bench.jsonl"
# H100 SXM's memory bandwidth, for the prediction that a GPU's owner can check.
H100_GB_PER_S = 3350


@dataclass
class Batch:
    logprobs: Tensor  # [T] packed
    cu_seqlens: Tensor  # [N+1]
    row: Tensor | None  # [T] response of each token, which index_add and scatter need
    correctness: Tensor  # [N] float64
    cu_groups: Tensor  # [Q+1]
    padded: Tensor | None  # [N, longest]
    mask: Tensor | None  # [N, longest]

    @functools.cached_property
    def all_tokens(self) -> Tensor:
        return torch.ones(len(self.logprobs), dtype=torch.bool, device=self.logprobs.device)

    @property
    def bytes(self) -> int:
        """What any method has to read at least: the log-probabilities, once."""
        return self.logprobs.numel() * self.logprobs.element_size()


def make_batch(responses: int, mean_tokens: int, dtype: torch.dtype, device: str, padded: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(mean_tokens // 2, mean_tokens * 3 // 2 + 1, (responses,), generator=generator)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    logprobs = -2 * torch.rand(int(cu_seqlens[-1]), generator=generator)
    row = mask = filled = None
    if padded:
        row = torch.repeat_interleave(torch.arange(responses), lengths).to(device)
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
    return Batch(packed, offsets, row, outcome, groups, filled, mask)


# ---- the segmented mean: [T] to [N]


def by_index_add(batch: Batch) -> Tensor:
    n = len(batch.cu_seqlens) - 1
    sums = torch.zeros(n, dtype=torch.float32, device=batch.row.device)
    return sums.index_add_(0, batch.row, batch.logprobs.float()) / batch.cu_seqlens.diff()


def by_scatter_reduce(batch: Batch) -> Tensor:
    n = len(batch.cu_seqlens) - 1
    means = torch.zeros(n, dtype=torch.float32, device=batch.row.device)
    return means.scatter_reduce_(0, batch.row, batch.logprobs.float(), "mean", include_self=False)


def by_segment_reduce(batch: Batch) -> Tensor:
    return torch.segment_reduce(batch.logprobs, "mean", offsets=batch.cu_seqlens, unsafe=True)


def by_padding(batch: Batch) -> Tensor:
    return (batch.padded.float() * batch.mask).sum(1) / batch.mask.sum(1)


def by_numpy(batch: Batch) -> Tensor:
    sums = np.add.reduceat(batch.logprobs.numpy(), batch.cu_seqlens[:-1].numpy())
    return torch.from_numpy(sums) / batch.cu_seqlens.diff()


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


def by_operator_masked(batch: Batch) -> Tensor:
    """With a mask that selects everything, as training passes one."""
    return segment_mean(batch.logprobs, batch.cu_seqlens, batch.all_tokens).mean_logprob


def by_operator_padded(batch: Batch) -> Tensor:
    return segment_mean(batch.padded, None, batch.mask).mean_logprob


# name: (function, package it needs, layout)
SEGMENT_METHODS = {
    "lens_openrlhf": (by_operator, None, "packed"),
    "lens_openrlhf, with a mask": (by_operator_masked, None, "packed; one more byte a token"),
    "lens_openrlhf, padded": (by_operator_padded, None, "padded, half as much again and a mask to read"),
    "torch index_add": (by_index_add, None, "packed"),
    "torch scatter_reduce": (by_scatter_reduce, None, "packed"),
    "torch segment_reduce": (by_segment_reduce, None, "packed"),
    "torch masked mean": (by_padding, None, "padded"),
    "numpy add.reduceat": (by_numpy, "numpy", "packed"),
    "torch_scatter segment_csr": (by_torch_scatter, "torch_scatter", "packed"),
    "pyg-lib segment_mean_csr": (by_pyg_lib, "pyg_lib", "packed"),
    "numba": (by_numba, "numba", "packed"),
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


def whole_packed(batch: Batch) -> Tensor:
    return torch_group_stage(by_index_add(batch), batch.correctness)


def whole_padded(batch: Batch) -> Tensor:
    return torch_group_stage(by_padding(batch), batch.correctness)


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

    from lens_openrlhf.training import cpu, options

    if cpu.required():
        cpu.install()
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
    """Median of at least `repeats` calls, and of as many as fit MIN_SECONDS, after three that are not counted."""

    def once() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    warm = min(once() for _ in range(3))
    return statistics.median(once() for _ in range(max(repeats, round(MIN_SECONDS / warm))))


def worst_error(found: Tensor, truth: Tensor) -> float:
    """Largest relative error; NaN where any value is."""
    return ((found.double() - truth).abs() / truth.abs().clamp(min=1e-3)).max().item()


def read_seconds(batch: Batch, repeats: int, device: str) -> float:
    """torch.sum over the same bytes, taken as float32."""
    words = batch.logprobs[: batch.logprobs.numel() // 2 * 2].view(torch.float32)
    return median_seconds(words.sum, repeats, device)


def machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as cpuinfo:
            model = next(line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux: the platform's own name stands
    return f"{model}, {torch.get_num_threads()} threads"


class Bench:
    def __init__(self, repeats: int):
        self.repeats = repeats
        self.rows: list[dict] = []

    def row(self, table: str, method: str, seconds: float | None, note: str = "", **facts) -> None:
        self.rows.append({"table": table, "method": method, "seconds": seconds, "note": note, **facts})
        speed = f"{facts['bytes'] / seconds / 1e9:8.1f} GB/s" if seconds and "bytes" in facts else " " * 13
        shown = f"{seconds * 1e6:12.0f} µs" if seconds else " " * 15
        print(f"  {method:<42}{shown}{speed}  {note}", flush=True)

    def segment_means(self, device: str) -> None:
        """Packed or padded log-probabilities to one mean a response, by every method that is installed."""
        for responses, mean_tokens, purpose in SIZES:
            for dtype in (torch.float32, torch.bfloat16):
                batch = make_batch(responses, mean_tokens, dtype, device)
                facts = {
                    "device": device,
                    "responses": responses,
                    "tokens": batch.logprobs.numel(),
                    "dtype": str(dtype)[6:],
                    "bytes": batch.bytes,
                }
                print(f"\nmean of each response: {responses} x {mean_tokens} {facts['dtype']} ({purpose}), {device}")
                truth = reference.segment_mean(batch.logprobs, batch.cu_seqlens).mean_logprob.to(device)
                limit = read_seconds(batch, self.repeats, device)
                self.row("segment_mean", YARDSTICK, limit, **facts)
                for name, (method, package, layout) in SEGMENT_METHODS.items():
                    if package and not _importable(package):
                        self.row("segment_mean", name, None, f"{package} is not installed", **facts)
                        continue
                    if name.startswith(("numpy", "numba")) and (device == "cuda" or dtype == torch.bfloat16):
                        self.row("segment_mean", name, None, "NumPy has no bfloat16 and no GPU", **facts)
                        continue
                    error = worst_error(method(batch), truth)
                    ours = name.startswith("lens_openrlhf")
                    if ours and not error <= OP_TOLERANCE:
                        raise SystemExit(f"the operator is wrong at {facts}: relative error {error:.2e}")
                    if not error <= PEER_TOLERANCE:
                        self.row("segment_mean", name, None, f"wrong: relative error {error:.1e}", **facts)
                        continue
                    seconds = median_seconds(lambda m=method, b=batch: m(b), self.repeats, device)
                    share = f"{layout}; {limit / seconds:.2f} of torch.sum's speed" if ours else layout
                    self.row("segment_mean", name, seconds, share, **facts)

    def whole(self, device: str) -> None:
        """Log-probabilities to advantages: both stages, the checks and Python."""
        for responses, mean_tokens, purpose in SIZES[:2]:
            for dtype in (torch.float32, torch.bfloat16):
                batch = make_batch(responses, mean_tokens, dtype, device)
                facts = {"device": device, "responses": responses, "dtype": str(dtype)[6:], "bytes": batch.bytes}
                print(f"\nlog-probs to advantages: {responses} x {mean_tokens} {facts['dtype']} ({purpose}), {device}")
                tensors = (batch.logprobs, batch.cu_seqlens, batch.correctness, batch.cu_groups)
                truth = reference.lens_advantages(*(tensor.cpu() for tensor in tensors)).advantage.to(device)
                methods = {"lens_openrlhf": whole_operator, "torch packed": whole_packed, "torch padded": whole_padded}
                seconds = {}
                for name, method in methods.items():
                    error = worst_error(method(batch), truth)
                    if not error <= (OP_TOLERANCE if name == "lens_openrlhf" else PEER_TOLERANCE):
                        raise SystemExit(f"{name} is wrong at {facts}: relative error {error:.2e}")
                    seconds[name] = median_seconds(lambda m=method, b=batch: m(b), self.repeats, device)
                best = min(seconds["torch packed"], seconds["torch padded"])
                for name, value in seconds.items():
                    self.row("whole", name, value, f"{best / value:.1f}x the better torch", **facts)
                for name, make in GRPO_PEERS.items():
                    if device == "cuda":
                        continue
                    try:
                        method = make()
                        value = median_seconds(lambda m=method, b=batch: m(b), self.repeats, device)
                    except ImportError as missing:
                        self.row("whole", name, None, f"GRPO from rewards; not importable ({missing.name})", **facts)
                        continue
                    self.row("whole", name, value, "GRPO from rewards alone, for scale", **facts)

    def groups(self, device: str) -> None:
        """The group stage alone."""
        n = GROUPS_ALONE * GROUP
        mean = -2 * torch.rand(n, dtype=torch.float64, device=device)
        lengths = torch.full((n,), 100, device=device)
        correctness = (torch.rand(n, device=device) < 0.2).double()
        cu_groups = torch.arange(0, n + 1, GROUP, device=device)
        print(f"\ngroup stage alone: {GROUPS_ALONE:,} groups of {GROUP}, {device}")
        # Read: mean, length, correctness. Written: advantage, calibrated reward, confidence.
        facts = {"device": device, "groups": GROUPS_ALONE, "bytes": n * 8 * 6}
        repeats = max(3, self.repeats // 4)
        outputs = lambda: [torch.empty_like(mean).fill_(0.0) for _ in range(3)]  # noqa: E731
        limit = median_seconds(lambda: (outputs(), mean.sum(), correctness.sum(), lengths.sum()), repeats, device)
        self.row("groups", "torch: reading and writing as much once", limit, **facts)
        call = lambda: group_advantages(mean, lengths, correctness, cu_groups, LensConfig())  # noqa: E731
        seconds = median_seconds(call, repeats, device)
        self.row("groups", "lens_openrlhf", seconds, f"{limit / seconds:.2f} of that speed", **facts)
        seconds = median_seconds(lambda: torch_group_stage(mean, correctness), repeats, device)
        self.row("groups", "torch, groups of one size", seconds, **facts)

    def flatness(self, device: str) -> None:
        """Cost per token from small to large."""
        print(f"\ncost per token, float32, responses of 1,000 tokens, {device}")
        for tokens in FLAT_TOKENS:
            batch = make_batch(tokens // 1000, 1000, torch.float32, device, padded=False)
            repeats = self.repeats if tokens < 10**8 else max(3, self.repeats // 4)
            seconds = median_seconds(lambda b=batch: by_operator(b), repeats, device)
            limit = read_seconds(batch, repeats, device)
            count = batch.logprobs.numel()
            note = f"{seconds / count * 1e9:.3f} ns a token; {limit / seconds:.2f} of torch.sum's speed"
            facts = {"device": device, "tokens": count, "bytes": batch.bytes, "read_seconds": limit}
            self.row("flatness", f"{count:,} tokens", seconds, note, **facts)
            if device == "cuda":
                print(f"      an H100 cannot take less than {batch.bytes / H100_GB_PER_S / 1e3:.0f} µs")


def _importable(package: str) -> bool:
    try:
        importlib.import_module(package)
    except (ImportError, OSError):
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repeats", type=int, default=20, help="timed calls a row at least; the median is shown (default: 20)"
    )
    bench = Bench(parser.parse_args().repeats)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    names = {"cpu": machine(), "cuda": torch.cuda.get_device_name() if len(devices) > 1 else ""}
    print(
        f"torch {torch.__version__}; " + "; ".join(names[d] for d in devices) + f"; median of at least {bench.repeats}"
    )
    busy = psutil.cpu_percent(interval=1.0) / 100 * psutil.cpu_count()
    if busy > BUSY_CORES:
        print(f"warning: other processes use {busy:.1f} cores; the times below are not to be trusted")
    for device in devices:
        bench.segment_means(device)
        bench.whole(device)
        bench.groups(device)
        bench.flatness(device)
    OUTPUT.parent.mkdir(exist_ok=True)
    with open(OUTPUT, "w") as file:
        for row in bench.rows:
            file.write(json.dumps(row | {"machine": names[row["device"]], "torch": torch.__version__}) + "\n")
    print(f"\nevery row as JSON: {OUTPUT}")


if __name__ == "__main__":
    main()
