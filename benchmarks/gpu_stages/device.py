"""The device under test. The CPU takes a GPU's place in rehearsals: the same steps, small sizes, a host clock."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

FLUSH_BYTES = 256 << 20  # several times an H100's L2
BUSY_CYCLES = 100_000_000  # about 50 ms


class Cuda:
    kind = "cuda"

    def __init__(self) -> None:
        self._flush: torch.Tensor | None = None

    def pick(self, on_gpu: Any, in_rehearsal: Any) -> Any:
        """A size or a time limit, by the device."""
        return on_gpu

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def seconds(self, function: Callable[[], object], repeats: int = 20) -> float:
        """Median seconds on the device, by events, with an L2 that has seen other data since.

        The flush reads and does not write: dirty lines would be written back at the function's cost. It also takes
        longer than the host needs to enqueue the function, so that gaps between its launches are the device's own.
        """
        if self._flush is None:
            self._flush = torch.zeros(FLUSH_BYTES // 4, dtype=torch.int32, device=self.kind)
        function()
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        for begin, end in pairs:
            self._flush.amax()
            begin.record()
            function()
            end.record()
        torch.cuda.synchronize()
        return statistics.median(begin.elapsed_time(end) for begin, end in pairs) / 1e3

    def captured(self, function: Callable[[], object]) -> Callable[[], object]:
        """The function's kernels as a graph, without what the host does between them; call it to replay them."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = function()  # the replays write into these

        def replay(kept=kept) -> None:
            graph.replay()

        return replay

    def occupied(self) -> Callable[[], bool]:
        """Give the device some 50 ms of work; what comes back tells whether it is done."""
        torch.cuda.synchronize()
        torch.cuda._sleep(BUSY_CYCLES)
        event = torch.cuda.Event()
        event.record()
        return event.query

    def stream(self) -> Any:
        """A new stream, as a context to launch in, that begins after what was launched so far."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(stream)

    def allocated(self) -> int:
        return torch.cuda.memory_allocated()

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated()

    def forget_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats()


class Cpu:
    kind = "cpu"

    def pick(self, on_gpu: Any, in_rehearsal: Any) -> Any:
        return in_rehearsal

    def synchronize(self) -> None:
        pass

    def seconds(self, function: Callable[[], object], repeats: int = 3) -> float:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def captured(self, function: Callable[[], object]) -> Callable[[], object]:
        return function

    def occupied(self) -> Callable[[], bool]:
        return lambda: False

    def stream(self) -> Any:
        return contextlib.nullcontext()

    def allocated(self) -> int:
        return 0

    def peak(self) -> int:
        return 0

    def forget_peak(self) -> None:
        pass


def device_of(kind: str) -> Cuda | Cpu:
    return {"cuda": Cuda, "cpu": Cpu}[kind]()
