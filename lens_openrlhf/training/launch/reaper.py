"""Ends a run's processes when its driver is gone, however it went.

A driver that is killed outright cannot clean up, and Ray's workers and vLLM's engine processes would hold memory
and GPUs for a while, or for good. So a small process of its own session remembers the driver's descendants; its
standard input ends when the driver does. A mark in the environment tells those that it had not seen yet, and whose
parents went first.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
import uuid

import psutil

POLL_SECONDS = 2.0
MARK = "LENS_RUN_MARK"
KEEP_ENVIRONMENT = "SPT_NOENV"  # setproctitle's variable: a name takes the place of the command line alone


def start() -> subprocess.Popen:
    """Watch this process. Closing the returned process's stdin, as its death does, ends the watch.

    What is started from now on with this process's environment is known by its mark.
    """
    os.environ[MARK] = uuid.uuid4().hex
    # vLLM's engine and Ray's agents name themselves, and setproctitle would write the name over their environment.
    os.environ[KEEP_ENVIRONMENT] = "1"
    return subprocess.Popen(
        [sys.executable, "-m", __name__, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def watch(driver_pid: int) -> None:
    """Remember the driver's descendants until standard input ends, then end those that are left."""
    descendants: dict[int, psutil.Process] = {}
    while not select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
        with contextlib.suppress(psutil.NoSuchProcess):
            descendants |= {child.pid: child for child in psutil.Process(driver_pid).children(recursive=True)}
    _end(descendants)
    while left := _marked(os.environ[MARK], besides=driver_pid):
        _end(left)
        time.sleep(0.2)


def _marked(mark: str, besides: int) -> dict[int, psutil.Process]:
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid not in (os.getpid(), besides) and process.environ().get(MARK) == mark:
                found[process.pid] = process
    return found


def _end(processes: dict[int, psutil.Process]) -> None:
    for process in processes.values():
        # is_running compares start times too: the number may belong to another process by now.
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.pid != os.getpid() and process.is_running():
                process.kill()


if __name__ == "__main__":
    watch(int(sys.argv[1]))
