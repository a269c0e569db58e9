"""How an answer is compared with a label, step by step: what is read of both, when forms are equal, what is said."""

from __future__ import annotations

from typing import get_args

import pytest
from sympy import Eq, FiniteSet, Float, I, Integer, Interval, Rational, Tuple, oo, pi, sqrt, symbols, zoo

from lens_openrlhf.rewards import grading, isolation
from lens_openrlhf.rewards.grading import Reading, read

x = symbols("x")


@pytest.mark.parametrize(
    ("form", "numbers"),
    [
        (Integer(3), "[3]"), (Rational(1, 3), "[1/3]"), (pi, "[3.14159265359]"), (Eq(x, Integer(4)), "[4]"),
        (Eq(x, 2 * x), "[]"), (Interval(1, 2, True, False), "[1, 2]"), (Interval(2, oo), "[2]"),
        (FiniteSet(3, 1, x), "[1, 3]"), (FiniteSet(pi, 2), "[2, 3.14159265359]"), (Tuple(3, 1), "[3, 1]"), (x, "[]"),
        (I, "[]"), (oo, "[]"), (zoo, "[]"), (Float("0.5"), "[0.500000000000]"), ("5", "[]"),
    ],
)  # fmt: skip
def test_numbers_of_a_form(form, numbers):
    assert str(grading._numbers(form)) == numbers


@pytest.mark.parametrize(
    ("gold", "given", "equal"),
    [
        (Float("1e7"), Integer(10**7), True), (Integer(10**7), Float("1e7"), True),
        (Integer(10**7), Integer(10**7), False),  # exact ones are compared exactly
        (Float(10**6), Integer(10**6), False), (Float("1000001"), Integer(1_000_001), True),
        (Float("1e12"), Integer(10**12 + 99), True), (Float("1e12"), Integer(10**12 + 101), False),
        (Float("-1e7"), Integer(-(10**7)), True), (Float("1e7"), Integer(-(10**7)), False),
        (x, Float("1e7"), False), (Float("1e7"), x, False), (Float("1e7"), I, False), (Float("1e7"), "1e7", False),
    ],
)  # fmt: skip
def test_large_numbers(gold, given, equal):
    assert bool(grading._large_and_equal(gold, given)) is equal


@pytest.mark.parametrize(
    ("gold", "given", "apart"),
    [
        ("1e-9", "1e-8", True), ("1e-9", "1e-9", False), ("-1e-9", "-1e-8", True), ("1e-9", "-1e-9", True),
        ("0.01", "0.0101", False), ("0.009", "0.0099", True), ("0.009", "0.0090017", False),
        ("0.009", "0.0090019", True), ("0", "0", False), ("0", "1e-9", True), ("5", "6", False),
    ],
)  # fmt: skip
def test_tiny_numbers(gold, given, apart):
    assert grading._tiny_and_apart(Float(gold), Float(given)) is apart
    for kind in (lambda number: Tuple(1, number), lambda number: FiniteSet(1, number), lambda number: Eq(x, number)):
        assert grading._tiny_and_apart(kind(Float(gold)), kind(Float(given))) is apart
    assert grading._tiny_and_apart(FiniteSet(Float("1e-9"), 1), Float("1e-8")) is False


@pytest.mark.parametrize(
    ("gold", "given", "apart"),
    [
        (Integer(1), 1 + Rational(1, 10**40), True), (Integer(1), 1 + Rational(1, 10**59), True),
        (Integer(1), 1 + Rational(1, 10**61), False), (1 + sqrt(2), sqrt(3 + 2 * sqrt(2)), False),
        (Integer(1), Float("1.1"), False), (Float("1.1"), Integer(1), False), (x, Integer(1), False),
        (Integer(1), x, False), (Integer(1), Integer(1), False), (Integer(0), Integer(0), False), (I, I, False),
    ],
)  # fmt: skip
def test_exact_numbers(gold, given, apart):
    assert bool(grading._exact_and_apart(gold, given)) is apart


@pytest.mark.parametrize(
    ("gold", "given", "apart"),
    [
        ("0.1234567", "0.1234568", True), ("0.1234567", "0.12345674", False), ("0.12345670", "0.12345675", True),
        ("0.12345675", "0.1234567", False), ("0.12345676", "0.1234567", True), ("0.123456", "0.1234567", False),
        ("0.1234567", "0.123456", False), ("-0.1234567", "0.1234567", True), ("1.0000000", "1.0000001", True),
        ("0.1234567", 5, False), (5, "0.1234567", False), ("x.1234567", "0.1234568", False),
    ],
)  # fmt: skip
def test_decimals_beyond_six_places(gold, given, apart):
    assert grading._decimals_apart(gold, given) is apart


