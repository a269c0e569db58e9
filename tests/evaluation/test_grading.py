"""Answers graded and read by the real Math-Verify, and by reward files."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lens_openrlhf.evaluation.grading import RewardError, grade, load_reward
from lens_openrlhf.inputs import OptionError
from lens_openrlhf.rewards import pool

pytestmark = pytest.mark.usefixtures("small_pool")


def test_equal_answers_get_equal_numbers():
    responses = [r"so \boxed{0.5}<eos>", r"\boxed{\frac{2}{4}}", r"\boxed{3}", "I do not know", r"It is \boxed{1/2}."]
    (grades,) = grade(None, ["?"], ["1/2"], [responses])
    assert [g.same_as for g in grades] == [0, 0, 1, None, 0]
    assert [g.correctness for g in grades] == [1, 1, 0, 0, 1]
    assert [g.outcome for g in grades] == ["correct", "correct", "wrong", "no_answer", "correct"]
    assert grades[2].answer == "3" and grades[3].answer is None


def test_numbers_belong_to_a_prompt():
    first, second = grade(None, ["?", "?"], [7, "8"], [[r"\boxed{8}", r"\boxed{7}"], [r"\boxed{8}", r"\boxed{7}"]])
    assert [g.correctness for g in first] == [0, 1] and [g.correctness for g in second] == [1, 0]
    assert [g.same_as for g in first] == [g.same_as for g in second] == [0, 1]


@pytest.mark.parametrize("label", ["5", "1/2"])
def test_answers_written_otherwise_are_one_vote(label):
    """Against 7 and 7 the three win, whether they are right or not."""
    answers = ["5", "5.0", "x=5", "7", "7", r"5\text{ cm}", r"\frac{10}{2}"]
    (grades,) = grade(None, ["?"], [label], [[rf"\boxed{{{answer}}}" for answer in answers]])
    assert [g.same_as for g in grades] == [0, 0, 0, 1, 1, 0, 0]


def test_answers_that_differ_are_votes_apart():
    answers = ["0.5", r"\frac{2}{4}", "0.6", "10^{-9}", "10^{-8}", "2b", "2c", r"\text{BCA}", r"\text{ABC}"]
    (grades,) = grade(None, ["?"], ["42"], [[rf"\boxed{{{answer}}}" for answer in answers]])
    assert [g.same_as for g in grades] == [0, 0, 1, 2, 3, 4, 5, 6, 7]


def test_a_vote_that_takes_too_long_is_by_spelling(monkeypatch):
    real = pool.run_in_worker

    def slow(function, *args):
        if function.__name__ == "_clusters":
            raise pool.TimeLimit("too long")
        return real(function, *args)

    monkeypatch.setattr(pool, "run_in_worker", slow)
    (grades,) = grade(None, ["?"], ["1"], [[r"\boxed{5}", r"\boxed{x=5}", r"\boxed{5}"]])
    assert [g.same_as for g in grades] == [0, 1, 0]


def test_time_outs_are_counted_and_still_vote():
    (grades,) = grade(None, ["?"], ["42"], [[r"\boxed{9^{9^{9^9}}}", r"\boxed{42}", r"\boxed{9^{9^{9^9}}}"]])
    assert [g.outcome for g in grades] == ["timeout", "correct", "timeout"]
    assert [g.same_as for g in grades] == [0, 1, 0]


def test_workers_load_no_torch():
    code = "import sys, lens_openrlhf.evaluation.answers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def reward_file(tmp_path, body: str):
    path = tmp_path / "reward.py"
    path.write_text(f"import math\n\ndef reward_func(queries, prompts, labels):\n    {body}\n")
    return str(path)


def test_reward_file_is_called_as_openrlhf_calls_it(tmp_path):
    body = "(q,), (p,), (l,) = queries, prompts, labels; return {'scores': [len(q) / l if q.startswith(p) else 0]}"
    reward = load_reward(reward_file(tmp_path, body))
    first, second = grade(reward, ["ab", "c"], [4, 20], [["c", "cd"], [r"\boxed{7}", "is 7"]])
    assert [g.correctness for g in first] == [0.75, 1.0]
    assert [g.correctness for g in second] == [0.5, 0.25]
    assert [g.outcome for g in first] == [None, None] and [g.same_as for g in second] == [0, 0]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("raise KeyError('no grade')", "KeyError.*no grade"),
        ("return {'rewards': 1.0}", "no 'scores'"),
        ("return {'scores': [1.0, 0.0]}", "no 'scores'"),
        ("return {'scores': -1}", "score -1"),
        ("return {'scores': math.nan}", "score nan"),
    ],
)
def test_reward_file_that_does_not_grade_is_named(tmp_path, body, named):
    with pytest.raises(RewardError, match=named):
        grade(load_reward(reward_file(tmp_path, body)), ["a prompt"], ["1"], [["b"]])


@pytest.mark.parametrize(
    ("content", "named"), [("x = 1", "no function reward_func"), ("import no_such_module_anywhere", "ModuleNotFound")]
)
def test_reward_file_that_cannot_be_used_is_named(tmp_path, content, named):
    (tmp_path / "reward.py").write_text(content)
    with pytest.raises(OptionError, match=named):
        load_reward(str(tmp_path / "reward.py"))
