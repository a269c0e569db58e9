"""The CUDA library compiles and links wherever nvcc is, with or without a GPU; its kernels do not spill."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lens_openrlhf.advantages import extension

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "build" / "ptxas.txt"
KERNELS = {"segment_mean_kernel", "group_advantages_kernel"}

needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="nvcc is not on PATH: the CUDA library is not built"
)


@needs_nvcc
def test_the_library_is_built_and_registers_both_operators():
    library = extension.find("_C_cuda")
    assert library, "nvcc is here, but _C_cuda was not built: pip install -e ."
    names = subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True).stdout
    assert "PyInit__C_cuda" in names
    undefined = set(re.findall(r" U (\S+)", names))
    # The stable ABI only: no C++ symbol of torch, which would tie the library to one version.
    assert not [name for name in undefined if re.match(r"_ZN?K?(2at|3c10|5torch)", name)]
    assert "aoti_torch_get_current_cuda_stream" in undefined


@needs_nvcc
def test_no_kernel_spills_on_any_architecture():
    report = REPORT.read_text()
    compiled = set(re.findall(r"Compiling entry function '\w*?(\w+_kernel)\w*' for 'sm_(\d+)'", report))
    for architecture in ("80", "90", "100", "120"):
        found = {name for name, arch in compiled if arch == architecture}
        assert all(any(name in mangled for mangled in found) for name in KERNELS), architecture
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    # 4 dtypes x 2 offset types, and the group stage's 2 offset types, on 4 architectures.
    assert len(spills) == (4 * 2 + 2) * 4
    assert set(spills) == {("0", "0", "0")}


@needs_nvcc
def test_resources_stay_within_their_budget():
    """What docs/kernels.md derives occupancy from: three blocks of 256 threads fit a multiprocessor."""
    kernels = REPORT.read_text().split("Compiling entry function '")[1:]
    assert len(kernels) == (4 * 2 + 2) * 4
    for report in kernels:
        name = report.split("'")[0]
        registers = int(re.search(r"Used (\d+) registers", report)[1])
        shared = re.search(r"(\d+) bytes smem", report)
        assert registers <= 80, f"{name} uses {registers} registers"
        assert int(shared[1] if shared else 0) <= 1024, f"{name} uses {shared[1]} bytes of shared memory"
