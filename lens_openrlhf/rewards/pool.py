"""Runs Math-Verify in worker processes that have a time limit and a memory limit.

A verification that does not end is killed, with its worker, and the worker is replaced. The pool is one per
process, starts with the first verification, and may be used from any thread.

Environment, read when the pool starts:
    LENS_VERIFIER_TIMEOUT    seconds a verification may run, default 10. Waiting for a worker is not counted.
    LENS_VERIFIER_WORKERS    worker processes, default half of the usable CPUs, between 1 and 8. Every vLLM
                             engine of OpenRLHF has a pool of its own. A worker takes about 70 MB.
    LENS_VERIFIER_MEMORY_GB  address space of a worker in GiB, default 4. A verification that fills more than
                             a quarter of it is an error: see `_run_task`.
    LENS_VERIFIER_ISOLATION  auto, python or off: what keeps workers from network, processes and files, by default the
                             strongest that there is (isolation.py).
"""

from __future__ import annotations

import atexit
import builtins
import concurrent.futures
import io
import logging
import math
import os
import pickle
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from decimal import Decimal
from multiprocessing import connection, context, popen_spawn_posix, spawn
from typing import Any

from pebble import ProcessExpired, ProcessPool
from pebble.common.types import ResultStatus

from lens_openrlhf.rewards import grading, isolation

logger = logging.getLogger(__name__)

GIB = 1024**3
MAX_WORKERS = 8
# SymPy's caches are bounded, but what sits in them is not. A new worker costs about a second.
TASKS_PER_WORKER = 2_000
# How long past the time limit a worker lives if nobody kills it, because the parent is gone or held up.
SELF_KILL_SECONDS = 2.0
# A pool is stuck if no verification ends for the time limit and this long. Starting a worker takes less.
STALL_SECONDS = 60.0
POLL_SECONDS = 1.0
MEMORY_EXIT_CODE = 77

LOGGED_FULLY, LOGGED_EVERY = 5, 100


@dataclass(frozen=True)
class Verdict:
    """Outcome of one verification; `detail` says what was compared, or what went wrong."""

    correct: bool
    outcome: grading.Outcome
    detail: str


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


# --- in the worker -----------------------------------------------------------------------------------------

_memory_budget = 0
_isolation: isolation.Level = "off"


def _init_worker(parent: int, memory: int, mode: str) -> None:
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


def _isolation_in_force() -> isolation.Level:
    return _isolation


