"""Labels that no answer can be graded by are found, with the reason, before anything is graded by them."""

from __future__ import annotations

import threading

import pytest
from sympy import Integer, Symbol

from lens_openrlhf.rewards import check_labels, grading, label_check, labels, pool, shutdown, validate_label
from lens_openrlhf.rewards.label_check import Refusal, examine, neighbours


@pytest.fixture(autouse=True, scope="module")
def workers():
    yield
    shutdown()


@pytest.fixture
def patient(monkeypatch):
    """All neighbours are looked at, however slow the machine is."""
    monkeypatch.setattr(label_check, "SECONDS_FOR_NEIGHBOURS", 60.0)


def test_bad_labels_come_with_their_reason_in_the_order_of_the_data():
    given = ["5", "{{{", 7, "", "5", r"\frac{1}{0}", "{{{", r"\frac{1}{2}"]
    bad = check_labels(given)
    assert list(bad) == ["{{{", "", r"\frac{1}{0}"]
    assert bad == {label: validate_label(label) for label in bad} and all("\n" not in why for why in bad.values())


def test_no_labels():
    assert check_labels([]) == {}


@pytest.mark.parametrize(
    ("label", "kind", "named"),
    [
        ("???", label_check.UNREADABLE, "does not parse"),
        (r"\frac{1}{0}", label_check.INCOMPARABLE, "cannot be compared"),
        ("2e-3", label_check.AMBIGUOUS, "a power of ten"),
        ("4 rectangles have $10$, 8 rectangles have $11$", label_check.LOST, "says more"),
        ("all numbers except $5$", label_check.LOST, "'all'"),
        ("there are $5$ in 3 rows", label_check.LOST, "says more"),
        (r"\frac{d x}{d t}=k x-a", label_check.CONFUSED, r"\\frac{d x}{d q}"),
    ],
)
def test_what_is_refused(patient, label, kind, named):
    found = examine(label)
    assert found[0] == kind and named in found[1] and repr(label)[1:-1] in found[1]


@pytest.mark.parametrize(
    "label",
    [
        "0", "-7", "0.5", "1e-8", "3.89e-10", "0.123456789", r"\frac{84}{2}", r"\pm 2", "x=3", "y=2x+1", "(1,2]", "2bc",
        r"\{1,2\}", r"\text{Monday}", "C", "ABCD", "A>B>C", r"5 $\pi$", "$5$;$10$", r"so $x=\boxed{42}$",
        "The answer is $42$", r"10\text{ cm}", r"12.5\%", "1-5i", r"\emptyset", "x^2-1", r"\frac{1}{2^{99}}", "5.",
        r"\begin{pmatrix}1\\2\end{pmatrix}", "$2$ or $-2$", r"\frac{1}{3}\pi r^2h", r"12\,000", "e^{x}+C", "10^{-9}",
        "99999999999.5", "$N=n$", r"\pi(R^2-r^2)", r"\boxed{\pi(R^2-r^2)}", r"1\frac12x", "(1,234)",
    ],
)  # fmt: skip
def test_what_is_used(patient, label):
    assert examine(label) is None


@pytest.mark.parametrize(
    ("label", "refusal"),
    [
        ("", (label_check.UNREADABLE, "the label is empty")),
        ("???", (label_check.UNREADABLE, "the label '???' does not parse")),
        (
            "a 2e-3, 5e-7",
            (
                label_check.AMBIGUOUS,
                "the label 'a 2e-3, 5e-7' has two readings: 2e-3 is a power of ten, or a number times e",
            ),
        ),
        (
            "$x$ and all of $5$",
            (
                label_check.LOST,
                "of the label '$x$ and all of $5$' only the formula is read, but '$x$ and all of $5$' says more",
            ),
        ),
        (
            r"\frac{1}{0}",
            (
                label_check.INCOMPARABLE,
                "the label '\\\\frac{1}{0}' cannot be compared: ValueError \"Can't evaluate nan or zoo\"",
            ),
        ),
    ],
)
def test_a_refusal_names_label_and_reason(label, refusal):
    assert examine(label) == refusal
    assert labels.examine(label) == Refusal(*refusal) and validate_label(label) == refusal[1]


