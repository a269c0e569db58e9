"""What the verifier says of answers, failures and labels, its settings, and what its pool says: without workers."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import signal
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import pytest
from pebble import ProcessExpired

from lens_openrlhf.rewards import Verdict, grading, label_text, pool, verifier, verify_answer, worker

GIB = 1 << 30


@pytest.fixture(autouse=True)
def fresh_warnings(monkeypatch, caplog):
    monkeypatch.setattr(verifier, "_warnings", Counter())
    caplog.set_level(logging.WARNING)


def answering(monkeypatch, found):
    """The pool gives or raises `found`; returns the list of what it is asked."""
    asked = []

    def run(function, args, timeout):
        asked.append((function, args, timeout))
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(pool, "run_in_worker", run)
    return asked


@pytest.mark.parametrize(
    ("found", "verdict", "warned"),
    [
        (("correct", "5 and 5"), Verdict(True, "correct", "5 and 5"), False),
        (("wrong", "4 and 5"), Verdict(False, "wrong", "4 and 5"), False),
        (("no_answer", "none"), Verdict(False, "no_answer", "none"), False),
        (("error", "bad label: no"), Verdict(False, "error", "bad label: no"), True),
        (pool.TimeLimit("2 s"), Verdict(False, "timeout", "time limit: 2 s"), True),
        (pool.MemoryLimit("1 GiB"), Verdict(False, "error", "memory limit: 1 GiB"), True),
        (pool.WorkerLost("gone"), Verdict(False, "error", "worker lost twice: gone"), True),
        (KeyError("x"), Verdict(False, "error", "KeyError: 'x'"), True),
    ],
)
def test_verdicts(found, verdict, warned, monkeypatch, caplog):
    asked = answering(monkeypatch, found)
    assert verify_answer("it is 4 <pad>", 5.0, 2.5) == verdict
    assert asked == [(grading.grade, ("it is 4", "5"), 2.5)]
    lines = [f"verifier: {verdict.detail} (no. 1 of its kind; label 5.0, response ends 'it is 4 <pad>')"]
    assert [record.getMessage() for record in caplog.records] == (lines if warned else [])


def test_readings(monkeypatch):
    reading = ("wrong", "4 and 5", "4", "4.", "5", "in m, not km")
    asked = answering(monkeypatch, reading)
    assert verifier.explain_answer("it is 4</s>", 5) == grading.Reading(*reading)
    assert asked == [(verifier._read, ("it is 4", "5"), None)]
    answering(monkeypatch, pool.TimeLimit("2 s"))
    assert verifier.explain_answer("4", 5) == grading.Reading("timeout", "time limit: 2 s", "", "", "", "")


def test_what_a_worker_reads_is_a_plain_tuple():
    read = verifier._read(r"\boxed{4}", "5")
    assert type(read) is tuple and read == grading.read(r"\boxed{4}", "5")


def test_warnings_are_counted_by_kind_and_cut(monkeypatch, caplog):
    for found, times in ((pool.TimeLimit("a"), 5), (pool.MemoryLimit("b"), 1), (pool.TimeLimit("c"), 2)):
        answering(monkeypatch, found)
        for _ in range(times):
            verify_answer("y" * 200 + "x" * 100, "l" * 300)
    told = [(record.args[0], record.args[1]) for record in caplog.records]
    assert told == [*(("time limit: a", number) for number in range(1, 6)), ("memory limit: b", 1)]
    line = caplog.records[0].getMessage()
    assert line == (f"verifier: time limit: a (no. 1 of its kind; label '{'l' * 199}, response ends '{'x' * 100}')")
    assert verifier._warnings == {"time limit": 7, "memory limit": 1}
    assert verify_answer(None, "5").outcome == "error" and "response ends None" in caplog.records[-1].getMessage()


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("1e-5", "1e-5"), ("", ""), (5, "5"), (-3, "-3"), (10**20, "1" + "0" * 20), (5.0, "5"), (0.5, "0.5"),
        (-2.25, "-2.25"), (1e-05, "0.00001"), (1e22, "1" + "0" * 22), (50.0, "50"), (1.05, "1.05"),
    ],
)  # fmt: skip
def test_a_label_as_text(label, text):
    assert label_text(label) == text


@pytest.mark.parametrize("label", [None, True, False, float("nan"), float("inf"), -float("inf"), ["5"], b"5", 5j])
def test_what_is_no_label(label):
    with pytest.raises(TypeError) as refusal:
        label_text(label)
    assert str(refusal.value) == f"the label {label!r} is not text"


# settings

VARIABLES = ("TIMEOUT", "WORKERS", "MEMORY_GB", "ISOLATION")


@pytest.mark.parametrize(("cpus", "workers"), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 4), (16, 8), (18, 8), (64, 8)])
def test_settings_that_nobody_gave(cpus, workers, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cpus)) if process == 0 else None)
    expected = pool.Settings(timeout=10.0, workers=workers, memory=4 * GIB, isolation="auto")
    for name in VARIABLES:
        monkeypatch.delenv(f"LENS_VERIFIER_{name}", raising=False)
    assert pool.Settings.from_env() == expected
    for name in VARIABLES:  # an empty one is none
        monkeypatch.setenv(f"LENS_VERIFIER_{name}", "")
    assert pool.Settings.from_env() == expected


def test_settings_that_were_given(monkeypatch):
    for name, value in zip(VARIABLES, ("0.5", "12", "1.5", "python"), strict=True):
        monkeypatch.setenv(f"LENS_VERIFIER_{name}", value)
    found = pool.Settings.from_env()
    assert found == pool.Settings(timeout=0.5, workers=12, memory=3 * GIB // 2, isolation="python")
    assert [type(value) for value in vars(found).values()] == [float, int, int, str]


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "x", "1 2"])
@pytest.mark.parametrize(("name", "kind"), [("TIMEOUT", "float"), ("WORKERS", "int"), ("MEMORY_GB", "float")])
def test_settings_that_cannot_be(name, kind, value, monkeypatch):
    monkeypatch.setenv(f"LENS_VERIFIER_{name}", value)
    with pytest.raises(ValueError) as refusal:
        pool.Settings.from_env()
    assert str(refusal.value) == f"LENS_VERIFIER_{name}={value!r} is not a positive {kind}"


def test_modes_of_isolation(monkeypatch):
    for mode in ("auto", "python", "off"):
        monkeypatch.setenv("LENS_VERIFIER_ISOLATION", mode)
        assert pool.Settings.from_env().isolation == mode
    monkeypatch.setenv("LENS_VERIFIER_ISOLATION", "Off")
    with pytest.raises(ValueError) as refusal:
        pool.Settings.from_env()
    assert str(refusal.value) == "LENS_VERIFIER_ISOLATION='Off' is none of auto, python, off"


# the pool's words


class Pebble:
    """Stands where pebble's pool is: has or raises what a task comes to."""

    made: list[dict]

    def __init__(self, **options):
        self.made.append(options)
        self.active, self.outcome, self.ended = True, None, []

    def schedule(self, function, args, timeout):
        self.scheduled = (function, args, timeout)
        if type(self.outcome) is RuntimeError:
            raise self.outcome
        future = concurrent.futures.Future()
        if isinstance(self.outcome, BaseException):
            future.set_exception(self.outcome)
        elif self.outcome is not None:
            future.set_result(self.outcome)
        return future

    def stop(self):
        self.ended.append("stop")

    def join(self):
        self.ended.append("join")