def _die_with_parent(parent: int) -> None:
    """Ends an idle worker, or one that runs Python code, after its parent. `_run_task` ends the others."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)


def _run_task(function: Callable[..., Any], args: tuple, timeout: float) -> Any:
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


# --- starting workers --------------------------------------------------------------------------------------


# The standard spawn makes a worker import the parent's __main__: from a Ray actor every worker would load Ray, and a
# script without `if __name__ == "__main__"` would run again in every worker.
_launching = threading.local()
_standard_preparation = spawn.get_preparation_data


def _preparation_data(name: str) -> dict:
    data = _standard_preparation(name)
    if getattr(_launching, "without_main", False):
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


spawn.get_preparation_data = _preparation_data


class _ProcessWithoutMain(context.SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> popen_spawn_posix.Popen:
        _launching.without_main = True
        try:
            return popen_spawn_posix.Popen(process_obj)
        finally:
            _launching.without_main = False


# --- in the parent -----------------------------------------------------------------------------------------


class _Messages(pickle.Unpickler):
    """Reads what pebble's workers send, and no other class: a pickle can run code where it is read, and a worker whose
    text had run code could send any."""

    CLASSES = {
        "pebble.pool.process": ("Acknowledgement", "TaskResult", "TaskProblem"),
        "pebble.common.types": ("Result", "ResultStatus", "RemoteException.rebuild_exception"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if name in self.CLASSES.get(module, ()):
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):
            return self._status
        found = getattr(builtins, name, None) if module == "builtins" else None
        if isinstance(found, type) and issubclass(found, Exception):
            return found
        raise pickle.PicklingError(f"a worker sent {module}.{name}")  # pebble ends the pool at this

    @staticmethod
    def _status(kind: type, name: str) -> ResultStatus:
        """A status as some releases of Python 3.11 (Debian's 3.11.2) pickle it: getattr(ResultStatus, name)."""
        if kind is not ResultStatus or name not in list(ResultStatus.__members__):
            raise pickle.PicklingError(f"a worker sent getattr({kind!r}, {name!r})")
        return ResultStatus[name]


class _Context(context.SpawnContext):
    """Starts workers without the parent's __main__, and reads their messages as _Messages."""

    Process = _ProcessWithoutMain

    def Pipe(self, duplex: bool = True) -> tuple[connection.Connection, connection.Connection]:
        reader, writer = super().Pipe(duplex)
        # Of this object alone: the worker's own end is a new one, and the parent can be trusted.
        reader.recv = lambda: _Messages(io.BytesIO(reader.recv_bytes())).load()
        return reader, writer


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
            initializer=_init_worker,
            initargs=(os.getpid(), settings.memory, settings.isolation),
            context=_Context(),
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
            future = self._pebble.schedule(_run_task, args=(function, args, timeout), timeout=timeout)
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
    return run_in_worker(_isolation_in_force, (), None)


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


def verify_answer(response: str, label: str | float, timeout: float | None = None) -> Verdict:
    """Compares the answer in a response with the gold label.

    Args:
        response: what the model wrote, without the prompt; special tokens at its end do no harm. Only the
            last `grading.MAX_RESPONSE_CHARS` characters are looked at.
        label: LaTeX with or without delimiters, or a number.
        timeout: seconds the comparison may run, LENS_VERIFIER_TIMEOUT by default.
    Returns:
        The verdict. Never raises: what goes wrong has the outcome "timeout" or "error" and is logged, the
        first 5 of a kind and then every 100th.
    """
    outcome, detail, *_ = _limited(grading.grade, response, label, timeout)
    return Verdict(outcome == "correct", outcome, detail)


def explain_answer(response: str, label: str | int) -> grading.Reading:
    """How `verify_answer` grades, within the same limits, and what it read. Never raises."""
    return grading.Reading(*_limited(_read, response, label, None))


def _read(response: str, label: str) -> tuple[str, ...]:
    return tuple(grading.read(response, label))  # no other class is taken from a worker


def _limited(function: Callable[..., tuple], response: str, label: str | int, timeout: float | None) -> tuple:
    """What `function` gives for a response in a worker or, where that fails, the outcome and why."""
    try:
        found = run_in_worker(function, (grading.response_end(response), label_text(label)), timeout)
        if found[0] == "error":
            _warn(found[1], response, label)
        return found
    except TimeLimit as error:
        failed = "timeout", f"time limit: {error}"
    except MemoryLimit as error:
        failed = "error", f"memory limit: {error}"
    except WorkerLost as error:
        failed = "error", f"worker lost twice: {error}"
    except Exception as error:
        failed = "error", f"{type(error).__name__}: {error}"
    _warn(failed[1], response, label)
    return failed


def label_text(label: str | float) -> str:
    """The label as text: data sets in JSON and CSV have numbers, too.

    Raises:
        TypeError: what is neither text nor a finite number.
    """
    if isinstance(label, str):
        return label
    if isinstance(label, bool) or not isinstance(label, int | float) or not math.isfinite(label):
        raise TypeError(f"the label {label!r} is not text")
    if isinstance(label, int):
        return str(label)
    # All digits: Math-Verify reads 1e-05 as a product. A column of whole numbers with gaps holds them as 5.0.
    return f"{Decimal(repr(label)):f}".removesuffix(".0")


_warnings: Counter[str] = Counter()
_warnings_lock = threading.Lock()


def _warn(detail: str, response: Any, label: Any) -> None:
    """Logs a failed verification unless many of its kind (`detail` up to the colon) were logged before."""
    kind = detail.partition(":")[0]
    with _warnings_lock:
        _warnings[kind] += 1
        count = _warnings[kind]
    if count <= LOGGED_FULLY or count % LOGGED_EVERY == 0:
        end = response[-100:] if isinstance(response, str) else response
        logger.warning(
            "verifier: %s (no. %d of its kind; label %.200r, response ends %.200r)", detail, count, label, end
        )