@pytest.mark.parametrize(
    ("equal", "grade", "refusal"),
    [
        (False, None, (label_check.UNEQUAL, "the label 'x+1' is not equal to itself")),
        (True, "wrong", (label_check.UNEQUAL, "the label 'x+1' is not right as its own answer (wrong)")),
        (True, "error", (label_check.UNEQUAL, "the label 'x+1' is not right as its own answer (error)")),
        (OSError("so"), None, (label_check.INCOMPARABLE, "the label 'x+1' cannot be compared: OSError 'so'")),
    ],
)
def test_a_label_must_be_right_as_its_own_answer(equal, grade, refusal, monkeypatch):
    def compared(gold, given):
        assert gold == given == grading.parse_label("x+1")
        if isinstance(equal, Exception):
            raise equal
        return equal

    monkeypatch.setattr(grading, "equal", compared)
    monkeypatch.setattr(grading, "grade", lambda response, label: {r"\boxed{x+1}": (grade, "")}[response])
    assert examine("x+1") == refusal


def test_a_label_is_compared_with_another_answer_too(monkeypatch):
    """As equal forms are recognised before anything is computed."""
    asked = []

    def verify(gold, given, **options):
        asked.append((str(gold), given, options))
        raise ZeroDivisionError("no")

    monkeypatch.setattr(label_check, "verify", verify)
    assert examine("x+1") == (label_check.INCOMPARABLE, "the label 'x+1' cannot be compared: ZeroDivisionError 'no'")
    assert asked == [("x + 1", Integer(0), {"timeout_seconds": None, "raise_on_error": True})]


@pytest.mark.parametrize(
    ("label", "graded"),
    [
        ("x+1", [r"\boxed{x+1}", r"\boxed{q+1}", r"\boxed{x+2}", r"\boxed{x-1}", r"\boxed{-(x+1)}"]),
        (r"so $y=\boxed{3.}$ <eos>", [r"so $y=\boxed{3.}$", r"\boxed{4}", r"\boxed{-(3)}"]),
        ("The answer is $7x$", ["The answer is $7x$", r"\boxed{7q}", r"\boxed{8x}", r"\boxed{-(7x)}"]),
        ("$R=r$", [r"\boxed{$R=r$}", r"\boxed{r=r}", r"\boxed{q=r}", r"\boxed{R=R}", r"\boxed{R=q}"]),
        ("(C) 12", [r"\boxed{(C) 12}", r"\boxed{q}", r"\boxed{-(C)}"]),
    ],
)
def test_what_is_graded_by_a_label(label, graded, patient, monkeypatch):
    """Itself as an answer, and then what differs from it by one thing."""
    responses = []

    def grade(response, of):
        responses.append(response)
        return ("correct" if len(responses) == 1 else "wrong"), ""

    monkeypatch.setattr(grading, "grade", grade)
    assert examine(label) is None
    assert responses == graded


def test_neighbours_are_looked_at_for_so_long_and_no_longer(monkeypatch):
    clock = iter([10.0, 10.5, 11.0, 11.001])
    monkeypatch.setattr(label_check, "time", type("Clock", (), {"process_time": lambda: next(clock)}))
    responses = []

    def grade(response, label):
        responses.append(response)
        return ("correct" if len(responses) == 1 else "wrong"), ""

    monkeypatch.setattr(grading, "grade", grade)
    assert examine("x+1") is None
    assert responses == [r"\boxed{x+1}", r"\boxed{q+1}", r"\boxed{x+2}"]