SETTINGS = pool.Settings(timeout=3.0, workers=2, memory=2 * GIB, isolation="python")


@pytest.fixture
def own(monkeypatch):
    """A pool over the stand-in."""
    monkeypatch.setattr(pool, "ProcessPool", type("OwnPebble", (Pebble,), {"made": []}))
    monkeypatch.setattr(pool, "POLL_SECONDS", 0.001)
    return pool._Pool(SETTINGS)


def test_how_workers_are_started(own):
    (options,) = own._pebble.made
    assert isinstance(options.pop("context"), pool.WorkerContext)
    assert options == {
        "max_workers": 2,
        "max_tasks": 2_000,
        "initializer": worker.init_worker,
        "initargs": (os.getpid(), 2 * GIB, "python"),
    }


def test_what_a_worker_is_given(own):
    own._pebble.outcome = "found"
    assert own.run(max, (1, 2), 1.5) == "found"
    assert own._pebble.scheduled == (worker.run_task, (max, (1, 2), 1.5), 1.5)
    own.stop()
    assert own._pebble.ended == ["stop", "join"]


def expired(code: int) -> ProcessExpired:
    return ProcessExpired("gone", code=code)


@pytest.mark.parametrize(
    ("outcome", "kind", "words"),
    [
        (concurrent.futures.TimeoutError(), pool.TimeLimit, "no verdict after 1.5 s"),
        (expired(-signal.SIGALRM), pool.TimeLimit, "no verdict after 1.5 s"),
        (expired(77), pool.MemoryLimit, "more than a quarter of 2 GiB"),
        (expired(78), pool.WorkerLost, "a worker died with exit code 78"),
        (expired(signal.SIGALRM), pool.WorkerLost, "a worker died with exit code 14"),
        (BrokenProcessPool("bad"), pool.WorkerLost, "the pool broke: bad"),
        (RuntimeError("closed"), pool.WorkerLost, "the pool is gone: closed"),
    ],
)
def test_what_went_wrong_in_a_worker(outcome, kind, words, own):
    own._pebble.outcome = outcome
    with pytest.raises(kind) as failure:
        own.run(max, (1, 2), 1.5)
    assert type(failure.value) is kind and str(failure.value) == words
    assert own.alive


