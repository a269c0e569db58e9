"""setup.py says in one line what keeps the extension from being built. Nothing is compiled here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A torch for another CUDA is staged; the rest is setup.py as pip runs it, up to the point where it would build.
RUN = """
import runpy, shutil, sys
import torch
torch.version.cuda = sys.argv[1] or None
if sys.argv[2] == "no nvcc":
    shutil.which = lambda name: None
sys.argv = ["setup.py", "--name"]
runpy.run_path("setup.py", run_name="__main__")
"""


def setup(nvcc: Path | None, torch_cuda: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs setup.py beside a torch for this CUDA, with this nvcc alone."""
    base = {key: value for key, value in os.environ.items() if key not in ("CUDA_PATH", "LENS_BUILD_CUDA")}
    base["CUDA_HOME"] = str(nvcc.parents[1]) if nvcc else ""
    command = [sys.executable, "-W", "ignore", "-c", RUN, torch_cuda, str(nvcc or "no nvcc")]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=base | environment)


@pytest.fixture
def toolkit(tmp_path):
    """Makes an nvcc that can say its version and nothing else."""

    def make(says: str) -> Path:
        nvcc = tmp_path / "bin" / "nvcc"
        nvcc.parent.mkdir(exist_ok=True)
        nvcc.write_text(f"#!/bin/sh\necho '{says}'\n")
        nvcc.chmod(0o755)
        return nvcc

    return make


def refusal(done: subprocess.CompletedProcess) -> str:
    assert done.returncode != 0, done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_an_nvcc_for_another_cuda_than_torchs_is_refused(toolkit):
    nvcc = toolkit("Cuda compilation tools, release 12.4, V12.4.131")
    line = refusal(setup(nvcc, "13.0"))
    assert line.startswith(f"{nvcc} compiles for CUDA 12.4, but torch ") and "is for CUDA 13.0" in line
    assert "CUDA_HOME" in line and "LENS_BUILD_CUDA=0" in line


def test_the_same_major_version_is_enough(toolkit):
    done = setup(toolkit("Cuda compilation tools, release 13.2, V13.2.51"), "13.0")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "lens_openrlhf", done.stderr
    assert "warning" not in done.stdout


def test_beside_a_cpu_build_of_torch_it_is_said_whom_the_library_serves(toolkit):
    done = setup(toolkit("Cuda compilation tools, release 12.4, V12.4.131"), "")
    assert done.returncode == 0, done.stderr
    assert "warning: torch is a CPU build; the CUDA library will serve one for CUDA 12 only" in done.stdout


def test_without_the_cuda_library_nvcc_is_not_asked(toolkit):
    done = setup(toolkit("Cuda compilation tools, release 12.4, V12.4.131"), "13.0", LENS_BUILD_CUDA="0")
    assert done.returncode == 0, done.stderr


def test_an_nvcc_that_names_no_release(toolkit):
    line = refusal(setup(toolkit("nvcc: command broken"), "13.0"))
    assert "names no CUDA release" in line and "nvcc: command broken" in line and "CUDA_HOME" in line


def test_no_nvcc():
    done = setup(None, "13.0")
    assert done.returncode == 0 and "without the CUDA library (nvcc not found)" in done.stdout
    assert "install the CUDA toolkit" in refusal(setup(None, "13.0", LENS_BUILD_CUDA="1"))


CALLS = """
import pathlib, sys
sys.argv = ["setup.py", "--name"]
import setup
for call in (
    lambda: setup.check_writable(pathlib.Path("/proc/self")),
    lambda: setup.check_torch("2.9.1+cu128"),
    lambda: setup.check_torch("2.10.0+cpu"),
    *(lambda value=value: setup.architectures(value) for value in ("", "native", "90", "8.0;Hopper")),
):
    try:
        print("no refusal", call())
    except SystemExit as refusal:
        print(refusal)
print(setup.architectures("8.0 9.0a;12.0+PTX"))
"""


def test_what_else_is_refused():
    """/proc refuses new files to everyone, as a file system that is mounted read-only does."""
    command = [sys.executable, "-W", "ignore", "-c", CALLS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"LENS_BUILD_CUDA": "0"})
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()[-8:]
    assert said[0].startswith("/proc/self cannot be written to") and "copy the project" in said[0]
    assert said[1:3] == ["torch 2.9.1+cu128 is too old: lens_openrlhf needs 2.10 or later", "no refusal None"]
    for value, line in zip(("", "native", "90", "8.0;Hopper"), said[3:], strict=False):
        assert line == f'TORCH_CUDA_ARCH_LIST={value!r}: expected numbers such as "8.0;9.0+PTX"'
    assert said[7] == "['8.0', '9.0a', '12.0+PTX']"
