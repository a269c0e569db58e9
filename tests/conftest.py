"""Fixtures of more than one folder."""

from __future__ import annotations

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
