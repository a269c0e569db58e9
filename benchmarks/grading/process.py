"""A grader in a process of its own, with a time limit for every call."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path

SECONDS_TO_START = 120.0
_SCRIPT = Path(__file__).with_name("graders.py")


class Grader:
    """Starts with the first question and again after one that it did not answer in time.

    Attributes:
        why_not: why it cannot be started; empty if it can.
    """

    def __init__(self, kind: str, folder: Path, python: str, timeout: float) -> None:
        self._command = [python, str(_SCRIPT), kind, str(folder)]
        self._folder, self._timeout = folder, timeout
        self._process: subprocess.Popen | None = None
        self._unread = b""
        self.why_not = ""

    def __enter__(self) -> Grader:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _start(self) -> None:
        with (self._folder.parent / f"{self._folder.name}.stderr").open("wb") as errors:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        if self._line(SECONDS_TO_START) != b"ready":
            self._end()
            said = Path(errors.name).read_text(errors="replace").strip().splitlines()
            self.why_not = said[-1][:200] if said else "it does not start"

    def _end(self) -> None:
        """With all that it started."""
        process, self._process, self._unread = self._process, None, b""
        if process is not None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
            process.stdin.close()
            process.stdout.close()

    def _line(self, seconds: float) -> bytes | None:
        """The next line of the process; None where none comes in time, or the process ended."""
        end = time.monotonic() + seconds
        output = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            ready, _, _ = select.select([output], [], [], max(0.0, end - time.monotonic()))
            part = os.read(output, 65536) if ready else b""
            if not part:
                return None
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def ask(self, label: str, response: str | None = None) -> dict:
        """`right` or, without a response, `refused`; or `error`; and `seconds`. See graders.py."""
        question = {"label": label} if response is None else {"label": label, "response": response}
        if self._process is None:
            self._start()
        start = time.perf_counter()
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            line = self._line(self._timeout)
        except BrokenPipeError:
            line = None
        if line is None:
            self._end()
            return {"error": "no answer in time, or it died", "seconds": time.perf_counter() - start}
        return json.loads(line)
