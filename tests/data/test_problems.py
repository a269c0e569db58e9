"""Rows of the real schemas become problems, or say why not."""

from __future__ import annotations

import pytest

from lens_openrlhf.data.problems import KINDS, Problem, boxed_answer, key, without_instruction

from . import rows


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"First $\boxed{1}$, in the end $x = \boxed{\frac{1}{\sqrt{2}}}$.", r"\frac{1}{\sqrt{2}}"),
        (r"$\boxed{ 12 }$", "12"),
        (r"$\boxed{30^\circ.}$", r"30^\circ"),
        (r"Here it is $\fbox{7}$.", "7"),
        (r"There are $\boxed 2$ of them.", "2"),
        (r"$\boxed {x+1}$", "x+1"),
        (r"Open: $\boxed{1", ""),
        ("No box", ""),
    ],
)
def test_answer_of_a_math_solution(solution, answer):
    assert boxed_answer(solution) == answer


@pytest.mark.parametrize(
    "prompt",
    [
        f"{rows.BEFORE}Find $x$.\n\nIt is real.{rows.AFTER}",
        f"{rows.BEFORE}Find $x$.\n\nIt is real.{rows.AFTER}".replace("$Answer (without quotes)", r"\boxed{$Answer}"),
        "Find $x$.\n\nIt is real.",
    ],
)
def test_instruction_of_dapo_is_taken_off(prompt):
    assert without_instruction(prompt) == "Find $x$.\n\nIt is real."


def test_key_sees_through_case_space_and_latex_spacing():
    plain = "Let x=\\frac{1}{2}, y > 1. Find f(x)."
    for same in (
        "let $x = \\dfrac{1}{2}$,\n  $y>1$. Find $f\\left(x\\right)$.",
        "Let \\(x=\\tfrac{1}{2}\\), \\[\\,y\\;>~1\\!\\]. \\quad Find f\\ (x).",
    ):
        assert key(same) == key(plain)
    for other in ("Let x=\\frac{1}{3}, y > 1. Find f(x).", "Let x=\\frac{1}{2}, y > 1. Find f(\\leftarrow x).", ""):
        assert key(other) != key(plain)


def test_levels_and_subjects_of_either_schema():
    read = KINDS["math"].read
    assert read(rows.math_row("p", "3", "Level 5", "Geometry")) == Problem("p", "3", "MATH", 5, "Geometry")
    assert read({"problem": "p", "solution": r"\boxed{3}", "level": 2, "subject": "Algebra"}).level == 2
    assert read(rows.math_row("p", "3", "Level ?")).level is None


@pytest.mark.parametrize(
    ("kind", "row", "expected"),
    [
        ("math", rows.math_row("", "1"), "no problem text"),
        ("math", {**rows.math_row("p", "1"), "solution": "None."}, "no answer"),
        ("dapo", rows.dapo_row("p", "34"), Problem("p", "34", "DAPO")),
        ("dapo", {**rows.dapo_row("p", "1"), "prompt": "p"}, Problem("p", "1", "DAPO")),
        ("dapo", {**rows.dapo_row("p", "1"), "reward_model": {"ground_truth": 1}}, Problem("p", "1", "DAPO")),
        ("dapo", {**rows.dapo_row("p", "1"), "reward_model": None}, "no answer"),
        ("dapo", {**rows.dapo_row("p", "1"), "prompt": []}, "no problem text"),
        ("dapo", rows.dapo_row("See <image>", "1"), "a picture in the text"),
        ("numina", rows.numina_row("p", "x = 1"), Problem("p", "x = 1", "NuminaMath-1.5")),
        ("numina", rows.numina_row("p", "B", question_type="MCQ"), Problem("p", "B", "NuminaMath-1.5")),
        ("numina", rows.numina_row("p", "1", question_type="proof"), "a proof"),
        ("numina", rows.numina_row("p", "Proof"), "no answer"),
        ("numina", rows.numina_row("p", "notfound"), "no answer"),
        ("numina", {**rows.numina_row("p", "1"), "answer": None}, "no answer"),
        ("numina", rows.numina_row("p", "1", problem_is_valid="No"), "problem not marked valid"),
        ("numina", rows.numina_row("p", "1", solution_is_valid="Incomplete"), "solution not marked valid"),
    ],
)
def test_row_of(kind, row, expected):
    assert KINDS[kind].read(row) == expected
