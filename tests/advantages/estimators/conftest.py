from __future__ import annotations

import textwrap

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Batches are tiny here: threads that wait for one another take most of the time on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def write(tmp_path):
    """write(code) -> path of a file with it."""

    def to_file(code: str, name: str = "my.py") -> str:
        path = tmp_path / name
        path.write_text("from __future__ import annotations\nimport torch\n" + textwrap.dedent(code))
        return str(path)

    return to_file
