"""What counts as the answer, and which answers Math-Verify takes for equal; graded by real workers."""

import logging

import pytest

from lens_openrlhf.rewards import shutdown, validate_label, verify_answer
from lens_openrlhf.rewards.answer import last_boxed
from lens_openrlhf.rewards.grading import MAX_RESPONSE_CHARS, response_end


@pytest.fixture(autouse=True, scope="module")
def pool():
    yield
    shutdown()


RIGHT_AND_WRONG = [
    # label, a right answer, a wrong answer
    ("42", "42", "24"),
    ("-7", "-7", "7"),
    ("1,234", "1234", "1235"),
    (r"\frac{1}{2}", r"\dfrac12", r"\frac{1}{3}"),
    (r"\frac{1}{2}", "0.5", "0.05"),
    ("0.25", r"\frac{1}{4}", r"\frac{4}{1}"),
    (r"\frac{1}{3}", "0.333333", "0.33"),
    (r"-\frac{3}{4}", r"\frac{-3}{4}", r"\frac{3}{4}"),
    (r"3\frac{1}{2}", r"\frac{7}{2}", r"\frac{3}{2}"),
    (r"\sqrt{8}", r"2\sqrt{2}", r"4\sqrt{2}"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", r"\sqrt{2}"),
    (r"2\pi", r"\pi \cdot 2", "6.28"),
    ("10^5", "100000", "1000000"),
    ("[0,1]", "[0, 1]", "(0,1)"),
    (r"(-\infty, 3]", r"\left(-\infty, 3\right]", r"[-\infty, 3)"),
    (r"(-\infty,1)\cup(2,\infty)", r"(2,\infty)\cup(-\infty,1)", r"(-\infty,2)\cup(1,\infty)"),
    (r"\{1,2,3\}", r"\{3,2,1\}", r"\{1,2\}"),
    (r"\{1,2\}", "2, 1", "2, 3"),
    (r"50\%", r"0.5", r"5\%"),
    (r"12.5\%", r"12.5\%", r"12.6\%"),
    ("3", "x=3", "x=4"),
    ("x=3", "3", "4"),
    ("x=3", "x = 3", "y = 3"),
    ("y=2x+1", "y = 1 + 2x", "y = 2x - 1"),
    ("x<3", "3>x", "x>3"),
    ("(1,2)", "(1, 2)", "(2,1)"),
    ("(1,-2,3)", r"\left(1, -2, 3\right)", "(1,3,-2)"),
    ("10", r"10\text{ cm}", r"11\text{ cm}"),
    (r"10\text{ cm}", "10", "1"),
    ("5", r"\$5", r"\$6"),
    ("90", r"90^\circ", r"91^\circ"),
    (r"\text{Monday}", "Monday", r"\text{Sunday}"),
    (r"\text{(A)}", "A", "B"),
    ("(x+1)^2", "x^2+2x+1", "x^2+1"),
    (
        r"\begin{pmatrix}1\\2\end{pmatrix}",
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
        r"\begin{pmatrix}2\\1\end{pmatrix}",
    ),
]


@pytest.mark.parametrize(("label", "right", "wrong"), RIGHT_AND_WRONG)
def test_right_and_wrong_answers(label, right, wrong):
    assert verify_answer(rf"Hence $\boxed{{{right}}}$.", label).outcome == "correct"
    assert verify_answer(rf"Hence $\boxed{{{wrong}}}$.", label).outcome == "wrong"


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        (r"\boxed{42}, checked with 7 and 8 in 9 steps", "correct"),
        (r"First \boxed{7}, no: \boxed{42}", "correct"),
        (r"First \boxed{42}, no: \boxed{7}", "wrong"),
        (r"\boxed{7} and then \boxed{42} and then \boxed{7", "no_answer"),  # cut off by the token limit
        (r"\[ \boxed{ \frac{84}{2} } \]", "correct"),
        (r"\boxed {42}", "correct"),
        (r"\\boxed{42}", "correct"),
        (r"\boxed{42}<|im_end|>", "correct"),
        (r"\boxed{}", "no_answer"),
        (r"42, so \boxed{}", "no_answer"),
        ("The answer is 42.", "correct"),
        ("It is 7. No, it is 42", "correct"),
        ("The answer is 42<|im_end|>\n", "correct"),
        ("The answer is 84/2<|eot_id|><|endoftext|>", "correct"),
        ("The answer is 84/2</s><pad><pad>", "correct"),
        ("the final answer is $42$", "correct"),
        ("The answer is 41", "wrong"),
        ("", "no_answer"),
        ("<|im_end|>", "no_answer"),
        ("I do not know", "no_answer"),
    ],
)
def test_which_part_is_the_answer(response, outcome):
    assert verify_answer(response, "42").outcome == outcome


