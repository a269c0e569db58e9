"""What an estimator remembers goes into a checkpoint and comes back, and nothing else does."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from lens_openrlhf.advantages.estimators import Estimator, EstimatorError
from lens_openrlhf.training.checkpoints import estimator_state, layout


class Remembers(Estimator):
    name = "remembers"
    source = "own.py"

    def __init__(self, state=None):
        super().__init__()
        self.state = state

    def state_dict(self):
        if isinstance(self.state, Exception):
            raise self.state
        return {"state": self.state}

    def load_state_dict(self, state):
        self.state = state["state"]


class Forgets(Estimator):
    def load_state_dict(self, state):
        raise AssertionError("it has no state")


@pytest.fixture
def states(tmp_path):
    """_actor with a checkpoint that is being written and two that are there, of which `latest` names one."""
    for name in ("unfinished-global_step6", "global_step2", "global_step4"):
        (tmp_path / "_actor" / name).mkdir(parents=True)
    (tmp_path / "_actor" / "latest").write_text("global_step4\n")
    return tmp_path / "_actor"


def test_it_is_written_where_the_checkpoint_is_being_written(states):
    estimator_state.save_estimator(states.parent, "global_step6", Remembers(torch.tensor([1.0, 2.0])))
    assert [path.relative_to(states).as_posix() for path in states.rglob("*.pt")] == [
        "unfinished-global_step6/estimator.pt"
    ]
    (found,) = torch.load(states / "unfinished-global_step6" / "estimator.pt", weights_only=True).values()
    assert found.tolist() == [1.0, 2.0]


def test_without_a_checkpoint_nothing_is_written(states):
    """--ckpt.disable_ds: there is only the copy for transformers."""
    before = sorted(states.rglob("*"))
    estimator_state.save_estimator(states.parent, "global_step8", Remembers(ValueError("not to be asked")))
    assert sorted(states.rglob("*")) == before


def test_the_one_that_latest_names_comes_back(states):
    for step in (2, 4):
        torch.save({"state": step}, states / f"global_step{step}" / layout.ESTIMATOR)
    estimator = Remembers()
    estimator_state.load_estimator(states.parent, estimator)
    assert estimator.state == 4


def test_a_checkpoint_without_state_is_for_estimators_without_one(states):
    estimator_state.load_estimator(states.parent, Forgets())
    with pytest.raises(EstimatorError) as caught:
        estimator_state.load_estimator(states.parent, Remembers())
    assert str(caught.value) == (
        f"{states}/global_step4/estimator.pt: is missing, and the remembers estimator goes on from its state alone"
    )


def test_a_state_that_could_run_code_is_not_loaded(states, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # whatever others' code is allowed
    torch.save({"state": SimpleNamespace()}, states / "global_step4" / "estimator.pt")
    estimator = Remembers("before")
    with pytest.raises(Exception, match="[Ww]eights.only"):
        estimator_state.load_estimator(states.parent, estimator)
    assert estimator.state == "before"
    with pytest.raises(EstimatorError, match="UnpicklingError"):
        estimator_state.check_state(Remembers(SimpleNamespace()))


def test_a_state_that_it_does_not_give_is_its_own_fault(states):
    with pytest.raises(EstimatorError, match=r"remembers \(own.py\): state_dict raised ValueError: no luck"):
        estimator_state.save_estimator(states.parent, "global_step6", Remembers(ValueError("no luck")))


def test_a_state_that_it_does_not_take_is_its_own_fault(states):
    torch.save({}, states / "global_step4" / "estimator.pt")
    with pytest.raises(EstimatorError, match=r"remembers \(own.py\): load_state_dict raised KeyError: 'state'"):
        estimator_state.load_estimator(states.parent, Remembers())


@pytest.mark.parametrize("state", [torch.zeros(2), 3, 0.5, "text", [1, [2]], {"a": {"b": None}}])
def test_what_a_checkpoint_can_hold(state):
    estimator_state.check_state(Remembers(state))


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (RuntimeError("no luck\nat all"), "RuntimeError: no luck"),
        (RuntimeError(), "RuntimeError"),
        (lambda: 0, "[A-Za-z]+: .*lambda.*"),
        (SimpleNamespace(), "UnpicklingError: .*"),
    ],
)
def test_what_it_cannot_hold_is_told_in_a_line(state, why):
    estimator = Remembers(state)
    with pytest.raises(EstimatorError) as caught:
        estimator_state.check_state(estimator)
    assert re.fullmatch(
        r"estimator remembers \(own.py\): its state_dict\(\) cannot be kept in a checkpoint, which holds tensors, "
        rf"numbers, texts, lists and dicts \({why}\)",
        str(caught.value),
    )


def test_only_one_that_remembers_is_asked(monkeypatch):
    monkeypatch.setattr(Estimator, "state_dict", lambda self: {"state": lambda: 0})
    estimator_state.check_state(Forgets())
