"""Grades answers: correctness by Math-Verify or a reward file, and which answers to a prompt are the same."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from ..inputs import MATH_VERIFY, OptionError
from ..rewards import verify_answer
from .answers import deciding_part, read_answer, same_answers

THREADS = 32
RIGHT = ("equal to the label",)


@dataclass(frozen=True)
class Grade:
    """What came of one answer.

    correctness: raw, in [0, 1]; the answer is right where it is 1.
    outcome: Math-Verify's, as in lens_openrlhf.rewards; None where a reward file graded.
    answer: what Math-Verify reads as the final answer; None where it finds none.
    same_as: equal for equal answers, within one prompt; None where there is no answer.
    """

    correctness: float
    outcome: str | None
    answer: str | None
    same_as: int | None


RewardFunction = Callable[[Sequence[str], Sequence[str], Sequence[Any]], dict]


class RewardError(RuntimeError):
    """A reward file raised, or returned what is no correctness."""


def load_reward(path: str) -> RewardFunction | None:
    """`reward_func` of a .py file, loaded by its path as OpenRLHF does; None for Math-Verify.

    Raises:
        OptionError: a file that is missing, does not load or has no `reward_func`.
    """
    if path == MATH_VERIFY:
        return None
    if not path.endswith(".py"):
        raise OptionError(f"--reward {path}: expected {MATH_VERIFY} or a .py file with a reward_func")
    if not Path(path).is_file():
        raise OptionError(f"--reward {path}: no such file")
    spec = importlib.util.spec_from_file_location("reward_func", path)
    assert spec and spec.loader  # of a .py file
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the file is the user's
        raise OptionError(f"--reward {path}: cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, "reward_func", None)):
        raise OptionError(f"--reward {path}: has no function reward_func(queries, prompts, labels)")
    return module.reward_func


def _correctness(reward: RewardFunction, prompt: str, response: str, label: Any) -> float:
    """The score of one answer; like OpenRLHF, one answer a call."""
    try:
        score = float(np.asarray(reward([prompt + response], [prompt], [label])["scores"]).item())
    except Exception as error:  # the function is the user's
        raise RewardError(
            f"--reward: reward_func raised or returned no 'scores': {type(error).__name__}: {error} "
            f"(prompt {prompt[-80:]!r}, label {label!r})"
        ) from error
    if not 0 <= score <= 1:
        raise RewardError(f"--reward: reward_func returned the score {score:g}; raw correctness lies between 0 and 1")
    return score


def grade(
    reward: RewardFunction | None, prompts: Sequence[str], labels: Sequence[Any], responses: Sequence[Sequence[str]]
) -> list[list[Grade]]:
    """Grades n answers to each of P prompts.

    Args:
        reward: see `load_reward`.
        prompts, labels: [P].
        responses: [P][n], without the prompts.
    Raises:
        RewardError
    """
    parts = [[deciding_part(response) for response in group] for group in responses]
    distinct = list(dict.fromkeys((prompt, part) for prompt, group in enumerate(parts) for part in group))
    with ThreadPoolExecutor(THREADS) as threads:
        answers = dict(zip(distinct, threads.map(lambda key: read_answer(key[1]), distinct), strict=True))
        if reward is None:
            found = threads.map(lambda key: verify_answer(key[1], labels[key[0]]), distinct)
            verdicts = dict(zip(distinct, found, strict=True))
        else:
            score = partial(_correctness, reward)
            scores = [
                list(threads.map(score, repeat(prompt), group, repeat(label)))
                for prompt, group, label in zip(prompts, responses, labels, strict=True)
            ]
    keys: list[list[tuple[str] | str | None]] = []
    compared: list[list[str]] = []
    for prompt, group in enumerate(parts):
        read = [answers[prompt, part] for part in group]
        keys.append([answer and answer[1] for answer in read])
        compared.append(list(group))
        for number, part in enumerate(group if reward is None else ()):
            verdict = verdicts[prompt, part]
            if verdict.correct:
                keys[-1][number], compared[-1][number] = RIGHT, ""  # all are equal to the label
            elif verdict.outcome in ("timeout", "error"):
                compared[-1][number] = ""  # comparing it with others would end no sooner
    texts = [str(label) if isinstance(label, str | int) else "" for label in labels]
    with ThreadPoolExecutor(THREADS) as threads:
        same = list(threads.map(same_answers, keys, compared, texts))
    grades = []
    marks: list[tuple[float, str | None]]
    for prompt, group in enumerate(parts):
        if reward is None:
            marks = [(float(verdicts[prompt, part].correct), verdicts[prompt, part].outcome) for part in group]
        else:
            marks = [(correctness, None) for correctness in scores[prompt]]
        read = [answers[prompt, part] for part in group]
        grades.append(
            [Grade(*m, answer and answer[0], s) for m, answer, s in zip(marks, read, same[prompt], strict=True)]
        )
    return grades
