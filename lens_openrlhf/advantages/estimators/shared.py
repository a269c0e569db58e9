"""What several methods declare or check alike."""

from __future__ import annotations

import math
from typing import Any

_UNSHAPED = (None, "it shapes the reward, which this estimator does not read")
# Options that would have no effect on an estimator that reads the verifier's outcome alone, or nothing of it.
READS_NO_REWARD = {"reward.overlong_buffer_len": _UNSHAPED, "reward.stop_properly_penalty_coef": _UNSHAPED}


def check_number(name: str, value: Any, hint: str, least: float = -math.inf) -> None:
    """Raises ValueError unless `value` is a finite number of at least `least`; the message ends with `hint`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value >= least):
        bound = "" if least == -math.inf else f" >= {least:g}"
        raise ValueError(f"{name}={value!r}: expected a finite number{bound} ({hint})")
