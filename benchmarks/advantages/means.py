"""The mean of each response, [T] to [N], as the operator and everything else that is known computes it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lens_openrlhf.advantages import segment_mean

from .batches import Batch


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
