"""Which labels Math-Verify can grade by: checked in the verifier's workers, and kept, so that none is checked twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

from tqdm import tqdm

from ..rewards import answer, grading, label_check, notation, pool
from ..rewards.labels import as_found, examine

PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy")


def versions() -> dict[str, str]:
    """What decides whether a label is good, besides the label: packages and limits."""
    settings = pool.Settings.from_env()
    found = {package: metadata.version(package) for package in PACKAGES}
    return {**found, "verifier_seconds": f"{settings.timeout:g}", "verifier_gib": f"{settings.memory / pool.GIB:g}"}


def cache_file(folder: Path) -> Path:
    """Where the verdicts of this grader are kept: one line a label, in the order in which they came."""
    code = b"".join(Path(module.__file__).read_bytes() for module in (answer, notation, grading, label_check))
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
            for label, refusal in tqdm(
                as_found(examine, missing), "checking labels", len(missing), leave=False, unit="label", disable=None
            ):
                reason = refusal and refusal.kind
                verdicts[label] = reason
                if reason != label_check.FATAL:  # which may have come from outside
                    kept.write(json.dumps([label, reason]) + "\n")
    return {label: verdicts[label] for label in labels}
