"""Hostile answers and labels: none is run, none hangs, and right answers are still graded right."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lens_openrlhf.rewards import Verdict, pool, shutdown, verify_answer

from .hostile import KINDS, VARIABLE, Case, Traps, cases
from .workers import workers_of

PATIENCE = 300.0  # a case that is not decided by then hangs, on whatever machine
WORKERS = 2
ALL, PART = (1000, 1.0), (112, 0.5)  # cases, and the time limit of each in seconds
SET = f"{VARIABLE!r} in __import__('os').environ"


@pytest.fixture(scope="module")
def traps(tmp_path_factory) -> Iterator[Traps]:
    """Workers that nothing holds back, so that code that runs is seen."""
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.MonkeyPatch.context() as patch:
        server.setblocking(False)
        patch.setenv("LENS_VERIFIER_ISOLATION", "off")
        patch.setenv("LENS_VERIFIER_WORKERS", str(WORKERS))
        shutdown()
        folder = tmp_path_factory.mktemp("traps")
        yield Traps(folder, server.getsockname()[1])
        shutdown()
        assert workers_of(os.getpid()) == []
        with pytest.raises(BlockingIOError):
            server.accept()


def check(kind: str, whole: tuple[int, float], traps: Traps) -> Counter:
    """Grades a kind's share of the cases; returns how often each outcome came."""
    count, limit = whole[0] // len(KINDS), whole[1]
    chosen = cases(kind, count, traps)
    with ThreadPoolExecutor(WORKERS) as threads:
        waiting = [threads.submit(verify_answer, case.response, case.label, limit) for case in chosen]
        verdicts = [future.result(PATIENCE) for future in waiting]
    assert list(traps.folder.iterdir()) == [], f"code in an answer was run: {kind}"
    graded_wrong = [(case, verdict) for case, verdict in zip(chosen, verdicts, strict=True) if misjudged(case, verdict)]
    assert not graded_wrong, f"{len(graded_wrong)} of {count}, such as {str(graded_wrong[0])[:500]}"

    assert verify_answer(r"so \boxed{\frac{6}{4}}", "1.5", PATIENCE).correct
    assert verify_answer(r"so \boxed{\frac{6}{5}}", "1.5", PATIENCE).outcome == "wrong"
    assert not any(pool.run_in_worker(eval, (SET,), PATIENCE) for _ in range(2 * WORKERS))
    assert len(workers_of(os.getpid())) <= WORKERS
    return Counter(verdict.outcome for verdict in verdicts)


def misjudged(case: Case, verdict: Verdict) -> bool:
    # On a busy machine a right answer may take longer than the limit; then it is counted as that.
    return verdict.correct != case.correct and verdict.outcome != "timeout"


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_the_hostile_answers(traps, kind):
    check(kind, PART, traps)


@pytest.mark.long
def test_all_hostile_answers(traps, capsys):
    found = {kind: check(kind, ALL, traps) for kind in KINDS}
    total = sum(found.values(), Counter())
    assert total.total() == ALL[0]
    with capsys.disabled():
        for kind, outcomes in [*found.items(), ("together", total)]:
            print(f"\n{kind:<11}" + ", ".join(f"{n} {outcome}" for outcome, n in sorted(outcomes.items())), end="")


def test_every_trap_shows_code_that_runs(traps):
    """Otherwise the tests above could not fail."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        sprung = 0
        for code in Traps(traps.folder, server.getsockname()[1]).payloads("file"):
            variable_is_set = pool.run_in_worker(eval, (f"({code}, {SET})[1]",), PATIENCE)
            with contextlib.suppress(BlockingIOError):
                server.accept()[0].close()
                sprung += 1
                continue
            if not variable_is_set:
                (traps.folder / "file").unlink()
    assert sprung == 1 and variable_is_set
    shutdown()  # that worker's variable stays set
