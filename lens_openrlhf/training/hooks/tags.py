"""Names under which OpenRLHF's experiences carry, in `info` and in fields that are free, what the actor needs."""

from __future__ import annotations

import hashlib

ROLLOUT_INDEX = "lens_rollout_index"
PROMPT = "lens_prompt"
EXTRA = "lens_extra_"  # and the name of what an estimator needs of the side that sampled
TAGS = "lens_"  # what all of the above begin with
# Fields of Experience that travel with a sample's tokens and that an estimator of ours leaves free: there is no critic,
# and the actor sets the returns last.
CARRIERS = {"entropies": "values", "self_certainty": "returns"}


def prompt_id(text: str) -> int:
    """A number for a prompt, the same in every run: 52 bits of its SHA-256, which float64 holds exactly."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 12
