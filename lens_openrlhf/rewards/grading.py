"""Compares one response with one gold label through Math-Verify.

Nothing here limits time or memory, and a few characters of LaTeX can ask for years of arithmetic. Call these
functions through :mod:`lens_openrlhf.rewards.pool`, which runs them in worker processes that it can kill.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from itertools import product
from typing import Any, Literal, NamedTuple

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import Eq, FiniteSet, Float, Interval, Rational, Set, Tuple
from sympy.core.relational import Relational
from sympy.logic.boolalg import And

from lens_openrlhf.rewards import answer, kinds, notation, units

Outcome = Literal["correct", "wrong", "no_answer", "timeout", "error"]

# A final answer stands at the end. The bound keeps what goes through the pipe to a worker small, and is still
# several thousand tokens: more than any model writes after its last \boxed{}.
MAX_RESPONSE_CHARS = 20_000
# Math-Verify's regular expressions take time quadratic in the text they search: for a hostile text 0.5 s at
# 4,000 characters, 12 s at 20,000. Only a response without a box is searched by them.
MAX_UNBOXED_CHARS = 4_000
MAX_DETAIL_CHARS = 200
# Below this, six decimals are less than four digits; numbers that differ by more of their size are apart.
TINY, SAME_DIGITS = Float("0.01"), Float("2e-4")
# 1/3 = 0.33 is a value with its rounding.
ROUNDED = Float("0.02")

# Without Math-Verify's units, which are letters too: it reads 2+3d as 5. units.py takes units away.
_LATEX = LatexExtractionConfig(
    boxed_match_priority=0, normalization_config=replace(LatexExtractionConfig().normalization_config, units=False)
)
_LATEX_OR_NUMBER = (_LATEX, ExprExtractionConfig())

_DECIMAL = re.compile(r"-?\d{1,200}\.\d{7,200}")
_AND_OR = re.compile(r"\b(?:and|or)\b")
_WORDS = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,40}\s{1,9}[A-Za-z]{2}|(?<![a-z])[a-z]{3,40}\s{0,9}[:=]")
_NUMBER = re.compile(
    r"[-+]?[\d.][\d.,\s/eE^+*x×·°%'{}\\-]*(?:(?<!,)(?<!,\s)\s?[A-Za-z]{1,20}(?:\s?[A-Za-z]{1,20}){0,2})?"
)
MAX_NUMBER_CHARS = 200
_IN_LIST = r"(?:[^A-Za-z()\[\]\\]|\\[a-z]{1,10}){1,100}"
_LIST = re.compile(rf"(?:\\left)?[\[(]{_IN_LIST},{_IN_LIST}[\])]")
_WORD = re.compile(r"[A-Za-z]{2,20}")
# Math-Verify reads "1/2." as a half but "1/2<|im_end|>" as one, so these must go before it looks.
_SPECIAL_TOKEN_AT_END = re.compile(
    r"(?:<\|(?!end_of_box)[^<>|\s]{1,40}\|>|<｜[^<>｜\s]{1,40}｜>"
    r"|</?s>|<(?:pad|eos|bos|unk|end_of_turn|start_of_turn)>|\[PAD\]|\[EOS\])\Z"
)
_LONGEST_SPECIAL_TOKEN = 44


class BadLabel(ValueError):
    """The label is not something an answer can be compared with."""


def response_end(response: str) -> str:
    """The last MAX_RESPONSE_CHARS of `response`, not counting special tokens and white space that end it."""
    end = len(response)
    while True:
        while end and response[end - 1].isspace():
            end -= 1
        token = _SPECIAL_TOKEN_AT_END.search(response, max(0, end - _LONGEST_SPECIAL_TOKEN), end)
        if token is None:
            return response[max(0, end - MAX_RESPONSE_CHARS) : end]
        end = token.start()


class Reading(NamedTuple):
    """How a response was graded.

    Attributes:
        outcome: never "timeout" here.
        detail: a line for a log that says what was compared or what went wrong.
        answer: what was taken for the answer; empty where there is none.
        answer_written, label_written: what Math-Verify compared.
        reason: why an answer is wrong whatever Math-Verify finds, such as "in km, not m"; otherwise empty.
    """

    outcome: Outcome
    detail: str
    answer: str = ""
    answer_written: str = ""
    label_written: str = ""
    reason: str = ""


def grade(response: str, label: str) -> tuple[Outcome, str]:
    """The outcome and the detail of `read`."""
    reading = read(response, label)
    return reading.outcome, reading.detail


def read(response: str, label: str) -> Reading:
    r"""Whether the answer in `response` is equal to `label`.

    The answer is what :func:`answer.find` finds or, where that is no more than a place, the last expression that
    Math-Verify finds there.
    """
    try:
        gold = parse_label(label)
    except BadLabel as error:
        return Reading("error", f"bad label: {error}")
    try:
        whole, *parts = parse_answers(response, label)
    except Exception as error:
        return Reading("error", f"unreadable answer: {describe(error)}")
    if not whole:
        return Reading("no_answer", "no answer found")
    found = answer.find(response)
    compared = (found.text if found and found.alone else _text(whole), _text(whole), _text(gold))
    detail = _comparison(whole, label)
    only = found if found and found.alone and not found.parts else None
    if only and (apart := _units_apart(only.text, label)):
        return Reading("wrong", f"{detail}: {apart}", *compared, apart)
    together = not parts or _choice_of(label) is None
    try:
        right = (together and equal(gold, whole)) or (bool(parts) and all(equal(gold, part) for part in parts))
        if right and only and (apart := _kinds_apart(only.text, label, gold)):
            return Reading("wrong", f"{detail}: {apart}", *compared, apart)
    except Exception as error:
        return Reading("error", f"comparison failed: {describe(error)}, {detail}", *compared)
    return Reading("correct" if right else "wrong", detail, *compared)


@lru_cache(maxsize=256)
def _choice_of(label: str) -> answer.Choice | None:
    return answer.choice(notation.undelimited(label))


@lru_cache(maxsize=256)
def _unit(text: str) -> tuple[str, int] | None:
    return units.named(notation.whole_and_unit(text)[1])


def _units_apart(given: str, label: str) -> str | None:
    """Which units answer and label have, if both are known and not the same."""
    boxed = answer.last_boxed(label)
    asked = _unit(label if boxed is None else boxed)
    if asked is None or (unit := _unit(given)) is None or unit == asked:
        return None
    first, second = (name if power == 1 else f"{name}^{power}" for name, power in (unit, asked))
    return f"in {first}, not {second}"


def _kinds_apart(given: str, label: str, gold: Sequence) -> str | None:
    """Why an answer that is equal for Math-Verify is none; it looks at the last side of a chain of equalities alone."""
    boxed = answer.last_boxed(label)
    label = label if boxed is None else boxed
    if reason := kinds.apart(given, label, gold[0]):
        return reason
    for side in kinds.computed(given, label):
        first, second = (_numbers(form[0]) for form in (_parse(box(side), (_LATEX,)), gold) if form)
        if first and second and abs(first[0] - second[0]) > ROUNDED * abs(second[0]):
            return f"{short(side)} is something else"
    return None


def equal(gold: Sequence, given: Sequence) -> bool:
    """Whether a form of the answer equals one of the label: by Math-Verify, but for tiny and for large numbers.

    Raises:
        Exception: what Math-Verify raises, where no forms are equal.
    """
    failure = None
    for gold_form, form in product(gold, given):
        try:
            if isinstance(gold_form, Set) and isinstance(form, Relational | And):
                gold_form, form = form, gold_form  # it knows x > 3 to be an interval, but not the other way round
            if verify(gold_form, form, timeout_seconds=None, raise_on_error=True):
                return gold_form == form or not (
                    _tiny_and_apart(gold_form, form)
                    or _decimals_apart(gold[-1], given[-1])
                    or _exact_and_apart(gold_form, form)
                )
            if _large_and_equal(gold_form, form):
                return True
        except Exception as error:
            failure = error
    if failure is not None:
        raise failure
    return False


def _large_and_equal(gold: Any, given: Any) -> bool:
    """Whether numbers beyond a million are equal but for rounding in the last of some 15 digits."""
    if not (getattr(gold, "is_number", False) and getattr(given, "is_number", False)):
        return False
    if not (gold.has(Float) or given.has(Float)):
        return False
    first, second = _numbers(gold), _numbers(given)
    return bool(first and second) and 1e6 < abs(first[0]) and abs(first[0] - second[0]) < 1e-10 * abs(first[0])


def _tiny_and_apart(gold: Any, given: Any) -> bool:
    """Whether numbers are tiny, and differ by more than rounding: Math-Verify compares no more than six decimals."""
    first, second = _numbers(gold), _numbers(given)
    if len(first) != len(second):
        return False
    sizes = ((abs(a - b), max(abs(a), abs(b))) for a, b in zip(first, second, strict=True))
    return any(0 < size < TINY and difference > SAME_DIGITS * size for difference, size in sizes)


def _exact_and_apart(gold: Any, given: Any) -> bool:
    """Whether numbers without a decimal in them differ, by however little."""
    if not all(getattr(form, "is_number", False) and not form.has(Float) for form in (gold, given)):
        return False
    difference, size = abs((gold.doit() - given.doit()).evalf(8)), abs(gold.doit().evalf(8))
    return bool(difference.is_Float and size.is_Float) and difference > Float("1e-60") * size


def _decimals_apart(gold: Any, given: Any) -> bool:
    """Whether decimals differ as far as both are written, where that is beyond the six places that are compared."""
    if not all(isinstance(text, str) and _DECIMAL.fullmatch(text) for text in (gold, given)):
        return False
    places = min(len(text.partition(".")[2]) for text in (gold, given))
    return places > 6 and 2 * abs(Fraction(gold) - Fraction(given)) > Fraction(1, 10**places)


def _numbers(form: Any) -> list:
    """The numbers that a form consists of, if any."""
    form = form.rhs if isinstance(form, Eq) else form
    if isinstance(form, Interval):
        parts = form.args[:2]
    else:
        parts = form.args if isinstance(form, FiniteSet | Tuple) else [form]
    numbers = [part for part in parts if getattr(part, "is_number", False)]
    values = [part if isinstance(part, Rational) else part.doit().evalf(12) for part in numbers]
    values = [value for value in values if value.is_real and value.is_finite]
    return sorted(values) if isinstance(form, FiniteSet) else values


@lru_cache(maxsize=256)  # all samples of a prompt share its label
def parse_label(label: str) -> tuple:
    """The forms of the label: first the SymPy object, then the text it was read from.

    Raises:
        BadLabel: where no answer could ever be compared with it.
    """
    if not label.strip():
        raise BadLabel("the label is empty")
    boxed = answer.find(label) if answer.last_boxed(label) is not None else None
    choice = _choice_of(label)
    if boxed is None and choice is None and is_prose(label):
        return tuple(_label_forms(label, notation.prose(label), _LATEX_OR_NUMBER))
    if choice is not None:
        texts = [part for part in choice if part]
    else:
        texts = [label if boxed is None else boxed.text]
    # LaTeX only: from a label that is no LaTeX, a number picked out of it would be a wrong gold answer.
    forms = [form for text in texts for form in _label_forms(label, _as_read(text, label), (_LATEX,))]
    if isinstance(forms[-1], str) and re.fullmatch(r"-?[1-9].*\\%", forms[-1]):
        # Per cent is the unit that was asked for: Math-Verify takes 9 for 9%, but not 12.5 for 12.5%. Below one it may
        # as well be a share.
        forms.append(_label_forms(label, box(forms[-1][:-2]), (_LATEX,))[0])
    return tuple(forms)


def is_prose(label: str) -> bool:
    """Whether a label has formulas among words, so that one has to be looked for."""
    outside = notation.FORMULA.sub(" ", label)
    return outside != label and _WORDS.search(_AND_OR.sub(" ", outside)) is not None


def _label_forms(label: str, text: str, config: tuple) -> list:
    try:
        gold = _parse(text, config)
    except Exception as error:
        raise BadLabel(f"the label {short(label)} does not parse: {describe(error)}") from error
    # Math-Verify returns a mere string where it found LaTeX that it could not read.
    if not gold or isinstance(gold[0], str):
        raise BadLabel(f"the label {short(label)} does not parse")
    return gold


def parse_answers(response: str, label: str = "") -> list[list]:
    """The forms of the answer, none where there is no answer; then those of each box, where there are several.

    Args:
        label: what it is compared with, as far as that decides how it is read: where the letter of a choice is asked
            for, that counts, otherwise the text behind it.
    """
    found = answer.find(response)
    if found is None:
        return [[]]
    chosen = _choice_of(label) is not None
    text, alone = found.text, found.alone
    if not alone:
        end = notation.undelimited(text)
        alone = notation.FORMULA.fullmatch(text.strip().rstrip(".")) is not None or _is_short(end)
        alone = alone or (chosen and answer.choice(end) is not None)
        alone = alone or (_WORD.fullmatch(label.strip()) is not None and _WORD.fullmatch(end) is not None)
    if not alone:
        said = _forms_in_prose(f"The answer is {text}") if text is not found.among else []
        return [said or _forms_in_prose(found.among[-MAX_UNBOXED_CHARS:])]
    return [_forms(part, chosen, label) for part in (answer.letters(text, label), *found.parts)]


def _is_short(text: str) -> bool:
    """Whether a text is a number with its unit, or one list of values."""
    return len(text) <= MAX_NUMBER_CHARS and bool(_NUMBER.fullmatch(text) or _LIST.fullmatch(text))


def _as_read(text: str, label: str) -> str:
    return box(notation.like(notation.whole(text), label))


def _forms(text: str, chosen: bool, label: str) -> list:
    choice = answer.choice(notation.undelimited(text))
    if choice is not None:
        text = choice.letter if chosen or not choice.rest else choice.rest
    text = _as_read(text, label)
    return _parse(text, _LATEX_OR_NUMBER) if text != box("") else []


def _forms_in_prose(text: str) -> list:
    forms = _parse(notation.prose(text), _LATEX_OR_NUMBER)
    if forms and isinstance(forms[-1], str) and (whole := notation.whole(forms[-1])) not in ("", forms[-1]):
        again = _parse(box(whole), _LATEX_OR_NUMBER)
        if again and not isinstance(again[0], str):
            return again
    return forms


def _parse(text: str, config: tuple) -> list:
    return parse(text, config, parsing_timeout=None, raise_on_error=True)


def box(latex: str) -> str:
    return rf"\boxed{{{latex}}}"


def _comparison(given: list, label: str) -> str:
    return f"answer {short(_text(given))}, label {short(label)}"


def _text(forms: Sequence) -> str:
    # The last form is the text, if there is one. Printing a SymPy object can take forever.
    return next((form for form in reversed(forms) if isinstance(form, str)), "")


def describe(error: Exception) -> str:
    return f"{type(error).__name__} {short(str(error))}"


def short(text: str) -> str:
    return repr(text if len(text) <= MAX_DETAIL_CHARS else text[: MAX_DETAIL_CHARS - 3] + "...")
