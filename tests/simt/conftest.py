"""The emulator as a fixture."""

from __future__ import annotations

import pytest

from .build import load


@pytest.fixture(scope="session")
def simt():
    return load()
