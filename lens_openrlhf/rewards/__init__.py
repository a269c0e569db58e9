"""Rewards: answers graded by Math-Verify in worker processes. Needs neither torch nor OpenRLHF."""

from lens_openrlhf.rewards.labels import check_labels, validate_label
from lens_openrlhf.rewards.math_verify_reward import reward_func
from lens_openrlhf.rewards.pool import shutdown
from lens_openrlhf.rewards.verifier import Verdict, label_text, verify_answer

__all__ = ["Verdict", "check_labels", "label_text", "reward_func", "shutdown", "validate_label", "verify_answer"]
