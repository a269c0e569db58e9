"""The options of OpenRLHF that estimators set or insist on are there, and take these values."""

from __future__ import annotations

import pytest

from lens_openrlhf.advantages.estimators import Estimator, find, names
from lens_openrlhf.inputs import OptionError
from lens_openrlhf.training.commandline.estimator import choose, method_in, overruled_by
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


@pytest.mark.parametrize(
    ("words", "method"),
    [
        ("--train.seed 1", (None, None)),
        ("--algo.advantage.estimator topr --train.seed 1", ("topr", None)),
        ("--train.seed 1 --algo.advantage.estimator=topr", ("topr", None)),
        ("--algo.advantage.e topr --algo.lens.e a.py:b", ("topr", "a.py:b")),
        ("--algo.lens.estim a.py:b --algo.advantage.estim x --algo.advantage.estimator y", ("y", "a.py:b")),
        ("--algo.lens.estimator_path a.py:b", (None, "a.py:b")),
        ("--algo.lens.estimator_pat a.py:b", (None, "a.py:b")),
        ("--algo.advantage. x --algo.lens.e a.py:b", (None, "a.py:b")),
        ("--algo.lens. x --algo.advantage.e y", ("y", None)),
        ("--help -h --algo.advantage.e y", ("y", None)),
        ("--algo.lens.estimator_path a.py:b --algo.advantage.estimator", (None, None)),
    ],
)
def test_the_method_is_found_among_the_words(words, method):
    assert method_in(words.split()) == method


OWN = """
from lens_openrlhf.advantages.estimators import Estimator

class Mine(Estimator):
    defaults = {"train.max_epochs": 2, "rollout.n_samples_per_prompt": 3}
    requires = {"algo.kl.estimator": ("k2", "it is so")}
    verified = False
    policy_loss = "reinforce"
    sampling = "by_weight"

    def advantages(self, batch):
        return batch.rewards
"""
CLIP_BOTH = {"actor.eps_clip", CLIPS}
SHAPING = {"reward.overlong_buffer_len", "reward.stop_properly_penalty_coef"}
PPO = {*CLIP_BOTH, "actor.policy_loss_type", "actor.dual_clip", "algo.advantage.is_correction_level"}
MODE = {"actor.loss_agg_mode"}


@pytest.mark.parametrize(
    ("name", "decided"),
    [
        ("lens", set()),
        ("ngrpo", CLIP_BOTH),
        ("dapo", {*CLIP_BOTH, *MODE, "algo.dynamic_filtering_enable", "algo.dynamic_filtering_range"}),
        ("nsr", {*MODE, *SHAPING}),
        ("asymre", {*MODE, *PPO}),
        ("topr", {*MODE, *PPO, *SHAPING}),
        ("rent", {*SHAPING, "algo.kl.use_loss", "algo.kl.init_coef", "algo.kl.estimator"}),
        ("spo", {*CLIP_BOTH, *MODE, "train.async_enable"}),
        ("reinforce_ada", {*CLIP_BOTH, *MODE}),
        ("group_norm", set()),
        ("no_such", set()),
        (None, set()),
        ("own", {*PPO, *SHAPING, "train.max_epochs", "algo.kl.estimator", "train.async_enable"}),
    ],
)
def test_in_what_a_profile_made_for_another_method_has_no_say(name, decided, parsed, tmp_path):
    path = None
    if name == "own":
        (tmp_path / "mine.py").write_text(OWN)
        name, path = "lens", f"{tmp_path / 'mine.py'}:Mine"
    overruled = overruled_by((name, path))
    mine, known = "custom" if path else name, names()
    options = {option for option in flatten(parsed) if not option.startswith(tuple(f"algo.{n}." for n in known))}
    others = {f"algo.{other}.option" for other in known if other != mine}
    options |= others | {f"algo.{mine}.option", "algo.lens.estimator_path"}
    assert {option for option in options if overruled(option)} == decided | others


ESTIMATOR, KL = "algo.advantage.estimator", "algo.kl.init_coef"


