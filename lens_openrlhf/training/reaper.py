"""Ends a run's processes when its driver is gone, however it went.

A driver that is killed outright cannot clean up, and Ray's workers and vLLM's engine processes would hold memory
and GPUs for a while, or for good. So a small process of its own session remembers the driver's descendants; its
standard input ends when the driver does.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys

import psutil

POLL_SECONDS = 2.0


def start() -> subprocess.Popen:
    """Watch this process. Closing the returned process's stdin, as its death does, ends the watch."""
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
    descendants.pop(os.getpid(), None)
    for process in descendants.values():
        # is_running compares start times too: the number may belong to another process by now.
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running():
                process.kill()


if __name__ == "__main__":
    watch(int(sys.argv[1]))
