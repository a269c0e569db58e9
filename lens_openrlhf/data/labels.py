"""Which labels Math-Verify can grade by: checked in the verifier's workers, and kept, so that none is checked twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

from tqdm import tqdm

from ..rewards import answer, grading, pool
from ..rewards.labels import as_found

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
    response = label if answer.last_boxed(label) is not None else rf"\boxed{{{label}}}"
    return None if grading.grade(grading.response_end(response), label)[0] == "correct" else UNEQUAL


def _examine(label: str) -> str | None:
    try:
        return pool.run_in_worker(examine, (label,), None)
    except pool.TimeLimit:
        return SLOW
    except pool.MemoryLimit:
        return LARGE
    except pool.WorkerLost:
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
    if file.exists():
        for line in file.read_text().splitlines():
            try:
                label, reason = json.loads(line)
            except ValueError:  # the end of a run that was killed while it wrote
                continue
            verdicts[label] = reason
    return verdicts


def check(labels: Collection[str], cache: Path) -> dict[str, str | None]:
    """The reason why a label is bad, or None, for each of the distinct labels.

    Args:
        cache: folder of the verdicts; what is known there is not checked again.
    Raises:
        OSError: a cache that cannot be written.
    """
    file = cache_file(cache)
    verdicts = _kept(file)
    labels = dict.fromkeys(labels)
    missing = [label for label in labels if label not in verdicts]
    if missing:
        cache.mkdir(parents=True, exist_ok=True)
        with open(file, "a", buffering=1) as kept:
            kept.write("\n")  # ends a line that a killed run has left
            for label, reason in tqdm(
                as_found(_examine, missing), "checking labels", len(missing), leave=False, unit="label", disable=None
            ):
                verdicts[label] = reason
                if reason != FATAL:  # which may have come from outside
                    kept.write(json.dumps([label, reason]) + "\n")
    return {label: verdicts[label] for label in labels}
