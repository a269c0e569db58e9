"""Runs functions in worker processes that have a time limit and a memory limit.

A verification that does not end is killed, with its worker, and the worker is replaced. The pool is one per
process, starts with the first verification, and may be used from any thread.

Environment, read when the pool starts:
    LENS_VERIFIER_TIMEOUT    seconds a verification may run, default 10. Waiting for a worker is not counted.
    LENS_VERIFIER_WORKERS    worker processes, default half of the usable CPUs, between 1 and 8. Every vLLM
                             engine of OpenRLHF has a pool of its own. A worker takes about 70 MB.
    LENS_VERIFIER_MEMORY_GB  address space of a worker in GiB, default 4. A verification that fills more than
                             a quarter of it is an error: see `worker.run_task`.
    LENS_VERIFIER_ISOLATION  auto, python or off: what keeps workers from network, processes and files, by default the
                             strongest that there is (isolation.py).
"""

from __future__ import annotations

import atexit
import concurrent.futures
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from pebble import ProcessExpired, ProcessPool

from lens_openrlhf.rewards import isolation
from lens_openrlhf.rewards.spawning import WorkerContext
from lens_openrlhf.rewards.worker import MEMORY_EXIT_CODE, POLL_SECONDS, init_worker, isolation_found, run_task

GIB = 1024**3
MAX_WORKERS = 8
# SymPy's caches are bounded, but what sits in them is not. A new worker costs about a second.
TASKS_PER_WORKER = 2_000
# A pool is stuck if no verification ends for the time limit and this long. Starting a worker takes less.
STALL_SECONDS = 60.0


@dataclass(frozen=True)
class Settings:
    """Limits of the pool: seconds, processes, bytes; and one of isolation.MODES."""

    timeout: float
    workers: int
    memory: int
    isolation: str

    @classmethod
    def from_env(cls) -> Settings:
        """Raises ValueError where a variable is no positive number, or none of the modes."""
        cpus = len(os.sched_getaffinity(0))
        return cls(
            timeout=_positive("LENS_VERIFIER_TIMEOUT", 10.0, float),
            workers=_positive("LENS_VERIFIER_WORKERS", min(MAX_WORKERS, max(1, cpus // 2)), int),
            memory=int(_positive("LENS_VERIFIER_MEMORY_GB", 4.0, float) * GIB),
            isolation=_one_of("LENS_VERIFIER_ISOLATION", isolation.MODES),
        )


def _positive(name: str, default: Any, number: Callable[[str], Any]) -> Any:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        value = number(text)
    except ValueError:
        value = 0
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={text!r} is not a positive {number.__name__}")
    return value


def _one_of(name: str, values: Sequence[str]) -> str:
    """The first is the default."""
    value = os.environ.get(name) or values[0]
    if value not in values:
        raise ValueError(f"{name}={value!r} is none of {', '.join(values)}")
    return value


class TimeLimit(Exception):
    """The verification did not end in time."""


class MemoryLimit(Exception):
    """The verification took more than its share of memory."""


class WorkerLost(Exception):
    """A worker, or the whole pool, died of something other than the limits."""


class _Pool:
    """A running pebble pool, with a guard against one that has stopped making progress."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._pebble = ProcessPool(
            max_workers=settings.workers,
            max_tasks=TASKS_PER_WORKER,
            initializer=init_worker,
            initargs=(os.getpid(), settings.memory, settings.isolation),
            context=WorkerContext(),
        )
        self._stuck = False
        self._longest_timeout = settings.timeout
        self._last_progress = time.monotonic()

    @property
    def alive(self) -> bool:
        return not self._stuck and self._pebble.active

    def run(self, function: Callable[..., Any], args: tuple, timeout: float) -> Any:
        """Result of `function(*args)` in a worker, which gets `timeout` seconds from when it begins.

        Raises:
            TimeLimit, MemoryLimit, WorkerLost
        """
        self._longest_timeout = max(self._longest_timeout, timeout)
        submitted = time.monotonic()
        try:
            future = self._pebble.schedule(run_task, args=(function, args, timeout), timeout=timeout)
        except RuntimeError as error:
            raise WorkerLost(f"the pool is gone: {error}") from error
        while not concurrent.futures.wait([future], timeout=POLL_SECONDS).done:
            if not self.alive:
                raise WorkerLost("the pool is gone")
            if time.monotonic() - max(submitted, self._last_progress) > self._longest_timeout + STALL_SECONDS:
                self._stuck = True
                raise WorkerLost("the pool is stuck")
        self._last_progress = time.monotonic()
        try:
            return future.result()
        except concurrent.futures.TimeoutError as error:
            raise TimeLimit(f"no verdict after {timeout:g} s") from error
        except ProcessExpired as error:
            if error.exitcode == -signal.SIGALRM:
                raise TimeLimit(f"no verdict after {timeout:g} s") from error
            if error.exitcode == MEMORY_EXIT_CODE:
                raise MemoryLimit(f"more than a quarter of {self.settings.memory / GIB:g} GiB") from error
            raise WorkerLost(f"a worker died with exit code {error.exitcode}") from error
        except BrokenProcessPool as error:
            raise WorkerLost(f"the pool broke: {error}") from error

    def stop(self) -> None:
        self._pebble.stop()
        self._pebble.join()


_pool: _Pool | None = None
_pool_lock = threading.Lock()


def _running_pool() -> _Pool:
    """The pool of this process; starts one where there is none or the last one broke."""
    global _pool
    with _pool_lock:
        if _pool is None or not _pool.alive:
            if _pool is not None:
                # Not here, where every verification waits: joining a stuck pool may take long.
                threading.Thread(target=_pool.stop, daemon=True).start()
            _pool = _Pool(Settings.from_env())
        return _pool


def run_in_worker(function: Callable[..., Any], args: tuple, timeout: float | None) -> Any:
    """`_Pool.run` with a second try for a lost worker. The default time limit is the settings'."""
    try:
        pool = _running_pool()
        return pool.run(function, args, timeout or pool.settings.timeout)
    except WorkerLost:
        pool = _running_pool()
        return pool.run(function, args, timeout or pool.settings.timeout)


def isolation_in_force() -> isolation.Level:
    """What keeps the workers from network, processes and files, as one of them found it."""
    return run_in_worker(isolation_found, (), None)


@atexit.register
def shutdown() -> None:
    """Ends the workers. The next verification starts new ones."""
    global _pool
    with _pool_lock:
        pool, _pool = _pool, None
    if pool is not None:
        pool.stop()


def _forget_pool() -> None:
    """In a forked child: the pool belongs to the parent, and its threads are not here."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_pool)
