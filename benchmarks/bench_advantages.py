"""The compiled operator against plain torch, on CPU and, where there is one, on a GPU.

Every row is checked against the float64 result before it is timed; a mismatch stops the benchmark. Prints a table,
then one JSON object a row.

    make bench [ARGS="--repeats 50"]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lens_openrlhf.advantages import LensConfig, lens_advantages

# (responses, mean tokens, what it stands for); lengths are ragged, groups have 16 responses.
SIZES = (
    (512, 200, "tiny profile, one step"),
    (2048, 1270, "the paper's batch, short answers"),
    (2048, 4096, "the paper's batch, longest answers"),
    (16384, 1000, "a large batch"),
)
GROUP = 16
ALPHA = 0.25
STD_EPS = 1e-9
# Relative to the float64 result of the same (already rounded) log-probabilities.
TOLERANCE = {"op": 1e-9, "packed": 2e-3, "padded": 2e-3}


@dataclass
class Batch:
    logprobs: Tensor  # [T] packed
    cu_seqlens: Tensor  # [N+1]
    correctness: Tensor  # [N] float64
    cu_groups: Tensor  # [Q+1]
    padded: Tensor  # [N, longest]
    mask: Tensor  # [N, longest]


def make_batch(responses: int, mean_tokens: int, dtype: torch.dtype, device: str) -> Batch:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(mean_tokens // 2, mean_tokens * 3 // 2 + 1, (responses,), generator=generator)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    logprobs = -2 * torch.rand(int(cu_seqlens[-1]), generator=generator)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    padded = torch.zeros(mask.shape)
    padded[mask] = logprobs
    # Half of the groups have no right answer, as early in training.
    hard = torch.rand(responses // GROUP, generator=generator) < 0.5
    correct = torch.rand(responses, generator=generator) < 0.3
    correctness = (correct & ~hard.repeat_interleave(GROUP)).double()
    cu_groups = torch.arange(0, responses + 1, GROUP)
    on = lambda tensor: tensor.to(device)  # noqa: E731
    return Batch(*map(on, (logprobs.to(dtype), cu_seqlens, correctness, cu_groups, padded.to(dtype), mask)))


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


def torch_packed(batch: Batch) -> Tensor:
    """Packed layout: index_add over a row index per token."""
    lengths = batch.cu_seqlens.diff()
    row = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    sums = torch.zeros(len(lengths), dtype=torch.float32, device=row.device).index_add_(0, row, batch.logprobs.float())
    return torch_group_stage(sums / lengths, batch.correctness)


def torch_padded(batch: Batch) -> Tensor:
    """Padded layout, as most trainers hold it: masked mean over [N, longest]."""
    mean = (batch.padded.float() * batch.mask).sum(1) / batch.mask.sum(1)
    return torch_group_stage(mean, batch.correctness)


def compiled(batch: Batch) -> Tensor:
    return lens_advantages(batch.logprobs, batch.cu_seqlens, batch.correctness, batch.cu_groups, LensConfig()).advantage


def median_seconds(function: Callable[[], object], repeats: int, device: str) -> float:
    for _ in range(3):
        function()
    times = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as cpuinfo:
            model = next(line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux: the platform's own name stands
    return f"{model}, {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="timed calls a row; the median is shown (default: 20)")
    repeats = parser.parse_args().repeats
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    names = {"cpu": machine(), "cuda": torch.cuda.get_device_name() if len(devices) > 1 else ""}
    print(f"torch {torch.__version__}; " + "; ".join(names[d] for d in devices) + f"; median of {repeats}")
    print(f"{'size':<42}{'dtype':<10}{'method':<14}{'µs':>10}{'MB':>8}{'GB/s':>8}{'speed-up':>10}")
    rows = []
    for device in devices:
        for responses, mean_tokens, purpose in SIZES:
            for dtype in (torch.float32, torch.bfloat16):
                batch = make_batch(responses, mean_tokens, dtype, device)
                exact = batch.logprobs.double()
                truth = lens_advantages(exact, batch.cu_seqlens, batch.correctness, batch.cu_groups).advantage
                methods = {"op": compiled, "packed": torch_packed, "padded": torch_padded}
                for name, method in methods.items():
                    found = method(batch).double()
                    error = ((found - truth).abs() / truth.abs().clamp(min=1e-3)).max().item()
                    if not error <= TOLERANCE[name]:
                        raise SystemExit(f"{name} is wrong at {responses} x {mean_tokens} {dtype}: {error:.2e}")
                seconds = {
                    name: median_seconds(lambda m=m, b=batch: m(b), repeats, device) for name, m in methods.items()
                }
                # The least that any method has to read: the log-probabilities, once.
                payload = batch.logprobs.numel() * batch.logprobs.element_size()
                best = min(seconds["packed"], seconds["padded"])
                for name in methods:
                    label = f"{responses} x {mean_tokens} ({purpose})" if name == "op" else ""
                    speed_up = best / seconds["op"] if name == "op" else None
                    print(
                        f"{label:<42.41}{str(dtype)[6:] if label else '':<10}"
                        f"{'compiled op' if name == 'op' else 'torch ' + name:<14}{seconds[name] * 1e6:>10.0f}"
                        f"{payload / 1e6:>8.1f}{payload / seconds[name] / 1e9:>8.2f}"
                        f"{f'{speed_up:.1f}x' if speed_up else '':>10}"
                    )
                    rows.append(
                        {
                            "device": names[device],
                            "responses": responses,
                            "tokens": batch.logprobs.numel(),
                            "dtype": str(dtype)[6:],
                            "method": name,
                            "seconds": seconds[name],
                            "bytes": payload,
                            "gb_per_s": payload / seconds[name] / 1e9,
                        }
                    )
    print("speed-up: over the faster torch method of the same row, each on the layout that suits it\n")
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
