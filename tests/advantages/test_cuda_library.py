"""The CUDA library compiles and links wherever nvcc is, with or without a GPU; its kernels do not spill."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest

from lens_openrlhf.advantages import extension

ROOT = Path(__file__).parents[2]
# How often each kernel is compiled: segment_mean for 4 dtypes, masked and not; the group stage with and without a
# preference.
KERNELS = {"segment_mean_kernel": 4 * 2, "group_advantages_kernel": 2}
# Blocks of 256 threads that share a multiprocessor's 65,536 registers (segment_blocks in segment_mean.cuh): 4, and of
# the masked double's 2.
BLOCKS, FEWER_BLOCKS, FEW_BLOCKS_KERNEL = 4, 2, "segment_mean_kernelIdLb1"
MAX_SHARED_BYTES = 1024
# From sm_90 on every block has so many bytes of shared memory that are the system's.
SYSTEM_SHARED_BYTES = 1024

needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="nvcc is not on PATH: the CUDA library is not built"
)


def library_path(name: str) -> str:
    library = extension.find(name)
    assert library, f"{name} was not built: pip install -e ."
    return library


def cuobjdump() -> str:
    """The toolkit's, or the one that Triton brings along."""
    found = shutil.which("cuobjdump")
    if found is None:
        triton = importlib.util.find_spec("triton")
        found = triton and shutil.which(Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump")
    assert found, "cuobjdump, which reads the machine code, is neither on PATH nor in triton: pip install triton"
    return found


@lru_cache(maxsize=1)
def resources() -> list[tuple[str, str, dict[str, int]]]:
    """(architecture, kernel, what it uses) for each kernel in the CUDA library."""
    command = [cuobjdump(), "--dump-resource-usage", library_path("_C_cuda")]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = []
    for part in report.split("Fatbin elf code:")[1:]:
        architecture = re.search(r"arch = sm_(\w+)", part)[1]
        for mangled, uses in re.findall(r"Function (\w+):\s+(.*)", part):
            numbers = {key: int(value) for key, value in re.findall(r"(\w+)(?:\[\d+\])?:(\d+)", uses)}
            found.append((architecture, mangled, numbers))
    return found


@needs_nvcc
def test_every_kernel_is_there_for_every_architecture():
    architectures = [name.removesuffix("+PTX") for name in extension.built_for(library_path("_C_cuda")).architectures]
    assert architectures
    kernels = [(architecture, re.search(r"\d+([a-z_]+_kernel)", name)[1]) for architecture, name, _ in resources()]
    wanted = {(name.replace(".", ""), kernel): count for name in architectures for kernel, count in KERNELS.items()}
    assert Counter(kernels) == wanted


@needs_nvcc
def test_no_kernel_spills_on_any_architecture():
    used = {(architecture, name): uses["STACK"] + uses["LOCAL"] for architecture, name, uses in resources()}
    assert used and {kernel: stack for kernel, stack in used.items() if stack} == {}


@needs_nvcc
def test_resources_stay_within_their_budget():
    """What docs/kernels.md derives occupancy from: so many blocks of 256 threads fit a multiprocessor."""
    assert sum(FEW_BLOCKS_KERNEL in name for _, name, _ in resources()) == len({sm for sm, _, _ in resources()})
    for architecture, name, uses in resources():
        most = 65_536 // 256 // (FEWER_BLOCKS if FEW_BLOCKS_KERNEL in name else BLOCKS)
        assert uses["REG"] <= most, f"{name} uses {uses['REG']} registers on sm_{architecture}"
        shared = uses["SHARED"] - (SYSTEM_SHARED_BYTES if int(re.match(r"\d+", architecture)[0]) >= 90 else 0)
        assert shared <= MAX_SHARED_BYTES, f"{name} uses {shared} bytes of shared memory on sm_{architecture}"
