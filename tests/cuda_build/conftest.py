"""Tests beside a CUDA build of torch; no GPU is needed. `make test-cuda-build` makes an environment that has one."""

from __future__ import annotations

import pytest
import torch


def pytest_collection_modifyitems(items):
    if torch.version.cuda is not None:
        return
    for item in items:
        if "tests/cuda_build/" in str(item.path):
            item.add_marker(pytest.mark.skip(reason="this torch is a CPU build: run `make test-cuda-build`"))
