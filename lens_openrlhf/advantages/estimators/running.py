"""Making an estimator and asking it for a step's advantages; what comes back is checked. Needs torch alone."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..lazily import torch
from .base import Estimator, EstimatorError, Result
from .batch import TOKEN_NEEDS, Batch

if TYPE_CHECKING:
    from torch import Tensor


def described(estimator: Estimator | type[Estimator]) -> str:
    """The estimator's name and where it stands, for messages."""
    source = getattr(estimator, "source", None)
    if source is None:
        try:
            source = inspect.getsourcefile(estimator if isinstance(estimator, type) else type(estimator))
        except (TypeError, OSError):  # defined at a prompt or in a notebook
            source = None
    return f"estimator {estimator.name}" + (f" ({source})" if source else "")


@contextmanager
def asked(estimator: Estimator, method: str) -> Iterator[None]:
    """Around a call of one of the estimator's methods; what it raises comes as an EstimatorError that names both."""
    try:
        yield
    except Exception as error:
        raise EstimatorError(f"{described(estimator)}: {method} raised {type(error).__name__}: {error}") from error


def made(kind: type[Estimator], values: Mapping[str, Any]) -> Estimator:
    """The estimator with these values of its Config.

    Raises:
        EstimatorError: its Config or it itself raised; names it and its file.
        ValueError: its Config refuses a value.
    """
    try:
        config = kind.Config(**values)
    except ValueError:
        raise
    except Exception as error:
        raise EstimatorError(f"{described(kind)}: its Config raised {type(error).__name__}: {error}") from error
    try:
        return kind(config)
    except Exception as error:
        raise EstimatorError(f"{described(kind)}: __init__ raised {type(error).__name__}: {error}") from error


def _for_estimator(estimator: Estimator, batch: Batch) -> Batch:
    """The batch as the estimator gets it: numbers of responses are copies, as the records have those of the batch; and
    on the CPU for one that remembers, see :meth:`Estimator.state_dict`."""
    names = ("mean_logprob", "lengths", "correctness", "rewards", "cu_groups")
    batch = replace(batch, **{name: getattr(batch, name).clone() for name in names})
    if batch.correctness.is_cpu or not estimator.remembers:
        return batch
    moved: dict[str, Any] = {name: v.cpu() for name, v in vars(batch).items() if isinstance(v, torch.Tensor)}
    return replace(batch, extras={name: v.cpu() for name, v in batch.extras.items()}, **moved)


def _check_batch(estimator: Estimator, batch: Batch) -> None:
    for need in estimator.needs:
        if getattr(batch, need) is None:
            raise EstimatorError(
                f"{described(estimator)}: needs {need} of every token, which the batch does not have: "
                f"Batch({need}=…, cu_seqlens=…), or --{need} of lens-openrlhf advantages"
            )


def run(estimator: Estimator, batch: Batch) -> Result:
    """The estimator's advantages of `batch`, checked; float64 on the batch's device.

    Warns where rewards differ from the outcome that the estimator reads instead.

    Raises:
        EstimatorError: it raised, needs what the batch lacks, or gave back NaN, infinity, another shape or device.
    """
    _check_batch(estimator, batch)
    named = described(estimator)
    if estimator.verified and not estimator.reads_reward and not torch.equal(batch.rewards, batch.correctness):
        warnings.warn(f"{named}: reads the verifier's outcome; that rewards differ from it has no effect", stacklevel=2)
    given, home = _for_estimator(estimator, batch), batch.correctness.device
    device = given.correctness.device
    with asked(estimator, "advantages"):
        result = estimator.advantages(given)
    n, tokens = len(batch.lengths), None if batch.cu_seqlens is None else int(batch.cu_seqlens[-1])
    if isinstance(result, torch.Tensor):
        if estimator.needs and tokens == n and tuple(result.shape) == (n,) and not (batch.lengths == 1).all():
            raise EstimatorError(
                f"{named}: gave back [{n}], which may be one a response or one a token, as there are {n} of both; "
                "give back Result(advantage=…, per_token=…)"
            )
        result = Result(advantage=result, per_token=tuple(result.shape) == (tokens,) != (n,))
    if not isinstance(result, Result) or not isinstance(result.advantage, torch.Tensor):
        raise EstimatorError(f"{named}: gave back {type(result).__name__}, expected a tensor or a Result")
    advantage = result.advantage
    if tuple(advantage.shape) != (tokens if result.per_token else n,):
        a_token = f" or [{tokens}], one a token" if tokens is not None else ""
        hint = "" if a_token else f" (one a token only with needs of {', '.join(TOKEN_NEEDS)})"
        raise EstimatorError(
            f"{named}: gave back shape {list(advantage.shape)}, expected [{n}], one a response{a_token}{hint}"
        )
    if advantage.device != device:
        raise EstimatorError(f"{named}: gave back advantages on {advantage.device}, expected {device}")
    if advantage.dtype.is_complex:
        raise EstimatorError(f"{named}: gave back {advantage.dtype}, expected real numbers")
    advantage = advantage.detach().double()
    bad = (~advantage.isfinite()).nonzero()
    if len(bad):
        what = "token" if result.per_token else "response"
        raise EstimatorError(f"{named}: {what} {int(bad[0])} has advantage {advantage[bad[0]].item()!r}")
    return Result(
        advantage=advantage.to(home),
        per_token=result.per_token,
        confidence=_confidence(named, result.confidence, batch, device),
        metrics=_metrics(named, result),
    )


def _confidence(named: str, confidence: object, batch: Batch, device: torch.device) -> Tensor:
    """[N], what the estimator says, on `device`, or exp of the mean log-probability; NaN where there is no token."""
    n, empty = len(batch.lengths), batch.lengths == 0
    if confidence is None:
        return torch.where(empty, math.nan, batch.mean_logprob.clamp(max=0).exp())
    if not isinstance(confidence, torch.Tensor):
        raise EstimatorError(f"{named}: gave back {type(confidence).__name__} as confidence, expected a tensor [{n}]")
    if tuple(confidence.shape) != (n,) or confidence.device != device:
        raise EstimatorError(
            f"{named}: gave back a confidence of shape {list(confidence.shape)} on {confidence.device}, expected [{n}] "
            f"on {device}"
        )
    confidence = confidence.to(empty.device)
    bad = (~(confidence.isfinite() | empty)).nonzero()
    if len(bad):
        raise EstimatorError(f"{named}: response {int(bad[0])} has confidence {confidence[bad[0]].item()!r}")
    return confidence


def _metrics(named: str, result: Result) -> dict[str, float | None]:
    if not isinstance(result.metrics, Mapping):
        raise EstimatorError(f"{named}: gave back {type(result.metrics).__name__} as metrics, expected a dict")
    for name, value in result.metrics.items():
        if not isinstance(value, int | float | None):
            raise EstimatorError(f"{named}: metric {name!r} is {value!r}, expected a number or None")
    return dict(result.metrics)
