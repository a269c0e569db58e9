"""Answers compared with their labels in worker processes: a verdict for each, whatever goes wrong."""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from lens_openrlhf.rewards import grading, pool

logger = logging.getLogger(__name__)

LOGGED_FULLY, LOGGED_EVERY = 5, 100


@dataclass(frozen=True)
class Verdict:
    """Outcome of one verification; `detail` says what was compared, or what went wrong."""

    correct: bool
    outcome: grading.Outcome
    detail: str


def verify_answer(response: str, label: str | float, timeout: float | None = None) -> Verdict:
    """Compares the answer in a response with the gold label.

    Args:
        response: what the model wrote, without the prompt; special tokens at its end do no harm. Only the
            last `grading.MAX_RESPONSE_CHARS` characters are looked at.
        label: LaTeX with or without delimiters, or a number.
        timeout: seconds the comparison may run, LENS_VERIFIER_TIMEOUT by default.
    Returns:
        The verdict. Never raises: what goes wrong has the outcome "timeout" or "error" and is logged, the
        first 5 of a kind and then every 100th.
    """
    outcome, detail, *_ = _limited(grading.grade, response, label, timeout)
    return Verdict(outcome == "correct", outcome, detail)


def explain_answer(response: str, label: str | int) -> grading.Reading:
    """How `verify_answer` grades, within the same limits, and what it read. Never raises."""
    return grading.Reading(*_limited(_read, response, label, None))


def _read(response: str, label: str) -> tuple[str, ...]:
    return tuple(grading.read(response, label))  # no other class is taken from a worker


def _limited(function: Callable[..., tuple], response: str, label: str | float, timeout: float | None) -> tuple:
    """What `function` gives for a response in a worker or, where that fails, the outcome and why."""
    try:
        found = pool.run_in_worker(function, (grading.response_end(response), label_text(label)), timeout)
        if found[0] == "error":
            _warn(found[1], response, label)
        return found
    except pool.TimeLimit as error:
        failed = "timeout", f"time limit: {error}"
    except pool.MemoryLimit as error:
        failed = "error", f"memory limit: {error}"
    except pool.WorkerLost as error:
        failed = "error", f"worker lost twice: {error}"
    except Exception as error:
        failed = "error", f"{type(error).__name__}: {error}"
    _warn(failed[1], response, label)
    return failed


def label_text(label: str | float) -> str:
    """The label as text: data sets in JSON and CSV have numbers, too.

    Raises:
        TypeError: what is neither text nor a finite number.
    """
    if isinstance(label, str):
        return label
    if isinstance(label, bool) or not isinstance(label, int | float) or not math.isfinite(label):
        raise TypeError(f"the label {label!r} is not text")
    if isinstance(label, int):
        return str(label)
    # All digits: Math-Verify reads 1e-05 as a product. A column of whole numbers with gaps holds them as 5.0.
    return f"{Decimal(repr(label)):f}".removesuffix(".0")


_warnings: Counter[str] = Counter()
_warnings_lock = threading.Lock()


def _warn(detail: str, response: Any, label: Any) -> None:
    """Logs a failed verification unless many of its kind (`detail` up to the colon) were logged before."""
    kind = detail.partition(":")[0]
    with _warnings_lock:
        _warnings[kind] += 1
        count = _warnings[kind]
    if count <= LOGGED_FULLY or count % LOGGED_EVERY == 0:
        end = response[-100:] if isinstance(response, str) else response
        logger.warning(
            "verifier: %s (no. %d of its kind; label %.200r, response ends %.200r)", detail, count, label, end
        )
