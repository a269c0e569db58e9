"""The options of OpenRLHF that estimators set or insist on are there, and take these values."""

from __future__ import annotations

import pytest

from lens_openrlhf.advantages.estimators import find, names
from lens_openrlhf.inputs import OptionError
from lens_openrlhf.training.commandline.records import flatten


def words(defaults) -> list[str]:
    """As on a command line."""
    result = []
    for option, value in defaults.items():
        result.append(f"--{option}")
        if value is not True:
            result += [str(x) for x in (value if isinstance(value, list) else [value])]
    return result


@pytest.mark.parametrize("name", [name for name in names() if find(name).defaults or find(name).requires])
def test_openrlhf_takes_the_defaults_of_a_method_and_they_are_what_it_requires(parse, name):
    method = find(name)
    values = flatten(parse(*words(method.defaults), estimator="group_norm"))
    for option, value in method.defaults.items():
        assert values[option] == value and type(values[option]) is type(value), option
    for option, (value, reason) in method.requires.items():
        assert values[option] == value and reason, option


CLIPS = "actor.eps_clip_low_high"


def test_a_clip_range_of_ones_own_wins_over_a_methods(parse):
    assert flatten(parse(estimator="ngrpo"))[CLIPS] == [0.16, 0.24]
    assert flatten(parse("--actor.eps_clip", "0.3", estimator="ngrpo"))[CLIPS] == (0.3, 0.3)
    assert flatten(parse(f"--{CLIPS}", "0.1", "0.2", estimator="ngrpo"))[CLIPS] == [0.1, 0.2]


@pytest.mark.parametrize("name", ["topr", "asymre"])
@pytest.mark.parametrize(
    "more",
    [
        ["--actor.eps_clip", "0.2"],
        ["--actor.eps_clip_low_high", "0.2", "0.28"],
        ["--actor.policy_loss_type", "gspo"],
        ["--actor.dual_clip", "10"],
        ["--algo.advantage.is_correction_level", "token"],
    ],
)
def test_what_a_loss_of_its_own_does_not_read_is_refused(parse, name, more):
    with pytest.raises(OptionError, match=f"{more[0]} .*the {name} estimator brings a policy loss of its own"):
        parse(*more, estimator=name)
    assert parse("--actor.policy_loss_type", "ppo", estimator=name)


@pytest.mark.parametrize("name", [name for name in names() if not find(name).reads_reward])
@pytest.mark.parametrize("more", [["--reward.overlong_buffer_len", "16"], ["--reward.stop_properly_penalty_coef", "0"]])
def test_what_shapes_a_reward_that_is_not_read_is_refused(parse, name, more):
    with pytest.raises(OptionError, match=rf"{more[0]} with .* {name}: shapes the reward, .*; leave it out"):
        parse(*more, "--ref.num_gpus_per_node", "1", estimator=name)


def test_prompts_by_weight_are_refused_in_asynchronous_training(parse):
    with pytest.raises(OptionError, match="--train.async_enable with .* spo: the estimator draws prompts by what"):
        parse("--train.async_enable", estimator="spo")


def test_a_method_without_a_verifier_says_what_one_is_for(parse):
    with pytest.raises(OptionError, match="rent estimator does not learn from a verifier, but the records"):
        parse("--reward.remote_url", "", "--ref.num_gpus_per_node", "1", estimator="rent")
