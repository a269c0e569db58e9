"""Evaluation of sampled answers."""

from .pass_at_k import mean_and_error, pass_at_k

__all__ = ["mean_and_error", "pass_at_k"]
