"""Which estimators a trainer that is not OpenRLHF can have, with which options."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lens_openrlhf.advantages.estimators import OURS, Estimator, EstimatorError, find
from lens_openrlhf.outside.estimate import check_answers, make, options_outside

# What has no effect where the answers are there already.
LEFT_OUT = {
    "lens": ["confidence_from"],
    "reinforce_ada": ["rounds", "oversample", "stop"],
    "spectral": ["scorer"],
}
LOSS = "{name}: computes the loss in its own way, which X does not; use lens-openrlhf train"
SAMPLES = "{name}: samples answers in its own way, which X does not; use lens-openrlhf train"
NEEDS = "{name}: needs {what}, which X does not hand on; use another estimator, or lens-openrlhf train"
REFUSED = {
    "asymre": LOSS,
    "topr": LOSS,
    "spo": SAMPLES,
    "intuitor": NEEDS.replace("{what}", "self_certainty"),
    "reinforce_ada": NEEDS.replace("{what}", "drawn_mean, drawn_std, drawn"),
    "spectral": NEEDS.replace("{what}", "step_score"),
}
OF_ENTROPIES = {name: NEEDS.replace("{what}", "entropies") for name in ("rl_zvp", "rent")}


def refusal(*args, **kwargs) -> str:
    with pytest.raises(EstimatorError) as refused:
        make(*args, **kwargs)
    return str(refused.value)


@pytest.mark.parametrize("name", OURS)
def test_options_that_have_an_effect(name):
    kind = find(name)
    wanted = [field.name for field in kind.options() if field.name not in LEFT_OUT.get(name, ())]
    assert [field.name for field in options_outside(kind)] == wanted
    assert {field.name for field in kind.options()} >= set(LEFT_OUT.get(name, ()))


@pytest.mark.parametrize(
    ("has", "refused"), [(["logprobs", "entropies"], REFUSED), (["logprobs"], REFUSED | OF_ENTROPIES)]
)
@pytest.mark.parametrize("name", OURS)
def test_what_a_trainer_can_serve(name, has, refused):
    if name in refused:
        assert refusal(name, "X", has, {}) == refused[name].format(name=name)
    else:
        estimator = make(name, "X", has, {})
        assert type(estimator) is type(make(find(name), "X", has, {}, keeps_state=False)) is find(name)
        assert estimator.config == find(name).Config()


@dataclass(frozen=True, kw_only=True)
class Odd:
    number: int = 1

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError(f"number={self.number}: expected 0 or more")
        if self.number > 9:
            raise TypeError("too much")


class Mine(Estimator):
    name = "mine"
    Config = Odd
    needs = frozenset({"logprobs", "entropies"})
    source = "my.py"

    def advantages(self, batch):
        return batch.logprobs


class Remembering(Mine):
    name = "remembering"

    def state_dict(self):
        return {"seen": 1}


def test_options_of_an_estimator():
    has = ("entropies", "logprobs")
    assert make(Mine, "X", has, {"number": 3}).config == Odd(number=3)
    assert make("lens", "X", (), {"alpha": 0.5, "scope": "mixed"}).config == find("lens").Config(
        alpha=0.5, scope="mixed"
    )
    for kind, options, message in (
        (Mine, {"number": -1}, "mine: number=-1: expected 0 or more"),
        (Mine, {"number": 10}, "estimator mine (my.py): its Config raised TypeError: too much"),
        (Mine, {"number": 1, "other": 1}, "mine: has no option other; known: number"),
        ("grpo", {"alpha": 1}, "grpo: has no option alpha; known: none"),
        ("reinforce_ada", {}, NEEDS.format(name="reinforce_ada", what="drawn_mean, drawn_std, drawn")),
        (
            "lens",
            {"confidence_from": "rollout"},
            "lens: has no option confidence_from; known: scope, alpha, confidence, difficulty, preference, gamma",
        ),
    ):
        assert refusal(kind, "X", has, options) == message
    assert refusal(Mine, "X", (), {}) == NEEDS.format(name="mine", what="entropies, logprobs")


def test_an_estimator_that_remembers_needs_a_trainer_that_keeps_its_state():
    has = ("entropies", "logprobs")
    assert make(Remembering, "X", has, {}).remembers
    said = "remembering: remembers what X would not save; use lens-openrlhf train"
    assert refusal(Remembering, "X", has, {}, keeps_state=False) == said


def test_answers_to_a_prompt_from_which_it_learns():
    for estimator, least in ((find("lens")(), 2), (find("passk")(find("passk").Config(k=4)), 5), (find("nsr")(), 1)):
        check_answers(estimator, least, "n")
        with pytest.raises(EstimatorError) as refused:
            check_answers(estimator, least - 1, "n")
        said = f"n={least - 1}: so few answers to a prompt teach {estimator.name} nothing; use at least {least}"
        assert str(refused.value) == said
