"""The estimators as other trainers take them: which they can serve, and with which options."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import Field
from typing import Any

from ..advantages.estimators import SAMPLING, Estimator, EstimatorError, find, made


def options_outside(kind: type[Estimator]) -> tuple[Field, ...]:
    """The fields of its Config that have an effect where answers come from elsewhere: not those that say how answers
    are sampled, nor where OpenRLHF's numbers come from."""
    elsewhere = ("confidence_from", *SAMPLING[kind.sampling])
    return tuple(option for option in kind.options() if option.name not in elsewhere)


def make(
    kind: type[Estimator] | str,
    framework: str,
    has: Collection[str],
    options: Mapping[str, Any],
    keeps_state: bool = True,
) -> Estimator:
    """An estimator for a trainer that samples and learns in its own way.

    Args:
        kind: the class, or its name in the registry.
        framework: the trainer's name, for messages.
        has: numbers of every token that the trainer can give.
        options: values of the estimator's Config.
        keeps_state: whether the trainer's checkpoints hold the estimator's state.

    Raises:
        EstimatorError: an unknown name or option, a bad value, or what the trainer cannot do.
    """
    kind = find(kind) if isinstance(kind, str) else kind
    if missing := [*sorted(kind.needs - set(has)), *kind.extras]:
        raise EstimatorError(
            f"{kind.name}: needs {', '.join(missing)}, which {framework} does not hand on; use another estimator, or "
            "lens-openrlhf train"
        )
    if kind.sampling != "plain" or kind.policy_loss != "ppo":
        what = "samples answers" if kind.sampling != "plain" else "computes the loss"
        raise EstimatorError(f"{kind.name}: {what} in its own way, which {framework} does not; use lens-openrlhf train")
    known = [option.name for option in options_outside(kind)]
    for name in options:
        if name not in known:
            raise EstimatorError(f"{kind.name}: has no option {name}; known: {', '.join(known) or 'none'}")
    try:
        estimator = made(kind, options)
    except EstimatorError:
        raise
    except ValueError as error:
        raise EstimatorError(f"{kind.name}: {error}") from error
    if not keeps_state and estimator.remembers:
        raise EstimatorError(f"{kind.name}: remembers what {framework} would not save; use lens-openrlhf train")
    return estimator


def check_answers(estimator: Estimator, answers: int, option: str) -> None:
    """Raises EstimatorError where so many answers to a prompt, which the trainer's `option` says, teach nothing."""
    if answers < estimator.least_answers:
        raise EstimatorError(
            f"{option}={answers}: so few answers to a prompt teach {estimator.name} nothing; use at least "
            f"{estimator.least_answers}"
        )