def test_a_pool_that_ended_meanwhile(own):
    own._pebble.active = False
    assert not own.alive
    with pytest.raises(pool.WorkerLost) as failure:
        own.run(max, (1, 2), 1.5)
    assert str(failure.value) == "the pool is gone"


@pytest.mark.parametrize(("first", "longest"), [(1.0, 3.0), (7.0, 7.0)])
def test_a_pool_is_stuck_if_nothing_ends_for_the_longest_limit_and_a_minute(first, longest, own, monkeypatch):
    now = SimpleNamespace(seconds=1000.0, step=0.0)

    def monotonic():
        now.seconds += now.step
        return now.seconds

    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=monotonic))
    own._pebble.outcome = "found"
    own.run(max, (1, 2), first)
    own._pebble.outcome, began = None, now.seconds
    now.step = 0.5
    with pytest.raises(pool.WorkerLost) as failure:
        own.run(max, (1, 2), 2.0)
    assert str(failure.value) == "the pool is stuck" and not own.alive
    # It was submitted a step after the clock stood still, and is stuck at the first look that is later than that.
    assert now.seconds - began == 0.5 + longest + 60.0 + 0.5


def test_a_pool_on_which_others_go_on_is_not_stuck(own, monkeypatch):
    now = SimpleNamespace(seconds=1000.0)

    def monotonic():
        now.seconds += 1.0
        if now.seconds < 1200.0:
            own._last_progress = now.seconds
        return now.seconds

    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=monotonic))
    with pytest.raises(pool.WorkerLost, match="the pool is stuck"):
        own.run(max, (1, 2), 2.0)
    assert now.seconds == 1199.0 + 3.0 + 60.0 + 1.0


@pytest.mark.parametrize(("given", "used"), [(None, 3.0), (0.5, 0.5)])
def test_a_lost_worker_gets_a_second_try_and_no_third(given, used, monkeypatch):
    tried = []

    def run(self, function, args, timeout):
        tried.append((function, args, timeout))
        raise pool.WorkerLost(f"try {len(tried)}")

    monkeypatch.setattr(pool, "_running_pool", lambda: SimpleNamespace(settings=SETTINGS, run=lambda *a: run(None, *a)))
    with pytest.raises(pool.WorkerLost, match="try 2"):
        pool.run_in_worker(max, (1, 2), given)
    assert tried == [(max, (1, 2), used)] * 2


