"""Which answers to a prompt are the same. Imported by the verifier's workers, so it needs Math-Verify alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from sympy import Eq, srepr

from ..rewards import answer, grading, pool


def deciding_part(response: str) -> str:
    """What is graded of a response: its last boxes or, without one, all of it. Many answers end alike."""
    found = answer.find(grading.response_end(response))
    if found is None or not found.alone:
        return response
    return ", ".join(rf"\boxed{{{part}}}" for part in found.parts or [found.text])


def _read(response: str) -> tuple[str, str] | None:
    """As `read_answer`, without limits; for a worker, because printing a SymPy object can take for ever."""
    forms = grading.parse_answers(response)[0]
    if not forms:
        return None
    text = forms[-1] if isinstance(forms[-1], str) else str(forms[-1])
    return text, text if isinstance(forms[0], str) else srepr(forms[0])


def read_answer(response: str) -> tuple[str, str] | None:
    """The final answer in `response` as Math-Verify reads it, and a form in which equal answers are equal.

    Answers of one form parse to the same SymPy object. Others may be equal, too: see `same_answers`.

    Returns:
        None where there is no answer. Of an answer that cannot be read within the verifier's limits, the text in its
        box stands for both.
    """
    end = grading.response_end(response)
    try:
        return pool.run_in_worker(_read, (end,), None)
    except Exception:  # limits of time and memory, or what Math-Verify raises; the verdict counts these
        boxed = answer.last_boxed(end)
        return None if not boxed else (boxed, boxed)


def _clusters(responses: Sequence[str], label: str) -> list[int]:
    """The number of the first response that each one is equal to, which may be itself; for a worker."""
    forms = [grading.parse_answers(response, label)[0] for response in responses]
    clusters: list[int] = []
    for number, given in enumerate(forms):
        firsts = (first for first in dict.fromkeys(clusters) if _equal(forms[first], given))
        clusters.append(next(firsts, number))
    return clusters


def _equal(first: list, second: list) -> bool:
    if not first or not second or _far_apart(first[0], second[0]):
        return False
    # Either may be the one that is compared with: x=5 equals 5 whatever came first.
    either = isinstance(first[0], Eq) or isinstance(second[0], Eq)
    for pair in ((first, second), (second, first))[: 1 + either]:
        try:
            if grading.equal(*pair):
                return True
        except Exception:  # what Math-Verify raises; such answers are equal to none
            continue
    return False


def _far_apart(first: Any, second: Any) -> bool:
    """Whether two numbers differ by a hundredth, also as per cent: simplifying their difference takes 20 ms."""
    sizes = [complex(form.doit().evalf(8)) for form in (first, second) if getattr(form, "is_number", False)]
    if len(sizes) < 2:
        return False
    a, b = sizes
    return all(abs(a * times - b) > 0.01 * max(abs(a * times), abs(b)) for times in (1, 100, 0.01))


def same_answers(keys: Sequence[Hashable | None], responses: Sequence[str], label: str) -> list[int | None]:
    """Equal answers to a prompt as equal numbers, from 0 in the order of first appearance; None stays.

    Answers are equal as the verifier has it, 5.0 and x=5, say: each that is spelled otherwise is compared with the
    first of the others, in one call of a worker for a prompt. Where that takes longer than a verification may, equal
    keys alone are equal answers.

    Args:
        keys: of each answer; those with equal keys are equal without a comparison.
        responses: what to compare, see `deciding_part`; "" for one that is equal to its key alone.
    """
    compared = {key: text for key, text in zip(keys, responses, strict=True) if key is not None and text}
    try:
        firsts = pool.run_in_worker(_clusters, (list(compared.values()), label), None) if len(compared) > 1 else [0]
    except Exception:  # limits of time and memory
        firsts = range(len(compared))
    names = list(compared)
    same = {key: names[first] for key, first in zip(names, firsts, strict=False)}
    numbers: dict[Hashable, int] = {}
    return [None if key is None else numbers.setdefault(same.get(key, key), len(numbers)) for key in keys]
