import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_openrlhf.demo.tasks import (
    ADDITION,
    HABIT_LEVELS,
    SUBTRACTION,
    Question,
    chance_right,
    demonstrate,
    level,
    make_habits,
)

MAX_ANSWER_CHARS = 48  # --rollout.max_new_tokens of the profile; a character is a token

OPERANDS = st.integers(100, 999)


@st.composite
def questions(draw):
    first, second = draw(OPERANDS), draw(OPERANDS)
    skill = draw(st.sampled_from([ADDITION, SUBTRACTION]))
    if skill == SUBTRACTION and first < second:
        first, second = second, first
    return Question(first, second, skill)


def boxed(text):
    return re.fullmatch(r"( [0-9+=-]+){3} \\boxed\{(\d+)\}", text).group(2)


@given(questions(), st.integers(0, 3), st.integers())
def test_a_demonstration_ends_in_the_label_exactly_when_it_is_right(question, habit_seed, seed):
    demonstration = demonstrate(question, make_habits(habit_seed), random.Random(seed))
    assert demonstration.right == (boxed(demonstration.text) == question.label)
    assert len(demonstration.text) <= MAX_ANSWER_CHARS


@pytest.mark.parametrize("chance", [0.0, 1.0])
@given(question=questions())
def test_with_perfect_habits_all_is_right_and_with_none_only_what_needs_no_carry(chance, question):
    habits = dict.fromkeys(make_habits(0), chance)
    demonstration = demonstrate(question, habits, random.Random(0))
    assert chance_right(question, habits) == demonstration.right
    assert demonstration.right or chance == 0.0


@given(questions())
def test_steps_of_a_right_demonstration_are_true_equations(question):
    demonstration = demonstrate(question, dict.fromkeys(make_habits(0), 1.0), random.Random(0))
    for step in demonstration.text.split()[:3]:
        left, result = step.split("=")
        signed = [int(term) for term in re.findall(r"[+-]?\d+", left)]
        assert sum(signed) == int(result)


@pytest.mark.parametrize(
    "question",
    [Question(357, 268, ADDITION), Question(999, 101, ADDITION), Question(534, 267, SUBTRACTION)],
)
def test_the_share_of_right_demonstrations_is_the_stated_chance(question):
    habits = dict.fromkeys(make_habits(0), 0.6)
    rng = random.Random(0)
    share = sum(demonstrate(question, habits, rng).right for _ in range(4000)) / 4000
    assert share == pytest.approx(chance_right(question, habits), abs=0.04)


def test_levels_follow_the_chance_of_a_right_demonstration():
    question = Question(357, 268, ADDITION)  # two carries
    levels = [level(question, dict.fromkeys(make_habits(0), chance)) for chance in (1.0, 0.5, 0.2, 0.1, 0.01)]
    assert levels == [1, 2, 3, 4, 5]
    assert level(Question(111, 222, ADDITION), dict.fromkeys(make_habits(0), 0.0)) == 1


def test_the_two_mistakes():
    never = dict.fromkeys(make_habits(0), 0.0)
    rng = random.Random(0)
    assert demonstrate(Question(147, 238, ADDITION), never, rng).text == " 7+8=5 4+3=7 1+2=3 \\boxed{375}"
    assert demonstrate(Question(852, 417, SUBTRACTION), never, rng).text == " 7-2=5 5-1=4 8-4=4 \\boxed{445}"


def test_habits_follow_the_seed():
    assert make_habits(1) == make_habits(1) != make_habits(2)


@pytest.mark.parametrize("skill", [ADDITION, SUBTRACTION])
def test_habits_cover_the_pairs_in_the_stated_shares(skill):
    chances = [chance for (owner, _, _), chance in make_habits(0).items() if owner == skill]
    assert len(chances) == 55
    for share, chance in HABIT_LEVELS[skill]:
        assert chances.count(chance) == pytest.approx(share * 55, abs=1)