def test_one_pool_runs_and_a_broken_one_is_replaced_and_stopped(own, monkeypatch):
    """In a thread that holds nothing up, neither a verification nor the end of the process."""
    begun = []

    def thread(**options):
        return SimpleNamespace(start=lambda: begun.append(options))

    monkeypatch.setattr(pool, "threading", SimpleNamespace(Thread=thread))
    monkeypatch.setattr(pool, "_pool", None)
    monkeypatch.setenv("LENS_VERIFIER_TIMEOUT", "4")
    first = pool._running_pool()
    assert pool._running_pool() is first and first.settings.timeout == 4.0
    first._pebble.active = False
    second = pool._running_pool()
    assert second is not first and second.alive and pool._running_pool() is second
    assert begun == [{"target": first.stop, "daemon": True}]
    pool.shutdown()
    assert second._pebble.ended == ["stop", "join"] and pool._pool is None and first._pebble.ended == []


class Lock:
    """Counts how often it was taken."""

    taken = 0
    held = False

    def __enter__(self):
        self.taken, self.held = self.taken + 1, True

    def __exit__(self, *error):
        self.held = False


def test_one_thread_at_a_time_starts_and_ends_the_pool_and_counts(own, monkeypatch):
    lock, warnings = Lock(), Lock()
    monkeypatch.setattr(pool, "_pool_lock", lock)
    monkeypatch.setattr(pool, "_pool", None)
    monkeypatch.setattr(pool, "_Pool", lambda settings: SimpleNamespace(alive=lock.held, stop=lambda: lock.taken))
    assert pool._running_pool().alive and (lock.taken, lock.held) == (1, False)
    pool.shutdown()
    assert (lock.taken, lock.held) == (2, False)
    monkeypatch.setattr(verifier, "_warnings_lock", warnings)
    verifier._warn("a: b", "r", "l")
    assert warnings.taken == 1


def test_a_forked_child_has_neither_pool_nor_lock_of_its_parent(monkeypatch):
    lock = Lock()
    monkeypatch.setattr(pool, "_pool_lock", lock)
    monkeypatch.setattr(pool, "_pool", "the parent's")
    child = os.fork()
    if child == 0:
        os._exit(0 if pool._pool is None and pool._pool_lock is not lock else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (pool._pool, pool._pool_lock) == ("the parent's", lock)


# in a worker


def test_a_task_has_its_time_and_a_bit_more_and_no_timer_stays(monkeypatch):
    monkeypatch.setattr(worker, "_memory_budget", 1 << 50)
    left, interval = worker.run_task(signal.getitimer, (signal.ITIMER_REAL,), 5.0)
    assert 6.5 < left <= 7.0 and interval == 0.0
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with pytest.raises(RuntimeError) as failure:
        worker.run_task(int, ("x",), 5.0)
    assert str(failure.value) == "ValueError: invalid literal for int() with base 10: 'x'"
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize(("budget", "codes"), [(99, [77]), (100, []), (101, [])])
def test_a_task_that_took_too_much_memory_ends_the_process(budget, codes, monkeypatch):
    ended = []
    monkeypatch.setattr(worker.os, "_exit", ended.append)
    monkeypatch.setattr(worker, "_peak_memory", lambda: 100)
    monkeypatch.setattr(worker, "_memory_budget", budget)
    assert worker.run_task(max, (1, 2), 5.0) == 2
    assert ended == codes


def test_most_memory_in_bytes():
    with open("/proc/self/status") as status:
        (told,) = [line for line in status if line.startswith("VmHWM")]
    assert abs(worker._peak_memory() - int(told.split()[1]) * 1024) < 1 << 26
