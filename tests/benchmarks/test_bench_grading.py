"""The grader before the labels of our own, and the rules that make the answers for benchmarks/bench_grading.py."""

from __future__ import annotations

from collections import Counter, defaultdict
from types import SimpleNamespace

import pytest

from benchmarks import bench_grading
from benchmarks.grading import sources
from benchmarks.grading.cases import make
from benchmarks.grading.own import OWN
from benchmarks.grading.process import Grader
from benchmarks.grading.values import read, same
from lens_openrlhf.rewards import grading, label_check

# What the grader has wrong of them, by label, and nothing else. What is mended has to leave this list.
WRONG = {
    "4g": {"4 g"},  # a letter that stands apart is a unit
    "7": {"There is no answer in 7 steps."},  # right by it: the last number, where nothing says which is the answer
}


def test_own_labels_are_graded_as_a_marker_would(monkeypatch):
    group = bench_grading.own_group(answers=1, seed=0)
    # The neighbours of a label are most of the time of its check, and here there are wrong answers enough.
    monkeypatch.setattr(label_check, "SECONDS_FOR_NEIGHBOURS", 0.0)
    assert [found for label in group.cases if (found := label_check.examine(label))] == []
    wrong, sides = defaultdict(set), Counter()
    for label, cases in group.cases.items():
        for case in cases:
            response = grading.response_end(case.response)
            sides[case.right] += 1
            if (grading.grade(response, label)[0] == "correct") != case.right:
                found = grading.answer.find(response)
                wrong[label].add(found.text.strip() if found else response)
    assert min(sides.values()) > 300
    assert wrong == WRONG


def test_every_label_has_right_and_wrong_answers():
    for label in dict.fromkeys(own.label for own in OWN):
        cases = make(label)
        assert {case.right for case in cases} == {True, False}, label
        assert len({case.response for case in cases}) == len(cases)
        assert cases == make(label)  # the same every time


@pytest.mark.parametrize(
    ("label", "right", "wrong"),
    [
        (r"$\frac{3}{4}$", ["3/4", "0.75", r"\dfrac{3}{4}", r"x=\frac{3}{4}"], [r"\frac{4}{3}", r"-\frac{3}{4}"]),
        ("12000", [r"12\,000", "12{,}000", "12,000"], ["120000", "-12000"]),
        ("[0, 2)", [r"[0,\,2)"], ["(0, 2)", "[2, 0)", "[0, 2, 97)"]),
        ("2ab", ["x=2ab"], ["2a", "-2ab"]),
        ("x > 3", ["3 < x"], ["x < 3"]),
        ("B", ["(B)", r"\text{B}"], ["A", "C", "D", "E"]),
        ("3.5e-7", [r"3.5 \times 10^{-7}"], [r"3.5 \times 10^{7}", r"3.5 \times 10^{-8}"]),
        (r"\{1, 2\}", [r"\{2, 1\}"], ["97"]),
        ("2(x+y)^2", ["2(x+y)^{2}"], ["2x+y^2", "2(x+y)"]),
        (r"\sqrt[3]{x}-2y", [r"-2y+\sqrt[3]{x}"], [r"\sqrt{x}-2y", r"\sqrt[3]{y}-2x", r"\sqrt[3]{x}+2y"]),
        (r"\pm\sqrt{7}", [r"\pm\sqrt7"], [r"+\sqrt{7}", r"-\sqrt{7}"]),
        (r"(0, 1]\cup[3, \infty)", [r"[3, \infty) \cup (0, 1]", r"(0, 1]\cup[3, +\infty)"], ["(0, 1]"]),
    ],
)
def test_rules(label, right, wrong):
    cases = {case.response: case.right for case in make(label)}
    for text, verdict in [*((text, True) for text in right), *((text, False) for text in wrong)]:
        assert cases[rf"The answer is $\boxed{{{text}}}$."] is verdict, text


@pytest.mark.parametrize("label", ["x^2-3c_{1}x+c_2", r"\ln x+C", "-1,0,1", "The mode is $x=0$.", "6 hours"])
def test_no_answer_is_called_wrong_that_a_marker_could_take(label):
    """Names and signs of arbitrary constants, a part beside the whole, words and units are left as they are."""
    doubtful = [r"x^2-3c_{1}x-c_2", r"\ln x-C", r"\ln x+w", "6 howrs", "mode is $x=1"]
    for case in make(label):
        assert case.right or not any(text in case.response for text in doubtful), case
        assert case.right or "," not in label or "} or" not in case.response, case


def test_answers_come_from_values_that_are_their_own():
    for first, second in [
        (r"\frac12", "0.5"),
        (r"2\sqrt{3}", r"\sqrt{12}"),
        (r"2\frac{1}{2}", "5/2"),
        (r"(-\infty,0)\cup(0,1]", r"(0,1]\cup(-\infty,0)"),
        ("y=2x", "2x-y=0"),
        (r"\sin^2 x", r"1-\cos^2 x"),
        (r"\frac{1}{\mathrm{e}}x", "e^{-1}x"),
        (r"\log_2 8", "3"),
    ]:
        assert same(read(first), read(second)), first
    for first, second in [("(1,2)", "(2,1)"), ("[0,1)", "(0,1)"), ("x>3", r"x\ge 3"), ("2ab", "2a"), ("y=2x", "y=3x")]:
        assert not same(read(first), read(second)), first
    assert (
        read(r"\begin{pmatrix}1\end{pmatrix}") is None and read("Monday") is not None and read(r"\frac{1}{0}") is None
    )


def test_a_grader_that_hangs_or_dies_is_wrong_and_starts_again(tmp_path, monkeypatch):
    """A grader is a process: what it does is a failure of that call alone."""
    package = tmp_path / "grader" / "open_instruct"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "math_utils.py").write_text(
        "import os, time\n"
        "def last_boxed_only_string(text):\n"
        "    if 'hang' in text: time.sleep(60)\n"
        "    if 'die' in text: os._exit(3)\n"
        "    if 'raise' in text: raise ValueError('no')\n"
        "    print('not a verdict')\n"
        "    return text\n"
        "remove_boxed = get_unnormalized_answer = normalize_final_answer = str\n"
        "is_equiv = hendrycks_is_equiv = str.__eq__\n"
    )
    texts = ["5", "6", "hang", "die", "raise", "5"]
    group = bench_grading.Group("own", {"5": [bench_grading.Case("5", text, text == "5", "rule") for text in texts]})
    with Grader("open-instruct", package.parent, bench_grading.sys.executable, timeout=2.0) as grader:
        marks = bench_grading.mark(grader, group)
    assert grader.why_not == "" and marks.failures == 3 and marks.wrong == []
    assert marks.graded == {True: 2, False: 4} and len(marks.seconds) == 6
    line = bench_grading.row("it", [group], {"own": marks}, {"own": {"5"}})
    assert line.startswith("| it | 0 | 0 (0.00%) | 0 (0.0%) | 0 (0.00%) | 0 (0.0%) | 3 |")


def test_what_is_absent_is_named(tmp_path, capsys):
    with pytest.raises(sources.Absent, match="is not in"):
        sources.public_labels(tmp_path, "gsm8k")
    options = SimpleNamespace(
        python=None, qwen=None, verl=tmp_path, open_instruct=None, graders=["qwen", "verl-math"], timeout=5
    )
    assert bench_grading.graders(options, tmp_path) == {}
    said = capsys.readouterr().out
    assert "absent: Qwen2.5-Math (no clone given)" in said and "absent: verl math_reward" in said