@pytest.fixture
def chosen(parsed):
    """chosen(name, given={option: value}, offered={}) -> what `choose` changes of the options, and leaves."""

    def run(name: str, given: dict | None = None, offered: dict | None = None, **values) -> dict:
        given = given or {}
        before = flatten(parsed) | {KL: 0.01, ESTIMATOR: name, "algo.lens.estimator_path": None} | values | given
        before |= {"algo.lens.enabled": None, "algo.lens.estimator": None}
        after = dict(before)
        choose(after, set(given), {name: find(name) for name in names()} | (offered or {}))
        assert after.keys() == before.keys()
        return {option: value for option, value in after.items() if value != before[option]}

    return run


ON = {"algo.lens.enabled": True, ESTIMATOR: "group_norm", KL: 0.0}
WIDER = {CLIPS: [0.2, 0.28]}
TOKENS = {"actor.loss_agg_mode": "token-mean"}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("lens", {}),
        ("ngrpo", {CLIPS: [0.16, 0.24]}),
        (
            "dapo",
            {"algo.dynamic_filtering_enable": True, "algo.dynamic_filtering_range": [0.0, 1.0], **WIDER, **TOKENS},
        ),
        ("topr", TOKENS),
        ("rent", {"algo.kl.use_loss": True, KL: 0.001, "algo.kl.estimator": "k3"}),
        ("spo", {**WIDER, **TOKENS}),
        ("reinforce_ada", {**WIDER, **TOKENS, "rollout.n_samples_per_prompt": 4}),
    ],
)
def test_all_that_a_method_changes(chosen, name, changed):
    other = {"actor.loss_agg_mode": "seq-mean-token-mean", "rollout.n_samples_per_prompt": 8}
    assert chosen(name, **other) == {**ON, "algo.lens.estimator": name, **changed}
    given = {option: value for option, value in changed.items() if not option.startswith("algo.dynamic")}
    assert chosen(name, {**given, KL: 0.0}) | {KL: 0.0} == {
        **ON,
        "algo.lens.estimator": name,
        **{option: value for option, value in changed.items() if option not in given},
    }, "what is given as it would be stays"


def test_what_is_given_wins_over_a_methods_default(chosen):
    given = {"actor.loss_agg_mode": "seq-mean", KL: 0.0, CLIPS: [0.1, 0.1], "rollout.n_samples_per_prompt": 2}
    assert chosen("reinforce_ada", given) == {
        **{"algo.lens.enabled": True, ESTIMATOR: "group_norm", "algo.lens.estimator": "reinforce_ada"}
    }
    assert CLIPS not in chosen("reinforce_ada", {"actor.eps_clip": 0.1})


def test_one_answer_a_prompt_has_another_placeholder(chosen):
    assert chosen("spo", **{"rollout.n_samples_per_prompt": 1})[ESTIMATOR] == "reinforce"
    assert chosen("spo", **{"rollout.n_samples_per_prompt": 2})[ESTIMATOR] == "group_norm"


def test_openrlhfs_own_are_left_alone(chosen):
    assert chosen("rloo") == {"algo.lens.enabled": False, "algo.lens.estimator": "rloo"}


@pytest.mark.parametrize("named", ["lens", "custom", None])
def test_a_file_of_ones_own_is_the_estimator(chosen, named):
    class Mine(Estimator):
        source = "mine.py"

    values = {"algo.lens.estimator_path": "mine.py:Mine"}
    given = {ESTIMATOR: named} if named else {}
    found = chosen(named or "gae", given, {"custom": Mine}, **values)
    assert found == {**ON, "algo.lens.estimator": "custom"}
    with pytest.raises(OptionError) as caught:
        chosen("grpo", {ESTIMATOR: "grpo"}, {"custom": Mine}, **values)
    assert (
        str(caught.value)
        == f"--{ESTIMATOR} grpo: --algo.lens.estimator_path mine.py:Mine is another one; leave one out"
    )