def test_forms_are_compared_until_two_are_equal(monkeypatch):
    """A comparison that fails is no verdict where another one finds them equal; otherwise it is told."""
    compared = []

    def verify(gold, form, timeout_seconds, raise_on_error):
        assert (timeout_seconds, raise_on_error) == (None, True)
        compared.append((gold, form))
        if form == "bad":
            raise ValueError(gold)
        return form == "same"

    monkeypatch.setattr(grading, "verify", verify)
    assert grading.equal(["a", "b"], ["bad", "same", "not"]) is True
    assert compared == [("a", "bad"), ("a", "same")]
    compared.clear()
    assert grading.equal(["a", "b"], ["not", "other"]) is False
    assert compared == [("a", "not"), ("a", "other"), ("b", "not"), ("b", "other")]
    with pytest.raises(ValueError, match="^b$"):
        grading.equal(["a", "b"], ["not", "bad"])
    assert grading.equal([], ["not"]) is False


def test_an_interval_is_compared_as_the_answer_to_a_relation(monkeypatch):
    compared = []
    monkeypatch.setattr(grading, "verify", lambda gold, form, **_: compared.append((gold, form)) or False)
    interval, relation = Interval(3, oo), x > 3
    for gold, given in ((interval, relation), (relation, interval), (interval, (x > 1) & (x < 3)), (interval, x)):
        grading.equal([gold], [given])
    assert compared == [(relation, interval), (relation, interval), ((x > 1) & (x < 3), interval), (interval, x)]


@pytest.mark.parametrize("failing", ["equal", "_kinds_apart"])
def test_a_comparison_that_fails_is_an_error_and_not_wrong(failing, monkeypatch):
    def fail(*args):
        raise OverflowError("too much")

    monkeypatch.setattr(grading, failing, fail)
    told = "comparison failed: OverflowError 'too much', answer '5', label '5.'"
    assert read(r"so \boxed{5}", "5.") == Reading("error", told, "5", "5", "5")
    assert grading.grade(r"so \boxed{5}", "5.") == ("error", told)


def test_an_answer_that_cannot_be_read_is_an_error(monkeypatch):
    def fail(*args):
        raise RecursionError("deep " * 100)

    grading.parse_label("5")
    monkeypatch.setattr(grading, "parse_answers", fail)
    told = f"unreadable answer: RecursionError {('deep ' * 100)[:197] + '...'!r}"
    assert read(r"\boxed{5}", "5") == Reading("error", told)


LONG = "1+" * 150 + "1"


@pytest.mark.parametrize(
    ("response", "label", "reading"),
    [
        (r"\boxed{4}", "5", Reading("wrong", "answer '4', label '5'", "4", "4", "5", "")),
        (r"\boxed{5.}", "5", Reading("correct", "answer '5', label '5'", "5.", "5", "5", "")),
        ("no", "5", Reading("no_answer", "no answer found", "", "", "", "")),
        (r"\boxed{5}", " ", Reading("error", "bad label: the label is empty", "", "", "", "")),
        (r"\boxed{5}", "%", Reading("error", "bad label: the label '%' does not parse", "", "", "", "")),
        (
            r"\boxed{5\text{ cm}}",
            r"5\text{ m}",
            Reading(
                "wrong", r"answer '5', label '5\\text{ m}': in cm, not m", r"5\text{ cm}", "5", "5", "in cm, not m"
            ),
        ),
        (
            r"\boxed{5,5}",
            "5",
            Reading(
                "wrong",
                "answer '5,5', label '5': several values, not one",
                "5,5",
                "5,5",
                "5",
                "several values, not one",
            ),
        ),
        (
            r"\boxed{4\times 6=20}",
            "20",
            Reading(
                "wrong",
                r"answer '4\\times 6=20', label '20': '4\\times 6' is something else",
                r"4\times 6=20",
                r"4\times 6=20",
                "20",
                r"'4\\times 6' is something else",
            ),
        ),
        (r"\boxed{2}, \boxed{3}", "2,3", Reading("correct", "answer '2, 3', label '2,3'", "2, 3", "2, 3", "2,3", "")),
        (r"\boxed{2}, \boxed{2.0}", "2", Reading("correct", "answer '2, 2.0', label '2'", "2, 2.0", "2, 2.0", "2", "")),
        (r"\boxed{A}, \boxed{B}", "A", Reading("wrong", "answer 'A, B', label 'A'", "A, B", "A, B", "A", "")),
        (
            r"\boxed{A}, \boxed{A. 5}",
            "A",
            Reading("correct", "answer 'A, A. 5', label 'A'", "A, A. 5", "A, A. 5", "A", ""),
        ),
        ("it is 7 or 8 so what", "8", Reading("correct", "answer '8', label '8'", "8", "8", "8", "")),
        (r"\boxed{(C) 12}", "C", Reading("correct", "answer 'C', label 'C'", "(C) 12", "C", "C", "")),
        (r"\boxed{(C) 12}", "12", Reading("correct", "answer '12', label '12'", "(C) 12", "12", "12", "")),
        (rf"\boxed{{{LONG}}}", "7", Reading("wrong", f"answer '{LONG[:197]}...', label '7'", LONG, LONG, "7", "")),
    ],
)
def test_readings(response, label, reading):
    assert read(response, label) == reading
    assert grading.grade(response, label) == (reading.outcome, reading.detail)


