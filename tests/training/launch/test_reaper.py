"""What a run's driver leaves behind is ended, whether it was seen before or not."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

DRIVER = """
import os, signal, subprocess, sys
from lens_openrlhf.training.launch import reaper

reaper.start()
middle = '''
import pathlib, subprocess, sys
orphan = subprocess.Popen([sys.executable, "-c", sys.argv[1] + "import time; time.sleep(60)"])
print(orphan.pid, flush=True)
while sys.argv[1] and not pathlib.Path(f"/proc/{orphan.pid}/cmdline").read_text().startswith("VLLM"):
    pass
'''
subprocess.run([sys.executable, "-c", middle, sys.argv[2]], start_new_session=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


# As vLLM's engine does.
RENAMED = "import setproctitle; setproctitle.setproctitle('VLLM::EngineCore'); "


@pytest.mark.parametrize(("end", "first"), [("killed", ""), ("ends", ""), ("killed", RENAMED)])
def test_a_process_whose_parent_went_first(end, first):
    """It is started and orphaned at once: the watcher can see it neither before the driver's end nor below it then."""
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        done = subprocess.run([sys.executable, "-c", DRIVER, end, first], stdout=subprocess.PIPE, text=True, timeout=50)
        orphan = int(done.stdout)
        deadline = time.monotonic() + 60
        while psutil.pid_exists(orphan) and psutil.Process(orphan).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "it is still there"
            time.sleep(0.05)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
