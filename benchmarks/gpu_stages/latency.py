"""What a call costs from Python, by its parts, what it does on the device, and whether a raw call waits for it."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from lens_openrlhf.advantages import LensConfig, lens_advantages

from . import batches
from .bandwidth import Batch
from .device import Cpu, Cuda
from .rows import Rows

GROUP = 16
CALLS = 20  # under the profiler


def run(device: Cuda | Cpu, rows: Rows) -> None:
    responses, mean_tokens = device.pick((2048, 1270), (64, 127))
    batch = Batch(responses, mean_tokens, torch.float32, True, device.kind)
    tokens = batches.Tokens(batch.values, batch.cu_seqlens, batch.mask)
    correctness = (torch.rand(responses, device=device.kind) < 0.3).double()
    cu_groups = torch.arange(0, responses + 1, GROUP, device=device.kind)
    config = LensConfig()
    mean, lengths, _ = batches.segment_mean(tokens)
    groups = batches.Groups(mean, lengths, correctness, correctness, cu_groups)
    width = mean_tokens
    padded = torch.rand(responses, 2 * width, device=device.kind).neg()[:, width:]

    def whole() -> None:
        lens_advantages(batch.values, batch.cu_seqlens, correctness, cu_groups, config, mask=batch.mask)

    raw = {
        "raw lens_advantages": lambda: batches.lens_advantages(tokens, correctness, correctness, cu_groups),
        "raw segment_mean": lambda: batches.segment_mean(tokens),
        "raw segment_mean of x[:, -A:]": lambda: batches.segment_mean(batches.Tokens(padded, None, None)),
        "raw group_advantages": lambda: batches.group_advantages(groups),
    }
    parts = {
        "lens_advantages": whole,
        "lens_advantages of x[:, -A:]": lambda: lens_advantages(padded, None, correctness, cu_groups, config),
        **raw,
        "a status read": lambda: int(batch.cu_seqlens[0]),
        "an empty tensor": lambda: mean.new_empty(responses),
        "nothing": lambda: None,
    }
    for name, call in parts.items():
        enqueued, finished = host_seconds(device, call)
        rows.add(name, us_to_return=enqueued * 1e6, us_to_result=finished * 1e6)
    for name, call in raw.items():
        done = device.occupied()
        call()
        rows.check(f"{name} does not wait for the device", not done())
    # The same look at a call that must wait: without it, the checks above would show nothing.
    done = device.occupied()
    whole()
    rows.check("lens_advantages waits, to read the status", done() or device.kind == "cpu")
    for name, count in operations(device, whole).most_common(12):
        rows.add("lens_advantages does", of=name, times_a_call=count / CALLS)


def host_seconds(device: Cuda | Cpu, call: Callable[[], object]) -> tuple[float, float]:
    """Medians of the time until the call returns, and until the device is done."""
    returned, finished = [], []
    for _ in range(device.pick(300, 5)):
        device.synchronize()
        start = time.perf_counter()
        call()
        returned.append(time.perf_counter() - start)
        device.synchronize()
        finished.append(time.perf_counter() - start)
    return statistics.median(returned), statistics.median(finished)


def operations(device: Cuda | Cpu, call: Callable[[], object]) -> Counter:
    """What the profiler sees of CALLS calls: kernels, copies and fills; on a CPU, torch's operators."""
    kinds = [ProfilerActivity.CPU] if device.kind == "cpu" else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    device.synchronize()
    with profile(activities=kinds) as seen:
        for _ in range(CALLS):
            call()
        device.synchronize()
    wanted = torch.autograd.DeviceType.CPU if device.kind == "cpu" else torch.autograd.DeviceType.CUDA
    return Counter(event.name[:60] for event in seen.events() if event.device_type == wanted)
