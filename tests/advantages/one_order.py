"""What adds in any order on CUDA, refused where there is no CUDA: a mode that sees every operator torch calls."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# The operators that torch.use_deterministic_algorithms lists as nondeterministic on CUDA in their forward pass, as far
# as they add, count or write into places that an index names. Of those that only write, a repeated place is refused.
LISTED = (
    "index_add",
    "scatter_add",
    "scatter_reduce",
    "bincount",
    "histc",
    "cumsum",
    "index_put",
    "put_",
    "index_copy",
)
ADDS = ("index_add", "scatter_add", "put", "histc", "cumsum")
REDUCES = ("scatter_reduce", "scatter", "index_reduce")  # the last is not listed, but adds with atomics all the same
ORDERLESS = ("amin", "amax")


class Unordered(AssertionError):
    """An operator whose result CUDA does not fix to the last bit."""


class OneOrder(TorchDispatchMode):
    """Within it an operator that has no order on CUDA raises Unordered; `seen` are the names of all that were called.

    Sums of whole numbers are exact and pass, in whatever order they come.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        names = [argument.name for argument in func._schema.arguments]
        given = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
        name = func._schema.name.partition("::")[2].strip("_").removesuffix("_impl")
        self.seen.add(name)
        result = func(*args, **(kwargs or {}))
        problem = _problem(name, given, result)
        if problem:
            raise Unordered(f"{func}: {problem} on CUDA")
        return result


def _problem(name: str, given: dict, result: object) -> str:
    inexact = isinstance(result, Tensor) and (result.is_floating_point() or result.is_complex())
    if name in ADDS and inexact or name == "bincount" and given.get("weights") is not None:
        return "adds in any order"
    if name in REDUCES and inexact and given.get("reduce") not in (None, *ORDERLESS):
        return f"reduces by {given['reduce']} in any order"
    if name == "index_put":
        if given.get("accumulate") and inexact:
            return "adds in any order"
        if _repeated([index for index in given["indices"] if index is not None]):
            return "writes to one place in any order"
    if name in ("index_copy", "scatter") and "reduce" not in given and _repeated([given["index"]]):
        return "writes to one place in any order"
    return ""


def _repeated(indices: list[Tensor]) -> bool:
    """Whether they name a place twice. (Of scatter they name it within a line; here all lines count as one.)"""
    whole = [index for index in indices if index.dtype not in (torch.bool, torch.uint8)]  # a mask names each place once
    if not whole:
        return False
    places = torch.stack(torch.broadcast_tensors(*whole)).flatten(1)
    return places.unique(dim=1).shape[1] < places.shape[1]
