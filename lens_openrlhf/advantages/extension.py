"""Loads the compiled operators: `_C` always, `_C_cuda` where it fits this torch.

Where it does not, CUDA tensors get a function that raises and says why, registered in the kernels' place; so what is
there is never asked for, and a call pays nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import NoReturn

import torch

from .cuda_library import REBUILD, built_for, unfit_for_device, unfit_for_torch

# Bounds the instruction set of the CPU operators (csrc/cpu/simd.h); all give the same bits.
LEVEL_VARIABLE, LEVELS = "LENS_CPU_LEVEL", ("baseline", "avx2", "avx512")
NAMESPACE = "lens_openrlhf"


def find(name: str) -> str | None:
    """Path of the extension library `name` (`_C` or `_C_cuda`), or None if it was not built."""
    spec = importlib.util.find_spec(f"lens_openrlhf.{name}")
    return spec.origin if spec else None


def operators() -> list[str]:
    """The names of this project's operators, `lens_openrlhf::segment_mean` and so on."""
    return [name for name in torch._C._dispatch_get_all_op_names() if name.startswith(f"{NAMESPACE}::")]


def on_cuda(operator: str) -> bool:
    """Whether an operator has something registered for CUDA tensors."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(operator, "CUDA")


def device_problem(device: torch.device) -> str | None:
    """What is known to keep the operators from running on a device, and the remedy, in one line."""
    if device.type != "cuda" or cuda_problem is not None:
        return cuda_problem if device.type == "cuda" else None
    library = find("_C_cuda")
    built = built_for(library) if library else None
    return unfit_for_device(built, device.index or 0) if built else None


def _load() -> None:
    if find("_C") is None:
        raise ImportError(f"lens_openrlhf's extension is not built: {REBUILD}")
    level = os.environ.get(LEVEL_VARIABLE, LEVELS[-1])
    if level not in LEVELS:
        raise ImportError(f"{LEVEL_VARIABLE}={level!r}: expected {', '.join(LEVELS)}, or leave it unset")
    try:
        importlib.import_module("lens_openrlhf._C")
    except ImportError as error:
        raise ImportError(_unloadable("_C", error)) from error


def _unloadable(name: str, error: ImportError) -> str:
    return (
        f"{find(name)} cannot be loaded beside torch {torch.__version__} ({error}): {REBUILD}; "
        "`lens-openrlhf doctor` looks further"
    )


def _load_cuda() -> str | None:
    """Why there are no CUDA operators, and the remedy; None where there are."""
    library = find("_C_cuda")
    problem = unfit_for_torch(library)
    if problem is not None:
        return problem
    try:
        importlib.import_module("lens_openrlhf._C_cuda")
    except ImportError as error:
        return _unloadable("_C_cuda", error)
    missing = [name for name in operators() if not on_cuda(name)]
    return f"{library} is older than the package and lacks {', '.join(missing)}: {REBUILD}" if missing else None


def _refuse_cuda(problem: str) -> torch.library.Library:
    """Register an error for CUDA tensors wherever there is no kernel; it lasts as long as what is returned."""

    def refuse(*arguments: object) -> NoReturn:
        raise RuntimeError(f"lens_openrlhf cannot take CUDA tensors: {problem}")

    library = torch.library.Library(NAMESPACE, "IMPL")
    for name in operators():
        if not on_cuda(name):
            library.impl(name, refuse, "CUDA")
    return library


_load()
# Why CUDA tensors are refused, and the remedy; None where they are not.
cuda_problem: str | None = _load_cuda()
_refusal = _refuse_cuda(cuda_problem) if cuda_problem is not None else None
