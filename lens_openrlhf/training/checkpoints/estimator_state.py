"""The estimator's state in a checkpoint."""

from __future__ import annotations

import io
from pathlib import Path

from ...advantages.estimators import Estimator, EstimatorError, asked, described
from ...advantages.lazily import torch
from .layout import ACTOR, ESTIMATOR, LATEST, UNFINISHED


def save_estimator(folder: Path, tag: str, estimator: Estimator) -> None:
    """Write the estimator's state into the checkpoint that was written as UNFINISHED + tag."""
    written = folder / ACTOR / (UNFINISHED + tag)
    if written.is_dir():
        with asked(estimator, "state_dict"):
            state = estimator.state_dict()
        torch.save(state, written / ESTIMATOR)


def check_state(estimator: Estimator) -> None:
    """Raises EstimatorError unless the estimator's state can be written and read: no checkpoint is loaded that could
    run code, so tensors, numbers, texts, lists and dicts alone."""
    if not estimator.remembers:
        return
    file = io.BytesIO()
    try:
        torch.save(estimator.state_dict(), file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as error:
        told = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
        raise EstimatorError(
            f"{described(estimator)}: its state_dict() cannot be kept in a checkpoint, which holds tensors, "
            f"numbers, texts, lists and dicts ({told})"
        ) from error


def load_estimator(folder: Path, estimator: Estimator) -> None:
    """Give the estimator the state in the checkpoint that `latest` names.

    Raises:
        EstimatorError: it keeps state, and the checkpoint, one of OpenRLHF's own, has none.
    """
    states = folder / ACTOR
    path = states / (states / LATEST).read_text().strip() / ESTIMATOR
    if path.exists():
        state = torch.load(path, weights_only=True)
        with asked(estimator, "load_state_dict"):
            estimator.load_state_dict(state)
    elif estimator.remembers:
        raise EstimatorError(f"{path}: is missing, and the {estimator.name} estimator goes on from its state alone")
