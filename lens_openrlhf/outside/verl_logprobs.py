"""For VERL_USE_EXTERNAL_MODULES: once imported, verl hands log-probabilities to the estimators of this project."""

from .verl import hand_on_logprobs

hand_on_logprobs()
