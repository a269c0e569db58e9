"""SPO (Xu & Ding 2025): how often a prompt was solved before is the baseline of its next answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..config import check_number, option
from ..lazily import torch
from .base import Estimator, Result
from .batch import Batch, segment_sum

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-8
A, B, DRIFT = range(3)  # columns of the tracker; DRIFT is the policy's when the prompt came last


@dataclass(frozen=True, kw_only=True)
class SpoConfig:
    """Raises ValueError for a value out of its range."""

    half_life: float = option(0.06, "change of the policy, in nats a token, by which the tracker forgets half (D_half)")
    rho_min: float = option(0.875, "the tracker keeps at least so much of the past when a prompt comes again")
    rho_max: float = option(0.96, "and at most so much; the same as rho_min: always so much")
    prior_value: float = option(0.5, "success rate of a prompt that has not come yet")
    prior_weight: float = option(1.0, "answers that prior_value counts for (8 in the paper, which estimates it first)")
    bonus: float = option(0.05, "what the weight of a prompt has at least when prompts are drawn (epsilon)")

    def __post_init__(self) -> None:
        for name in ("half_life", "prior_weight", "bonus"):
            check_number(name, getattr(self, name), above=0)
        if not 0 <= self.rho_min <= self.rho_max <= 1:
            raise ValueError(
                f"rho_min={self.rho_min!r}, rho_max={self.rho_max!r}: expected 0 <= rho_min <= rho_max <= 1"
            )
        if not 0 <= self.prior_value <= 1:
            raise ValueError(f"prior_value={self.prior_value!r}: expected a success rate in [0, 1]")


class Spo(Estimator):
    """A = r - v, whitened over the batch; v = a / (a + b) of the prompt's tracker before it sees r.

    Then a <- rho a + c and b <- rho b + (1 - c) with the correctness c, and rho = clip(2^(-D / half_life), rho_min,
    rho_max), where D is how far the policy has moved since the prompt came last (algorithm 1). Prompts are drawn by
    sqrt(v (1 - v)) + bonus. What differs from the paper:

    - D. The paper has the KL of the policies on that prompt; its code, the mean |change of log-probability| of the
      prompt's last answer, for which it forwards that answer again. Here nothing is forwarded for it: D is the sum of
      OpenRLHF's `ppo_kl` over the updates since, KLs of the steps' own answers, as if the steps went independent ways.
      `ppo_kl` is measured while a step's updates go on, so it sees about half of them, and with one update a step it
      is 0 and rho is rho_max; rho_min = rho_max then chooses the forgetting.
    - The prior. The paper answers every prompt a few times first, and lets that count 1 / (1 - rho_min) = 8 answers.
      Here `prior_value` counts `prior_weight` answers, with the values of the paper's code where it does without.
    - Several answers to a prompt forget once and all count. (The paper has one; in its code the last one counts.)
    - The paper's weight is over (a + b)^gamma; its code has gamma 0, and so has this.
    """

    name = "spo"
    paper = "Xu & Ding 2025"
    Config = SpoConfig
    # As in the script of the paper's runs.
    defaults = {"actor.eps_clip_low_high": [0.2, 0.28], "actor.loss_agg_mode": "token-mean"}
    compares_answers = False
    sampling = "by_weight"

    def __init__(self, config: SpoConfig | None = None):
        super().__init__(config)
        self.drift = 0.0

    @cached_property  # until it is set: options are checked without torch
    def prompts(self) -> Tensor:
        """[P] int64, the prompts that have come, ascending."""
        return torch.empty(0, dtype=torch.int64)

    @cached_property
    def tracker(self) -> Tensor:
        """[P, 3] float64, a row for each of them."""
        return torch.empty(0, 3, dtype=torch.float64)

    def _tracked(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """The tracker's rows of `prompts` [P], [P, 3], the prior's where one has not come yet; and which have, [P]."""
        config = self.config
        a = config.prior_weight * config.prior_value
        rows = torch.tensor([a, config.prior_weight - a, self.drift], dtype=torch.float64).repeat(len(prompts), 1)
        known = torch.isin(prompts, self.prompts)
        rows[known] = self.tracker[torch.searchsorted(self.prompts, prompts[known])]
        return rows, known

    def advantages(self, batch: Batch) -> Result:
        if batch.prompts is None:
            raise ValueError(
                "the batch does not say which prompts its responses answer, which the tracker goes by: rollouts of "
                "several steps need a prompt's id and its step (--prompt and --step of lens-openrlhf advantages)"
            )
        # A prompt may have several groups, which need not stand side by side.
        prompts, prompt, answers = batch.prompts[batch.group_of].unique(return_inverse=True, return_counts=True)
        right = segment_sum(batch.correctness[prompt.argsort(stable=True)], answers)

        rows, known = self._tracked(prompts)
        value = rows[:, A] / (rows[:, A] + rows[:, B])
        raw = batch.rewards - value[prompt]
        spread = raw.std() if len(raw) > 1 else 0.0
        advantage = (raw - raw.mean()) / (spread + EPS)

        moved = self.drift - rows[:, DRIFT]
        rho = (2 ** (-moved / self.config.half_life)).clamp(self.config.rho_min, self.config.rho_max)
        rows[:, A] = rho * rows[:, A] + right
        rows[:, B] = rho * rows[:, B] + (answers - right)
        rows[:, DRIFT] = self.drift
        self._remember(prompts, rows)

        metrics = {
            "spo/value": value[prompt].mean().item(),
            "spo/rho": rho[known].mean().item() if known.any() else None,
            "spo/drift": moved[known].mean().item() if known.any() else None,
            "spo/new_prompts": 1 - known.double().mean().item(),
            "spo/tracked_prompts": float(len(self.prompts)),
        }
        return Result(advantage=advantage, metrics=metrics)

    def _remember(self, prompts: Tensor, rows: Tensor) -> None:
        others = ~torch.isin(self.prompts, prompts)
        prompts, rows = torch.cat([self.prompts[others], prompts]), torch.cat([self.tracker[others], rows])
        order = prompts.argsort()
        self.prompts, self.tracker = prompts[order], rows[order]

    def updated(self, status: Mapping[str, float]) -> None:
        kl = status.get("ppo_kl", 0.0)
        if kl > 0:  # an estimate: it can come out below 0
            self.drift += kl

    def prompt_weights(self, prompts: Tensor) -> Tensor:
        """sqrt(v (1 - v)) + bonus; a prompt that has not come yet has v = prior_value, at 0.5 the largest weight."""
        rows, _ = self._tracked(prompts.cpu())
        return (rows[:, A] * rows[:, B]).sqrt() / (rows[:, A] + rows[:, B]) + self.config.bonus

    def state_dict(self) -> dict[str, Any]:
        return {"drift": self.drift, "prompts": self.prompts.clone(), "tracker": self.tracker.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.drift = float(state["drift"])
        self.prompts, self.tracker = state["prompts"].cpu().clone(), state["tracker"].cpu().clone()
