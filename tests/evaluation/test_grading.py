"""Answers graded and read by the real Math-Verify, and by reward files."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lens_openrlhf.evaluation import grading
from lens_openrlhf.evaluation.grading import Grade, RewardError, grade, load_reward
from lens_openrlhf.inputs import OptionError
from lens_openrlhf.rewards import pool
from lens_openrlhf.rewards.verifier import Verdict

pytestmark = pytest.mark.usefixtures("small_pool")


def test_equal_answers_get_equal_numbers():
    responses = [r"so \boxed{0.5}<eos>", r"\boxed{\frac{2}{4}}", r"\boxed{3}", "I do not know", r"It is \boxed{1/2}."]
    (grades,) = grade(None, ["?"], ["1/2"], [responses])
    assert [g.same_as for g in grades] == [0, 0, 1, None, 0]
    assert [g.correctness for g in grades] == [1, 1, 0, 0, 1]
    assert [g.outcome for g in grades] == ["correct", "correct", "wrong", "no_answer", "correct"]
    assert grades[2].answer == "3" and grades[3].answer is None


@pytest.fixture
def compared(monkeypatch):
    """What of each prompt's answers is compared, as (keys, responses, label); all that differ are said to be others."""
    calls = {}

    def same(keys, responses, label):
        calls[label] = keys, responses
        names = list(dict.fromkeys(key for key in keys if key is not None))
        return [None if key is None else names.index(key) for key in keys]

    monkeypatch.setattr(grading, "same_answers", same)
    monkeypatch.setattr(grading, "read_answer", lambda part: None if part == "none" else (part, part.lower()))
    return calls


def test_what_is_compared_of_a_prompts_answers(compared, monkeypatch):
    """Not the right ones, which are all the label, nor those whose verdict failed: comparing would end no sooner."""
    outcomes = {"RIGHT": "correct", "right too": "correct", "slow": "timeout", "bad": "error", "none": "no_answer"}
    verified = []

    def verify(part, label):
        verified.append((part, label))
        return Verdict(outcomes.get(part) == "correct", outcomes.get(part, "wrong"), "")

    monkeypatch.setattr(grading, "verify_answer", verify)
    responses = [["slow", "RIGHT", "x", "X", "none", "right too", "bad", "x"], ["slow", "X"]]
    first, second = grade(None, ["p", "q"], ["5", 6], responses)
    right = ("equal to the label",)
    assert compared == {
        "5": (["slow", right, "x", "x", None, right, "bad", "x"], ["", "", "x", "X", "none", "", "", "x"]),
        "6": (["slow", "x"], ["", "X"]),
    }
    assert first == [
        *(Grade(0.0, "timeout", "slow", 0), Grade(1.0, "correct", "RIGHT", 1), Grade(0.0, "wrong", "x", 2)),
        *(Grade(0.0, "wrong", "X", 2), Grade(0.0, "no_answer", None, None), Grade(1.0, "correct", "right too", 1)),
        *(Grade(0.0, "error", "bad", 3), Grade(0.0, "wrong", "x", 2)),
    ]
    assert second == [Grade(0.0, "timeout", "slow", 0), Grade(0.0, "wrong", "X", 1)]
    assert sorted(verified, key=str) == sorted(
        [(part, "5") for part in dict.fromkeys(responses[0])] + [("slow", 6), ("X", 6)], key=str
    ), "each part of a prompt's once"


def test_with_a_reward_file_all_answers_are_compared(compared, monkeypatch):
    monkeypatch.setattr(grading, "verify_answer", None)

    def reward(queries, prompts, labels):
        return {"scores": {"pa": 0.5, "pB": 1, "qnone": 0}[queries[0]]}

    assert grade(reward, ["p", "q"], [[5], 2.5], [["a", "B"], ["none"]]) == [
        [Grade(0.5, None, "a", 0), Grade(1.0, None, "B", 1)],
        [Grade(0.0, None, None, None)],
    ]
    assert compared == {"": ([None], ["none"])}, "a label that is no text says nothing of how answers are read"


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
        ("raise KeyError('no grade')", r"KeyError: 'no grade' \(prompt 'a prompt', label '1'\)$"),
        ("return {'rewards': 1.0}", "raised or returned no 'scores': KeyError"),
        ("return {'scores': [1.0, 0.0]}", "no 'scores'"),
        ("return {'scores': -1}", "score -1; raw correctness lies between 0 and 1"),
        ("return {'scores': -0.001}", "score -0.001"),
        ("return {'scores': 1.001}", "score 1.001"),
        ("return {'scores': math.nan}", "score nan"),
    ],
)
def test_reward_file_that_does_not_grade_is_named(tmp_path, body, named):
    with pytest.raises(RewardError, match=named):
        grade(load_reward(reward_file(tmp_path, body)), ["a prompt"], ["1"], [["b"]])


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("x = 1", r"reward.py: has no function reward_func\(queries, prompts, labels\)"),
        ("reward_func = 1", "has no function reward_func"),
        ("import no_such_module_anywhere", "cannot be loaded: ModuleNotFoundError: No module"),
    ],
)
def test_reward_file_that_cannot_be_used_is_named(tmp_path, content, named):
    (tmp_path / "reward.py").write_text(content)
    with pytest.raises(OptionError, match=named):
        load_reward(str(tmp_path / "reward.py"))


def test_which_rewards_there_are(tmp_path):
    assert load_reward("math-verify") is None
    with pytest.raises(OptionError, match="^--reward x.txt: expected math-verify or a .py file with a reward_func"):
        load_reward("x.txt")
    with pytest.raises(OptionError, match=r"^--reward .*/absent.py: no such file"):
        load_reward(str(tmp_path / "absent.py"))
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(OptionError, match="no such file"):
        load_reward(str(tmp_path / "folder.py"))


def test_the_end_of_a_long_prompt_is_named(tmp_path):
    with pytest.raises(RewardError) as caught:
        grade(load_reward(reward_file(tmp_path, "raise ValueError")), ["x" + "y" * 80], ["1"], [["b"]])
    assert f"(prompt '{'y' * 80}', label '1')" in str(caught.value)
