"""Which answers are the same: how they are read, and what they are compared with; in this process."""

from __future__ import annotations

import pytest
from sympy import Rational, Symbol, srepr, sympify

from lens_openrlhf.evaluation import answers
from lens_openrlhf.evaluation.answers import deciding_part, read_answer, same_answers
from lens_openrlhf.rewards import grading, pool


@pytest.fixture
def worker(monkeypatch):
    """Runs here what a worker would run; what was run, and a set of what is to fail."""
    ran = []

    def run(function, args, timeout):
        assert timeout is None, "the verifier's own limit"
        ran.append((function.__name__, args))
        if function.__name__ in run.failing:
            raise pool.TimeLimit("too long")
        return function(*args)

    run.failing = set()
    monkeypatch.setattr(pool, "run_in_worker", run)
    return ran, run.failing


def test_what_decides_of_a_response():
    thinking = "<think> so \\boxed{1} </think> then "
    assert deciding_part(rf"{thinking}\boxed{{2}} it is.<eos>") == r"\boxed{2}"
    assert deciding_part(r"either \boxed{1} or \boxed{2}.") == r"\boxed{1}, \boxed{2}"
    for whole in ("The answer is 5 apples or so", "no answer at all", ""):
        assert deciding_part(whole) == whole


def test_an_answer_is_read_as_text_and_form(worker):
    """Equal answers have one form, whatever their text."""
    ran, failing = worker
    assert read_answer(r"\boxed{0.5}<eos>") == (r"\frac{1}{2}", srepr(Rational(1, 2)))
    assert read_answer(r"\boxed{\frac{2}{4}}") == (r"\frac{2}{4}", srepr(Rational(1, 2)))
    assert read_answer("nothing") is None
    assert ran[0] == ("_read", (r"\boxed{0.5}",)), "special tokens at the end are no part of it"

    failing.add("_read")
    assert read_answer(r"\boxed{9^{9}} it is <eos>") == ("9^{9}", "9^{9}"), "what stands in the box"
    assert read_answer("nothing") is None and read_answer(r"\boxed{}") is None


def test_each_answer_is_compared_with_the_first_of_the_others(worker):
    ran, _ = worker
    given = ["5", "7", "5.0", "x=5", "7.0", "8"]
    boxes = [rf"\boxed{{{one}}}" for one in given]
    assert answers._clusters(boxes, "3") == [0, 1, 0, 0, 1, 5]
    assert answers._clusters([], "3") == []
    # Keys that are equal are one without a comparison; None stays, and "" is compared with nothing.
    keys = ["a", None, "b", "a", "c", "d", "b"]
    responses = [boxes[0], "", boxes[1], boxes[0], boxes[2], "", boxes[1]]
    assert same_answers(keys, responses, "3") == [0, None, 1, 0, 0, 2, 1]
    assert ran == [("_clusters", ([boxes[0], boxes[1], boxes[2]], "3"))]


def test_one_answer_needs_no_comparison(worker):
    ran, _ = worker
    assert same_answers(["a", "a", None, "b"], ["1", "1", "", ""], "3") == [0, 0, None, 1]
    assert same_answers([None, "a"], ["x", "1"], "3") == [None, 0]
    assert same_answers([], [], "3") == []
    assert ran == []


def test_where_comparing_takes_too_long_equal_keys_alone_are_equal(worker):
    _, failing = worker
    failing.add("_clusters")
    boxes = [r"\boxed{5}", r"\boxed{5.0}", r"\boxed{5}"]
    assert same_answers(["a", "b", "a"], boxes, "3") == [0, 1, 0]


@pytest.mark.parametrize(
    ("first", "second", "apart"),
    [
        ("100", "101", False),
        ("100", "101.2", True),
        ("100", "101.005", False),  # a hundredth of the larger one
        ("0.5", "49.6", False),
        ("-100", "-101", False),
        ("1", "100", False),  # as per cent
        ("50", "0.5", False),
        ("50", "0.4", True),
        ("1", "-1", True),
        ("0", "0", False),
        ("0", "1", True),
        ("x", "5", False),  # is no number
    ],
)
def test_numbers_that_are_far_apart_are_told_quickly(first, second, apart):
    forms = [Symbol("x") if one == "x" else sympify(one) for one in (first, second)]
    assert answers._far_apart(*forms) is answers._far_apart(*reversed(forms)) is apart


def test_a_comparison_that_fails_makes_no_answers_equal(monkeypatch):
    """Unless the other way round they are: of an equation either may be what is compared with."""
    asked = []

    def equal(first, second):
        asked.append((str(first[0]), str(second[0])))
        if first == forms["a"]:
            raise ValueError("no such comparison")
        return first == forms["equation"]

    forms = {"a": [Symbol("a"), "a"], "b": [Symbol("b"), "b"], "equation": grading.parse_answers(r"\boxed{x=5}")[0]}
    monkeypatch.setattr(grading, "equal", equal)
    assert answers._equal(forms["a"], forms["b"]) is False and asked == [("a", "b")]
    asked.clear()
    assert answers._equal(forms["a"], forms["equation"]) is True
    assert asked == [("a", "Eq(x, 5)"), ("Eq(x, 5)", "a")]
    asked.clear()
    assert answers._equal(forms["equation"], forms["a"]) is True and asked == [("Eq(x, 5)", "a")]
    assert answers._equal(forms["b"], forms["a"]) is False
    asked.clear()
    assert answers._equal([], forms["a"]) is answers._equal(forms["equation"], []) is False and asked == []
    assert answers._equal([sympify(1)], [sympify(2)]) is False and asked == []
