"""How far a wrong answer of the tiny profile is right: the share of the right number's digits before the first wrong
one, from the last, as one adds. For `--algo.spectral.scorer examples/compare/step_scorer.py:digits`."""

import re


def digits(prompt: str, response: str, label: str) -> float:
    """Share in [0, 1] of the label's digits, from the last, that the response's last number has."""
    numbers = re.findall(r"-?\d+", response)
    if not numbers or (numbers[-1][0] == "-") != (label[0] == "-"):
        return 0.0
    given, right = numbers[-1].lstrip("-")[::-1], label.lstrip("-")[::-1]
    wrong = [i for i, (a, b) in enumerate(zip(given, right, strict=False)) if a != b]
    agreed = wrong[0] if wrong else min(len(given), len(right))
    return agreed / max(len(given), len(right))
