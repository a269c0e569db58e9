"""Answers that are equal to a label only for Math-Verify, as they are of another kind: `5,5,5` is no 5."""

from __future__ import annotations

import re
from typing import Any

from sympy import Expr, Interval, Union

from lens_openrlhf.rewards import notation

_NUMBER = r"[-+]?\s?(?:[\d.]+|\\[dt]?frac\s?\{\d+\}\s?\{\d+\}|\d+\s?/\s?\d+)"
_OPEN_RELATION = re.compile(r"[<>]|\\(?:geq?|leq?|gt|lt|neq?|sim)(?![a-z])")
_INEQUALITY = re.compile(r"[<>]|\\(?:geq?|leq?|gt|lt)(?![a-z])")
_ARROW = re.compile(r"\\(?:(?:long)?(?:right|left)?arrow|Rightarrow|implies|iff|to|mapsto)(?![a-z])|->|=>")
_SEVERAL = re.compile(rf"[\[(]?\s*{_NUMBER}(?:\s*,\s*{_NUMBER})+\s*[\])]?")
_ORDERED = re.compile(r"[\[(][^()\[\]]*,[^()\[\]]*[\])]")
_SET = re.compile(r"\\\{.*,.*\\\}", re.DOTALL)
# What can be computed without a letter: the sides of 2+3=5.
_ARITHMETIC = re.compile(r"(?:[\d\s.+*/^(){}-]|\\(?:[dt]?frac|sqrt|cdot|times|div|pi)(?![a-z]))+")


def _bare(text: str) -> str:
    return re.sub(r"\\(?:left|right)(?![a-z])\s?", "", notation.whole(text)).strip()


def apart(given: str, label: str, gold: Any) -> str | None:
    """Why an answer, which Math-Verify finds equal to a label, is none to it; None for an answer of the label's kind.

    Args:
        gold: the label as it was parsed.
    """
    given, label = _bare(given), _bare(label)
    if _OPEN_RELATION.match(given) and not _OPEN_RELATION.match(label):
        return "a relation, not a value"
    if _INEQUALITY.search(given) and not _INEQUALITY.search(label) and not isinstance(gold, Interval | Union):
        return "an inequality, not a value"
    if _ARROW.search(given) and not _ARROW.search(label):
        return "a step, not a value"
    if isinstance(gold, Expr) and _SEVERAL.fullmatch(given) and "," not in label:
        return "several values, not one"
    if _SET.fullmatch(given) and _ORDERED.fullmatch(label):
        return "a set, which has no order"
    return None


def computed(given: str, label: str) -> list[str]:
    """The sides of a chain of equalities that are pure arithmetic, but for the last: 2+3 of `2+3=5`."""
    given = _bare(given)
    if "=" not in given or "=" in label:
        return []
    return [side for side in given.split("=")[:-1] if _ARITHMETIC.fullmatch(side) and re.search(r"\d", side)]