@pytest.mark.parametrize(
    ("given", "label", "apart"),
    [
        ("5 cm", "5 m", "in cm, not m"), ("5 cm", "5 cm", None), ("5", "5 m", None), ("5 cm", "5", None),
        ("5 cm^2", "5 cm", "in cm^2, not cm"), ("5 cm", r"\boxed{5\text{ m}^2}", "in cm, not m^2"),
        ("5 apples", "5 m", None), ("5 cm", "6 inches", "in cm, not in"), ("5 feet", "5 ft", None),
    ],
)  # fmt: skip
def test_units_that_are_not_the_same(given, label, apart):
    assert grading._units_apart(given, label) == apart


@pytest.mark.parametrize(
    ("given", "label", "apart"),
    [
        ("2+3=5", "5", None), ("2+4=5", "5", "'2+4' is something else"), (r"\frac13=0.33", "0.33", None),
        (r"\frac13=0.3267", "0.3267", "'\\\\frac13' is something else"),  # a fiftieth is rounding
        ("51=50", "50", None), ("-51=-50", "-50", None), ("52=50", "50", "'52' is something else"),
        ("2..3=5", "5", None), (r"\sqrt=5", "5", None), ("1/0=5", "5", None),  # no value
        (r"\frac13=0.3269", "0.3269", None), ("2+3=1+4=5", r"so \boxed{5}", None),
        ("2+3=1+5=5", r"so \boxed{5}", "'1+5' is something else"), ("2+3=x", "x", None),
        ("-5=-5", "-5", None), (r"\geq 5", r"\boxed{5}", "a relation, not a value"),
    ],
)  # fmt: skip
def test_chains_of_equalities(given, label, apart):
    assert grading._kinds_apart(given, label, grading.parse_label(label)) == apart


@pytest.mark.parametrize(
    ("label", "forms"),
    [
        ("5", "(5, '5')"), (r"\boxed{5}", "(5, '5')"), (" $5$ ", "(5, '5')"), ("The answer is $5$", "(5, '5')"),
        ("C. 12", "(c, 'C', 12, '12')"), ("(B)", "(b, 'B')"), ("R-r", "(-r + r_0, 'R_{0}-r')"),
        (r"12.5\%", r"(12.5*(1/100), '12.5\\%', 12.5000000000000)"), (r"0.5\%", r"(0.5*(1/100), '0.5\\%')"),
        ("so we get $x+1$ therefore", "(x + 1, 'x+1')"), ("the value $½$ is", r"(1/2, '\\frac{1}{2}')"),
        ("5 +\n 7\\%", r"(5 + 7*(1/100), '5 +  7\\%', 5 + 7)"),
        (r"-12\%", r"(-1*12*1/100, '-12\\%', -12)"), (r"100\%", r"(100*(1/100), '100\\%', 100)"),
    ],
)  # fmt: skip
def test_what_is_read_of_a_label(label, forms):
    assert str(grading.parse_label(label)) == forms


