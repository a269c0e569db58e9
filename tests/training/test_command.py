"""Two runs do not write the same folders."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest

from lens_openrlhf.inputs import OptionError
from lens_openrlhf.process import holding
from lens_openrlhf.training.command import _hold

HOLD = """
import sys, time
from pathlib import Path
from lens_openrlhf.process import holding
with holding(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def held_by_another(folder):
    """Its process id."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process.pid
        finally:
            process.kill()


def hold(args):
    with contextlib.ExitStack() as stack:
        _hold(args, stack)


def test_a_folder_that_another_run_writes_is_refused_until_that_run_is_gone(parse, tmp_path):
    args = parse("--logger.run_dir", str(tmp_path / "run"))
    with (
        held_by_another(tmp_path / "run") as pid,
        pytest.raises(OptionError, match=rf"--logger.run_dir .*run: process {pid} on .* trains there; wait for it"),
    ):
        hold(args)
    hold(args)  # it was killed outright
    hold(args)


@pytest.mark.parametrize("option", ["--ckpt.load_enable", "--ckpt.save_steps=5"])
def test_so_is_a_checkpoint_folder_elsewhere(parse, tmp_path, option):
    words = ["--logger.run_dir", str(tmp_path / "run"), "--ckpt.path", str(tmp_path / "shared")]
    with holding(tmp_path / "shared"):
        with pytest.raises(OptionError, match="--ckpt.path .*shared: process .* trains there"):
            hold(parse(*words, option))
        hold(parse(*words))  # it writes none
    hold(parse(*words, option))
    assert (tmp_path / "shared").is_dir()
