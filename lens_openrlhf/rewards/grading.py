"""Compares one response with one gold label through Math-Verify.

Nothing here limits time or memory, and a few characters of LaTeX can ask for years of arithmetic. Call these
functions through :mod:`lens_openrlhf.rewards.pool`, which runs them in worker processes that it can kill.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import product
from typing import Literal

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import Integer

Outcome = Literal["correct", "wrong", "no_answer", "timeout", "error"]

# A final answer stands at the end. The bound keeps what goes through the pipe to a worker small, and is still
# several thousand tokens: more than any model writes after its last \boxed{}.
MAX_RESPONSE_CHARS = 20_000
# Math-Verify's regular expressions take time quadratic in the text they search: for a hostile text 0.5 s at
# 4,000 characters, 12 s at 20,000. Only a response without a box is searched by them.
MAX_UNBOXED_CHARS = 4_000
MAX_DETAIL_CHARS = 200

_LATEX = LatexExtractionConfig(boxed_match_priority=0)
_LATEX_OR_NUMBER = (_LATEX, ExprExtractionConfig())

# `\\` is a line break, so that in `\\{` the brace opens a group. The exception is for models that write their
# LaTeX with doubled backslashes: there `\\boxed{` is a box.
_BOX_TOKEN = re.compile(r"(?P<box>\\boxed\s*\{)|\\\\(?!boxed)|\\[{}]|(?P<open>\{)|(?P<close>\})")
_MATH_DELIMITER = re.compile(r"(?<!\\)(?:\\\(|\\\[|\$.*(?<!\\)\$)", re.DOTALL)
# Math-Verify reads "1/2." as a half but "1/2<|im_end|>" as one, so these must go before it looks.
_SPECIAL_TOKEN_AT_END = re.compile(
    r"(?:<\|[^<>|\s]{1,40}\|>|<｜[^<>｜\s]{1,40}｜>"
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


def last_boxed(text: str) -> str | None:
    r"""What is inside the \boxed{} that opens last among those that are closed; None if there is none."""
    unclosed: list[int | None] = []  # where a box's content starts; None for any other brace
    last: tuple[int, int] | None = None
    for token in _BOX_TOKEN.finditer(text):
        if token["box"]:
            unclosed.append(token.end())
        elif token["open"]:
            unclosed.append(None)
        elif token["close"] and unclosed:
            start = unclosed.pop()
            if start is not None and (last is None or start > last[0]):
                last = (start, token.start())
    return None if last is None else text[slice(*last)]


def grade(response: str, label: str) -> tuple[Outcome, str]:
    r"""Whether the answer in `response` is equal to `label`.

    The answer is the last \boxed{} or, where there is no box, the last expression that Math-Verify finds.

    Returns:
        The outcome, never "timeout", and a line for a log that says what was compared or what went wrong.
    """
    try:
        gold = parse_label(label)
    except BadLabel as error:
        return "error", f"bad label: {error}"
    try:
        answer = parse_answer(response)
    except Exception as error:
        return "error", f"unreadable answer: {_describe(error)}"
    if not answer:
        return "no_answer", "no answer found"

    failure = None
    for gold_form, answer_form in product(gold, answer):
        try:
            if verify(gold_form, answer_form, timeout_seconds=None, raise_on_error=True):
                return "correct", _comparison(answer, label)
        except Exception as error:
            failure = error
    if failure is not None:
        return "error", f"comparison failed: {_describe(failure)}, {_comparison(answer, label)}"
    return "wrong", _comparison(answer, label)


def check_label(label: str) -> str | None:
    """Why no answer could ever be compared with `label`; None for a good label."""
    try:
        gold = parse_label(label)
        if not verify(gold[0], gold[0], timeout_seconds=None, raise_on_error=True):
            return f"the label {_short(label)} is not equal to itself"
        # Equal forms are recognised at once; only another answer shows what a comparison costs.
        verify(gold[0], Integer(0), timeout_seconds=None, raise_on_error=True)
    except BadLabel as error:
        return str(error)
    except Exception as error:
        return f"the label {_short(label)} cannot be compared: {_describe(error)}"
    return None


@lru_cache(maxsize=256)  # all samples of a prompt share its label
def parse_label(label: str) -> tuple:
    """The forms of the label: first the SymPy object, then the text it was read from.

    Raises:
        BadLabel: where no answer could ever be compared with it.
    """
    if not label.strip():
        raise BadLabel("the label is empty")
    boxed = last_boxed(label)
    if boxed is None and _MATH_DELIMITER.search(label):
        text, config = label, _LATEX_OR_NUMBER
    else:
        # LaTeX only: from a label that is no LaTeX, a number picked out of it would be a wrong gold answer.
        text, config = _box(label if boxed is None else boxed), (_LATEX,)
    try:
        gold = _parse(text, config)
    except Exception as error:
        raise BadLabel(f"the label {_short(label)} does not parse: {_describe(error)}") from error
    # Math-Verify returns a mere string where it found LaTeX that it could not read.
    if not gold or isinstance(gold[0], str):
        raise BadLabel(f"the label {_short(label)} does not parse")
    return tuple(gold)


def parse_answer(response: str) -> list:
    """The forms of the answer, none where there is no answer."""
    boxed = last_boxed(response)
    if boxed is None:
        return _parse(response[-MAX_UNBOXED_CHARS:], _LATEX_OR_NUMBER)
    return _parse(_box(boxed), _LATEX_OR_NUMBER) if boxed.strip() else []


def _parse(text: str, config: tuple) -> list:
    return parse(text, config, parsing_timeout=None, raise_on_error=True)


def _box(latex: str) -> str:
    return rf"\boxed{{{latex}}}"


def _comparison(answer: list, label: str) -> str:
    # The last form is the text, if there is one. Printing a SymPy object can take forever.
    text = answer[-1] if isinstance(answer[-1], str) else ""
    return f"answer {_short(text)}, label {_short(label)}"


def _describe(error: Exception) -> str:
    return f"{type(error).__name__} {_short(str(error))}"


def _short(text: str) -> str:
    return repr(text if len(text) <= MAX_DETAIL_CHARS else text[: MAX_DETAIL_CHARS - 3] + "...")
