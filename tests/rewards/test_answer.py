"""What of a response is its answer: each rule with what it finds, and what it must not take for an answer."""

from __future__ import annotations

import pytest

from lens_openrlhf.rewards import answer
from lens_openrlhf.rewards.answer import choice, find
from lens_openrlhf.rewards.grading import grade


@pytest.mark.parametrize(
    ("response", "label", "right"),
    [
        # thinking and tags
        (r"<think>perhaps \boxed{5}?</think>The answer is 7.", "7", True),
        (r"<think>perhaps \boxed{5}?</think>The answer is 7.", "5", False),
        ("<think>so 5</think>I do not know.", "5", False),
        (r"<think>\boxed{4}", "4", False),
        (r"so 4</think>\boxed{7}", "7", True),
        ("<think>so 5.</think><answer>7</answer>", "7", True),
        ("<think>so 5.</think><answer>7</answer>", "5", False),
        (r"<answer>\frac12</answer>", "0.5", True),
        ("<answer>The answer is $7$</answer>", "7", True),
        ("<answer>5</answer> no: <answer>7</answer>", "7", True),
        ("<answer>5</answer> no: <answer>7", "5", False),
        (r"<answer>\boxed{7}</answer>", "7", True),
        # boxes
        (r"\fbox{5}", "5", True),
        (r"\fbox{5}", "6", False),
        (r"\boxed{4}, no: \fbox{5}", "4", False),
        (r"\boxed{3}, \boxed{5} and \boxed{7}", "3,5,7", True),
        (r"\boxed{3}, \boxed{5} and \boxed{7}", "7", False),
        (r"$\boxed{3}$ or $\boxed{5}$", "3,5", True),
        (r"$\boxed{3}$ or $\boxed{5}$", "5", False),
        (r"\boxed{2}\text{ and }\boxed{3}", "2,3", True),
        (r"\boxed{0.5}, or $\boxed{\frac12}$", "0.5", True),
        (r"\boxed{0.5}, or $\boxed{0.6}$", "0.5", False),
        (r"\boxed{5}, \boxed{5}", "5", True),
        (r"First \boxed{7}, no: \boxed{42}", "42", True),
        (r"First \boxed{7}, no: \boxed{42}", "7,42", False),
        (r"\boxed{5} so \boxed{\frac{7}{", "5", False),
        (r"\boxed{5} so \boxed{7", "7", False),
        (r"\boxed{}", "5", False),
        # letters of a choice
        ("\\boxed{C. 12}", "C", True),
        ("\\boxed{(C) 12}", "C", True),
        (r"\boxed{\textbf{(C)}\ 12}", "C", True),
        (r"\boxed{\textbf{(C)}\ 12}", "12", True),
        ("\\boxed{D. 12}", "C", False),
        ("\\boxed{C. 12}", "12", True),
        ("\\boxed{C. 12}", "13", False),
        ("The answer is C.", "C", True),
        ("The answer is (C).", "C", True),
        ("The answer is (B).", "C", False),
        # without a box
        (r"The answer is $12\,000$.", "12000", True),
        ("The answer is 3.89e-10.", "3.89e-10", True),
        ("The answer is 3.89e-10.", "3.89", False),
        ("So it is 2 1/2.", "2.5", True),
        (r"The answer is $10\text{ cm}$.", "10", True),
        (r"The answer is $10t$.", "10", False),
        ("**Answer:** 12,000", "12000", True),
    ],
)
def test_what_counts(response, label, right):
    assert (grade(response, label)[0] == "correct") is right


@pytest.mark.parametrize("text", ["A - B", "A+B", r"A \cup B", "(A, B)", "A=B", "C", "AB", "x. 5", "C_1", "A.", "(A)"])
def test_what_is_no_letter_with_a_text(text):
    found = choice(text)
    assert found is None or found.rest == ""


