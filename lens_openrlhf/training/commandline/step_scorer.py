"""A user's function that grades the steps of a wrong answer (spectral policy optimization)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...advantages.estimators import EstimatorError, load
from ...inputs import OptionError


@dataclass(frozen=True)
class StepScorer:
    """A user's function (prompt, response, label) -> share of the response's steps that are right, in [0, 1]."""

    function: Callable[[str, str, str], float]
    named: str  # the option and its value

    def __call__(self, prompt: str, response: str, label: str) -> float:
        """The checked score.

        Raises:
            ValueError: the function raised, or gave back no number in [0, 1]; names its file.
        """
        try:
            score = float(self.function(prompt, response, label))
        except Exception as error:
            raise ValueError(f"{self.named}: raised {type(error).__name__}: {error} (prompt {prompt!r:.80})") from error
        if not 0 <= score <= 1:
            raise ValueError(f"{self.named}: gave back {score!r}, expected [0, 1] (prompt {prompt!r:.80})")
        return score


def load_scorer(place: str, option: str) -> StepScorer:
    """The scorer given as `my.py:name` with the option of that name.

    Raises:
        OptionError: none given, no such file or name, a file that cannot be imported, or something that is no function.
    """
    expected = "a function (prompt, response, label) -> share of the response's steps that are right"
    if not place:
        raise OptionError(f"{option} is missing: FILE.py:NAME, {expected}")
    try:
        function, _, _ = load(place, expected)
    except EstimatorError as error:
        raise OptionError(f"{option} {error}") from error
    if not callable(function):
        raise OptionError(f"{option} {place}: is a {type(function).__name__}, expected {expected}")
    return StepScorer(function, f"{option} {place}")
