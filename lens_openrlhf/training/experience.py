"""Experiences that remember their group.

OpenRLHF drops a sample's rollout position when it splits a batch; the actor needs it to know which samples
answer the same prompt. The position travels in `info`, which survives to the replay buffer.
"""

from __future__ import annotations

from pathlib import Path

import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

from .run_log import EVENTS, REWARD_FAILED, read

ROLLOUT_INDEX = "lens_rollout_index"


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
    """OpenRLHF's experience maker; every experience is tagged with the rollout positions of its samples."""

    def make_experience_batch(self, rollout_samples: list[Experience]) -> list[Experience]:
        require_scores(rollout_samples, self.args.logger.run_dir)
        experiences = super().make_experience_batch(rollout_samples)
        for experience in experiences:
            experience.info[ROLLOUT_INDEX] = torch.tensor(experience.index, dtype=torch.int64)
        return experiences
