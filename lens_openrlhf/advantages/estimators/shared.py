"""What several methods declare alike."""

from __future__ import annotations

_UNSHAPED = (None, "it shapes the reward, which this estimator does not read")
# Options that would have no effect on an estimator that reads the verifier's outcome alone, or nothing of it.
READS_NO_REWARD = {"reward.overlong_buffer_len": _UNSHAPED, "reward.stop_properly_penalty_coef": _UNSHAPED}

# A sum of log π over whole answers: dividing by each answer's length would weigh them otherwise.
WHOLE_ANSWERS = {"actor.loss_agg_mode": "token-mean"}
