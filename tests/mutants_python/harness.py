"""Runs chosen tests on a copy of the project, in a fork of this process, which has imported what is not ours.

The copy lies first on the path of the fork and of all that it starts, so commands and workers see the same sources.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import py_compile
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from .blocks import MODULE, RECORDER, VARIABLE, Record

MEMORY_BYTES = 12 << 30  # of one process
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
MARKS = "not e2e and not long and not gpu"


@dataclass(frozen=True)
class Project:
    """What is mutated.

    Attributes:
        root: the checkout.
        package: the folder with the sources; all of it is watched.
        planted: files and folders of it that get bugs, relative to it.
        left_out: folders of tests that are not run.
        warm: modules that are imported once, before all forks.
    """

    root: Path
    package: str
    planted: Sequence[str]
    left_out: Sequence[str] = ()
    warm: Sequence[str] = ()

    def sources(self) -> dict[str, str]:
        return {str(p.relative_to(self.root)): p.read_text() for p in sorted((self.root / self.package).rglob("*.py"))}

    def group(self, file: str) -> str | None:
        """The planted folder that a source belongs to, files beside the folders being one."""
        below = Path(file).relative_to(self.package)
        for name in self.planted:
            if below.parts[0] == name:
                return name if len(below.parts) > 1 else "(beside them)"
        return None

    def test_files(self) -> list[str]:
        found = sorted(path.relative_to(self.root) for path in (self.root / "tests").rglob("test_*.py"))
        return [str(path) for path in found if not {*path.parts} & {*self.left_out}]


@dataclass
class Outcome:
    """What became of tests.

    Attributes:
        failed: ids of those that did not pass, or a word for what else went wrong.
        helpers: files below `tests/` that were loaded.
    """

    failed: list[str]
    seconds: float
    durations: dict[str, float] = field(default_factory=dict)
    output: str = ""
    helpers: list[str] = field(default_factory=list)


class Tree:
    """A copy of the project that one process works in."""

    def __init__(self, project: Project, place: Path):
        self.project, self.place = project, place
        shutil.rmtree(place, ignore_errors=True)
        listed = ["git", "-C", str(project.root), "ls-files", "-z", "-co", "--exclude-standard"]
        done = subprocess.run(listed, capture_output=True, text=True)
        if done.returncode:
            shutil.copytree(project.root, place, ignore=shutil.ignore_patterns(place.parent.name))
        names = [name for name in done.stdout.split("\0") if name and (project.root / name).is_file()]
        names += [str(path.relative_to(project.root)) for path in (project.root / project.package).rglob("*.so")]
        for name in names:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(project.root / name, place / name)
        by_content = py_compile.PycInvalidationMode.CHECKED_HASH
        # Two changes within a second would look alike to the usual check by time and size. What is compiled anew
        # is written by content, too.
        for path in [*(place / project.package).rglob("*.py"), *(place / "tests").rglob("*.py")]:
            with contextlib.suppress(py_compile.PyCompileError):
                py_compile.compile(str(path), doraise=True, invalidation_mode=by_content)

    @contextlib.contextmanager
    def changed(self, files: dict[str, str]):
        try:
            for name, text in files.items():
                (self.place / name).write_text(text)
            yield
        finally:
            for name in files:
                if (self.project.root / name).exists():
                    shutil.copy2(self.project.root / name, self.place / name)
                else:
                    (self.place / name).unlink()

    def run(self, tests: Iterable[str], limit: float, record: Record | None = None, to_end: bool = False) -> Outcome:
        """Run tests, file by file, until one fails.

        Args:
            tests: ids, or files.
            limit: in seconds, after which it counts as failed.
            record: gets a row a test.
            to_end: whether to go on after a failing test.
        """
        ids = list(tests)
        with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
            start = time.monotonic()
            (Path(scratch) / "told").touch()
            pid = os.fork()
            if pid == 0:
                self._child(ids, Path(scratch), record, to_end)  # does not return
            status = _wait(pid, start + limit)
            sweep()
            seconds = time.monotonic() - start
            told = [json.loads(line) for line in (Path(scratch) / "told").read_text().splitlines()]
            output = (Path(scratch) / "output").read_text(errors="replace")[-6000:]
        durations = {line["test"]: line["seconds"] for line in told if "seconds" in line}
        failed = list(dict.fromkeys(line["failed"] for line in told if "failed" in line))
        if status is None:
            begun = [line["begun"] for line in told if "begun" in line]
            failed.append(f"no end: {begun[-1] if begun else 'collection'}")
        elif status not in (0, 5 << 8) and not failed:  # 5: no test was left, as the choice by marks may do
            failed.append(f"ended with {os.waitstatus_to_exitcode(status)}")
        helpers = [name for line in told for name in line.get("helpers", ())]
        return Outcome(failed, seconds, durations, output, helpers)

    def _child(self, ids: list[str], scratch: Path, record: Record | None, to_end: bool) -> None:
        code = 99
        try:
            os.setsid()
            out = os.open(scratch / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            null = os.open(os.devnull, os.O_RDONLY)
            for to, descriptor in ((0, null), (1, out), (2, out)):
                os.dup2(descriptor, to)
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            os.chdir(self.place)
            root = str(self.project.root)
            sys.path[:] = [str(self.place), *(p for p in sys.path if os.path.abspath(p or root) != root)]
            # The label cache must not carry what one mutant decided into the next.
            os.environ |= {
                "PYTHONPATH": str(self.place),
                "PYTHONDONTWRITEBYTECODE": "1",
                "XDG_CACHE_HOME": str(scratch),
            }
            if record:
                os.environ[VARIABLE] = str(record.path)
            for name in [n for n in sys.modules if n.split(".")[0] in ("tests", self.project.package)]:
                del sys.modules[name]
            sys.modules["__main__"] = types.ModuleType("__main__")  # what `spawn` would run again
            importlib.invalidate_caches()
            import pytest

            options = ["-q", "-p", "no:cacheprovider", "--basetemp", str(scratch / "t"), "-m", MARKS, "--tb", "short"]
            options += [] if to_end else ["-x"]
            options += ["--hypothesis-seed", "0"] if "hypothesis" in self.project.warm else []
            files = list(dict.fromkeys(test.split("::")[0] for test in ids))
            code = pytest.main([*options, *files], plugins=[_Plugin(ids, scratch / "told", record)])
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


class _Plugin:
    """Keeps the chosen tests, tells of each before and after, and turns to its row."""

    def __init__(self, ids: list[str], told: Path, record: Record | None):
        self.ids, self.record, self.row = set(ids), record, 0
        self.told = open(told, "w", buffering=1)  # noqa: SIM115
        self.seconds = 0.0

    def tell(self, **line) -> None:
        self.told.write(json.dumps(line) + "\n")

    def pytest_collection_modifyitems(self, config, items):
        files = {test for test in self.ids if "::" not in test}
        kept = [item for item in items if item.nodeid in self.ids or item.nodeid.split("::")[0] in files]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept

    def pytest_runtest_logstart(self, nodeid, location):
        self.tell(begun=nodeid)
        self.seconds = 0.0
        if self.record:
            self.row += 1
            self.record.row(self.row)

    def pytest_runtest_logreport(self, report):
        self.seconds += report.duration
        if report.failed:
            self.tell(failed=report.nodeid)

    def pytest_runtest_logfinish(self, nodeid, location):
        self.tell(test=nodeid, seconds=round(self.seconds, 3))

    def pytest_sessionfinish(self):
        files = [getattr(module, "__file__", None) or "" for module in sys.modules.values()]
        tests = os.path.join(os.getcwd(), "tests", "")
        self.tell(helpers=sorted(os.path.relpath(file) for file in files if file.startswith(tests)))

    def pytest_collectreport(self, report):
        if report.failed:
            self.tell(failed=f"{report.nodeid or 'collection'} (is not collected)")


def _wait(pid: int, deadline: float) -> int | None:
    """The status with which a child ended, or None if it had to be killed.

    Orphans that end meanwhile are taken note of, or they would stay in the table of processes as if they lived.
    """
    while time.monotonic() < deadline:
        done, status = os.waitpid(-1, os.WNOHANG)
        if done == pid:
            return status
        if not done:
            time.sleep(0.02)
    return None


def sweep() -> None:
    """End whatever a test left running: its orphans are this process's children (see `adopt`)."""
    import psutil

    while left := psutil.Process().children(recursive=True):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def adopt() -> None:
    """Make this process the parent of its descendants' orphans."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


def warm(project: Project) -> None:
    for name in project.warm:
        importlib.import_module(name)
    for plugin in metadata.entry_points(group="pytest11"):
        plugin.load()


def recording_files(blocks) -> dict[str, str]:
    """What is written into a tree for a recording."""
    return {f"{MODULE}.py": RECORDER} | {name: blocks.recording(name) for name in blocks.trees}
