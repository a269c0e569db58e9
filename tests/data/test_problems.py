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
        (r"$\boxed 2$ and $\boxed  3,$.", "3"),
        (r"$\boxed 2$ and $\fbox{ 4., }$.", "4"),
        (r"$\boxed{}$", ""),
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
        f"\n {rows.BEFORE}Find $x$.\n\nIt is real.",
        f"Find $x$.\n\nIt is real.{rows.AFTER} \n",
    ],
)
def test_instruction_of_dapo_is_taken_off(prompt):
    assert without_instruction(prompt) == "Find $x$.\n\nIt is real."


def test_other_instructions_stay():
    for prompt in (f"First. {rows.BEFORE}p", f"p{rows.AFTER} Thanks.", "Answer: p", ""):
        assert without_instruction(prompt) == prompt


def test_key_sees_through_case_space_and_latex_spacing():
    plain = "Let x=\\frac{1}{2}, y > 1. Find f(x)."
    for same in (
        "let $x = \\dfrac{1}{2}$,\n  $y>1$. Find $f\\left(x\\right)$.",
        "Let \\(x=\\tfrac{1}{2}\\), \\[\\,y\\;>~1\\!\\]. \\quad Find f\\ (x).",
    ):
        assert key(same) == key(plain)
    for other in ("Let x=\\frac{1}{3}, y > 1. Find f(x).", "Let x=\\frac{1}{2}, y > 1. Find f(\\leftarrow x).", ""):
        assert key(other) != key(plain)


MARKS = [r"\,", r"\;", r"\:", r"\!", r"\>", "\\ ", r"\quad ", r"\qquad ", r"\left", r"\right", r"\displaystyle "]


@pytest.mark.parametrize("mark", [*MARKS, r"\[", r"\]", r"\(", r"\)", "~", "$", "$$", " ", "\n\t"])
def test_key_sees_through_each_mark(mark):
    assert key(f"a{mark}(b)") == key("A(B)") and len(key("a")) == 16
    assert key(r"\dfrac\tfrac\frac") == key(r"\frac\frac\frac")


def test_keys_of_other_texts():
    distinct = ["a", "b", "", r"\quads", r"\leftarrow", r"\displaystyles", "\\", "-a", "a.", r"\{a\}"]
    distinct += ["ab", "\ud800", "ß"]
    assert len({key(text) for text in distinct}) == len(distinct)
    assert key("STRASSE") == key("straße")


def problem(kind: str, row: dict) -> Problem:
    found = KINDS[kind].read(row)
    assert isinstance(found, Problem), found
    return found


@pytest.mark.parametrize(
    ("level", "found"),
    [
        ("Level 1", 1), ("Level 5", 5), (3, 3), ("4", 4), (" Level 2 ", 2), ("Level 0", None), ("Level 6", None),
        (0, None), (6, None), ("Level 12", None), (None, None), (True, None), (2.0, None), ("", None),
    ],
)  # fmt: skip
def test_levels(level, found):
    assert problem("math", rows.math_row("p", "3", level)).level == found


def test_every_column_is_read():
    row = {"problem": " p\n", "solution": r"\boxed{1} or \boxed{ 2., }", "level": "Level 4", "type": " T "}
    assert problem("math", row) == problem("math500", row) == Problem("p", "2", "MATH", 4, "T")
    assert problem("math", {**row, "subject": "S"}).type == "T"
    assert problem("math", {**row, "type": None, "subject": "S"}).type == "S"
    assert problem("math", {**row, "type": ""}).type == ""
    assert Problem("p", "2", "S") == Problem("p", "2", "S", None, "")
    chat = [{"role": "user", "content": " p "}]
    assert problem("dapo", {"prompt": chat, "reward_model": {"ground_truth": " 3 "}}) == Problem("p", "3", "DAPO")
    assert problem("dapo", {"prompt": chat, "reward_model": {"ground_truth": 0}}).label == "0"
    good = {"question_type": "x", "problem_is_valid": "Yes", "solution_is_valid": "Yes"}
    assert problem("numina", {**good, "problem": " p ", "answer": 7}) == Problem("p", "7", "NuminaMath-1.5")


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("math", {"problem": None}, "no problem text"),
        ("math", {"problem": " "}, "no problem text"),
        ("math", {"problem": "", "solution": ""}, "no problem text"),
        ("math", {"solution": r"\boxed{.}"}, "no answer"),
        ("math", {"problem": "a <image> b"}, "a picture in the text"),
        ("dapo", {"prompt": [{"content": "a"}, {"content": "b"}]}, "no problem text"),
        ("dapo", {"prompt": [{"role": "user"}]}, "no problem text"),
        ("dapo", {"prompt": {"content": "a"}}, "no problem text"),
        ("dapo", {"reward_model": {}}, "no answer"),
        ("dapo", {"reward_model": "5"}, "no answer"),
        ("dapo", {"reward_model": {"ground_truth": True}}, "no answer"),
        ("dapo", {"reward_model": {"ground_truth": 0.5}}, "no answer"),
        ("numina", {"answer": "PROOF"}, "no answer"),
        ("numina", {"answer": "NotFound"}, "no answer"),
        ("numina", {"answer": ""}, "no answer"),
        ("numina", {"question_type": "proof", "answer": ""}, "a proof"),
        ("numina", {"problem_is_valid": None, "solution_is_valid": None}, "problem not marked valid"),
        ("numina", {"solution_is_valid": "yes"}, "solution not marked valid"),
        ("numina", {"problem": ""}, "no problem text"),
    ],
)
def test_rows_that_are_no_problems(kind, change, reason):
    row = {"math": rows.math_row("p", "1"), "dapo": rows.dapo_row("p", "1"), "numina": rows.numina_row("p", "1")}[kind]
    assert isinstance(KINDS[kind].read(row), Problem)
    assert KINDS[kind].read({**row, **change}) == reason


def test_where_the_data_come_from():
    """Pinned, so that a set can be made again."""
    math = (("problem",), ("solution",), ("level",), ("type", "subject"))
    assert {option: (kind.name, kind.hub, kind.revision, kind.columns) for option, kind in KINDS.items()} == {
        "math": ("MATH", "EleutherAI/hendrycks_math", "21a5633873b6a120296cce3e2df9d5550074f4a3", math),
        "math500": ("MATH-500", "HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", math),
        "dapo": (
            "DAPO",
            "BytedTsinghua-SIA/DAPO-Math-17k",
            "65877096c24ffa7abc4e4fa5edb95cf3413a5674",
            (("prompt",), ("reward_model",)),
        ),
        "numina": (
            "NuminaMath-1.5",
            "AI-MO/NuminaMath-1.5",
            "1b05109f9e5c1ad06c0663519502416c30b300f8",
            (("problem",), ("answer",), ("question_type",), ("problem_is_valid",), ("solution_is_valid",)),
        ),
    }


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
