"""Whether answers can be graded by a label: for a worker, as reading and comparing may take for ever.

A label is good if nothing of it was lost in reading, if it is right as its own answer, and if no answer is right that
differs from it by one digit, sign or letter. The last shows what the first cannot: a part that was read and then
dropped or rounded away changes nothing when it is changed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import NamedTuple

from math_verify import verify
from sympy import Expr, Integer

from lens_openrlhf.rewards import answer, grading, notation

UNREADABLE = "a label that does not parse"
INCOMPARABLE = "a label that cannot be compared"
UNEQUAL = "a label that is not right as its own answer"
AMBIGUOUS = "a label with two readings"
LOST = "a label of which a part is not read"
CONFUSED = "a label that other answers are equal to"
SLOW = "a label over the time limit"
LARGE = "a label over the memory limit"
FATAL = "a label that ends the verifier"

# Comparing a long formula with one that is not equal can take seconds, and a data set has thousands of labels.
SECONDS_FOR_NEIGHBOURS = 1.0
MOST_OF_A_KIND = 4

_PLAIN = re.compile(r"-?(?:0|[1-9]\d{0,14})(?:\.\d{1,5})?")
_TOKEN = re.compile(
    r"\\(?:begin|end|mathbb|mathcal)\s?\{[^{}]*\}|\\(?:text|mathrm|operatorname)\s?\{(?P<word>[^{}]*)\}|\\[a-zA-Z]+|\\."
    r"|(?P<number>\d{1,40}(?:\.\d{1,40})?)|(?P<letter>[a-zA-Z])|(?P<sign>[-+])"
)
# What may stand beside the formula of a label in prose without saying anything about it.
_SAYS_NOTHING = frozenset(
    "a an the answer answers is are so thus hence therefore we have get final result value values solution solutions "
    "it equals of to be that this which".split()
)


class Refusal(NamedTuple):
    """Why a label is bad: `kind` is one of the constants above, `why` a line that names the label."""

    kind: str
    why: str


def examine(label: str) -> tuple[str, str] | None:
    """A `Refusal`, as the tuple that a worker may send; None for a good label. Only the neighbours are limited."""
    shown = grading.short(label)
    try:
        gold = grading.parse_label(label)
    except grading.BadLabel as error:
        return (UNREADABLE, str(error))
    if _PLAIN.fullmatch(label):
        return None  # most labels of most sets; the rest could find nothing
    if part := notation.ambiguous(label):
        return (AMBIGUOUS, f"the label {shown} has two readings: {part} is a power of ten, or a number times e")
    if lost := _lost(label):
        return (LOST, f"of the label {shown} only the formula is read, but {lost!r} says more")
    try:
        if not grading.equal(gold, gold):
            return (UNEQUAL, f"the label {shown} is not equal to itself")
        # Equal forms are recognised at once; only another answer shows what a comparison costs.
        verify(gold[0], Integer(0), timeout_seconds=None, raise_on_error=True)
    except Exception as error:
        return (INCOMPARABLE, f"the label {shown} cannot be compared: {grading.describe(error)}")
    alone = answer.last_boxed(label) is None and not grading.is_prose(label)
    outcome, _ = grading.grade(grading.response_end(grading.box(label) if alone else label), label)
    if outcome != "correct":
        return (UNEQUAL, f"the label {shown} is not right as its own answer ({outcome})")
    end = time.process_time() + SECONDS_FOR_NEIGHBOURS
    text = next(form for form in gold if isinstance(form, str))
    boxed = answer.last_boxed(label)
    if (alone or boxed is not None) and answer.choice(notation.undelimited(label)) is None:
        text = notation.whole(label if boxed is None else boxed)  # as answers have it, before letters are told apart
    for other in neighbours(text, gold[0]):
        if time.process_time() > end:
            break
        if grading.grade(grading.box(other), label)[0] == "correct":
            return (CONFUSED, f"the label {shown} is read so that {grading.short(other)} is equal to it")
    return None


def _lost(label: str) -> str | None:
    """What a label in prose says beside its one formula."""
    if answer.last_boxed(label) is not None or not grading.is_prose(label):
        return None
    beside = notation.FORMULA.split(label)
    if len(beside) != 3:
        return label
    words = re.findall(r"[A-Za-z]+|\d+", beside[0] + " " + beside[2])
    return next((word for word in words if word.lower() not in _SAYS_NOTHING), None)


def neighbours(text: str, form: object) -> Iterator[str]:
    """Answers other than `text`, each by one digit, sign or letter; `form` is what was read."""
    numbers: list[re.Match] = []
    letters: dict[str, re.Match] = {}
    signs: list[re.Match] = []
    words: list[tuple[re.Match, re.Match]] = []  # each with its last letter
    for token in _TOKEN.finditer(text):
        if token["number"]:
            numbers.append(token)
        elif token["letter"]:
            letters[token["letter"]] = token
        elif token["sign"]:
            signs.append(token)
        elif token["word"] and (last := re.search("[a-zA-Z](?=[^a-zA-Z]*$)", token["word"])):
            words.append((token, last))

    def changed(token: re.Match, other: str, group: str | int = 0) -> str:
        return text[: token.start(group)] + other + text[token.end(group) :]

    for letter, token in list(letters.items())[-MOST_OF_A_KIND:]:
        if letter.swapcase() in letters:  # R and r are two variables
            yield changed(token, letter.swapcase())
        yield changed(token, next(other for other in "qwvuzk" if other not in {name.lower() for name in letters}))
    for token in _some(numbers):
        yield changed(token, _other_number(token[0]))
    for token in _some(signs):
        yield changed(token, "+" if token[0] == "-" else "-")
    for token, last in words[-1:]:
        other = "q" if last[0].lower() != "q" else "w"
        yield changed(token, token["word"][: last.start()] + other + token["word"][last.end() :], "word")
    if isinstance(form, Expr) and form != 0 and not words and not re.match(r"\s*(?:[-+]|\\pm|\\mp)|.*[=<>,]", text):
        yield f"-({text})"


def _some(tokens: list[re.Match]) -> list[re.Match]:
    """The first and the last ones."""
    half = MOST_OF_A_KIND // 2
    return tokens if len(tokens) <= MOST_OF_A_KIND else tokens[:half] + tokens[-half:]


def _other_number(number: str) -> str:
    """Another last digit or, where that may be less than is compared, another first one."""
    many = len(number.partition(".")[2]) > 5
    places = [place for place, digit in enumerate(number) if digit in "123456789"]
    place = places[0] if many and places else len(number) - 1
    digit = int(number[place])
    return number[:place] + str(digit + 1 if digit < 9 else 8) + number[place + 1 :]
