"""Fixtures of more than one folder."""

from __future__ import annotations

import signal

import pytest


@pytest.fixture(scope="module")
def small_pool():
    """The verifier with one worker and a short time limit."""
    from lens_openrlhf.rewards import shutdown

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENS_VERIFIER_WORKERS", "1")
        patch.setenv("LENS_VERIFIER_TIMEOUT", "2")
        shutdown()
        yield
        shutdown()


@pytest.fixture
def own_signals():
    """The command takes over SIGINT and SIGTERM; give them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
