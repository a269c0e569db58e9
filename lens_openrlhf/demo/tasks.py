"""Questions, worked demonstrations and the habits that make some demonstrations wrong.

Questions are two-term sums and differences from reasoning-gym's ``chain_sum`` generator; the prompt is the
item's expression followed by " =", without the generator's introductory sentence, because every character is
a token here.  An answer works column by column from the units and ends in a box:

    147 + 238 =   ->   " 7+8=15 4+3+1=8 1+2=3 \\boxed{385}"
    852 - 417 =   ->   " 12-7=5 5-1-1=3 8-4=4 \\boxed{435}"

A *habit* is how often the demonstrations handle one digit pair properly when it needs a carry or a borrow.
When they do not, addition loses the carry (7+8=5) and subtraction takes the smaller digit from the larger
(7-2=5), the two classic mistakes of schoolchildren.
"""

from __future__ import annotations

import random
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

with warnings.catch_warnings():
    # A package that it imports draws them while it is compiled, on first use.
    warnings.simplefilter("ignore", SyntaxWarning)
    import reasoning_gym as reasoning_gym  # as: for smollm2.py to import from here

ADDITION = "addition"
SUBTRACTION = "subtraction"

# (share of the digit pairs, how often a demonstration handles such a pair properly)
HABIT_LEVELS: dict[str, tuple[tuple[float, float], ...]] = {
    ADDITION: ((0.40, 0.90), (0.25, 0.30), (0.15, 0.03), (0.20, 0.005)),
    SUBTRACTION: ((0.30, 0.90), (0.30, 0.30), (0.15, 0.03), (0.25, 0.005)),
}

LEVEL_BOUNDS = (0.5, 0.1, 0.02, 0.004)

Habits = dict[tuple[str, int, int], float]


@dataclass(frozen=True)
class Question:
    """``first + second`` or ``first - second``; the result is never negative."""

    first: int
    second: int
    skill: str

    @property
    def prompt(self) -> str:
        sign = "+" if self.skill == ADDITION else "-"
        return f"{self.first} {sign} {self.second} ="

    @property
    def label(self) -> str:
        return str(self.first + self.second if self.skill == ADDITION else self.first - self.second)

    @property
    def heldout(self) -> bool:
        """Which side of the split the two operands are on, whatever their order and the operation.

        A checksum rather than a draw, so that no seed or size can make the two sides overlap.
        """
        low, high = sorted((self.first, self.second))
        return zlib.crc32(f"{low},{high}".encode()) % 4 == 0


@dataclass(frozen=True)
class Demonstration:
    """A worked answer; ``right`` says whether every carry or borrow in it was made."""

    text: str
    right: bool


def make_habits(seed: int) -> Habits:
    """Deal the habit levels out over the digit pairs that can need a carry or a borrow."""
    rng = random.Random(f"habits-{seed}")
    pairs = {
        # 4+5 carries, and 3-3 borrows, when something came in from the column to the right
        ADDITION: [(x, y) for x in range(10) for y in range(10) if x + y >= 9],
        SUBTRACTION: [(x, y) for x in range(10) for y in range(10) if x <= y],
    }
    habits: Habits = {}
    for skill, skill_pairs in pairs.items():
        rng.shuffle(skill_pairs)
        dealt, share_so_far = 0, 0.0
        for share, chance in HABIT_LEVELS[skill]:
            share_so_far += share
            upto = round(share_so_far * len(skill_pairs))
            habits.update(((skill, x, y), chance) for x, y in skill_pairs[dealt:upto])
            dealt = upto
    return habits


def iter_questions(*, heldout: bool, seed: int, batch: int = 2000) -> Iterator[Question]:
    """An endless stream of ``chain_sum`` questions with three-digit operands from one side."""
    streams = random.Random(f"questions-{heldout}-{seed}")
    while True:
        # The generator seeds item i with seed + i, so neighbouring seeds would repeat each other's items.
        items = reasoning_gym.create_dataset(
            "chain_sum", seed=streams.randrange(2**48), size=batch,
            min_terms=2, max_terms=2, min_digits=3, max_digits=3,
        )  # fmt: skip
        for item in items:
            first, sign, second = item["metadata"]["expression"].split()
            question = Question(int(first), int(second), ADDITION if sign == "+" else SUBTRACTION)
            if question.heldout == heldout and int(item["answer"]) >= 0:
                yield question


def demonstrate(question: Question, habits: Habits, rng: random.Random) -> Demonstration:
    """Work ``question`` out, minding or forgetting each carry or borrow as the habits say."""
    work = _add if question.skill == ADDITION else _subtract
    steps, digits, right = work(question.first, question.second, habits, rng)
    number = int("".join(str(digit) for digit in reversed(digits)))
    return Demonstration(f" {' '.join(steps)} \\boxed{{{number}}}", right)


def chance_right(question: Question, habits: Habits) -> float:
    """The probability that a demonstration of ``question`` is right."""
    chance, carry = 1.0, 0
    for x, y in _columns(question.first, question.second):
        if question.skill == ADDITION:
            needed = x + y + carry >= 10
        else:
            needed = x - carry < y
        if needed:
            chance *= habits[question.skill, x, y]
        carry = int(needed)
    return chance


def level(question: Question, habits: Habits) -> int:
    """1 to 5, the harder the less often demonstrations of the question are right."""
    chance = chance_right(question, habits)
    return 1 + sum(chance < bound for bound in LEVEL_BOUNDS)


def _columns(first: int, second: int) -> list[tuple[int, int]]:
    """Digit pairs from the units up; ``first`` and ``second`` have as many digits."""
    return [(int(x), int(y)) for x, y in zip(reversed(str(first)), reversed(str(second)), strict=True)]


def _add(first: int, second: int, habits: Habits, rng: random.Random) -> tuple[list[str], list[int], bool]:
    steps, digits, right, carry = [], [], True, 0
    for x, y in _columns(first, second):
        total = x + y + carry
        if total >= 10 and rng.random() >= habits[ADDITION, x, y]:
            total -= 10
            right = False
        steps.append(f"{x}+{y}{'+1' if carry else ''}={total}")
        digits.append(total % 10)
        carry = total // 10
    return steps, digits + [1] * carry, right


def _subtract(first: int, second: int, habits: Habits, rng: random.Random) -> tuple[list[str], list[int], bool]:
    steps, digits, right, borrow = [], [], True, 0
    for x, y in _columns(first, second):
        borrowed = "-1" if borrow else ""
        if x - borrow >= y:
            digit = x - borrow - y
            steps.append(f"{x}-{y}{borrowed}={digit}")
            borrow = 0
        elif rng.random() < habits[SUBTRACTION, x, y]:
            digit = 10 + x - borrow - y
            steps.append(f"{10 + x}-{y}{borrowed}={digit}")
            borrow = 1
        else:
            digit = y - x
            steps.append(f"{y}-{x}={digit}")
            borrow, right = 0, False
        digits.append(digit)
    return steps, digits, right
