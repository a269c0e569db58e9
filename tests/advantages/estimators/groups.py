"""Batches from a list of groups."""

from __future__ import annotations

import torch

from lens_openrlhf.advantages.estimators import Batch


def batch_of(groups, prompts=None, rewards=None, **extras):
    """A Batch of these correctness values, one list a group; extras by name, one list a group as well."""

    def flat(values):
        return torch.tensor([value for group in values for value in group], dtype=torch.float64)

    correctness = flat(groups)
    return Batch(
        mean_logprob=torch.full((len(correctness),), -0.5, dtype=torch.float64),
        lengths=torch.full((len(correctness),), 3),
        correctness=correctness,
        rewards=correctness if rewards is None else flat(rewards),
        cu_groups=torch.tensor([0, *map(len, groups)]).cumsum(0),
        prompts=None if prompts is None else torch.tensor(prompts),
        extras={name: flat(values) for name, values in extras.items()},
    )
