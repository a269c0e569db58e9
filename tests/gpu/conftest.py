"""Tests for whoever has a GPU: `pytest -m gpu`. They were written without one and have not been run on one yet.

LENS_GPU_TESTS_DEVICE=cpu runs them on the CPU, as the rehearsal of benchmarks/gpu_check.py does: it shows that the
tests themselves work.
"""

from __future__ import annotations

import os

import pytest
import torch

from benchmarks.gpu_stages.device import Cpu, Cuda, device_of
from benchmarks.gpu_stages.suite import DEVICE_VARIABLE

KIND = os.environ.get(DEVICE_VARIABLE, "cuda")


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/gpu/" in str(item.path):
            item.add_marker(pytest.mark.gpu)
            if KIND == "cuda" and not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device: these tests have not been run yet"))


@pytest.fixture(scope="session")
def device() -> Cuda | Cpu:
    return device_of(KIND)