@pytest.mark.parametrize(
    ("response", "label", "forms"),
    [
        (r"\boxed{5}", "5", "[[5, '5']]"), (r"\boxed{2}, \boxed{3}", "2,3", "[[{2, 3}, '2, 3'], [2, '2'], [3, '3']]"),
        ("", "5", "[[]]"), (r"\boxed{}", "5", "[[]]"), (r"\boxed{ \ }", "5", "[[]]"),
        ("x 5 apples is", "5", "[[5, '5']]"), ("The answer is $5$ apples", "", "[[5, '5']]"),
        ("the answer is Monday", "Monday", r"[[monday, '\\text{Monday}']]"), ("the answer is Monday", "5", "[[]]"),
        ("the answer is C", "C", "[[c, 'C']]"), ("the answer is (1,2)", "5", "[[Interval.open(1, 2), '(1,2)']]"),
        ("the answer is 5 since x=7", "5", "[[5, '5']]"), ("so 5 since 7", "5", "[[7, '7']]"),
        (r"\boxed{A, C}", "AC", r"[[ac, '\\text{AC}']]"), (r"\boxed{C. 5}", "5", "[[5, '5']]"),
        (r"\boxed{x}", "x", "[[x, 'x']]"),
        (r"\boxed{C. 5}", "C", "[[c, 'C']]"), (r"\boxed{C.}", "5", "[[c, 'C']]"),
    ],
)  # fmt: skip
def test_what_is_read_of_a_response(response, label, forms):
    assert str(grading.parse_answers(response, label)) == forms


def test_math_verify_is_to_raise_and_has_no_clock_of_its_own(monkeypatch):
    """Its own limits are alarms, as the worker's is."""
    asked = []
    monkeypatch.setattr(grading, "parse", lambda *args, **options: asked.append((args, options)) or [])
    assert grading._parse("5", ("config",)) == []
    assert asked == [(("5", ("config",)), {"parsing_timeout": None, "raise_on_error": True})]


def test_what_there_is_to_say_of_an_answer():
    outcomes = ("correct", "wrong", "no_answer", "timeout", "error")
    assert get_args(grading.Outcome) == outcomes and get_args(isolation.Level) == ("kernel", "python", "off")


def test_how_far_an_answer_is_looked_for():
    """In a response without a box, in the last characters; in one with a box, in the last of more."""
    assert (grading.MAX_RESPONSE_CHARS, grading.MAX_UNBOXED_CHARS) == (20_000, 4_000)
    for distance, outcome in ((3_999, "correct"), (4_000, "no_answer")):
        assert read("5" + " " * (distance - 1) + "?", "5").outcome == outcome
    for length in (19_999, 20_000, 20_001):
        response = "x" + "y" * (length - 1)
        assert grading.response_end(response + " <pad>\n") == response[-20_000:]


@pytest.mark.parametrize(
    "token",
    [
        "<|im_end|>", "<|a|>", "<|" + "a" * 40 + "|>", "<｜end▁of▁sentence｜>", "<s>", "</s>", "<pad>", "<eos>",
        "<bos>", "<unk>", "<end_of_turn>", "<start_of_turn>", "[PAD]", "[EOS]", " \n\t",
    ],
)  # fmt: skip
def test_tokens_at_the_end(token):
    assert grading.response_end(f"a{token}b{token}{token} {token}") == f"a{token}b"


@pytest.mark.parametrize("text", ["<|end_of_box|>", "<|" + "a" * 41 + "|>", "<|a b|>", "<end>", "[END]", "<x>", "|>"])
def test_what_is_no_token(text):
    assert grading.response_end(f"a{text}") == f"a{text}"


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("5", True), ("5 cm", True), ("-5^2", True), ("[1,2)", True), (r"\left(1, 2\right]", True), ("5, x", True),
        ("5 apples and pears", True), ("5 a b c d", False), ("5,apples", False), ("5" * 200, True), ("5" * 201, False),
        ("a5", False), ("(1,2", False), ("[a,b]", False), (r"(\pi,2)", True), ("", False),
    ],
)  # fmt: skip
def test_what_is_an_answer_by_itself(text, short):
    assert grading._is_short(text) is short


@pytest.mark.parametrize(
    ("label", "prose"),
    [
        ("The answer is $5$", True), ("so it $5$", True), ("abc= $5$", True), ("abc: $5$", True), ("$5$", False),
        ("$5$ and $6$", False), ("x: $5$", False), ("x = $5$", False), ("ab $5$", False), ("is or $5$", False),
        ("5", False), ("it is 5", False), (r"it is \(5\)", True),
    ],
)  # fmt: skip
def test_labels_with_words_around_a_formula(label, prose):
    assert grading.is_prose(label) is prose


def test_texts_are_cut_in_messages():
    assert grading.short("a" * 200) == repr("a" * 200) and grading.short("a" * 201) == repr("a" * 197 + "...")
    assert grading.describe(KeyError("x")) == "KeyError \"'x'\"" and grading.box("5") == r"\boxed{5}"
