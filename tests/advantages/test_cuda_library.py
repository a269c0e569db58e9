"""The CUDA library compiles and links wherever nvcc is, with or without a GPU."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.machine_code import cuobjdump
from lens_openrlhf.advantages import extension

ROOT = Path(__file__).parents[2]
# How often each kernel is compiled: segment_mean for 4 dtypes, masked and not; the group stage with and without a
# preference.
KERNELS = {"segment_mean_kernel": 4 * 2, "group_advantages_kernel": 2}

needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="nvcc is not on PATH: the CUDA library is not built"
)


def library_path(name: str) -> str:
    library = extension.find(name)
    assert library, f"{name} was not built: pip install -e ."
    return library


@needs_nvcc
def test_every_kernel_is_there_for_every_architecture():
    architectures = [name.removesuffix("+PTX") for name in extension.built_for(library_path("_C_cuda")).architectures]
    assert architectures
    found = cuobjdump("--dump-resource-usage", Path(library_path("_C_cuda")))
    kernels = [(str(architecture), re.search(r"\d+([a-z_]+_kernel)", name)[1]) for architecture, name in found]
    wanted = {(name.replace(".", ""), kernel): count for name in architectures for kernel, count in KERNELS.items()}
    assert Counter(kernels) == wanted