@pytest.mark.parametrize(
    "label",
    [
        "42",
        42,
        r"\frac{84}{2}",
        "$42$",
        r"\(42\)",
        r"\[42\]",
        r"\boxed{42}",
        r"so $x=\boxed{42}$",
        "The answer is $42$",
    ],
)
def test_forms_of_a_label(label):
    assert verify_answer(r"\boxed{42}", label).outcome == "correct"
    assert verify_answer(r"\boxed{43}", label).outcome == "wrong"
    assert validate_label(label) is None


@pytest.mark.parametrize("label", ["", "  ", r"\boxed{}", r"\frac{1", "{", "#### 5", None, float("nan"), True])
def test_bad_label_is_an_error_and_named(label, caplog):
    with caplog.at_level(logging.WARNING):
        verdict = verify_answer(r"\boxed{5}", label)
    assert not verdict.correct and verdict.outcome == "error"
    assert "label" in verdict.detail and "label" in validate_label(label)
    if caplog.records:  # only some warnings of a kind are logged
        assert repr(label) in caplog.text


def test_label_that_no_answer_can_be_compared_with():
    assert "cannot be compared" in validate_label(r"\frac{1}{0}")


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        (r"\boxed{\frac{1}{}", "no_answer"),  # no box is closed: an answer that was not finished
        (r"\boxed{\frac{1}{2}", "no_answer"),
        (r"\boxed{\frac{1}}", "wrong"),
        (r"\boxed{\sqrt}", "wrong"),
        (r"\boxed{\left( 1 \right.}", "wrong"),
        (r"\boxed{^_^}", "wrong"),
        (r"\boxed{\begin{pmatrix} 1}", "wrong"),
        (r"}}}{{{\boxed", "no_answer"),
        ("\x00\ud800 \\boxed{\x00}", "wrong"),
        (r"\boxed{\frac{1}{0}}", "wrong"),
    ],
)
def test_malformed_latex(response, outcome):
    assert verify_answer(response, r"\frac{1}{2}").outcome == outcome


def test_megabyte_of_text():
    filler = "and so on 3 " * 90_000
    assert verify_answer(filler + r"\boxed{42}", "42").outcome == "correct"
    assert verify_answer(filler + "the answer is 42", "42").outcome == "correct"
    # An answer so long before the end is not one.
    assert verify_answer(r"\boxed{42}" + filler, "42").outcome == "wrong"
    assert verify_answer(r"\boxed{" * 150_000, "42").outcome == "no_answer"
    assert verify_answer(r"\boxed{42}" + "<pad>" * 200_000, "42").outcome == "correct"


def test_long_number_is_no_error():
    assert verify_answer("1" * 6000, "42").outcome == "wrong"


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{1}", "1"),
        (r"\boxed{1} \boxed{2}", "2"),
        (r"\boxed{a{b}{c{d}}}", "a{b}{c{d}}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{1 \\{2}}", r"1 \\{2}"),
        (r"\\boxed{5}", "5"),
        (r"\boxed{1} \boxed{2", "1"),
        (r"} \boxed{1} {", "1"),
        (r"{ \boxed{1}", "1"),
        (r"\boxed{}", ""),
        (r"\boxed 5", None),
        ("", None),
    ],
)
def test_last_boxed(text, content):
    assert last_boxed(text) == content


def test_response_end():
    assert response_end("x = 1 <|im_end|>\n<|endoftext|> </s><pad>") == "x = 1"
    assert response_end("a <|im_end|> b") == "a <|im_end|> b"
    assert response_end("f(<1,2>)") == "f(<1,2>)" and response_end("<1,2>") == "<1,2>"
    assert response_end("0" + "1" * MAX_RESPONSE_CHARS) == "1" * MAX_RESPONSE_CHARS
    assert response_end("<｜end▁of▁sentence｜>") == ""
