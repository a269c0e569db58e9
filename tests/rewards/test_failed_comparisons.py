"""A comparison that Math-Verify fails in is an error, which the metrics count, and no wrong answer."""

from __future__ import annotations

import pytest

from lens_openrlhf.rewards import grading, pool, verifier


class Broken(Exception):
    pass


@pytest.fixture
def verify(monkeypatch):
    """verify({(label, answer): verdict or error}) -> the pairs that were compared; Math-Verify says so of them."""

    def run(verdicts: dict) -> list:
        asked = []

        def say(gold, given, timeout_seconds, raise_on_error):
            asked.append((gold, given))
            assert timeout_seconds is None and raise_on_error is True
            verdict = verdicts.get((gold, given), False)
            if isinstance(verdict, Exception):
                raise verdict
            return verdict

        monkeypatch.setattr(grading, "verify", say)
        return asked

    return run


def test_a_failure_counts_where_no_other_forms_are_equal(verify):
    broken = Broken("no such comparison")
    verify({("a", "x"): broken, ("b", "y"): True})
    assert grading.equal(["a", "b"], ["x", "y"]) is True, "one pair is enough"
    asked = verify({("a", "y"): broken})
    with pytest.raises(Broken, match="no such comparison"):
        grading.equal(["a", "b"], ["x", "y"])
    assert asked == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")], "all are tried"
    verify({})
    assert grading.equal(["a", "b"], ["x", "y"]) is False


def test_an_answer_whose_comparison_fails_is_an_error(monkeypatch):
    def fail(*_, **__):
        raise Broken("no such comparison")

    monkeypatch.setattr(grading, "verify", fail)
    reading = grading.read(r"so \boxed{4}", "5")
    detail = "comparison failed: Broken 'no such comparison', answer '4', label '5'"
    assert reading == grading.Reading("error", detail, "4", "4", "5")
    assert grading.grade(r"so \boxed{4}", "5") == ("error", detail)


@pytest.mark.parametrize(
    ("error", "outcome", "detail"),
    [
        (pool.TimeLimit("2 s"), "timeout", "time limit: 2 s"),
        (pool.MemoryLimit("1 GB"), "error", "memory limit: 1 GB"),
        (pool.WorkerLost("killed"), "error", "worker lost twice: killed"),
        (Broken("anything"), "error", "Broken: anything"),
    ],
)
def test_a_verification_that_fails_is_no_wrong_answer(monkeypatch, error, outcome, detail):
    def fail(*_):
        raise error

    monkeypatch.setattr(pool, "run_in_worker", fail)
    assert verifier.verify_answer(r"\boxed{4}", "5") == verifier.Verdict(False, outcome, detail)
    assert verifier.explain_answer(r"\boxed{4}", "5") == grading.Reading(outcome, detail)
