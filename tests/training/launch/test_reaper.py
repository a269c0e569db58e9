"""What a run's driver leaves behind is ended, whether it was seen before or not."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from lens_openrlhf.training.launch import reaper

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


def test_how_the_watcher_is_started(monkeypatch):
    """What is started after it is known by a mark of its own."""
    calls = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, **how: calls.append((words, how)) or "the process")
    marks = set()
    for _ in range(2):
        for name in ("LENS_RUN_MARK", "SPT_NOENV"):
            monkeypatch.setenv(name, "")
        assert reaper.start() == "the process"
        marks.add(os.environ["LENS_RUN_MARK"])
        assert os.environ["SPT_NOENV"] == "1"
    assert len(marks) == 2 and {len(mark) for mark in marks} == {32}
    nothing = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    words = [sys.executable, "-m", "lens_openrlhf.training.launch.reaper", str(os.getpid())]
    assert calls == [(words, {"stdin": subprocess.PIPE, **nothing, "start_new_session": True})] * 2


class Fake(SimpleNamespace):
    """A process that only tells what is done to it."""

    def is_running(self):
        return self.running

    def kill(self):
        self.killed.append(self.pid)
        if self.pid == 3:
            raise psutil.NoSuchProcess(3)

    def environ(self):
        if self.mark is None:
            raise psutil.AccessDenied(self.pid)
        return {reaper.MARK: self.mark}


def test_what_is_ended():
    killed: list[int] = []
    processes = [Fake(pid=pid, running=pid != 4, killed=killed) for pid in (2, 3, 4, os.getpid(), 5)]
    reaper._end({process.pid: process for process in processes})
    assert killed == [2, 3, 5], "neither itself, nor a number that is another's by now"


def test_what_carries_the_mark(monkeypatch):
    marks = {2: "a", 3: None, 4: "b", 5: "a", 6: "a", os.getpid(): "a"}
    monkeypatch.setattr(psutil, "process_iter", lambda: [Fake(pid=pid, mark=mark) for pid, mark in marks.items()])
    assert list(reaper._marked("a", besides=5)) == [2, 6]


def test_a_drivers_descendants_are_remembered_until_it_ends(monkeypatch):
    looks = iter([[], [], [], ["its end"]])
    monkeypatch.setattr(select, "select", lambda *given: (given == ([sys.stdin], [], [], 2.0) and next(looks), [], []))
    seen = iter([[2, 3], [3, 4], None])
    asked = []

    class Driver:
        def __init__(self, pid):
            asked.append(pid)

        def children(self, recursive):
            assert recursive
            if (pids := next(seen)) is None:
                raise psutil.NoSuchProcess(9)
            return [Fake(pid=pid) for pid in pids]

    left = iter([{5: "five"}, {6: "six"}, {}])
    ended, slept = [], []
    monkeypatch.setenv(reaper.MARK, "my mark")
    monkeypatch.setattr(psutil, "Process", Driver)
    monkeypatch.setattr(reaper, "_end", lambda processes: ended.append([*processes]))
    monkeypatch.setattr(
        reaper, "_marked", lambda mark, besides: next(left) if (mark, besides) == ("my mark", 9) else {}
    )
    monkeypatch.setattr(time, "sleep", slept.append)
    reaper.watch(9)
    assert ended == [[2, 3, 4], [5], [6]] and asked == [9, 9, 9] and slept == [0.2, 0.2]