@pytest.mark.parametrize("name", ["lens", "grpo", "rloo"])
def test_options_of_another_estimator_have_no_effect(chosen, name):
    others = ["algo.lens.scope", "algo.lens.alpha", "algo.lens.confidence", "algo.lens.preference", "algo.lens.gamma"]
    if name == "lens":
        others = [other.replace("lens", "ngrpo") for other in others]
        assert chosen(name, {"algo.lens.alpha": 0.3})
    given = dict.fromkeys(others) | {"algo.lens.estimator_path": None}
    with pytest.raises(OptionError) as caught:
        chosen(name, given)
    assert str(caught.value) == f"--{min(others)} has no effect with --{ESTIMATOR} {name}"


RANGE = "algo.dynamic_filtering_range"
FILTER = {"algo.dynamic_filtering_enable": True}


@pytest.mark.parametrize(
    ("name", "fine", "refused", "told"),
    [
        (
            "lens",
            {"rollout.n_samples_per_prompt": 2},
            {"rollout.n_samples_per_prompt": 1},
            "rollout.n_samples_per_prompt 1: the lens estimator compares the answers to one prompt, and so few teach",
        ),
        ("lens", {KL: 0}, {KL: 1e-9}, "algo.kl.init_coef 1e-09: this adds a KL term to the reward, which the lens"),
        ("lens", {KL: 0.1, "algo.kl.use_loss": True}, {KL: 0.1}, "algo.kl.init_coef 0.1: this adds a KL term"),
        (
            "lens",
            {**FILTER, RANGE: (-1e-9, 1)},
            {**FILTER, RANGE: (0.0, 0.5)},
            "algo.dynamic_filtering_enable with --algo.dynamic_filtering_range 0 0.5 drops every group whose .* lens",
        ),
        ("lens", {RANGE: (0.0, 0.5)}, {**FILTER, RANGE: (0.0, 0.5)}, "algo.dynamic_filtering_enable with"),
        (
            "dapo",
            {**FILTER, RANGE: [0.0, 1.0]},
            {**FILTER, RANGE: [0.0, 0.9]},
            r"algo.dynamic_filtering_range \[0.0, 0.9\]: DAPO samples other .*; use \[0.0, 1.0\] with .* dapo",
        ),
        (
            "dapo",
            {"algo.dynamic_filtering_enable": True},
            {"algo.dynamic_filtering_enable": False},
            "algo.dynamic_filtering_enable False: DAPO samples other .*; use True with",
        ),
        ("lens", {"critic.freezing_steps": -1}, {"critic.freezing_steps": 0}, "critic.freezing_steps 0: the lens esti"),
        (
            "lens",
            {"algo.advantage.no_std_norm": False},
            {"algo.advantage.no_std_norm": True},
            "algo.advantage.no_std_norm has no effect with the lens estimator",
        ),
        (
            "lens",
            {"algo.advantage.gamma": 1.0},
            {"algo.advantage.gamma": 0.99},
            "algo.advantage.gamma 0.99: the lens estimator does not discount; use 1",
        ),
        (
            "topr",
            {"actor.policy_loss_type": "ppo", "actor.dual_clip": None, "algo.advantage.is_correction_level": "off"},
            {"actor.dual_clip": 3.0},
            "actor.dual_clip 3.0: the topr estimator brings a policy loss of its own; leave it out",
        ),
        ("grpo", {"actor.dual_clip": 3.0}, {"algo.advantage.no_std_norm": True}, "algo.advantage.no_std_norm has no"),
        ("grpo", {"reward.overlong_buffer_len": 3}, {"critic.freezing_steps": 3}, "critic.freezing_steps 3: the grpo"),
    ],
)
def test_what_would_quietly_spoil_a_method(chosen, name, fine, refused, told):
    assert chosen(name, fine)["algo.lens.enabled"] is True
    with pytest.raises(OptionError, match=f"^--{told}"):
        chosen(name, refused)


