"""Rewards: answers graded by Math-Verify in worker processes. Needs neither torch nor OpenRLHF."""

from lens_openrlhf.rewards.math_verify_reward import reward_func
from lens_openrlhf.rewards.pool import Verdict, shutdown, validate_label, verify_answer
from lens_openrlhf.rewards.pool import _label_text as label_text

__all__ = ["Verdict", "label_text", "reward_func", "shutdown", "validate_label", "verify_answer"]
