"""The advantage estimator among the options: which one a command line chooses, what it asks of the others, and making
it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ...advantages import estimators
from ...advantages.estimators import Estimator, EstimatorError
from ...inputs import MATH_VERIFY, OptionError
from ...process import complain
from .records import CHOSEN, ENABLED, ESTIMATOR, ESTIMATOR_PATH, flatten
from .step_scorer import StepScorer, load_scorer

# What OpenRLHF computes while ours is on; the actor replaces its advantages (actor.py).
PLACEHOLDER_ESTIMATOR, PLACEHOLDER_FOR_SINGLES = "group_norm", "reinforce"
CLIP, CLIP_PAIR = "actor.eps_clip", "actor.eps_clip_low_high"  # OpenRLHF reads the first only without the second
# What a policy loss of an estimator's own leaves without effect, and OpenRLHF's defaults.
PPO_OPTIONS = {"actor.policy_loss_type": "ppo", "actor.dual_clip": None, "algo.advantage.is_correction_level": "off"}
SHAPING = ("reward.overlong_buffer_len", "reward.stop_properly_penalty_coef")  # without effect on a raw outcome


def method_in(words: Sequence[str]) -> tuple[str | None, str | None]:
    """The estimator that a command line names, and the file of one's own; None where it does not."""
    probe = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in (ESTIMATOR, ESTIMATOR_PATH):
        shortest = option.index("estimator") + 1  # no other option begins with algo.advantage.e or algo.lens.e
        probe.add_argument(*(f"--{option[:end]}" for end in range(len(option), shortest - 1, -1)), dest=option)
    try:
        found = vars(probe.parse_known_args(words)[0])
    except argparse.ArgumentError:  # without a value, which the parser will say
        return None, None
    return found[ESTIMATOR], found[ESTIMATOR_PATH]


def _refused_by(kind: type[Estimator]) -> dict[str, str]:
    """{option: why} of what has no effect on an estimator, or spoils it."""
    refused: dict[str, str] = {}
    if not (kind.verified and kind.reads_reward):
        refused |= dict.fromkeys(SHAPING, "shapes the reward, which the estimator does not read")
    if kind.sampling == "by_weight":
        refused["train.async_enable"] = "the estimator draws prompts by what the step before has taught of them"
    return refused


def overruled_by(method: tuple[str | None, str | None]) -> Callable[[str], bool]:
    """Whether a profile made for another method has no say in an option (dotted name): those that this one decides,
    and the other's own.

    How many answers a prompt has is a matter of size and stays the profile's.
    """
    name, path = method
    try:
        kind = estimators.from_path(path) if path else estimators.find(name or "")
        decided = {*kind.defaults, *kind.requires} - {"rollout.n_samples_per_prompt"}
    except EstimatorError:  # OpenRLHF's own, or what the parser will refuse
        decided, kind = set(), Estimator
    if kind.policy_loss != "ppo":
        decided |= {CLIP, CLIP_PAIR, *PPO_OPTIONS}
    decided |= {*_refused_by(kind)}
    if CLIP_PAIR in decided:
        decided.add(CLIP)
    mine = estimators.CUSTOM if path else name
    others = tuple(f"algo.{other}." for other in estimators.names() if other != mine)
    return lambda option: option in decided or (option.startswith(others) and option != ESTIMATOR_PATH)


def offered_estimators(chosen: str | None, path: str | None) -> dict[str, type[Estimator]]:
    """All estimators by name, and the one of a user's own file. One of another package that cannot be loaded is left
    out with a warning, unless it was chosen; and one whose name is taken.

    Raises:
        OptionError: the chosen one cannot be loaded.
    """
    found = {}
    for place in estimators.left_out():
        complain(f"warning: an installed estimator is left out: {place}: the name is taken")
    for name in estimators.names():
        try:
            found[name] = estimators.find(name)
        except EstimatorError as error:
            if name == chosen:
                raise OptionError(f"--{ESTIMATOR} {error}") from None
            complain(f"warning: an installed estimator is left out: {error}")
    try:
        return found | ({estimators.CUSTOM: estimators.from_path(path)} if path else {})
    except EstimatorError as error:
        raise OptionError(f"--{ESTIMATOR_PATH} {error}") from None


def choose(values: dict[str, Any], given: set[str], offered: Mapping[str, type[Estimator]]) -> None:
    """Put the chosen estimator's name and its defaults into the options, and for OpenRLHF what stands for it.

    Args:
        values: all options by dotted name.
        given: those that the user gave.
        offered: see :func:`offered_estimators`.

    Raises:
        OptionError: two estimators, options of another one, or what would quietly spoil the chosen one.
    """
    name = values[ESTIMATOR]
    if values[ESTIMATOR_PATH]:
        if ESTIMATOR in given and name not in (estimators.CUSTOM, "lens"):  # lens: as profiles have it
            raise OptionError(
                f"--{ESTIMATOR} {name}: --{ESTIMATOR_PATH} {values[ESTIMATOR_PATH]} is another one; leave one out"
            )
        name = estimators.CUSTOM
    for other in offered:
        stray = sorted(o for o in given if o.startswith(f"algo.{other}.") and other != name and o != ESTIMATOR_PATH)
        if stray:
            raise OptionError(f"--{stray[0]} has no effect with --{ESTIMATOR} {name}")
    values[ENABLED] = name in offered
    values[CHOSEN] = name
    if values[ENABLED]:
        _decide(values, given, name, offered[name])
        single = values["rollout.n_samples_per_prompt"] == 1
        values[ESTIMATOR] = PLACEHOLDER_FOR_SINGLES if single else PLACEHOLDER_ESTIMATOR


