"""What several methods declare alike."""

from __future__ import annotations

# A sum of log π over whole answers: dividing by each answer's length would weigh them otherwise.
WHOLE_ANSWERS = {"actor.loss_agg_mode": "token-mean"}
