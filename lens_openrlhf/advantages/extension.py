"""Loads the compiled operators: `_C` always, `_C_cuda` where this torch has CUDA."""

from __future__ import annotations

import importlib
import importlib.util
import os

import torch

# Bounds the instruction set of the CPU operators (csrc/cpu/simd.h); all give the same bits.
LEVEL_VARIABLE, LEVELS = "LENS_CPU_LEVEL", ("baseline", "avx2", "avx512")


def find(name: str) -> str | None:
    """Path of the extension library `name` (`_C` or `_C_cuda`), or None if it was not built."""
    spec = importlib.util.find_spec(f"lens_openrlhf.{name}")
    return spec.origin if spec else None


def _load() -> None:
    if find("_C") is None:
        raise ImportError("lens_openrlhf's extension is not built: run `pip install -e .` in the project's folder")
    level = os.environ.get(LEVEL_VARIABLE, LEVELS[-1])
    if level not in LEVELS:
        raise ImportError(f"{LEVEL_VARIABLE}={level!r}: expected {', '.join(LEVELS)}, or leave it unset")
    importlib.import_module("lens_openrlhf._C")
    # A CPU build of torch lacks the symbols that the CUDA library links to.
    if torch.version.cuda is not None and find("_C_cuda") is not None:
        importlib.import_module("lens_openrlhf._C_cuda")


_load()
