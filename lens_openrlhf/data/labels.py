"""Which labels Math-Verify can grade by: checked in the verifier's workers, and kept, so that none is checked twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from importlib import metadata
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from ..rewards import grading, pool

PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy")

UNREADABLE = "a label that does not parse"
INCOMPARABLE = "a label that cannot be compared"
UNEQUAL = "a label that is not right as its own answer"
SLOW = "a label over the time limit"
LARGE = "a label over the memory limit"
FATAL = "a label that ends the verifier"


def examine(label: str) -> str | None:
    """Why nothing can be graded by `label`, as one of the reasons above; None for a good label. For a worker.

    A good label parses, can be compared, and is the right answer itself when a response has it in a box.
    """
    try:
        grading.parse_label(label)
    except grading.BadLabel:
        return UNREADABLE
    if grading.check_label(label) is not None:
        return INCOMPARABLE
    response = label if grading.last_boxed(label) is not None else rf"\boxed{{{label}}}"
    return None if grading.grade(grading.response_end(response), label)[0] == "correct" else UNEQUAL


def _examine(label: str) -> str | None:
    try:
        return pool.run_in_worker(examine, (label,), None)
    except pool.TimeLimit:
        return SLOW
    except pool.MemoryLimit:
        return LARGE
    except Exception:  # a lost worker, or what Math-Verify raised in it
        return FATAL


def versions() -> dict[str, str]:
    """What decides whether a label is good, besides the label: packages and limits."""
    settings = pool.Settings.from_env()
    found = {package: metadata.version(package) for package in PACKAGES}
    return {**found, "verifier_seconds": f"{settings.timeout:g}", "verifier_gib": f"{settings.memory / pool.GIB:g}"}


def cache_file(folder: Path) -> Path:
    """Where the verdicts of this grader are kept: one line a label, in the order in which they came."""
    code = Path(grading.__file__).read_bytes() + Path(__file__).read_bytes()
    digest = hashlib.sha256(repr(versions()).encode() + code).hexdigest()
    return folder / f"labels-{digest[:16]}.jsonl"


def _kept(file: Path) -> dict[str, str | None]:
    verdicts = {}
    try:
        lines = file.read_text().splitlines()
    except (OSError, ValueError):
        return verdicts
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):  # the end of a run that was killed while it wrote
            label, reason = json.loads(line)
            verdicts[label] = reason
    return verdicts


def _verdicts(labels: Collection[str]) -> Iterator[tuple[str, str | None]]:
    """Labels with their verdicts, as these come."""
    workers = pool.Settings.from_env().workers
    threads = ThreadPoolExecutor(2 * workers)
    todo = iter(labels)
    try:
        running = {threads.submit(_examine, label): label for label in islice(todo, 4 * workers)}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
            running |= {threads.submit(_examine, label): label for label in islice(todo, len(done))}
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def check(labels: Collection[str], cache: Path, seconds: float | None = None) -> dict[str, str | None]:
    """The reason why a label is bad, or None, for each of the distinct labels.

    Args:
        cache: folder of the verdicts; what is known there is not checked again. Where it cannot be written, nothing is
            kept.
        seconds: so long at most: labels that are not reached, a random choice, have no entry.
    """
    file = cache_file(cache)
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    labels = dict.fromkeys(labels)
    verdicts = _kept(file)
    missing = [label for label in labels if label not in verdicts]
    if seconds is not None:
        random.Random(0).shuffle(missing)
    if missing:
        deadline = time.monotonic() + (float("inf") if seconds is None else seconds)
        with (
            _appended(file) as keep,
            tqdm(total=len(missing), desc="checking labels", leave=False, unit="label", disable=None) as bar,
        ):
            for label, reason in _verdicts(missing):
                bar.update()
                verdicts[label] = reason
                if reason != FATAL:  # which may have come from outside
                    keep(json.dumps([label, reason]) + "\n")
                if time.monotonic() > deadline:
                    break
    return {label: verdicts[label] for label in labels if label in verdicts}


@contextlib.contextmanager
def _appended(file: Path) -> Iterator[Callable[[str], object]]:
    """What appends a line to a file, or does nothing where that cannot be written."""
    try:
        kept = open(file, "a", buffering=1)
    except OSError:
        yield lambda line: None
        return
    with kept:
        kept.write("\n")  # ends a line that a killed run has left
        yield kept.write
