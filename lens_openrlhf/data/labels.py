"""Which labels Math-Verify can grade by: checked in the verifier's workers, and kept, so that none is checked twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import time
from collections.abc import Callable, Collection, Iterator
from importlib import metadata
from pathlib import Path

from tqdm import tqdm

from ..rewards import label_check, pool
from ..rewards.labels import as_found, examine

PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy")
GRADER = Path(pool.__file__).parent
# Verdicts that a busy machine, or whoever ended the worker, may have made.
NOT_KEPT = (label_check.SLOW, label_check.LARGE, label_check.FATAL)


def versions() -> dict[str, str]:
    """What decides whether a label is good, besides the label: packages and limits."""
    settings = pool.Settings.from_env()
    found = {package: metadata.version(package) for package in PACKAGES}
    return {**found, "verifier_seconds": f"{settings.timeout:g}", "verifier_gib": f"{settings.memory / pool.GIB:g}"}


def cache_file(folder: Path) -> Path:
    """Where the verdicts of this grader are kept: one line a label, in the order in which they came."""
    code = b"".join(path.read_bytes() for path in sorted(GRADER.glob("*.py")))
    digest = hashlib.sha256(repr(versions()).encode() + code).hexdigest()
    return folder / f"labels-{digest[:16]}.jsonl"


def _kept(file: Path) -> dict[str, str | None]:
    verdicts: dict[str, str | None] = {}
    try:
        lines = file.read_text().splitlines()
    except (OSError, ValueError):
        return verdicts
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):  # the end of a run that was killed while it wrote
            label, reason = json.loads(line)
            verdicts[label] = reason
    return verdicts


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
        found = as_found(examine, missing)
        bar = tqdm(found, "checking labels", len(missing), leave=False, unit="label", disable=None)
        with contextlib.closing(found), _appended(file) as keep:
            for label, refusal in bar:
                reason = refusal and refusal.kind
                verdicts[label] = reason
                if reason not in NOT_KEPT:
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
