"""Problems with a final answer, and how the rows of each source become such."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..rewards.answer import last_boxed

UNVERIFIABLE = ("proof", "notfound")  # what NuminaMath has as the answer where there is none


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem's bare text and its final answer; `level` is MATH's 1 to 5, `type` its subject."""

    text: str
    label: str
    source: str
    level: int | None = None
    type: str = ""


@dataclass(frozen=True)
class Kind:
    """A data set: its name, where it comes from, the columns it must have, and how a row is read.

    hub, revision: on the Hugging Face hub; the revision is a commit, so that the data stay what they are.
    columns: each a column, or several of which one must be there.
    read: a row to a problem, or to the reason why it is none.
    """

    name: str
    hub: str
    revision: str
    columns: tuple[tuple[str, ...], ...]
    read: Callable[[dict[str, Any]], Problem | str]


# A few solutions of MATH end in `$\boxed 2$`.
_UNBRACED_BOX = re.compile(r"\\boxed\s+([^${}]+)\$")


def boxed_answer(solution: str) -> str:
    r"""What the last \boxed{} of a solution holds, but for a full stop or comma at its end.

    A few solutions of MATH have \fbox{} instead, or \boxed without braces.
    """
    solution = solution.replace(r"\fbox", r"\boxed")
    answer = last_boxed(solution)
    if answer is None:
        answer = next(reversed(_UNBRACED_BOX.findall(solution)), "")
    return answer.rstrip("., \n").lstrip()


_DAPO_BEFORE = re.compile(
    r"\A\s*Solve the following math problem step by step\. The last line of your response should be of the form "
    r"Answer: .{1,40}? where \$Answer is the answer to the problem\.\s*"
)
_DAPO_AFTER = re.compile(r'\s*Remember to put your answer on its own line after "Answer:"\.\s*\Z')


@lru_cache(maxsize=1 << 16)  # DAPO repeats each of its 17 thousand problems a hundred times
def without_instruction(prompt: str) -> str:
    """A prompt of DAPO without the instruction around the problem."""
    return _DAPO_AFTER.sub("", _DAPO_BEFORE.sub("", prompt))


_SPACING = re.compile(r"\\[,;:!> ]|\\(?:q?quad|left|right|displaystyle)(?![A-Za-z])|\\[()\[\]]|[~$\s]+")


@lru_cache(maxsize=1 << 16)
def key(text: str) -> bytes:
    """Equal for problems that are the same text but for case, white space, LaTeX's spacing and its dollars."""
    text = _SPACING.sub("", text).replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac").casefold()
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def _text(value: Any) -> str:
    """Text as it is, a whole number as text, and nothing for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) else ""


def _problem(text: str, label: str, source: str, level: int | None = None, type: str = "") -> Problem | str:
    if not text:
        return "no problem text"
    if not label:
        return "no answer"
    if "<image>" in text:  # OpenRLHF puts an image in its place
        return "a picture in the text"
    return Problem(text, label, source, level, type)


def _level(value: Any) -> int | None:
    """Of "Level 5" or 5; MATH has two problems of "Level ?"."""
    digits = _text(value).removeprefix("Level ")
    return int(digits) if digits in ("1", "2", "3", "4", "5") else None


def _read_math(row: dict[str, Any]) -> Problem | str:
    subject = _text(row.get("type") or row.get("subject"))
    return _problem(
        _text(row.get("problem")), boxed_answer(_text(row.get("solution"))), "MATH", _level(row.get("level")), subject
    )


def _read_dapo(row: dict[str, Any]) -> Problem | str:
    prompt, truth = row.get("prompt"), row.get("reward_model")
    if isinstance(prompt, list):  # a chat, which is one message of the user
        prompt = prompt[0].get("content") if len(prompt) == 1 else None
    answer = truth.get("ground_truth") if isinstance(truth, dict) else None
    return _problem(without_instruction(_text(prompt)), _text(answer), "DAPO")


def _read_numina(row: dict[str, Any]) -> Problem | str:
    answer = _text(row.get("answer"))
    if row.get("question_type") == "proof":
        return "a proof"
    if answer.lower() in UNVERIFIABLE:
        return "no answer"
    for what in ("problem", "solution"):
        if row.get(f"{what}_is_valid") != "Yes":
            return f"{what} not marked valid"
    return _problem(_text(row.get("problem")), answer, "NuminaMath-1.5")


_MATH_COLUMNS = (("problem",), ("solution",), ("level",), ("type", "subject"))
KINDS = {
    "math": Kind(
        "MATH", "EleutherAI/hendrycks_math", "21a5633873b6a120296cce3e2df9d5550074f4a3", _MATH_COLUMNS, _read_math
    ),
    "math500": Kind(
        "MATH-500", "HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", _MATH_COLUMNS, _read_math
    ),
    "dapo": Kind(
        "DAPO",
        "BytedTsinghua-SIA/DAPO-Math-17k",
        "65877096c24ffa7abc4e4fa5edb95cf3413a5674",
        (("prompt",), ("reward_model",)),
        _read_dapo,
    ),
    "numina": Kind(
        "NuminaMath-1.5",
        "AI-MO/NuminaMath-1.5",
        "1b05109f9e5c1ad06c0663519502416c30b300f8",
        (("problem",), ("answer",), ("question_type",), ("problem_is_valid",), ("solution_is_valid",)),
        _read_numina,
    ),
}
