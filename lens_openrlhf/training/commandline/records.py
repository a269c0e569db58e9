"""What is written down of the options: those that the user chose, by dotted name, without secrets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace

from ...advantages import estimators

ESTIMATOR, ESTIMATOR_PATH = "algo.advantage.estimator", "algo.lens.estimator_path"
# Set by the parser: whether an estimator of ours was chosen, and its name.
ENABLED, CHOSEN = "algo.lens.enabled", "algo.lens.estimator"
SECRETS = ("logger.wandb.key",)
HIDDEN = "(not recorded)"


def chosen(args: SimpleNamespace) -> dict:
    """{dotted option name: value} as the user chose it, without what stands for our estimators inside OpenRLHF, and
    without the options of other estimators.

    For records, which are handed on: a secret is HIDDEN.
    """
    flat = flatten(args)
    flat |= {name: HIDDEN for name in SECRETS if flat.get(name)}
    flat.pop(ENABLED)
    flat[ESTIMATOR] = name = flat.pop(CHOSEN)
    path = flat.pop(ESTIMATOR_PATH)
    others = tuple(f"algo.{other}." for other in [*estimators.names(), estimators.CUSTOM] if other != name)
    flat = {option: value for option, value in flat.items() if not option.startswith(others)}
    return flat | ({ESTIMATOR_PATH: path} if path else {})


def without_secrets(argv: Sequence[str], args: SimpleNamespace) -> list[str]:
    """The words of a command line, for records."""
    flat = flatten(args)
    hidden = {flat[name] for name in SECRETS if flat.get(name)}
    return [HIDDEN if word.rpartition("=")[2] in hidden else word for word in argv]


def flatten(args: SimpleNamespace, prefix: str = "") -> dict:
    """Nested arguments to {dotted option name: value}, with values that JSON can hold."""
    flat = {}
    for name, value in vars(args).items():
        if isinstance(value, SimpleNamespace):
            flat.update(flatten(value, f"{prefix}{name}."))
        elif isinstance(value, float) and not math.isfinite(value):
            flat[prefix + name] = str(value)
        else:
            flat[prefix + name] = value
    return flat
