"""The segmented mean's speed, beside the card's copy and what else computes the same.

Every peer's means are compared with ours, whose bits an earlier stage compares with the CPU's; a wrong or failing peer
is a row that says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from . import batches
from .device import Cpu, Cuda
from .rows import Rows

# (responses, mean tokens), lengths spread by half to either side
SHAPES = ((2048, 1270), (2048, 4096), (512, 32_768), (16_384, 1000), (131_072, 1000), (1_000_000, 100))
IN_REHEARSAL = ((64, 127), (4, 4096))
TOLERANCE = 2e-3  # of float32 sums over thousands of tokens
COPY_BYTES = 1 << 30
GROUP = 16


class Batch:
    """Ragged responses on a device; the padded forms are made when a peer asks for them."""

    def __init__(self, responses: int, mean_tokens: int, dtype: torch.dtype, masked: bool, kind: str):
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(mean_tokens // 2, mean_tokens * 3 // 2 + 1, (responses,), generator=generator)
        self.lengths = lengths.to(kind)
        self.cu_seqlens = torch.nn.functional.pad(self.lengths.cumsum(0), (1, 0))
        total = int(lengths.sum())
        self.values = (-2 * torch.rand(total, device=kind)).to(dtype)
        self.mask = torch.rand(total, device=kind) < 0.9 if masked else None

    @functools.cached_property
    def padded(self) -> Tensor:
        inside = self._inside()
        return torch.zeros(inside.shape, dtype=self.values.dtype, device=inside.device).masked_scatter(
            inside, self.values
        )

    @functools.cached_property
    def padded_mask(self) -> Tensor:
        inside = self._inside()
        return inside if self.mask is None else torch.zeros_like(inside).masked_scatter(inside, self.mask)

    @functools.cached_property
    def float_mask(self) -> Tensor:
        return self.padded_mask.to(self.values.dtype)

    @functools.cached_property
    def counts(self) -> Tensor:
        return self.padded_mask.sum(1)

    def _inside(self) -> Tensor:
        return torch.arange(int(self.lengths.max()), device=self.lengths.device) < self.lengths[:, None]


def bytes_of(*tensors: Tensor | None) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


# ---- methods: a batch to what it reads, in bytes, and a function that gives the means [N]; None where it has no mask

Method = Callable[[Batch], "tuple[int, Callable[[], Tensor]] | None"]


def ours(batch: Batch):
    tokens = batches.Tokens(batch.values, batch.cu_seqlens, batch.mask)
    return bytes_of(batch.values, batch.mask), lambda: batches.segment_mean(tokens)[0]


def ours_to_the_advantages(batch: Batch):
    tokens = batches.Tokens(batch.values, batch.cu_seqlens, batch.mask)
    n = len(batch.lengths)
    correctness = (torch.arange(n, device=batch.values.device) % 3 == 0).double()
    cu_groups = torch.tensor([*range(0, n, GROUP), n], device=batch.values.device)
    read = bytes_of(batch.values, batch.mask)
    return read, lambda: batches.lens_advantages(tokens, correctness, correctness, cu_groups)[0][3]


def ours_padded(batch: Batch):
    tokens = batches.Tokens(batch.padded, None, batch.padded_mask)
    return bytes_of(batch.padded, batch.padded_mask), lambda: batches.segment_mean(tokens)[0]


def torch_segment_reduce(batch: Batch):
    if batch.mask is not None:
        return None
    reduce = functools.partial(torch.segment_reduce, offsets=batch.cu_seqlens, unsafe=True)
    return bytes_of(batch.values), lambda: reduce(batch.values, "mean")


def torch_product_and_sum(batch: Batch):
    padded, mask, counts = batch.padded, batch.float_mask, batch.counts
    return bytes_of(padded, mask), lambda: (padded * mask).sum(1, dtype=torch.float32) / counts


def torch_vecdot(batch: Batch):
    padded, mask, counts = batch.padded, batch.float_mask, batch.counts
    return bytes_of(padded, mask), lambda: torch.linalg.vecdot(padded, mask) / counts


def by_triton(batch: Batch):
    from . import triton_peer

    return bytes_of(batch.values, batch.mask), lambda: triton_peer.mean(batch.values, batch.cu_seqlens, batch.mask)


def by_cupy(batch: Batch):
    if batch.mask is not None:
        return None
    import cupy

    values, starts = cupy.from_dlpack(batch.values), cupy.from_dlpack(batch.cu_seqlens[:-1])

    def means() -> Tensor:
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            return torch.from_dlpack(cupy.add.reduceat(values, starts)) / batch.lengths

    return bytes_of(batch.values), means


METHODS: dict[str, Method] = {
    "lens_openrlhf": ours,
    "lens_openrlhf, to advantages": ours_to_the_advantages,
    "lens_openrlhf, padded": ours_padded,
    "torch segment_reduce": torch_segment_reduce,
    "torch padded: product and sum": torch_product_and_sum,
    "torch padded: vecdot": torch_vecdot,
    "triton": by_triton,
    "cupy add.reduceat": by_cupy,
}
NOT_CAPTURED = {"cupy add.reduceat": "allocates outside torch"}  # and a capture that fails can spoil those that follow
NO_FIGURES = {"us": "", "replay_us": "", "gb_s": "", "of_copy": ""}


def run(device: Cuda | Cpu, rows: Rows) -> None:
    copy = measure_copy(device, rows)
    for responses, mean_tokens in device.pick(SHAPES, IN_REHEARSAL):
        for dtype in (torch.float32, torch.bfloat16):
            for masked in (False, True):
                batch = Batch(responses, mean_tokens, dtype, masked, device.kind)
                facts = {"shape": f"{responses}x{mean_tokens}", "dtype": str(dtype)[6:], "mask": masked}
                for name, figures in measure(device, batch, copy):
                    rows.add(name, **facts, **figures)
                    if name.startswith("lens_openrlhf") and figures["note"]:  # a peer may fail, ours may not
                        raise RuntimeError(f"{name}: {figures['note']}")


def measure_copy(device: Cuda | Cpu, rows: Rows) -> float:
    """Bytes a second of a large copy, read and written."""
    count = device.pick(COPY_BYTES, 1 << 20) // 4
    source = torch.ones(count, device=device.kind)
    target = torch.empty_like(source)
    seconds = device.seconds(lambda: target.copy_(source))
    copy = 2 * bytes_of(source) / seconds
    rows.add("copy, read and written", us=seconds * 1e6, gb_s=copy / 1e9)
    seconds = device.seconds(source.sum)
    rows.add("torch.sum, read", us=seconds * 1e6, gb_s=bytes_of(source) / seconds / 1e9)
    return copy


def measure(device: Cuda | Cpu, batch: Batch, copy: float) -> Iterator[tuple[str, dict]]:
    """A row a method: microseconds by events and as a graph's replay, what that is of the copy's speed."""
    words = batch.values[: batch.values.numel() // 2 * 2].view(torch.float32)
    read = bytes_of(batch.values)
    yield "torch.sum of the same bytes", figures_of(device, read, words.sum, copy)
    truth = ours(batch)[1]()
    for name, method in METHODS.items():
        try:
            made = method(batch)
            if made is None:
                continue
            read, means = made
            error = ((means().double() - truth).abs() / truth.abs().clamp(min=1e-3)).max().item()
            if error <= TOLERANCE:
                yield name, figures_of(device, read, means, copy, NOT_CAPTURED.get(name, ""))
            else:
                yield name, {**NO_FIGURES, "note": f"wrong by {error:.1%}"}
        except Exception as fault:
            yield name, {**NO_FIGURES, "note": f"{type(fault).__name__}: {str(fault).strip()[:100]}"}


def figures_of(
    device: Cuda | Cpu, read: int, function: Callable[[], object], copy: float, uncaptured: str = ""
) -> dict:
    seconds = best = device.seconds(function)
    replay: float | str = ""
    if not uncaptured:
        try:
            best = min(seconds, replayed := device.seconds(device.captured(function)))
            replay = replayed * 1e6
        except Exception as fault:  # it waits for the device, say
            uncaptured = f"{type(fault).__name__}: {str(fault).strip()[:100]}"
    return {
        "us": seconds * 1e6,
        "replay_us": replay,
        "gb_s": read / best / 1e9,
        "of_copy": f"{read / best / copy:.0%}",
        "note": f"no replay: {uncaptured}" if uncaptured else "",
    }
