"""What is written down of a run's options."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from lens_openrlhf.advantages.estimators import names
from lens_openrlhf.training.commandline import records

OWN = """
import torch
def even(batch):
    return torch.zeros_like(batch.rewards)
"""


def test_options_are_flat_and_json_can_hold_them():
    inner = SimpleNamespace(lr=1e-6, betas=(0.9, 0.95), off=None)
    args = SimpleNamespace(actor=SimpleNamespace(adam=inner, name="m"), seed=3, most=math.inf, least=-math.inf)
    args.gone = math.nan
    assert records.flatten(args) == {
        **{"actor.adam.lr": 1e-6, "actor.adam.betas": (0.9, 0.95), "actor.adam.off": None, "actor.name": "m"},
        **{"seed": 3, "most": "inf", "least": "-inf", "gone": "nan"},
    }
    assert records.flatten(inner, "x.") == {"x.lr": 1e-6, "x.betas": (0.9, 0.95), "x.off": None}


@pytest.mark.parametrize("estimator", ["lens", "ngrpo", "group_norm"])
def test_every_option_of_the_chosen_estimator_and_none_of_anothers(parse, estimator):
    args = parse(estimator=estimator)
    given = records.flatten(args)
    left_out = {"algo.lens.enabled", "algo.lens.estimator", "algo.lens.estimator_path"}
    left_out |= {
        option for option in given if option.startswith("algo.") and option.split(".")[1] in set(names()) - {estimator}
    }
    expected = {option: value for option, value in given.items() if option not in left_out}
    assert records.chosen(args) == {**expected, "algo.advantage.estimator": estimator}
    assert any(option.startswith("algo.lens.") for option in expected) == (estimator == "lens")
    assert records.flatten(args) == given, "the arguments stay what they are"


def test_an_estimator_of_ones_own_is_recorded_with_its_file(parse, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    place = f"{tmp_path / 'mine.py'}:even"
    chosen = records.chosen(parse("--algo.lens.estimator_path", place))
    assert {option: value for option, value in chosen.items() if option.startswith("algo.lens.")} == {
        "algo.lens.estimator_path": place
    }
    assert chosen["algo.advantage.estimator"] == "custom"


def test_a_secret_is_not_recorded_and_none_is_none(parse):
    assert records.chosen(parse())["logger.wandb.key"] is None
    args = parse("--logger.wandb.key", "s3cret", "--logger.wandb.project", "mine")
    chosen = records.chosen(args)
    assert (chosen["logger.wandb.key"], chosen["logger.wandb.project"]) == ("(not recorded)", "mine")
    words = ["--logger.wandb.key", "s3cret", "--a=s3cret", "--b=", "", "s3cret=x", "--c=x=s3cret", "not s3cret"]
    hidden = "(not recorded)"
    assert records.without_secrets(words, args) == [
        *("--logger.wandb.key", hidden, hidden, "--b=", "", "s3cret=x", hidden, "not s3cret")
    ]
    assert records.without_secrets(words, parse()) == words
    assert records.without_secrets(words, parse("--logger.wandb.key", "")) == words
