"""DAPO (Yu et al. 2025): GRPO's advantages; what makes it DAPO are the options."""

from __future__ import annotations

from .grpo import Grpo

FILTER, RANGE = "algo.dynamic_filtering_enable", "algo.dynamic_filtering_range"
DYNAMIC_SAMPLING = "DAPO samples other prompts in place of those whose answers are all right or all wrong"


class Dapo(Grpo):
    """(r - mean) / std within each group, with dynamic sampling, clip-higher and a mean over all tokens.

    Groups of one outcome are sampled away: with OpenRLHF's filter a step goes on until its prompts are mixed. The soft
    over-long punishment is OpenRLHF's too: `--reward.overlong_buffer_len`, 4096 of 20480 tokens in the paper; it
    depends on the lengths of a run and is off unless given.
    """

    name = "dapo"
    paper = "Yu et al. 2025"
    defaults = {
        FILTER: True,
        RANGE: [0.0, 1.0],
        "actor.eps_clip_low_high": [0.2, 0.28],
        "actor.loss_agg_mode": "token-mean",
    }
    requires = {FILTER: (True, DYNAMIC_SAMPLING), RANGE: ([0.0, 1.0], DYNAMIC_SAMPLING)}
