"""Asking estimators for advantages: what cannot be used is refused, and what comes back has one form."""

from __future__ import annotations

import math
import re
import sys
import types

import pytest
import torch

from lens_openrlhf.advantages.estimators import Estimator, EstimatorError, Result, from_path, made, run

from .batches import BATCH, Answer, answers, batch_of


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise NotImplementedError", "advantages raised NotImplementedError"),
        ("raise KeyError('oops')", "advantages raised KeyError: 'oops'"),
        ("return None", "gave back NoneType, expected a tensor or a Result"),
        ("return batch.rewards.tolist()", "gave back list, expected a tensor or a Result"),
        ("return batch.rewards / 0", "response 0 has advantage inf"),
        ("return batch.rewards / batch.rewards", "response 1 has advantage nan"),
        (
            "return batch.entropies.log() * (batch.entropies - 0.5) / (batch.entropies - 0.5)",
            "token 0 has advantage nan",
        ),
        ("return batch.rewards[:3]", r"gave back shape \[3\], expected \[4\], one a response or \[5\], one a token$"),
        ("return batch.rewards[:, None]", r"gave back shape \[4, 1\], expected"),
        ("return batch.rewards.mean()", r"gave back shape \[\], expected"),
        ("return batch.rewards.to('meta')", "gave back advantages on meta, expected cpu"),
        ("return batch.rewards + 1j", "gave back torch.complex128, expected real numbers"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_file(write, body, message):
    path = write(f"def own(batch): {body}")
    with pytest.raises(EstimatorError, match=rf"^estimator own \({re.escape(path)}\): {message}"):
        run(from_path(f"{path}:own")(), BATCH)


def test_one_a_token_without_token_numbers_says_how_to_get_them(write):
    path = write("def own(batch): return torch.zeros(5)")
    with pytest.raises(
        EstimatorError, match=r"expected \[4\], one a response \(one a token only with needs of logprobs, "
    ):
        run(from_path(f"{path}:own")(), batch_of([answers(0, 0, 0, 0)], needs=()))


# What comes back


class Given(Estimator):
    def __init__(self, result):
        super().__init__()
        self.result = result

    def advantages(self, batch):
        return self.result


def test_advantages_come_back_as_float64_without_a_graph():
    for given in (torch.tensor([1, 0, 2, 3]), torch.ones(4, requires_grad=True), torch.ones(4, dtype=torch.bool)):
        advantage = run(Given(given), BATCH).advantage
        assert advantage.dtype == torch.float64 and not advantage.requires_grad
        assert advantage.tolist() == given.tolist()


def test_the_confidence_is_the_geometric_mean_unless_given():
    batch = batch_of([[Answer(1, (1.0, 1.0), logprob=-2.0), Answer(0, ())]])
    confidence = run(Given(torch.zeros(2)), batch).confidence.tolist()
    assert confidence[0] == math.exp(-2) and math.isnan(confidence[1])
    given = torch.tensor([0.25, 0.5])
    result = run(Given(Result(advantage=torch.zeros(2), confidence=given, metrics={"mine": 1.5, "none": None})), batch)
    assert result.confidence is given and result.metrics == {"mine": 1.5, "none": None}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"confidence": 0.5}, r"gave back float as confidence, expected a tensor \[2\]"),
        ({"confidence": torch.zeros(3)}, r"gave back a confidence of shape \[3\] on cpu, expected \[2\]"),
        ({"confidence": torch.tensor([math.nan, 0.5])}, "response 0 has confidence nan"),
        ({"metrics": None}, "gave back NoneType as metrics, expected a dict"),
        ({"metrics": {"mine": "much"}}, "metric 'mine' is 'much', expected a number or None"),
    ],
)
def test_what_comes_along_is_checked_too(more, message):
    batch = batch_of([[Answer(1, (1.0,)), Answer(0, ())]])
    with pytest.raises(EstimatorError, match=rf"^estimator custom \(.*\): {message}"):
        run(Given(Result(advantage=torch.zeros(2), **more)), batch)


def test_an_empty_response_needs_no_confidence():
    batch = batch_of([[Answer(1, (1.0,)), Answer(0, ())]])
    confidence = torch.tensor([0.5, math.nan])
    assert run(Given(Result(advantage=torch.zeros(2), confidence=confidence)), batch).confidence is confidence


def test_what_it_does_to_its_batch_is_not_recorded(write):
    path = write(
        "def own(batch):\n    batch.mean_logprob.zero_()\n    batch.lengths.zero_()\n"
        "    return batch.rewards.sub_(0.5).add_(batch.correctness.zero_())"
    )
    batch = batch_of([answers(1, 0)])
    before = run(Given(torch.zeros(2)), batch)
    result = run(from_path(f"{path}:own")(), batch)
    assert result.advantage.tolist() == [0.5, -0.5]
    assert batch.rewards.tolist() == batch.correctness.tolist() == [1, 0]
    assert result.confidence.tolist() == before.confidence.tolist() != [1, 1]


def test_one_that_cannot_be_made_is_named_with_its_file(write):
    path = write(
        """
        from dataclasses import dataclass
        from lens_openrlhf.advantages.estimators import Estimator, option

        @dataclass(frozen=True, kw_only=True)
        class Config:
            scale: float = option(1.0, "factor")
            def __post_init__(self):
                if self.scale < 0:
                    raise ValueError(f"scale={self.scale}: use at least 0")
                {}[self.scale - 1]

        class Own(Estimator):
            Config = Config

        class Other(Estimator):
            def __init__(self, config=None):
                raise ValueError("no luck")
        """
    )
    own, other = (from_path(f"{path}:{name}") for name in ("Own", "Other"))
    with pytest.raises(ValueError, match="^scale=-1: use at least 0"):
        made(own, {"scale": -1})
    with pytest.raises(EstimatorError, match=rf"^estimator Own \({re.escape(path)}\): its Config raised KeyError"):
        made(own, {"scale": 3})
    with pytest.raises(EstimatorError, match=r"^estimator Other \(.*my.py\): __init__ raised ValueError: no luck"):
        made(other, {})


def test_an_estimator_from_a_prompt_is_named_without_a_file(monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))  # as in a notebook: it has no file
    prompted = type("Prompted", (Given,), {"name": "prompted", "__module__": "__main__"})
    with pytest.raises(EstimatorError, match="^estimator prompted: gave back NoneType"):
        run(prompted(None), BATCH)
