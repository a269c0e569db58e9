"""The reward of an answer that Math-Verify can check. For OpenRLHF: --reward.remote_url <path of this file>.

OpenRLHF loads this file by its path inside every vLLM engine and calls `reward_func` with one response at a
time, from many threads. It drops the reward of a call that raises, so `reward_func` does not raise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest

from lens_openrlhf.rewards.pool import Settings
from lens_openrlhf.rewards.verifier import Verdict, verify_answer

# A wrong setting must stop the run when it begins. Later it could only spoil every reward.
Settings.from_env()

PROMPT_END_CHARS = 64
MAX_THREADS = 32


def extract_response(query: str, prompt: str) -> tuple[str, bool]:
    """What follows the prompt in `query`, and whether the prompt was found; if not, the whole query."""
    if query.startswith(prompt):
        return query[len(prompt) :], True
    # Decoding the tokens of the prompt need not give the prompt back: a BOS token is added, a long prompt is
    # cut at its beginning, white space changes. Its end stays. Should that occur several times, the one
    # nearest to where it belongs is neither an earlier turn nor a repetition in the response.
    end_of_prompt = re.escape(prompt[-PROMPT_END_CHARS:])
    ends = [match.end() for match in re.finditer(end_of_prompt, query)]
    if not ends:
        return query, False
    return query[min(ends, key=lambda end: abs(end - len(prompt))) :], True


def _grade(query: str, prompt: str, label: str) -> tuple[Verdict, bool]:
    if not isinstance(query, str) or not isinstance(prompt, str):
        return verify_answer(query, label), False
    response, prompt_found = extract_response(query, prompt)
    return verify_answer(response, label), prompt_found


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str]) -> dict:
    """Grades responses with Math-Verify: 1.0 for a correct answer, else 0.0. Never raises.

    Args:
        queries: prompt and response as one text, special tokens included.
        prompts: the prompts alone.
        labels: gold answers.
    Returns:
        "rewards" and "scores" (the same), and "extra_logs" with "verifier/timeout", "verifier/error",
        "verifier/no_answer" and "verifier/prompt_not_found", each 0.0 or 1.0 and there for every response.
        The values are floats for one query and lists of floats for any other number, as a reward server's.
    """
    samples = list(zip_longest(queries, prompts, labels))
    if len(samples) == 1:
        graded = [_grade(*samples[0])]
    else:
        with ThreadPoolExecutor(MAX_THREADS) as threads:
            graded = list(threads.map(lambda sample: _grade(*sample), samples))

    def column(values: Iterable[float]) -> float | list[float]:
        column = [float(value) for value in values]
        return column[0] if len(column) == 1 else column

    scores = column(verdict.correct for verdict, _ in graded)
    logs = {
        f"verifier/{outcome}": column(verdict.outcome == outcome for verdict, _ in graded)
        for outcome in ("timeout", "error", "no_answer")
    }
    logs["verifier/prompt_not_found"] = column(not found for _, found in graded)
    return {"rewards": scores, "scores": scores, "extra_logs": logs}
