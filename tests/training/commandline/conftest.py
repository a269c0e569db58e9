"""Arguments of a run with any values in them, without parsing a command line for each."""

from __future__ import annotations

import copy

import pytest

from lens_openrlhf.training.commandline import options

from ..conftest import MINIMAL


@pytest.fixture(scope="session")
def parsed():
    return options.parse([*MINIMAL, "--algo.advantage.estimator", "lens"], anywhere=True)


@pytest.fixture
def args(parsed):
    """args({dotted name: value}) -> the arguments of a minimal command, for a machine with CUDA, with those changes."""

    def make(changes: dict):
        made = copy.deepcopy(parsed)
        for name, value in changes.items():
            *places, last = name.split(".")
            place = made
            for part in places:
                place = getattr(place, part)
            assert hasattr(place, last), name
            setattr(place, last, value)
        return made

    return make