@pytest.mark.parametrize(
    ("text", "form", "expected"),
    [
        ("2x-9", Integer(1), ["2q-9", "3x-9", "2x-8", "2x+9", "-(2x-9)"]),
        # the last four letters, the first two and the last two of numbers and signs
        (
            "a+b+c+d+e+f",
            Integer(1),
            ["a+b+q+d+e+f", "a+b+c+q+e+f", "a+b+c+d+q+f", "a+b+c+d+e+q"]
            + ["a-b+c+d+e+f", "a+b-c+d+e+f", "a+b+c+d-e+f", "a+b+c+d+e-f", "-(a+b+c+d+e+f)"],
        ),
        (
            "1+2-3+4-5+6",
            Integer(1),
            ["2+2-3+4-5+6", "1+3-3+4-5+6", "1+2-3+4-6+6", "1+2-3+4-5+7"]
            + ["1-2-3+4-5+6", "1+2+3+4-5+6", "1+2-3+4+5+6", "1+2-3+4-5-6", "-(1+2-3+4-5+6)"],
        ),
        # a letter that is not there yet, in neither case
        ("qwv", Integer(1), ["uwv", "quv", "qwu", "-(qwv)"]),
        ("QwV", Integer(1), ["uwV", "QuV", "Qwu", "-(QwV)"]),
        ("R=r", Integer(1), ["r=r", "q=r", "R=R", "R=q"]),
        ("aa", None, ["aq"]),
        # the sign of it all, where there is none yet and the value has one
        ("0.5", Integer(1), ["0.6", "-(0.5)"]),
        ("0", Integer(0), ["1"]),
        ("7", None, ["8"]),
        (r"\pm 2", Integer(2), [r"\pm 3"]),
        (r"\mp 2", Integer(2), [r"\mp 3"]),
        (" -2", Integer(-2), [" -3", " +2"]),
        ("+2", Integer(2), ["+3", "-2"]),
        ("(1,2)", Integer(2), ["(2,2)", "(1,3)"]),
        ("x=2", Integer(2), ["q=2", "x=3"]),
        ("x<2", Integer(2), ["q<2", "x<3"]),
        ("2>1", Integer(2), ["3>1", "2>2"]),
        # words, of which the last counts, by its last letter
        (r"\text{Monday}", Integer(1), [r"\text{Mondaq}"]),
        (r"\text{at} \mathrm{Quiq.} 5", None, [r"\text{at} \mathrm{Quiq.} 6", r"\text{at} \mathrm{Quiw.} 5"]),
        (r"\operatorname{abQ}", None, [r"\operatorname{abw}"]),
        (r"\text{12}", None, []),
        (r"\text{ſ}", None, []),  # a letter only to a search that ignores case
        # names are no letters
        (r"\emptyset", None, []),
        (r"\mathbb{R}\cup\{1.25\}", None, [r"\mathbb{R}\cup\{1.26\}"]),
        (r"\begin{array}1\\2\end{array}", None, [r"\begin{array}2\\2\end{array}", r"\begin{array}1\\3\end{array}"]),
        (
            r"\alpha+Rr",
            Symbol("a"),
            [r"\alpha+rr", r"\alpha+qr", r"\alpha+RR", r"\alpha+Rq", r"\alpha-Rr", r"-(\alpha+Rr)"],
        ),
    ],
)  # fmt: skip
def test_neighbours_differ_by_one_thing(text, form, expected):
    assert list(neighbours(text, form)) == expected


@pytest.mark.parametrize(
    ("number", "other"),
    [
        ("5", "6"), ("9", "8"), ("0", "1"), ("19", "18"), ("0.12345", "0.12346"),
        # beyond the places that are compared
        ("0.123456", "0.223456"), ("0.999999", "0.899999"), ("10.0000000", "20.0000000"), ("0.000000", "0.000001"),
    ],
)  # fmt: skip
def test_another_number_differs_where_it_is_compared(number, other):
    assert list(neighbours(number, None)) == [other]


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (pool.TimeLimit("no"), (label_check.SLOW, "the label '5' takes too long: no")),
        (pool.MemoryLimit("no"), (label_check.LARGE, "the label '5' takes too much memory: no")),
        (pool.WorkerLost("no"), (label_check.FATAL, "the label '5' cannot be checked: no")),
        (KeyError("no"), (label_check.INCOMPARABLE, "the label '5' cannot be checked: KeyError: 'no'")),
    ],
)
def test_a_check_that_failed_is_a_refusal(error, refusal, monkeypatch):
    def failed(function, args, timeout):
        assert (function, args, timeout) == (label_check.examine, ("5",), None)
        raise error

    monkeypatch.setattr(pool, "run_in_worker", failed)
    assert labels.examine("5") == refusal


def test_many_labels_are_checked_at_once_and_taken_as_they_are_needed(monkeypatch):
    """Two for each worker; twice as many wait, and each that is done makes place for one."""
    monkeypatch.setenv("LENS_VERIFIER_WORKERS", "3")
    together, taken = threading.Barrier(6), []

    def find(label):
        together.wait(10)  # broken, and an error, with fewer threads than it waits for
        return label * 10

    found = labels.as_found(find, (taken.append(n) or n for n in range(18)))
    pairs = [next(found)]
    assert taken[:12] == list(range(12)) and len(taken) <= 12
    pairs += found
    assert sorted(pairs) == [(n, n * 10) for n in range(18)] and taken == list(range(18))
    assert list(labels.as_found(find, [])) == []


def test_closing_early_waits_for_those_that_run(monkeypatch):
    monkeypatch.setenv("LENS_VERIFIER_WORKERS", "1")
    begun, ended, go = [], [], threading.Event()

    def find(label):
        begun.append(label)
        if label:
            go.wait(10)
        ended.append(label)

    found = labels.as_found(find, range(100))
    next(found)
    threading.Timer(0.1, go.set).start()
    found.close()
    assert begun and sorted(begun) == sorted(ended) and len(begun) <= 4
