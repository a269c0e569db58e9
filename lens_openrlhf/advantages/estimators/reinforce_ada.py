"""Reinforce-Ada (Xiong et al. 2025): answers are drawn in rounds until one is right; all that were drawn are the
baseline of the few that are kept."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import check_choices, check_number, option
from ..lazily import torch
from .base import Estimator, Result
from .batch import Batch

EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class ReinforceAdaConfig:
    """Raises ValueError for an unknown choice or a count below 1."""

    rounds: int = option(4, "rounds of answers to a prompt at most (N)")
    oversample: int = option(
        2, "answers in a round, as a multiple of those that are kept (M; the paper's code: 8 for 4)"
    )
    stop: str = option(
        "balance",
        "a prompt's rounds end when half of the answers to keep can be right and half wrong, or with a right one",
        ("balance", "positive"),
    )
    scale: str = option(
        "none",
        "what the distance from the mean is divided by: nothing (algorithm 1), or the standard deviation of the drawn",
        ("none", "std"),
    )

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("rounds", "oversample"):
            check_number(name, getattr(self, name), least=1)


class ReinforceAda(Estimator):
    """A = r - mean, or (r - mean) / (std + 1e-6), with mean and std of the rewards of all answers drawn to the prompt.

    The side that samples brings them as extras: `drawn_mean`, `drawn_std` (unbiased) and their number `drawn`, the
    same for all kept answers to a prompt; see training/hooks/rounds.py. The paper's algorithm and the script of its
    runs do not divide by the std, which its code can. A later version also weighs a prompt by 1 / mean, which is not
    here.
    With `scale` std, prompts whose drawn rewards were all the same get 0, also where shaping tells the kept ones apart.
    """

    name = "reinforce_ada"
    paper = "Xiong et al. 2025"
    Config = ReinforceAdaConfig
    # As in the script of the paper's runs.
    defaults = {
        "rollout.n_samples_per_prompt": 4,
        "actor.eps_clip_low_high": [0.2, 0.28],
        "actor.loss_agg_mode": "token-mean",
    }
    learns_from_negative_groups = False
    extras = ("drawn_mean", "drawn_std", "drawn")
    sampling = "until_positive"

    def advantages(self, batch: Batch) -> Result:
        mean, std, drawn = (
            batch.extra(
                name, "the side that samples in rounds must bring it along (in training, sampling.UntilPositive)"
            )
            for name in ("drawn_mean", "drawn_std", "drawn")
        )
        advantage = batch.rewards - mean
        if self.config.scale == "std":
            advantage = torch.where(std > 0, advantage / (std + EPS), 0.0)
        metrics = {
            "reinforce_ada/drawn": batch.group_mean(drawn).mean().item(),
            # Of what the policy draws; among the kept answers right and wrong ones are balanced.
            "reinforce_ada/drawn_reward": batch.group_mean(mean).mean().item(),
        }
        return Result(advantage=advantage, metrics=metrics)
