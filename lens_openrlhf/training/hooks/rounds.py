"""Answers drawn in rounds until a prompt has enough of them (Reinforce-Ada).

What is known of all drawn answers travels in the `info` of those that are kept, under EXTRA + name, and reaches the
estimator as `batch.extras`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from copy import deepcopy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from .tags import EXTRA

if TYPE_CHECKING:
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator as Generator
    from openrlhf.trainer.ray.vllm_engine import RolloutRayActor as Engine

    from ...advantages.estimators.reinforce_ada import ReinforceAdaConfig
else:  # OpenRLHF\'s classes are mixed in where these are used (rollout.py), so that this needs no OpenRLHF
    Generator = Engine = object


def is_right(score: float) -> bool:
    return score > 0.7  # as in the paper's code, for fractions


def enough(scores: Sequence[float], keep: int, stop: str) -> bool:
    """Whether a prompt needs no more rounds: one right answer (`positive`), or half of `keep` right and half wrong."""
    right = sum(map(is_right, scores))
    if stop == "positive":
        return right >= 1
    return right >= keep // 2 and len(scores) - right >= keep - keep // 2


def kept(scores: Sequence[float], keep: int) -> list[int]:
    """Which answers are kept: the first right and the first wrong ones, half and half where there are as many."""
    right = [i for i, score in enumerate(scores) if is_right(score)]
    wrong = [i for i, score in enumerate(scores) if not is_right(score)]
    rights = min(max(keep // 2, keep - len(wrong)), len(right))
    return sorted(right[:rights] + wrong[: keep - rights])


class RolloutInRounds(Engine):
    """For OpenRLHF's vLLM actor: draws answers to a prompt in rounds, and says what was drawn.

    The rounds of one prompt do not wait for another's, and answers that are not kept never leave this process.
    """

    async def generate_in_rounds(
        self, *, rounds: ReinforceAdaConfig, num_samples: int, sampling_params: Any, **call: Any
    ) -> list[dict]:
        """`num_samples` of the answers drawn in up to `rounds.rounds` rounds, with extras in `extra_logs`: mean and
        unbiased standard deviation of all drawn rewards, and their number.

        The other arguments are those of `generate_responses`. Where an answer has no score, the first ones are given
        back as they are; experience.require_scores ends the run.
        """
        drawn = []
        for _ in range(rounds.rounds):
            drawn += await self.generate_responses(
                num_samples=rounds.oversample * num_samples,
                sampling_params=deepcopy(sampling_params),  # answers of several turns change theirs
                **call,
            )
            if any(answer["scores"] is None for answer in drawn):
                return drawn[:num_samples]
            scores = [float(answer["scores"]) for answer in drawn]
            if enough(scores, num_samples, rounds.stop):
                break
        rewards = torch.tensor([float(answer["reward"]) for answer in drawn], dtype=torch.float64)
        extras = {
            EXTRA + "drawn_mean": rewards.mean().item(),
            EXTRA + "drawn_std": rewards.std().item() if len(rewards) > 1 else 0.0,
            EXTRA + "drawn": float(len(rewards)),
        }
        return [drawn[i] | {"extra_logs": drawn[i]["extra_logs"] | extras} for i in kept(scores, num_samples)]


class UntilPositive(Generator):
    """For OpenRLHF's SamplesGenerator: training prompts are answered in rounds where `rounds` is set, evaluation's not.

    The engines must be RolloutInRounds.
    """

    rounds: ReinforceAdaConfig | None = None
    vllm_engines: list
    _training = False

    def generate_samples(self, **generate_kwargs: Any) -> tuple:
        self._training = True
        try:
            return super().generate_samples(**generate_kwargs)
        finally:
            self._training = False

    def _dispatch_prompts_to_vllm(self, *args: Any, **kwargs: Any) -> list:
        if self.rounds is None or not self._training:
            return super()._dispatch_prompts_to_vllm(*args, **kwargs)
        engines = self.vllm_engines
        self.vllm_engines = [self._in_rounds(engine) for engine in engines]
        try:
            return super()._dispatch_prompts_to_vllm(*args, **kwargs)
        finally:
            self.vllm_engines = engines

    def _in_rounds(self, engine: Any) -> SimpleNamespace:
        """What OpenRLHF calls of an engine, with the rounds behind it."""
        remote = functools.partial(engine.generate_in_rounds.remote, rounds=self.rounds)
        return SimpleNamespace(
            get_num_unfinished_requests=engine.get_num_unfinished_requests,
            generate_responses=SimpleNamespace(remote=remote),
        )
