"""What runs in a worker process: its limits of time and memory, and its isolation. None of it is for the parent."""

from __future__ import annotations

import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from lens_openrlhf.rewards import grading, isolation

# How long past the time limit a worker lives if nobody kills it, because the parent is gone or held up.
SELF_KILL_SECONDS = 2.0
POLL_SECONDS = 1.0
MEMORY_EXIT_CODE = 77

_memory_budget = 0
_isolation: isolation.Level = "off"


def init_worker(parent: int, memory: int, mode: str) -> None:
    """Sets the limits of a new worker and reads its code, before any verification's clock runs."""
    # A thread of Ray or vLLM may have started this process with signals blocked.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # The kernel must be able to end a worker at once: Python's handlers wait for the interpreter, which hangs
    # in one long multiplication, and while pebble waits for a worker to end it serves no other.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, args=(parent,), daemon=True).start()

    # Some labels make SymPy import NumPy, whose libraries would start threads, which isolation forbids, and say so.
    os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1"))
    # Math-Verify warns in every process that its own time limits are off.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    grading.grade(r"\boxed{\frac{1}{2}}", "0.5")

    global _memory_budget, _isolation
    _memory_budget = _peak_memory() + memory // 4
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _isolation = isolation.isolate(mode)


def isolation_found() -> isolation.Level:
    return _isolation


def _die_with_parent(parent: int) -> None:
    """Ends an idle worker, or one that runs Python code, after its parent. `run_task` ends the others."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)


def run_task(function: Callable[..., Any], args: tuple, timeout: float) -> Any:
    """Calls `function` and ends the process if it took too much time or memory."""
    # The kernel's timer kills the process even when no Python code runs in it and the parent is gone.
    signal.setitimer(signal.ITIMER_REAL, timeout + SELF_KILL_SECONDS)
    try:
        return function(*args)
    except Exception as error:  # the parent takes Python's own exceptions only
        raise RuntimeError(f"{type(error).__name__}: {error}") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        # Math-Verify takes a MemoryError for "not equal", so that the limit alone would yield wrong answers
        # unseen. Whoever runs into it has filled a quarter of it before: big numbers grow by doubling.
        if _peak_memory() > _memory_budget:
            os._exit(MEMORY_EXIT_CODE)


def _peak_memory() -> int:
    """Most bytes that this process ever had in memory (ru_maxrss would count the parent's before exec)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