def _decide(values: dict[str, Any], given: set[str], name: str, kind: type[Estimator]) -> None:
    """Give options the estimator's own defaults, and refuse what it cannot work with."""
    try:
        estimator = estimators.made(kind, _config(values.get, name, kind))
    except EstimatorError as error:
        raise OptionError(str(error)) from None
    except ValueError as error:
        place = f" ({kind.source})" if hasattr(kind, "source") else ""
        raise OptionError(f"--algo.{name}.{error}{place}") from None
    unknown = [option for option in [*kind.defaults, *kind.requires] if option not in values]
    if unknown:
        raise OptionError(f"{estimators.described(estimator)}: OpenRLHF has no option {unknown[0]}, which it decides")
    if "algo.kl.init_coef" not in given:
        values["algo.kl.init_coef"] = 0.0
    for option, value in kind.defaults.items():
        if option not in given and not (option == CLIP_PAIR and CLIP in given):
            values[option] = value
    for option, (value, reason) in kind.requires.items():
        if option in given and values[option] != value:
            raise OptionError(f"--{option} {values[option]}: {reason}; use {value} with --{ESTIMATOR} {name}")
        values[option] = value
    for option, reason in _refused_by(kind).items():
        if option in given:
            raise OptionError(f"--{option} with --{ESTIMATOR} {name}: {reason}; leave it out")
    _refuse_what_spoils(values, given, estimator, name)


def _refuse_what_spoils(values: Mapping[str, Any], given: set[str], estimator: Estimator, name: str) -> None:
    get: Callable[[str], Any] = values.get
    kind = type(estimator)
    samples = get("rollout.n_samples_per_prompt")
    if samples < estimator.least_answers:
        raise OptionError(
            f"--rollout.n_samples_per_prompt {samples}: the {name} estimator compares the answers to one prompt, and "
            f"so few teach it nothing; use at least {estimator.least_answers} (the paper of LENS: 16)"
        )
    kl = get("algo.kl.init_coef")
    if kl > 0 and not get("algo.kl.use_loss"):
        raise OptionError(
            f"--algo.kl.init_coef {kl}: this adds a KL term to the reward, which the {name} estimator does not see; "
            "use 0 (the default with it), or --algo.kl.use_loss to have the KL in the loss"
        )
    low, high = get("algo.dynamic_filtering_range")
    if get("algo.dynamic_filtering_enable") and low >= 0 and kind.learns_from_negative_groups:
        raise OptionError(
            f"--algo.dynamic_filtering_enable with --algo.dynamic_filtering_range {low:g} {high:g} drops every "
            f"group whose answers are all wrong, groups that {name} learns from; leave dynamic filtering off, or "
            "use a range that begins below 0, such as -1 1"
        )
    if not get("reward.remote_url") and not get("train.agent_func_path"):
        what = (
            "needs the raw correctness of every answer"
            if kind.verified
            else "does not learn from a verifier, but the records tell right answers by one"
        )
        raise OptionError(
            f"the {name} estimator {what}, which a reward model does not give; use --reward.remote_url {MATH_VERIFY} "
            "(or a verifier of your own) or --train.agent_func_path"
        )
    freezing = get("critic.freezing_steps")
    if freezing >= 0:
        raise OptionError(
            f"--critic.freezing_steps {freezing}: the {name} estimator has no critic to warm up, and the actor would "
            "collect samples without learning from them; leave the option out"
        )
    if get("algo.advantage.no_std_norm"):
        raise OptionError(f"--algo.advantage.no_std_norm has no effect with the {name} estimator; leave the option out")
    gamma = get("algo.advantage.gamma")
    if "algo.advantage.gamma" in given and gamma != 1.0:
        raise OptionError(f"--algo.advantage.gamma {gamma}: the {name} estimator does not discount; use 1")
    if kind.policy_loss != "ppo":
        for option in (CLIP, CLIP_PAIR, *PPO_OPTIONS):
            if option in given and values[option] != PPO_OPTIONS.get(option, ...):
                raise OptionError(
                    f"--{option} {values[option]}: the {name} estimator brings a policy loss of its own; leave it out"
                )


def _config(get: Callable[[str], Any], name: str, kind: type[Estimator]) -> dict:
    return {option.name: get(f"algo.{name}.{option.name}") for option in kind.options()}


def make_estimator(args: SimpleNamespace) -> Estimator | None:
    """The estimator in parsed arguments, or None if one of OpenRLHF's was chosen.

    Raises:
        EstimatorError: the file of a user's own is not there, on another machine, say.
    """
    lens = args.algo.lens
    if not lens.enabled:
        return None
    path = lens.estimator_path
    kind = estimators.from_path(path) if path else estimators.find(lens.estimator)
    return estimators.made(kind, _config(flatten(args).get, lens.estimator, kind))


def step_scorer(args: SimpleNamespace, estimator: Estimator | None) -> StepScorer | None:
    """The user's function that grades the steps of wrong answers, where the estimator asks for it.

    Raises:
        OptionError: see :func:`step_scorer.load_scorer`.
    """
    if estimator is None or estimator.sampling != "scored":
        return None
    return load_scorer(estimator.config.scorer, f"--algo.{args.algo.lens.estimator}.scorer")
