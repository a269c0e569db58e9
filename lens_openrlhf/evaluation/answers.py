"""Which answers to a prompt are the same. Imported by the verifier's workers, so it needs Math-Verify alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from sympy import srepr

from ..rewards import answer, grading, pool


def deciding_part(response: str) -> str:
    """What Math-Verify reads of a response: its last box or, without one, all of it. Many answers end alike."""
    boxed = answer.last_boxed(grading.response_end(response))
    return response if boxed is None else rf"\boxed{{{boxed}}}"


def _read(response: str) -> tuple[str, str] | None:
    """As `read_answer`, without limits; for a worker, because printing a SymPy object can take for ever."""
    forms = grading.parse_answers(response)[0]
    if not forms:
        return None
    text = forms[-1] if isinstance(forms[-1], str) else str(forms[-1])
    return text, text if isinstance(forms[0], str) else srepr(forms[0])


def read_answer(response: str) -> tuple[str, str] | None:
    """The final answer in `response` as Math-Verify reads it, and a form in which equal answers are equal.

    Equal are answers that parse to the same SymPy object: 0.5 and \\frac{2}{4} are, x^2-1 and (x-1)(x+1) are not. That
    takes one reading an answer, where comparing them would take a verification for each pair.

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


def numbered(keys: Sequence[Hashable | None]) -> list[int | None]:
    """Equal keys as equal numbers, from 0 in the order of first appearance; None stays."""
    numbers: dict[Hashable, int] = {}
    return [None if key is None else numbers.setdefault(key, len(numbers)) for key in keys]
