"""Experiences that carry what the actor's estimator needs.

OpenRLHF drops a sample's rollout position and its prompt when it splits a batch; the actor needs them to know which
samples answer the same prompt. They travel in `info`, which survives to the replay buffer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from torch import Tensor

from ...run_folder.log import EVENTS, REWARD_FAILED, read
from .tags import CARRIERS, PROMPT, ROLLOUT_INDEX, prompt_id


class WithStatistics(NamedTuple):
    """What the actor's forward pass gives back where an estimator needs more than log-probabilities."""

    logprobs: Tensor  # [B, A]
    statistics: dict[str, Tensor]  # [B, A] by name


def require_scores(samples: list[Experience], run_dir: str) -> None:
    """Raise ValueError if an answer came back without a score: OpenRLHF logs a failed reward call and goes on."""
    unscored = sum(sample.scores is None for sample in samples)
    if unscored:
        failures = [event for event in read(Path(run_dir) / EVENTS) if event["event"] == REWARD_FAILED]
        cause = failures[-1]["cause"] if failures else "it raised or could not be reached; train.log has its message"
        raise ValueError(
            f"{unscored} of {len(samples)} answers came back without a score from --reward.remote_url ({cause})"
        )


class LensExperienceMaker(RemoteExperienceMaker):
    """OpenRLHF's experience maker; every experience is tagged with the rollout positions and prompts of its samples."""

    _statistics: list[dict[str, Tensor]] = []  # of the experiences that are being made, if the estimator needs them

    def make_experience_batch(self, rollout_samples: list[Experience]) -> list[Experience]:
        require_scores(rollout_samples, self.args.logger.run_dir)
        experiences = super().make_experience_batch(rollout_samples)
        for experience in experiences:
            experience.info[ROLLOUT_INDEX] = torch.tensor(experience.index)
            experience.info[PROMPT] = torch.tensor([prompt_id(p) for p in experience.prompts])
        for experience, statistics in zip(experiences, self._statistics, strict=bool(self._statistics)):
            for name, values in statistics.items():
                setattr(experience, CARRIERS[name], values)
        return experiences

    def make_experience(self, samples_list: list[Experience]) -> list[Experience]:
        self._statistics = []
        return super().make_experience(samples_list)

    def _flatten_results(self, refs: Any, duplicate_factor: int) -> list:
        results = super()._flatten_results(refs, duplicate_factor)
        if results and isinstance(results[0], WithStatistics):
            self._statistics = [result.statistics for result in results]
            return [result.logprobs for result in results]
        return results
