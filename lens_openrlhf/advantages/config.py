"""The switches of LENS, each with its default, help and check in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any

PREFERENCES = ("none", "length", "policy")  # in the order of csrc/lens.h's Preference


# Outcomes that differ by no more are one outcome, and so are rewards, relative to the largest above 1: rounding (0.1 +
# 0.2 and 0.3) decides no group's kind. The same as csrc/lens.h's kRounding.
ROUNDING = 1e-9


class GroupKind(IntEnum):
    """Kind of a group by raw correctness c, up to ROUNDING, never by shaped rewards."""

    NEGATIVE = 0  # every c = 0, or all equal to one fraction
    POSITIVE = 1  # every c = 1
    MIXED = 2


def option(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    """A field of an estimator's Config, offered as `--algo.NAME.FIELD`."""
    return field(default=default, metadata={"help": help, "choices": choices})


def check_choices(config: Any) -> None:
    """Raises ValueError where a field of a Config that has choices holds none of them."""
    for entry in fields(config):
        choices, value = entry.metadata.get("choices"), getattr(config, entry.name)
        if choices is not None and value not in choices:
            raise ValueError(f"{entry.name}={value!r}: expected one of {', '.join(choices)}")


def check_number(name: str, value: Any, hint: str = "", least: float = -math.inf, above: float = -math.inf) -> None:
    """Raises ValueError unless `value` is a finite number, at least `least` and more than `above`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value >= least and value > above):
        bound = f" above {above:g}" if above > -math.inf else f" >= {least:g}" if least > -math.inf else ""
        raise ValueError(f"{name}={value!r}: expected a finite number{bound}" + (f" ({hint})" if hint else ""))


@dataclass(frozen=True, kw_only=True)
class LensConfig:
    """Switches of LENS (Feng et al. 2025); the defaults are the paper's.

    Raises:
        ValueError: an unknown choice, an alpha or gamma that is negative or not finite, or a gamma or confidence that
            does not go with the preference.
    """

    scope: str = option(
        "both",
        "groups whose wrong answers LENS penalises by confidence (Table 2); the others fall back to GRPO",
        ("both", "mixed", "negative", "none"),
    )
    alpha: float = option(0.25, "weight of the advantages of negative groups (section 5.1)")
    confidence: str = option(
        "geometric",
        "confidence of a response: geometric mean of its token probabilities, or the sequence's raw probability "
        "(section 5.1 says why that is poor)",
        ("geometric", "sequence"),
    )
    confidence_from: str = option(
        "actor",
        "log-probabilities behind the confidence: recomputed by the actor before the update, or reported by the "
        "rollout engine that sampled the response",
        ("actor", "rollout"),
    )
    difficulty: str = option(
        "importance",
        "difficulty D of a group with a right answer: max(D_imp, 2 max confidence) (eq. 14), or 2 max confidence alone",
        ("importance", "max"),
    )
    preference: str = option(
        "none",
        "which right answers are preferred (appendix C): none; short ones (length, with gamma); or those the policy "
        "prefers, under which all wrong answers weigh the same, as in GRPO (policy)",
        PREFERENCES,
    )
    gamma: float = option(
        0.0,
        "of preference length: what stands in D's place, where it is more than twice the group's largest confidence",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check_number("alpha", self.alpha, "the paper uses 0.25", least=0)
        check_number("gamma", self.gamma, "on the scale of confidences", least=0)
        if self.gamma and self.preference != "length":
            raise ValueError(f"gamma={self.gamma!r}: has no effect without preference='length'")
        if self.preference == "length" and self.confidence == "sequence":
            raise ValueError("confidence='sequence': preference='length' is made for 'geometric', which it then needs")

    def check_preference_tensor(self) -> None:
        """A tensor rho is a preference of its own. Raises ValueError beside another one."""
        if self.preference != "none":
            raise ValueError(f"preference: is a tensor, but the config has preference={self.preference!r}; use 'none'")

    @property
    def penalises_mixed(self) -> bool:
        return self.scope in ("both", "mixed")

    @property
    def penalises_uniform(self) -> bool:
        """Whether groups of one outcome (negative, positive) get LENS's advantages instead of GRPO's."""
        return self.scope in ("both", "negative")
