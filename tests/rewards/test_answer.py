"""What of a response is its answer: each rule with what it finds, and what it must not take for an answer."""

from __future__ import annotations

import pytest

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
