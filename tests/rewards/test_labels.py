"""Labels that no answer can be graded by are found, with the reason, before anything is graded by them."""

from __future__ import annotations

import pytest
from sympy import Integer

from lens_openrlhf.rewards import check_labels, label_check, shutdown, validate_label
from lens_openrlhf.rewards.label_check import examine, neighbours


@pytest.fixture(autouse=True, scope="module")
def pool():
    yield
    shutdown()


def test_bad_labels_come_with_their_reason_in_the_order_of_the_data():
    labels = ["5", "{{{", 7, "", "5", r"\frac{1}{0}", "{{{", r"\frac{1}{2}"]
    bad = check_labels(labels)
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
def test_what_is_refused(label, kind, named):
    found = examine(label)
    assert found[0] == kind and named in found[1] and repr(label)[1:-1] in found[1]


@pytest.mark.parametrize(
    "label",
    [
        "0", "-7", "0.5", "1e-8", "3.89e-10", "0.123456789", r"\frac{84}{2}", r"\pm 2", "x=3", "y=2x+1", "(1,2]", "2bc",
        r"\{1,2\}", r"\text{Monday}", "C", "ABCD", "A>B>C", r"5 $\pi$", "$5$;$10$", r"so $x=\boxed{42}$",
        "The answer is $42$", r"10\text{ cm}", r"12.5\%", "1-5i", r"\emptyset", "x^2-1", r"\frac{1}{2^{99}}", "5.",
        r"\begin{pmatrix}1\\2\end{pmatrix}", "$2$ or $-2$", r"\frac{1}{3}\pi r^2h", r"12\,000", "e^{x}+C", "10^{-9}",
        "$N=n$", r"\pi(R^2-r^2)", r"\boxed{\pi(R^2-r^2)}", r"1\frac12x", "(1,234)",
    ],
)  # fmt: skip
def test_what_is_used(label):
    assert examine(label) is None


def test_neighbours_differ_by_one_thing():
    assert list(neighbours("2x-9", Integer(1))) == ["2q-9", "3x-9", "2x-8", "2x+9", "-(2x-9)"]
    assert list(neighbours("0.1234567", Integer(1)))[0] == "0.2234567"
    assert list(neighbours(r"\text{Monday}", Integer(1))) == [r"\text{Mondaq}"]
    assert list(neighbours(r"\text{ſ}", None)) == []  # a letter only to a search that ignores case
    assert list(neighbours("R=r", Integer(1))) == ["r=r", "q=r", "R=R", "R=q"]
    assert list(neighbours(r"\emptyset", None)) == []
