"""The other tests' `no_strays` finds what a run leaves behind, and nothing else on the machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .conftest import no_strays

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
# As vLLM's engine does: its title is not to be written over what it is found by.
NAMED = [sys.executable, "-c", f"import setproctitle as s; s.setproctitle('VLLM::EngineCore'); {SLEEP[-1]}"]
ORPHAN = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=2, start_new_session=True).pid)"


def test_another_suites_processes_are_no_strays():
    other = subprocess.Popen(["ray::LensPolicyModel", *SLEEP[1:]], executable=sys.executable)
    try:
        with no_strays(seconds=0):
            mine = subprocess.Popen(SLEEP)
            mine.kill()
            mine.wait()
            with no_strays(seconds=0):
                pass
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("command", [SLEEP, NAMED], ids=["as it was started", "under another name"])
def test_a_process_whose_parent_went_first_is_one(command):
    with pytest.raises(AssertionError, match="left running") as found, no_strays(seconds=2):
        done = subprocess.run([sys.executable, "-c", ORPHAN, *command], stdout=subprocess.PIPE, text=True, check=True)
    orphan = int(done.stdout)
    subprocess.run(["kill", str(orphan)], check=True)
    assert str(orphan) in str(found.value)
