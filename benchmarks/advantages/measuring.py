"""Times, errors, and what else the machine does meanwhile."""

from __future__ import annotations

import functools
import math
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from .batches import Batch

BUSY_CORES = 0.2  # of other processes
MIN_SECONDS = 0.2  # short calls need many to tell them from noise
MOST_SECONDS, FEWEST_CALLS = 10.0, 5  # of a row whose calls are long


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