def test_several_boxes_are_kept_apart():
    found = find(r"\boxed{3}, \boxed{5}")
    assert (found.text, found.alone, found.parts) == ("3, 5", True, ("3", "5"))
    assert find(r"\boxed{3} \boxed{5}").text == "5" and find(r"\boxed{3}. And \boxed{5}").text == "5"


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("A", ("A", "")),
        ("J", ("J", "")),
        ("K", None),
        ("(A)", ("A", "")),
        ("(A", ("A", "")),
        ("A)", ("A", "")),
        (r"\textbf{A}", ("A", "")),
        (r"\text{(B)}", ("B", "")),
        (r"\mathrm{ C }", ("C", "")),
        ("**D**", ("D", "")),
        ("Option B", ("B", "")),
        ("Choice (C)", ("C", "")),
        ("Answer: D", ("D", "")),
        ("Answer D", ("D", "")),
        ("option B", None),
        ("(C) 12", ("C", "12")),
        (r"(C)\ 12", ("C", "12")),
        (r"(C)\quad 12", ("C", "12")),
        ("C. 12", ("C", "12")),
        ("C.12", ("C", "12")),
        ("C) 12", ("C", "12")),
        ("C: 12", ("C", "12")),
        ("C:12", None),
        ("C: ", ("C", " ")),
        ("C 12", None),
        (r"\textbf{(C)}\ 12", ("C", "12")),
        (r"\textbf{C.} 12", ("C", "12")),
        (r"\textbf{C}. 12", ("C", "12")),
        ("**C**: 12", ("C", "12")),
        (r"\text{(B)}~12", ("B", "12")),
        ("(C)12", None),
        ("(K) 12", None),
        ("C. + 5", ("C", " + 5")),
        (r"C. \cup D", ("C", r" \cup D")),
        ("(C) - 5", None),
        ("C. \nx y", ("C", "x y")),
        ("C: = 5", ("C", " = 5")),
        ("B) , 5", ("B", " , 5")),
        (r"A.\, 5", ("A", "5")),
        (r"A:\ 12", ("A", "12")),
        ("AB", None),
        ("A B", None),
    ],
)
def test_a_letter_and_the_text_behind_it(text, chosen):
    assert choice(text) == chosen


@pytest.mark.parametrize(
    ("text", "like", "written"),
    [
        ("A, C, D", "ACD", "ACD"),
        ("ACD", "A, C, D", "A, C, D"),
        (r"\text{A, C, D}", "ACD", "ACD"),
        ("A;C", "AC", "AC"),
        ("A C", " A,C ", "A, C"),
        ("A", "AC", "A"),
        ("AC", "A", "AC"),
        ("ABCDEFGHIJK", "AB", "ABCDEFGHIJK"),
        ("A,B", "12", "A,B"),
        (r"\text{x}", "AB", "x"),
        ("A    B", "AB", "A    B"),
        (r"\text {A} B", "AB", "AB"),
        ("ab", "AB", "ab"),
        (r"\text{A}", "5", r"\text{A}"),
    ],
)
def test_several_letters(text, like, written):
    assert answer.letters(text, like) == written


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("a", "a"),
        ("<think>a</think>b", "b"),
        ("<think>a", ""),
        ("a</think>b</think>c", "c"),
        ("<thinking>a</thinking> b", " b"),
        ("<think>a</think>b<think>c", ""),
        ("</think>", ""),
        ("<Think>a", "<Think>a"),
        ("<think>a</thinking>b", "b"),
    ],
)
def test_what_follows_the_thinking(text, after):
    assert answer.after_thinking(text) == after


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("a", None),
        ("<answer>a</answer>b", "a"),
        ("<answer>a</answer><answer>b", "b"),
        ("<answer>a", "a"),
        ("a</answer>", None),
        ("<answer>a<answer>b</answer>c", "b"),
        ("<answer>a</answer>b</answer>", "a"),
        ("<answer></answer>", ""),
        ("<answer>a</answer> <answer>b</answer>", "b"),
    ],
)
def test_what_is_in_tags(text, inside):
    assert answer.in_answer_tags(text) == inside


@pytest.mark.parametrize(
    ("text", "closed", "cut_off"),
    [
        (r"\boxed{1}", [(0, 9, "1")], False),
        (r"a\boxed{1}b\fbox{2}", [(1, 10, "1"), (11, 19, "2")], False),
        (r"\boxed{a{b}\}c}", [(0, 15, r"a{b}\}c")], False),
        (r"\boxed{1}\boxed{2", [(0, 9, "1")], True),
        (r"\boxed{2 \boxed{1}", [(9, 18, "1")], False),
        (r"\boxed{\boxed{5}}", [(0, 17, r"\boxed{5}"), (7, 16, "5")], False),
        (r"\\boxed{5}", [(1, 10, "5")], False),
        (r"\\{\boxed{5}", [(3, 12, "5")], False),
        (r"{}}\boxed {3}", [(3, 13, "3")], False),
        ("a", [], False),
        ("{", [], False),
        (r"\boxed{1}{", [(0, 9, "1")], False),
        (r"\fbox{1}\boxed", [(0, 8, "1")], False),
        (r"\boxed{1}\fbox{", [(0, 9, "1")], True),
        (r"x\\\boxed{1}", [(3, 12, "1")], False),
        (r"\fbox  {a}", [(0, 10, "a")], False),
    ],
)
def test_boxes(text, closed, cut_off):
    assert answer.boxes(text) == (closed, cut_off)
    assert answer.last_boxed(text) == (closed[-1][2] if closed else None)


