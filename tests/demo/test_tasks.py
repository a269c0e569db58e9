import random
import re
import zlib
from itertools import islice

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
    iter_questions,
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


@pytest.mark.parametrize(
    ("chance", "expected"),
    [(1.0, 1), (0.5, 1), (0.499, 2), (0.1, 2), (0.099, 3), (0.02, 3), (0.019, 4), (0.004, 4), (0.0039, 5), (0.0, 5)],
)
def test_both_sides_of_each_level(chance, expected):
    one_carry = Question(105, 106, ADDITION)
    assert level(one_carry, dict.fromkeys(make_habits(0), chance)) == expected


@pytest.mark.parametrize(
    ("question", "needed"),
    [
        (Question(357, 268, ADDITION), {(7, 8), (5, 6)}),
        (Question(345, 155, ADDITION), {(5, 5), (4, 5)}),  # the second one for what came in
        (Question(945, 155, ADDITION), {(5, 5), (4, 5), (9, 1)}),
        (Question(534, 267, SUBTRACTION), {(4, 7), (3, 6)}),
        (Question(540, 231, SUBTRACTION), {(0, 1)}),
        (Question(530, 231, SUBTRACTION), {(0, 1), (3, 3)}),
        (Question(987, 123, SUBTRACTION), set()),
        (Question(123, 456, ADDITION), set()),
    ],
)
def test_the_chance_is_that_of_every_carry_and_borrow(question, needed):
    habits = {key: 0.5 + number / 1_000 for number, key in enumerate(make_habits(0))}
    expected = 1.0
    for x, y in needed:
        expected *= habits[question.skill, x, y]
    assert chance_right(question, habits) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("question", "perfect", "text", "right"),
    [
        (Question(345, 155, ADDITION), True, " 5+5=10 4+5+1=10 3+1+1=5 \\boxed{500}", True),
        (Question(345, 155, ADDITION), False, " 5+5=0 4+5=9 3+1=4 \\boxed{490}", False),
        (Question(945, 155, ADDITION), True, " 5+5=10 4+5+1=10 9+1+1=11 \\boxed{1100}", True),
        (Question(530, 231, SUBTRACTION), True, " 10-1=9 13-3-1=9 5-2-1=2 \\boxed{299}", True),
        (Question(530, 231, SUBTRACTION), False, " 1-0=1 3-3=0 5-2=3 \\boxed{301}", False),
        (Question(540, 540, SUBTRACTION), False, " 0-0=0 4-4=0 5-5=0 \\boxed{0}", True),
    ],
)
def test_demonstrations_as_written(question, perfect, text, right):
    habits = dict.fromkeys(make_habits(0), float(perfect))
    found = demonstrate(question, habits, random.Random(0))
    assert (found.text, found.right) == (text, right)


def test_a_question_in_words():
    one, other = Question(357, 268, ADDITION), Question(357, 268, SUBTRACTION)
    assert (one.prompt, one.label, other.prompt, other.label) == ("357 + 268 =", "625", "357 - 268 =", "89")


def test_the_side_of_a_question_is_that_of_its_operands():
    for first, second in ((100, 102), (357, 268), (999, 101), (534, 267)):
        sides = {
            Question(*pair, skill).heldout
            for pair in ((first, second), (second, first))
            for skill in (ADDITION, SUBTRACTION)
        }
        low, high = sorted((first, second))
        assert sides == {zlib.crc32(f"{low},{high}".encode()) % 4 == 0}
    share = sum(Question(first, second, ADDITION).heldout for first in range(100, 200) for second in range(200, 300))
    assert 2_300 < share < 2_700, "a quarter"


@pytest.mark.parametrize("heldout", [False, True])
def test_the_stream_of_questions(heldout):
    """Of one side, three digits each, nothing below 0, and another one for each seed and side; it does not end."""
    found = list(islice(iter_questions(heldout=heldout, seed=1, batch=50), 300))
    assert found == list(islice(iter_questions(heldout=heldout, seed=1, batch=50), 300))
    assert len({*found}) > 250, "a batch does not come again"
    for question in found:
        assert question.heldout == heldout and int(question.label) >= 0
        assert 100 <= question.first <= 999 and 100 <= question.second <= 999
    assert {question.skill for question in found} == {ADDITION, SUBTRACTION}
    assert found[:5] != list(islice(iter_questions(heldout=heldout, seed=2, batch=50), 5))


def test_habits_are_dealt_by_pairs_that_can_need_them():
    habits = make_habits(3)
    assert {key[1:] for key in habits if key[0] == ADDITION} == {
        (x, y) for x in range(10) for y in range(10) if x + y >= 9
    }
    assert {key[1:] for key in habits if key[0] == SUBTRACTION} == {
        (x, y) for x in range(10) for y in range(10) if x <= y
    }
    for skill, counts in ((ADDITION, (22, 14, 8, 11)), (SUBTRACTION, (16, 17, 8, 14))):
        chances = [chance for key, chance in habits.items() if key[0] == skill]
        assert [chances.count(chance) for chance in (0.9, 0.3, 0.03, 0.005)] == list(counts)
        assert chances == sorted(chances, reverse=True), "level after level"
