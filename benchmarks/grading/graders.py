"""One grader in a process of its own: `python graders.py NAME DIR` reads cases, writes verdicts, one JSON a line.

A line is `{"label": …}`, answered with why the label is refused, or `{"label": …, "response": …}`, answered with
whether the response is right, and the seconds that took. What a grader raises is its answer `error`. The file stands
alone, as it may run in an environment without this project; DIR holds the code of the grader, if it is not installed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable

# Grades a response by a label; None where the grader has no verdict.
Grade = Callable[[str, str], bool]
# Why a label is refused.
Refuse = Callable[[str], "str | None"]


def math_verify() -> tuple[Grade, Refuse]:
    """Math-Verify 0.9.0 as it comes."""
    from math_verify import parse, verify

    def grade(response: str, label: str) -> bool:
        return verify(parse(label), parse(response))

    return grade, lambda label: None if parse(label) else "nothing was read"


def math_verify_boxed() -> tuple[Grade, Refuse]:
    """With its advice followed: the label as LaTeX between dollars, boxes before anything else."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    found = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())

    def gold(label: str) -> list:
        return parse(label if "$" in label or r"\boxed" in label else f"${label}$", found)

    def grade(response: str, label: str) -> bool:
        return verify(gold(label), parse(response, found))

    return grade, lambda label: None if gold(label) else "nothing was read"


def lens() -> tuple[Grade, Refuse]:
    """This project's, of the folder that is first in the path."""
    rewards = importlib.import_module("lens_openrlhf.rewards")
    return lambda response, label: rewards.verify_answer(response, label).correct, rewards.validate_label


def undelimited(label: str) -> str:
    """The label as the sets have it that the cloned graders are made for: without dollars, as Qwen2.5-Math does it."""
    return label.replace("$", "").strip()


def qwen() -> tuple[Grade, Refuse]:
    """Qwen2.5-Math's evaluation: its extraction, its normalisation of both, its comparison."""
    grader, parser = importlib.import_module("grader"), importlib.import_module("parser_of_qwen")

    def grade(response: str, label: str) -> bool:
        given = parser.extract_answer(response, "math")
        return grader.math_equal(given, parser.strip_string(undelimited(label)))

    return grade, lambda label: None


def verl_math() -> tuple[Grade, Refuse]:
    """verl's math_reward, for MATH."""
    score = importlib.import_module("verl.utils.reward_score.math_reward").compute_score
    return lambda response, label: score(response, undelimited(label)) == 1.0, lambda label: None


def verl_prime() -> tuple[Grade, Refuse]:
    """verl's prime_math."""
    score = importlib.import_module("verl.utils.reward_score.prime_math").compute_score
    return lambda response, label: bool(score(response, undelimited(label))[0]), lambda label: None


def open_instruct() -> tuple[Grade, Refuse]:
    """open-instruct's MathVerifier: any of the answers that it extracts may be right."""
    tools = importlib.import_module("open_instruct.math_utils")

    def answers(response: str) -> list[str]:
        found = []
        boxed = tools.last_boxed_only_string(response)
        if boxed is not None:
            try:
                found.append(tools.remove_boxed(boxed))
            except AssertionError:
                pass
        minerva = tools.normalize_final_answer(tools.get_unnormalized_answer(response))
        if minerva is not None and minerva != "[invalidanswer]":
            found.append(minerva)
        if not found and response.count("$") > 1:
            found.append(tools.normalize_final_answer(response.split("$")[-2]))
        return found or [tools.normalize_final_answer(response), response]

    def grade(response: str, label: str) -> bool:
        gold = undelimited(label)
        return any(tools.is_equiv(text, gold) or tools.hendrycks_is_equiv(text, gold) for text in answers(response))

    return grade, lambda label: None


GRADERS = {
    "math-verify": math_verify,
    "math-verify-boxed": math_verify_boxed,
    "lens": lens,
    "qwen": qwen,
    "verl-math": verl_math,
    "verl-prime": verl_prime,
    "open-instruct": open_instruct,
}


def main() -> None:
    name, folder = sys.argv[1:]
    sys.path[0] = folder  # not the folder of this file
    # What a grader prints is no verdict.
    verdicts = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    grade, refuse = GRADERS[name]()
    print("ready", file=verdicts, flush=True)
    for line in sys.stdin:
        case, found = json.loads(line), {}
        start = time.perf_counter()
        try:
            if "response" in case:
                found["right"] = bool(grade(case["response"], case["label"]))
            else:
                found["refused"] = refuse(case["label"])
        except Exception as error:
            found["error"] = f"{type(error).__name__}: {error}"[:200]
        found["seconds"] = time.perf_counter() - start
        print(json.dumps(found), file=verdicts, flush=True)


if __name__ == "__main__":
    sys.setrecursionlimit(3000)
    main()
