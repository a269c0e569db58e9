"""Which labels answers can be graded by: the check of all commands that read labels."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from lens_openrlhf.rewards import label_check, pool
from lens_openrlhf.rewards.label_check import Refusal
from lens_openrlhf.rewards.verifier import label_text

Label = TypeVar("Label", bound=str | int)
Found = TypeVar("Found")


def validate_label(label: str | int) -> str | None:
    """Why no answer can be graded by `label`; None for a good label. For a data set, before training."""
    refusal = examine(label)
    return refusal and refusal.why


def examine(label: str | int) -> Refusal | None:
    """`label_check.examine` in a worker, within its limits."""
    try:
        found = pool.run_in_worker(label_check.examine, (label_text(label),), None)
        return found and Refusal(*found)
    except pool.TimeLimit as error:
        return Refusal(label_check.SLOW, f"the label {label!r} takes too long: {error}")
    except pool.MemoryLimit as error:
        return Refusal(label_check.LARGE, f"the label {label!r} takes too much memory: {error}")
    except pool.WorkerLost as error:
        return Refusal(label_check.FATAL, f"the label {label!r} cannot be checked: {error}")
    except Exception as error:
        return Refusal(
            label_check.INCOMPARABLE, f"the label {label!r} cannot be checked: {type(error).__name__}: {error}"
        )


def check_labels(labels: Iterable[Label]) -> dict[Label, str]:
    """Which of `labels` answers cannot be graded by, and why: a line for each, as `validate_label`'s, in their order.

    Each distinct one is checked once, in the worker processes; about 3 ms of a worker a label.
    """
    distinct = dict.fromkeys(labels)
    found = dict(as_found(validate_label, distinct))
    return {label: why for label in distinct if (why := found[label]) is not None}


def as_found(find: Callable[[Label], Found], labels: Iterable[Label]) -> Generator[tuple[Label, Found], None, None]:
    """Labels with what `find` gives for them, as it comes; `find` waits for a worker, so many run at once.

    Closing it early waits for those that run.
    """
    workers = pool.Settings.from_env().workers
    threads = ThreadPoolExecutor(2 * workers)
    todo = iter(labels)
    try:
        running = {threads.submit(find, label): label for label in islice(todo, 4 * workers)}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
            running |= {threads.submit(find, label): label for label in islice(todo, len(done))}
    finally:
        # Whoever stops early may end the workers next, and a thread that still waits for one would start new ones.
        threads.shutdown(cancel_futures=True)
