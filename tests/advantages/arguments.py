"""Good arguments of the three functions, small enough to spoil one number at a time."""

import torch

from lens_openrlhf.advantages import LensConfig, group_advantages, lens_advantages, segment_mean


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def tokens(**changes):
    """Four responses of 2, 1, 3 and 2 tokens."""
    good = {
        "values": doubles(-0.1, -0.2, -0.3, -0.4, -0.5, -0.6, -0.7, -0.8),
        "cu_seqlens": torch.tensor([0, 2, 3, 6, 8]),
    }
    return good | changes


def batch(**changes):
    """The same four responses in two groups."""
    good = tokens()
    good["logprobs"] = good.pop("values")
    return good | {"correctness": doubles(0, 1, 0, 0), "cu_groups": torch.tensor([0, 2, 4])} | changes


def groups(**changes):
    """Five responses in groups of 2 and 3."""
    good = {
        "mean_logprob": doubles(-1, -2, -3, -4, -5),
        "lengths": torch.tensor([1, 2, 3, 4, 5]),
        "correctness": doubles(0, 1, 0, 0, 1),
        "cu_groups": torch.tensor([0, 2, 5]),
        "config": LensConfig(),
    }
    return good | changes


CALLS = {segment_mean: tokens, lens_advantages: batch, group_advantages: groups}


def replaced(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = value
    return tensor
