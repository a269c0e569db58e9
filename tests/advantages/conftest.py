from __future__ import annotations

import math

import pytest
import torch
from hypothesis import settings

from lens_openrlhf.advantages import LensConfig, ops, reference

from .arguments import doubles

# The same examples on every machine and in every run.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", params=[reference, ops], ids=["reference", "op"])
def implementation(request):
    """The module whose segment_mean, group_advantages and lens_advantages are under test."""
    return request.param


@pytest.fixture
def one_group(implementation):
    """Results, as lists, of one group given by its confidences; None marks an empty response, `rho` is a preference."""

    def run(confidences, correctness, lengths=None, *, rewards=None, rho=None, **switches):
        logs = [math.nan if p is None else math.log(p) if p > 0 else -math.inf for p in confidences]
        result = implementation.group_advantages(
            doubles(*logs),
            torch.tensor(lengths or [0 if p is None else 10 for p in confidences]),
            doubles(*correctness),
            torch.tensor([0, len(logs)]),
            LensConfig(**switches),
            rewards=None if rewards is None else doubles(*rewards),
            preference=None if rho is None else doubles(*rho),
        )
        values = {name: tensor.tolist() for name, tensor in result._asdict().items()}
        return type(result)(**{k: v if len(v) == len(logs) > 1 else v[0] for k, v in values.items()})

    return run
