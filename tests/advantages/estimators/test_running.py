"""Asking estimators for advantages: what cannot be used is refused, and what comes back has one form."""

from __future__ import annotations

import math
import re
import sys
import types
from dataclasses import replace

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


class Several(Estimator):
    """A name, and what it says of the tokens."""

    name = "several"
    needs = frozenset({"logprobs"})

    def __init__(self, result):
        super().__init__()
        self.result = result

    advantages = Given.advantages


def test_a_tensor_of_one_number_a_token_is_taken_for_that():
    batch = batch_of([[Answer(1, (1.0, 1.0)), Answer(0, (1.0,))]])
    for size, per_token in ((2, False), (3, True)):
        result = run(Several(torch.arange(float(size))), batch)
        assert result.per_token is per_token and result.advantage.tolist() == list(range(size))
    # As many answers as tokens, of one token each: it makes no difference.
    same = run(Several(torch.arange(2.0)), batch_of([[Answer(1, (1.0,)), Answer(0, (1.0,))]]))
    assert same.per_token is False
    # Without needs it is one a response, however many tokens there are.
    empty = batch_of([[Answer(1, (1.0, 1.0)), Answer(0, ())]])
    assert run(Given(torch.arange(2.0)), empty).per_token is False
    with pytest.raises(EstimatorError, match=r"gave back \[2\], which may be one a response or one a token"):
        run(Several(torch.arange(2.0)), empty)
    for per_token in (False, True):
        result = run(Several(Result(advantage=torch.arange(2.0), per_token=per_token)), empty)
        assert result.per_token is per_token


def test_a_result_of_another_size_than_it_says():
    batch = batch_of([[Answer(1, (1.0, 1.0)), Answer(0, (1.0,))]])
    for per_token, size, said in ((True, 2, "[2]"), (False, 3, "[3]")):
        expected = re.escape(f"gave back shape {said}, expected [2], one a response or [3], one a token")
        with pytest.raises(EstimatorError, match=expected):
            run(Several(Result(advantage=torch.zeros(size), per_token=per_token)), batch)
    with pytest.raises(EstimatorError, match="gave back Result, expected a tensor or a Result"):
        run(Given(Result(advantage=[1.0, 2.0])), batch)


def test_what_a_batch_lacks_is_named_with_its_options():
    batch = batch_of([answers(1, 0)], needs=("entropies",))
    with pytest.raises(EstimatorError) as caught:
        run(Several(torch.zeros(2)), batch)
    assert str(caught.value).endswith(
        ": needs logprobs of every token, which the batch does not have: Batch(logprobs=…, cu_seqlens=…), or "
        "--logprobs of lens-openrlhf advantages"
    )


@pytest.mark.parametrize("confidence", [-0.5, 0.0, 2.0])
def test_confidence_may_be_any_number(confidence):
    batch = batch_of([answers(1)])
    result = run(Given(Result(advantage=torch.zeros(1), confidence=torch.tensor([confidence]))), batch)
    assert result.confidence.tolist() == [confidence]


def test_a_mean_log_probability_above_0_is_rounding():
    batch = batch_of([[Answer(1, logprob=1e-4)]])
    assert run(Given(torch.zeros(1)), batch).confidence.tolist() == [1.0]


@pytest.mark.parametrize("value", [1, 1.5, math.inf, True, None])
def test_metrics_are_numbers_or_nothing(value):
    given = Result(advantage=torch.zeros(1), metrics=types.MappingProxyType({"mine": value}))
    result = run(Given(given), batch_of([answers(1)]))
    assert result.metrics == {"mine": value} and type(result.metrics) is dict


def test_the_warning_of_rewards_that_are_not_read_points_to_the_caller():
    method = type("Blind", (Given,), {"reads_reward": False, "name": "blind"})
    batch = batch_of([[Answer(1, reward=0.5), Answer(0)]])
    with pytest.warns(UserWarning, match="^estimator blind .*reads the verifier's outcome; that rewards diff") as said:
        run(method(torch.zeros(2)), batch)
    assert [warning.filename for warning in said] == [__file__]


def test_a_batch_of_one_that_remembers_is_of_its_own():
    """Numbers of responses are copies; those of tokens are as they are."""
    seen = []
    method = type("Keeps", (Given,), {"state_dict": lambda self: {}, "name": "keeps"})
    estimator, batch = method(torch.zeros(2)), batch_of([answers(1, 0)])
    estimator.advantages = lambda given: seen.append(given) or torch.zeros(2)
    run(estimator, batch)
    for name in ("mean_logprob", "lengths", "correctness", "rewards", "cu_groups"):
        mine, theirs = getattr(batch, name), getattr(seen[0], name)
        assert torch.equal(mine, theirs) and mine.data_ptr() != theirs.data_ptr(), name


def test_what_an_estimator_is_by_default():
    plain = Estimator()
    assert (plain.state_dict(), plain.remembers, plain.least_answers) == ({}, False, 2)
    assert plain.load_state_dict({"a": 1}) is None and plain.updated({"ppo_kl": 1.0}) is None
    config = object()
    assert Estimator(config).config is config and Estimator.options() == ()
    with pytest.raises(NotImplementedError, match="^Estimator has sampling 'by_weight' and no prompt_weights"):
        plain.prompt_weights(torch.tensor([7]))
    named = type("Unwritten", (Estimator,), {})
    with pytest.raises(EstimatorError, match=r"NotImplementedError: Unwritten does not define advantages\(batch\)$"):
        run(named(), BATCH)


class Elsewhere(torch.Tensor):
    """A tensor of this machine that says it is not, and comes when it is asked for."""

    is_cpu = False

    def cpu(self):
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize("remembers", [True, False])
def test_one_that_remembers_gets_all_of_its_batch_on_the_cpu(remembers):
    plain = replace(batch_of([answers(1, 0)]), prompts=torch.tensor([7]), step=5, extras={"weight": torch.ones(2)})
    tensors = {name: value for name, value in vars(plain).items() if isinstance(value, torch.Tensor)}
    moved = {name: value.as_subclass(Elsewhere) for name, value in tensors.items()}
    batch = replace(plain, **moved, extras={"weight": torch.ones(2).as_subclass(Elsewhere)})
    method = type("Keeps", (Given,), {"state_dict": lambda self: {}} if remembers else {})
    estimator, seen = method(None), []
    estimator.advantages = lambda given: seen.append(given) or torch.zeros(2)
    run(estimator, batch)
    assert len(tensors) == 10
    for name, value in tensors.items():
        given = getattr(seen[0], name)
        assert type(given) is (torch.Tensor if remembers else Elsewhere) and torch.equal(given.cpu(), value), name
    assert type(seen[0].extras["weight"]) is (torch.Tensor if remembers else Elsewhere)
    assert seen[0].step == 5 and seen[0].extras["weight"].tolist() == [1, 1]