def test_groups_that_teach_nothing_may_be_filtered(chosen):
    assert chosen("grpo", {**FILTER, RANGE: (0.0, 1.0)})["algo.lens.enabled"]
    assert chosen("spo", {"rollout.n_samples_per_prompt": 1})["algo.lens.enabled"]


def test_a_discount_that_nobody_gave_is_no_fault(chosen):
    assert chosen("lens", **{"algo.advantage.gamma": 0.9})["algo.lens.enabled"]


@pytest.mark.parametrize(
    ("values", "fine"),
    [
        ({"reward.remote_url": ["r.py"], "train.agent_func_path": None}, True),
        ({"reward.remote_url": None, "train.agent_func_path": "a.py"}, True),
        ({"reward.remote_url": None, "train.agent_func_path": None}, False),
    ],
)
def test_a_verifier_is_needed(chosen, values, fine):
    if fine:
        assert chosen("lens", **values)["algo.lens.enabled"]
        return
    for name, what in (
        ("lens", "needs the raw correctness of every answer"),
        ("rent", "does not learn from a verifier, but the records tell right answers by one"),
    ):
        with pytest.raises(OptionError) as caught:
            chosen(name, **values)
        assert str(caught.value).startswith(f"the {name} estimator {what}, which a reward model does not give; use")


def test_an_estimator_that_decides_what_openrlhf_does_not_have(chosen):
    class Asks(Estimator):
        source = "mine.py"
        defaults = {"train.seed": 1}
        requires = {"no.such.option": (1, "it is so")}

    with pytest.raises(OptionError, match="OpenRLHF has no option no.such.option, which it decides$"):
        chosen("gae", {}, {"custom": Asks}, **{"algo.lens.estimator_path": "mine.py:Asks"})


def test_what_an_estimator_refuses_is_told_with_its_option_and_file(chosen):
    from dataclasses import dataclass

    class Mine(Estimator):
        source = "mine.py"

        @dataclass
        class Config:
            size: float = 0.5

            def __post_init__(self):
                if self.size == 7:
                    raise KeyError("seven")
                if self.size > 1:
                    raise ValueError(f"size={self.size}: use less")

    values = {"algo.lens.estimator_path": "mine.py:Mine"}
    assert chosen("gae", {}, {"custom": Mine}, **{"algo.custom.size": 1.0}, **values)["algo.lens.enabled"]
    with pytest.raises(OptionError, match=r"^--algo.custom.size=2.0: use less \(mine.py\)$"):
        chosen("gae", {"algo.custom.size": 2.0}, {"custom": Mine}, **values)
    with pytest.raises(OptionError, match=r"^estimator custom \(mine.py\): its Config raised KeyError: 'seven'$"):
        chosen("gae", {"algo.custom.size": 7.0}, {"custom": Mine}, **values)
    with pytest.raises(OptionError, match=r"^--algo.lens.alpha=-1.0: expected .* [(]the paper uses 0.25[)]$"):
        chosen("lens", {"algo.lens.alpha": -1.0})


def test_the_estimator_of_parsed_arguments_is_made_by_name_or_from_its_file(parse, tmp_path):
    from lens_openrlhf.training.commandline.estimator import make_estimator, step_scorer

    lens = make_estimator(parse("--algo.lens.alpha", "0.5"))
    assert (lens.name, lens.config.alpha) == ("lens", 0.5)
    assert make_estimator(parse(estimator="rloo")) is None
    (tmp_path / "own.py").write_text("def own(batch):\n    return batch.rewards\n\ndef share(*row):\n    return 0.5\n")
    args = parse("--algo.lens.estimator_path", f"{tmp_path}/own.py:own")
    assert make_estimator(args).source == f"{tmp_path}/own.py"
    assert step_scorer(args, None) is step_scorer(args, lens) is None
    args = parse("--algo.spectral.scorer", f"{tmp_path}/own.py:share", estimator="spectral")
    scorer = step_scorer(args, make_estimator(args))
    assert scorer("a", "b", "c") == 0.5 and scorer.named == f"--algo.spectral.scorer {tmp_path}/own.py:share"
