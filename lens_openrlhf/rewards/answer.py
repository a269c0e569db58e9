r"""What a response gives as its answer.

Math-Verify looks for an answer everywhere. Here it is looked for where a marker would look, and handed over alone:

- What a model thinks before `</think>` is not its answer, and one that does not end its thinking gives none.
- In `<answer>…</answer>` stands the answer; of several in the last one, also if the response ends in it.
- The last box is the answer. Boxes with nothing but commas, "and" or "or" between them are one answer together, so
  that none of them can be the one that was guessed right. `\fbox` is a box.
- A box that the end of the response cuts off is an answer that was not finished, whatever was boxed before it.
- Without a box the answer may follow "answer is" or "answer:" at the end of a line; "not 7" and "at least 7" are none.
- Behind the letter of a choice its text may stand: `(C) 12`, `C. the cat`.

Everything is one pass over the text, or bounded.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

# `\\` is a line break, so that in `\\{` the brace opens a group. The exception is for models that write their LaTeX
# with doubled backslashes: there `\\boxed{` is a box.
_BOX_TOKEN = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\\\(?!boxed|fbox)|\\[{}]|(?P<open>\{)|(?P<close>\})")
# Between boxes that are one answer: white space, ends of formulas and at least one separator.
_BETWEEN = re.compile(
    r"(?:\s|\$|\\[()\[\]]|\\(?:text|mbox|mathrm)\s*\{|\}|\\q?quad|\\[,;: ]|(?P<separator>,|;|、|\band\b|\bor\b))*"
)
_MAX_BETWEEN = 60
_STYLE = r"(?:\\(?:text(?:bf|rm|it)?|math(?:bf|rm)|mbox)\s*\{\s*|\*\*)?"
_END_OF_STYLE = r"(?:\s*\}|\*\*)?"
_LETTER = re.compile(rf"{_STYLE}(?:(?:Option|Choice|Answer:?)\s)?\(?(?P<letter>[A-J])\)?{_END_OF_STYLE}")
_CHOICE = re.compile(
    rf"{_STYLE}(?:\((?P<bracketed>[A-J])\){_END_OF_STYLE}[.:]?(?:[\s~]|\\[ ,;]|\\q?quad)+"
    rf"|(?P<pointed>[A-J])(?:[.)]{_END_OF_STYLE}|:{_END_OF_STYLE}(?=[\s~\\])|{_END_OF_STYLE}(?:[.)]|:(?=[\s~\\])))"
    rf"(?:[\s~]|\\[ ,;]|\\q?quad)*)"
    r"(?P<rest>(?!\\cup|\\cap|[-+*/=<>^_,]).+)",
    re.DOTALL,
)
_LETTERS = re.compile(r"[A-Z](?:[\s,;]{0,3}[A-Z]){1,9}")
_THINKING = re.compile(r"<(?P<end>/?)think(?:ing)?>")
_ANSWER_TAG = re.compile(r"<(?P<end>/?)answer>")
# "the answer is X." and "Answer: X" at the end of a line, bold or not.
_ANSWER_PHRASE = re.compile(r"(?i:\banswer(?: is|:| is:)\**:?)[ \t]*(?P<answer>[^\n]{1,200})$", re.MULTILINE)
# Behind such a phrase: no value, or a choice of them, although there are numbers.
_NO_VALUE = re.compile(
    r"(?i)[\s*$]*(?:not|between|neither|either|(?:more|less|greater|fewer) than|at (?:least|most)|unknown|unclear)\b"
    r".*\d"
)
_OR = re.compile(r"(?i)\s*\S+\s+or\s+\S+\s*")
_END_OF_BOLD = re.compile(r"\*\*(?=[\s.]*$)")
# GLM's tokens around its final answer.
_BOX_TOKENS = re.compile(r"<\|(begin|end)_of_box\|>")


class Box(NamedTuple):
    """A box in a text: where it begins and ends, and what is in it."""

    start: int
    end: int
    content: str


class Answer(NamedTuple):
    """What was given as the answer."""

    text: str
    alone: bool  # whether `text` is the answer and nothing else; otherwise it stands somewhere in it
    among: str = ""  # where it stands, if not alone
    parts: tuple[str, ...] = ()  # where several boxes are one answer: what is in each


class Choice(NamedTuple):
    """The letter of a choice, and the text behind it; empty where there is none."""

    letter: str
    rest: str


def choice(text: str) -> Choice | None:
    """What a text chooses, if it is a letter from A to J with or without a text behind it."""
    if match := _LETTER.fullmatch(text):
        return Choice(match["letter"], "")
    if match := _CHOICE.fullmatch(text):
        return Choice(match["bracketed"] or match["pointed"], match["rest"])
    return None


def letters(text: str, like: str) -> str:
    """`text` as `like` is written, if both are two or more capital letters: ACD, or A, C, D."""
    text = re.sub(r"\\text\s?\{([^{}]*)\}", r"\1", text) if _LETTERS.fullmatch(like.strip()) else text
    if not (_LETTERS.fullmatch(like.strip()) and _LETTERS.fullmatch(text.strip())):
        return text
    return (", " if "," in like else "").join(re.findall("[A-Z]", text))


def after_thinking(response: str) -> str:
    """What follows the last end of thinking: nothing where it does not end, all where there is none."""
    start, thinks = 0, False
    for tag in _THINKING.finditer(response):
        start, thinks = tag.end(), not tag["end"]
    return "" if thinks else response[start:]


def in_answer_tags(text: str) -> str | None:
    """What is in the last <answer> tag, which the end of the text closes, too; None where there is none."""
    start, found = None, None
    for tag in _ANSWER_TAG.finditer(text):
        if not tag["end"]:
            start = tag.end()
        elif start is not None:
            found, start = text[start : tag.start()], None
    return found if start is None else text[start:]


def boxes(text: str) -> tuple[list[Box], bool]:
    """The closed boxes in the order in which they open, and whether a box opens after them that nothing closes."""
    unclosed: list[tuple[int, int] | None] = []  # a box's start and its content's; None for any other brace
    closed: list[Box] = []
    # Braces before the first box decide nothing, and looking for them took longer than all the rest.
    start = min((place for name in (r"\boxed", r"\fbox") if (place := text.find(name)) >= 0), default=len(text))
    for token in _BOX_TOKEN.finditer(text, start):
        if token["box"]:
            unclosed.append((token.start(), token.end()))
        elif token["open"]:
            unclosed.append(None)
        elif token["close"] and unclosed and (box := unclosed.pop()) is not None:
            closed.append(Box(box[0], token.end(), text[box[1] : token.start()]))
    closed.sort()
    last = closed[-1].start if closed else -1
    return closed, any(box is not None and box[0] > last for box in unclosed)


def last_boxed(text: str) -> str | None:
    r"""What is inside the \boxed{} that opens last among those that are closed; None if there is none."""
    closed, _ = boxes(text)
    return closed[-1].content if closed else None


def _together(text: str, closed: list[Box]) -> list[str]:
    """The contents of the last box and of those before it that are one answer with it, each once."""
    contents, after = [closed[-1].content], closed[-1]
    for box in reversed(closed[:-1]):
        between = text[box.end : after.start]
        match = _BETWEEN.fullmatch(between) if len(between) <= _MAX_BETWEEN else None
        if match is None or match["separator"] is None:
            break
        contents.append(box.content)
        after = box
    return list(dict.fromkeys(reversed(contents)))


@lru_cache(maxsize=8)
def find(response: str) -> Answer | None:
    """The answer that a response gives; None where it gives none.

    Args:
        response: without special tokens at its end, as from :func:`lens_openrlhf.rewards.grading.response_end`.
    """
    text = _BOX_TOKENS.sub(lambda token: "}" if token[1] == "end" else r"\boxed{", after_thinking(response))
    tagged = in_answer_tags(text)
    text = text if tagged is None else tagged
    closed, cut_off = boxes(text)
    if cut_off:
        return None
    if closed:
        parts = _together(text, closed)
        if not all(map(str.strip, parts)):
            return None
        return Answer(", ".join(parts), True, parts=tuple(parts) if len(parts) > 1 else ())
    if not text.strip():
        return None
    if tagged is not None and "\n" not in tagged.strip() and not _ANSWER_PHRASE.search(tagged):
        return Answer(tagged, True)
    phrases = list(_ANSWER_PHRASE.finditer(text))
    if not phrases:
        return Answer(text, False, among=text)
    said = phrases[-1]["answer"]
    if said.count("**") % 2:  # **Answer: 5**
        said = _END_OF_BOLD.sub("", said)
    if _NO_VALUE.match(said):
        return None
    return Answer(said, _OR.fullmatch(said) is not None, among=text)