@pytest.mark.parametrize(
    ("response", "found"),
    [
        (r"\boxed{3}, \boxed{5}", ("3, 5", True, "", ("3", "5"))),
        (r"\boxed{3} and \boxed{5} or $\boxed{7}$", ("3, 5, 7", True, "", ("3", "5", "7"))),
        (r"\boxed{3} \boxed{5}", ("5", True, "", ())),
        (r"\boxed{3}; \boxed{5}", ("3, 5", True, "", ("3", "5"))),
        (r"\boxed{3}、\boxed{5}", ("3, 5", True, "", ("3", "5"))),
        (r"\boxed{3}, \boxed{3}", ("3", True, "", ())),
        (r"\boxed{3}," + " " * 58 + r"\boxed{5}", ("3, 5", True, "", ("3", "5"))),
        (r"\boxed{3}," + " " * 59 + r"\boxed{5}", ("3, 5", True, "", ("3", "5"))),
        (r"\boxed{3}," + " " * 60 + r"\boxed{5}", ("5", True, "", ())),
        (r"\boxed{2}\text{ and }\boxed{3}", ("2, 3", True, "", ("2", "3"))),
        (r"\boxed{1} x \boxed{2}, \boxed{3}", ("2, 3", True, "", ("2", "3"))),
        (r"\boxed{}, \boxed{3}", None),
        (r"\boxed{ }", None),
        (r"\boxed{1", None),
        ("", None),
        ("  ", None),
        ("plain 5", ("plain 5", False, "plain 5", ())),
        ("the answer is 5", ("5", False, "the answer is 5", ())),
        ("The Answer: 6 .", ("6 .", False, "The Answer: 6 .", ())),
        ("**Answer: 5**", ("5", False, "**Answer: 5**", ())),
        ("Answer: **5**", ("**5**", False, "Answer: **5**", ())),
        ("**Answer:** 5", ("5", False, "**Answer:** 5", ())),
        ("answer is: 5", ("5", False, "answer is: 5", ())),
        ("the answer is 5\nand more", ("5", False, "the answer is 5\nand more", ())),
        ("answer is 5 answer is 7", ("5 answer is 7", False, "answer is 5 answer is 7", ())),
        ("The answer is not 7", None),
        ("answer is 7 or 8", ("7 or 8", True, "answer is 7 or 8", ())),
        ("answer is x or y", ("x or y", True, "answer is x or y", ())),
        ("answer is x or y z", ("x or y z", False, "answer is x or y z", ())),
        ("answer is at most 7", None),
        ("Answer: between 1 and 2", None),
        ("answer is unknown", ("unknown", False, "answer is unknown", ())),
        ("answer is unclear 5", None),
        ("answer is greater than 7", None),
        ("answer is either", ("either", False, "answer is either", ())),
        ("<answer>5</answer>", ("5", True, "", ())),
        ("<answer> 5\n6 </answer>", (" 5\n6 ", False, " 5\n6 ", ())),
        ("<answer>the answer is 5</answer>", ("5", False, "the answer is 5", ())),
        ("<answer>\n5\n</answer>", ("\n5\n", True, "", ())),
        (r"<think>\boxed{5}", None),
        ("<|begin_of_box|>7<|end_of_box|>", ("7", True, "", ())),
        ("a <|begin_of_box|>7", None),
        ("answer is " + "5" * 200, ("5" * 200, False, "answer is " + "5" * 200, ())),
        ("answer is " + "5" * 201, ("answer is " + "5" * 201, False, "answer is " + "5" * 201, ())),
        ("answer is", ("answer is", False, "answer is", ())),
        ("answer is 5**", ("5", False, "answer is 5**", ())),
        ("answer: $not$ 7", None),
    ],
)
def test_what_is_found(response, found):
    assert find(response) == found
