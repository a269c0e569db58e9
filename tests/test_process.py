"""How commands end, and folders that one process holds."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from lens_openrlhf.process import Held, ended, holding


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("no such option"), 2, "error: no such option"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: [Errno 13] Permission denied: '/x'"),
    ],
)
def test_a_command_ends_in_one_line_that_says_why(capsys, error, status, line):
    assert ended(raising(error), ValueError, "interrupted; nothing was written") == status
    assert capsys.readouterr() == ("", f"{line}\n")


def test_what_is_no_fault_of_the_input_is_not_hidden():
    assert ended(lambda: 3, ValueError) == 3
    with pytest.raises(TypeError):
        ended(raising(TypeError()), ValueError)


@pytest.mark.parametrize("size", [10, 10**7])
def test_a_reader_that_leaves_early_is_no_error(size):
    code = (
        "import sys; from lens_openrlhf.process import ended\n"
        f"sys.stdin.read(); sys.exit(ended(lambda: print('x' * {size}) or 0, ValueError))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_a_folder_is_held_by_one(tmp_path):
    with holding(tmp_path / "new" / "folder"):
        with pytest.raises(Held, match=r"^process \d+ on "):
            with holding(tmp_path / "new" / "folder"):
                pass
    with holding(tmp_path / "new" / "folder"):
        pass


def test_a_folder_is_waited_for(tmp_path, capsys):
    with ThreadPoolExecutor(1) as pool, ExitStack() as first:
        first.enter_context(holding(tmp_path))
        second = pool.submit(lambda: holding(tmp_path, wait=True).__enter__())
        while "waiting for process" not in (said := capsys.readouterr().err):
            assert not second.done()
        assert f"is at work in {tmp_path}" in said
        first.close()
        second.result(timeout=60)
