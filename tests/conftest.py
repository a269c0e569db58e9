"""Fixtures of more than one folder."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def _gpu_alone(config) -> bool:
    return config.option.markexpr == "gpu"


def pytest_ignore_collect(collection_path, config):
    """`-m gpu` collects tests/gpu alone: a GPU machine without OpenRLHF cannot import the others, which have no such
    tests."""
    if _gpu_alone(config) and collection_path.parent == HERE and collection_path.name != "gpu":
        return collection_path.is_dir() or collection_path.name.startswith("test_")
    return None


# Whole files go to the workers of pytest-xdist. These take longest and go first, so that none is left over at the end.
LONGEST = ("test_sanitizers.py", "test_fuzz.py", "test_gpu_check.py", "test_kernels.py", "test_hostile.py")


def pytest_collection_modifyitems(config, items):
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_report_header(config):
    if not _gpu_alone(config):
        return None
    others = sorted(path.name for path in HERE.iterdir() if path.is_dir() and path.name not in ("gpu", "__pycache__"))
    return (
        f"-m gpu: tests/gpu alone; left out, as they have no such tests: tests/{{{','.join(others)}}}, tests/test_*.py"
    )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A model of the tiny profile that was hardly trained, and its questions: enough to run the machinery."""
    from lens_openrlhf.demo import prepare
    from lens_openrlhf.demo.warm_start import WarmStart

    # One thread: two that wait for each other in a loop take ten times as long where something else runs.
    return prepare(
        tmp_path_factory.mktemp("tiny"), warm_start=WarmStart(steps=40, threads=1), train_prompts=64, heldout_prompts=16
    )


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
