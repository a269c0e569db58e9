"""Experiences that remember their group.

OpenRLHF drops a sample's rollout position when it splits a batch; the actor needs it to know which samples
answer the same prompt. The position travels in `info`, which survives to the replay buffer.
"""

from __future__ import annotations

import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

ROLLOUT_INDEX = "lens_rollout_index"


def require_scores(samples: list[Experience]) -> None:
    """Raise ValueError if an answer came back without a score: OpenRLHF logs a failed reward call and goes on."""
    unscored = sum(sample.scores is None for sample in samples)
    if unscored:
        raise ValueError(
            f"{unscored} of {len(samples)} answers came back without a score: the reward function of "
            "--reward.remote_url raised or could not be reached (train.log has its message)"
        )


class LensExperienceMaker(RemoteExperienceMaker):
    """OpenRLHF's experience maker; every experience is tagged with the rollout positions of its samples."""

    def make_experience_batch(self, rollout_samples: list[Experience]) -> list[Experience]:
        require_scores(rollout_samples)
        experiences = super().make_experience_batch(rollout_samples)
        for experience in experiences:
            experience.info[ROLLOUT_INDEX] = torch.tensor(experience.index, dtype=torch.int64)
        return experiences
