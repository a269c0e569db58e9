"""Trains the runs of a comparison that are not finished, each in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

from ..inputs import OptionError
from ..process import duration, printable
from ..training.checkpoints import resuming
from .runs import Run
from .state import FINISHED, State, delete_large, has_final_evaluation, move_aside
from .tables import final_pass_at_1

LOG = "train.log"
TAIL_LINES = 12
POLL_SECONDS = 0.3
CLOCK_SECONDS = 2  # by so much a process's start time may change as the clock is set right
STOP_SECONDS = 90  # a run that is told to stop ends Ray and vLLM in a few; after this it is killed


def say(text: str) -> None:
    """A line for the terminal, which may be gone (SIGHUP)."""
    with contextlib.suppress(OSError):
        print(printable(text), flush=True)


@dataclass
class _Active:
    run: Run
    process: subprocess.Popen
    began: float  # monotonic
    slot: int


@contextlib.contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """SIGINT, SIGTERM and SIGHUP fill the list that is yielded; nothing is interrupted half-way."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def slot_environment(slot: int, parallel: int, cpus: int, devices: Sequence[str]) -> dict[str, str]:
    """Variables that give one of `parallel` runs its share of the machine: of the CUDA `devices`, or of the CPUs."""
    if parallel == 1:
        return {}
    if not devices:
        return {"OMP_NUM_THREADS": str(max(1, cpus // parallel))}
    share = len(devices) // parallel
    return {"CUDA_VISIBLE_DEVICES": ",".join(devices[slot * share : (slot + 1) * share])}


def _devices() -> list[str]:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return []
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


def end_strays(state: State) -> None:
    """End runs that go on although the comparison that started them was killed; two processes must not share a folder.

    A process number alone may belong to another process by now; its start time tells.
    """
    for key, record in state.record["runs"].items():
        if record["state"] != "running":
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(record["pid"])
            if abs(process.create_time() - record["created"]) > CLOCK_SECONDS:
                continue
            say(f"{key} still goes on although its comparison was killed; ending it …")
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_SECONDS)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait(STOP_SECONDS)


class Runner:
    """Starts runs, watches them and records how they ended.

    Args:
        state: the comparison's record; its lock must be held.
        runs: all runs in the order in which they are to be trained.
        parallel: how many at once.
        keep_models: whether models and checkpoints of finished runs stay.
    """

    def __init__(self, state: State, runs: Sequence[Run], parallel: int = 1, keep_models: bool = False):
        self.state, self.runs, self.parallel, self.keep_models = state, list(runs), parallel, keep_models
        self._devices = _devices() if parallel > 1 else []
        self._failed = 0

    def run(self) -> int:
        """Train what is not finished. Returns 0, 1 where a run failed, or 130 where the comparison was interrupted."""
        todo = [run for run in self.runs if not self.state.is_finished(run)]
        active: list[_Active] = []
        with _signals_noted() as signals:
            try:
                while (todo or active) and not signals:
                    while todo and len(active) < self.parallel:
                        slot = min(set(range(self.parallel)) - {one.slot for one in active})
                        active.append(self._start(todo.pop(0), slot))
                    time.sleep(POLL_SECONDS)
                    for one in [one for one in active if one.process.poll() is not None]:
                        active.remove(one)
                        self._ended(one, left=len(todo) + len(active))
            finally:
                self._stop(active)
        if signals and (todo or active):
            return 130
        return 1 if self._failed else 0

    def _start(self, run: Run, slot: int) -> _Active:
        folder = self.state.run_folder(run)
        seconds = self._make_room(run, folder)
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **slot_environment(slot, self.parallel, os.cpu_count() or 1, self._devices)}
        command = [sys.executable, "-m", "lens_openrlhf.cli", "train", *run.command(folder)]
        with open(folder / LOG, "a") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # a terminal's Ctrl-C reaches us alone, and we end the run
            )
        one = _Active(run, process, time.monotonic() - seconds, slot)
        created = psutil.Process(process.pid).create_time()
        self.state.set(run, state="running", seconds=seconds, pid=process.pid, created=created)
        return one

    def _make_room(self, run: Run, folder: Path) -> float:
        """Continue a run that did not come to its end from its checkpoint where the options say so; otherwise it begins
        anew.

        Returns the seconds that the run has taken before.
        """
        record = self.state.of(run)
        begun = record.get("state") in ("running", "interrupted", "failed")
        if begun and "ckpt.load_enable" in run.options:
            with contextlib.suppress(OptionError):  # none of its checkpoints is whole
                if found := resuming.newest(folder / "checkpoints"):
                    say(f"{run.key} goes on after step {found.step}")
                    return record["seconds"]
        aside = move_aside(folder)
        if aside:
            say(f"{run.key} begins anew; what it had is in {aside.name}")
        return 0.0

    def _ended(self, one: _Active, left: int) -> None:
        run, folder, status = one.run, self.state.run_folder(one.run), one.process.returncode
        seconds = time.monotonic() - one.began
        total = len(self.runs)
        place = f"[{self.runs.index(run) + 1:>{len(str(total))}}/{total}] {run.arm}, seed {run.seed}"
        if status == 0 and has_final_evaluation(folder):
            self.state.set(run, state=FINISHED, seconds=seconds)
            if not self.keep_models:
                delete_large(folder)
            line = f"{place}: {duration(seconds)}, Pass@1 {final_pass_at_1(folder):.3f}"
            say(line + (f", about {duration(self._estimate(left))} left" if left else ""))
            return
        self._failed += 1
        self.state.set(run, state="failed", seconds=seconds, exit=status)
        why = f"exit status {status}" if status else "no evaluation after its last step"
        say(f"{place}: failed after {duration(seconds)} ({why}); its log ends:")
        for line in tail(folder / LOG):
            say(f"    {line}")
        say(f"    the whole log: {folder / LOG}")

    def _estimate(self, left: int) -> float:
        """Seconds for `left` runs that take as long as the finished ones did."""
        took = [self.state.of(run)["seconds"] for run in self.runs if self.state.is_finished(run)]
        return sum(took) / len(took) * left / self.parallel

    def _stop(self, active: Sequence[_Active]) -> None:
        """End the running processes as Ctrl-C would, and wait for them."""
        for one in active:
            one.process.send_signal(signal.SIGINT)
        if active:
            say("\nstopping " + ", ".join(one.run.key for one in active) + " …")
        deadline = time.monotonic() + STOP_SECONDS
        for one in active:
            try:
                one.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.process.kill()  # its own watcher ends what it leaves (training/launch/reaper.py)
                one.process.wait()
            if one.process.returncode == 0:  # it came to its end before the signal
                self._ended(one, left=0)
            else:
                self.state.set(one.run, state="interrupted", seconds=time.monotonic() - one.began)


def tail(log: Path) -> list[str]:
    """The last lines of a log that say something."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [line for line in lines if line.strip()][-TAIL_LINES:]
