"""OpenRLHF's command line with LENS's options in it.

OpenRLHF's own parser and checks are run (openrlhf_command.py) with one name exchanged: its ArgumentParser is the
subclass below, which adds our options to OpenRLHF's and checks them before OpenRLHF's own checks run. Nothing here
imports torch, so that a refusal does not wait for it.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from ... import cpu_runtime
from ...advantages import estimators
from ...advantages.estimators import Estimator, EstimatorError
from ...advantages.lazily import torch
from ...inputs import CODE_OPTION, MATH_VERIFY, OptionError, add_fields, data_names, place_and_split
from ...process import complain
from . import openrlhf_command
from .step_scorer import StepScorer, load_scorer

ESTIMATOR, ESTIMATOR_PATH = "algo.advantage.estimator", "algo.lens.estimator_path"
# Set by the parser: whether an estimator of ours was chosen, and its name.
ENABLED, CHOSEN = "algo.lens.enabled", "algo.lens.estimator"
MATH_VERIFY_FILE = Path(__file__).parents[2] / "rewards" / "math_verify_reward.py"
# What OpenRLHF computes while ours is on; the actor replaces its advantages (actor.py).
PLACEHOLDER_ESTIMATOR, PLACEHOLDER_FOR_SINGLES = "group_norm", "reinforce"

CLIP, CLIP_PAIR = "actor.eps_clip", "actor.eps_clip_low_high"  # OpenRLHF reads the first only without the second
# What a policy loss of an estimator's own leaves without effect, and OpenRLHF's defaults.
PPO_OPTIONS = {"actor.policy_loss_type": "ppo", "actor.dual_clip": None, "algo.advantage.is_correction_level": "off"}

SHAPING = ("reward.overlong_buffer_len", "reward.stop_properly_penalty_coef")  # without effect on a raw outcome

SECRETS = ("logger.wandb.key",)
HIDDEN = "(not recorded)"

LARGEST = 2**63 - 1  # what tensors and Ray can count with
# Of which there must be one at least.
COUNTS = (
    *("train.batch_size", "train.micro_batch_size", "train.num_episodes", "rollout.batch_size"),
    *("rollout.micro_batch_size", "rollout.n_samples_per_prompt", "rollout.max_new_tokens"),
    *("rollout.vllm_generate_batch_size", "data.max_len", "data.max_samples"),
    *("eval.n_samples_per_prompt", "eval.max_samples"),
    *("ds.ring_attn_size", "ds.tensor_parallel_size", "vllm.tensor_parallel_size"),
)

# OpenRLHF's defaults that mean CUDA, and what they become without it.
CPU_DEFAULTS = {
    "ds.attn_implementation": "sdpa",
    "vllm.sync_backend": "gloo",
    "vllm.enforce_eager": True,
    "vllm.gpu_memory_utilization": 0.1,
}
# What a step has without CUDA where the user names no size; OpenRLHF's are for eight GPUs.
CPU_PROMPTS, CPU_NEW_TOKENS, CPU_LENGTH = 8, 256, 1024
CPU_MICRO_BATCH = 4  # a pass over one answer takes hardly less time than over four: every weight is read and added to
# What actor and vLLM take turns with on the same GPUs.
IN_TURNS = {"vllm.enable_sleep": True, "ds.enable_sleep": True, "vllm.gpu_memory_utilization": 0.6}


class NeedsCuda(OptionError):
    """Options that can work, but not on a machine without CUDA."""


def _fail(message: str) -> NoReturn:
    raise OptionError(message)


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
    refused = {}
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
        kind = estimators.from_path(path) if path else estimators.find(name)
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


def _offered(chosen: str | None, path: str | None) -> dict[str, type[Estimator]]:
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
                _fail(f"--{ESTIMATOR} {error}")
            complain(f"warning: an installed estimator is left out: {error}")
    try:
        return found | ({estimators.CUSTOM: estimators.from_path(path)} if path else {})
    except EstimatorError as error:
        _fail(f"--{ESTIMATOR_PATH} {error}")


def _add_options(parser: argparse.ArgumentParser, offered: dict[str, type[Estimator]]) -> None:
    estimator = next(a for a in parser._actions if a.dest == ESTIMATOR)
    estimator.choices = [*offered, *estimator.choices]
    reward = next(a for a in parser._actions if a.dest == "reward.remote_url")
    reward.help += f"; or a .py file with a reward_func; or {MATH_VERIFY}: answers checked by Math-Verify"
    estimator.help += "; lens: learns from groups in which every answer is wrong (--algo.lens.*)"
    for name, kind in offered.items():
        add_fields(parser, f"{kind.paper or name} (with --{ESTIMATOR} {name})", name, kind.options())
    group = parser.add_argument_group("an estimator of your own")
    group.add_argument(
        f"--{ESTIMATOR_PATH}",
        default=None,
        metavar="FILE.py:NAME",
        help="a function of a batch, or an Estimator subclass, that gives the advantages (docs/estimators.md)",
    )
    group = parser.add_argument_group("trust")
    group.add_argument(
        CODE_OPTION,
        action="store_true",
        help="run Python code that a model brings along (auto_map in its config.json); without it such a model is "
        "refused",
    )
    parser.add_argument_group(
        "profiles and dry runs",
        "--profile NAME stands for the options in examples/scripts/profiles/NAME.args, or in a .args file; options "
        "that follow win. --gpus N gives a profile its size. --dry_run checks everything, prints the plan with steps "
        "and memory, and starts nothing; --gpu_memory_gib G plans it for GPUs of that size (default: this machine's, "
        "or 79).",
    )
    group = parser.add_argument_group("the run")
    group.add_argument(
        "--logger.run_dir",
        default=None,
        help="folder of the run: config.json, metrics.jsonl, train.log, tensorboard/, checkpoints/ and model/ "
        "(default: runs/<time>-<model>)",
    )
    group.add_argument(
        "--logger.console",
        choices=["progress", "full"],
        default="progress",
        help="progress: a line a step, everything else goes to train.log in the run folder; full: everything here too",
    )
    group.add_argument(
        "--logger.sample_prompts",
        type=int,
        default=4,
        help="of so many prompts a step the texts of all answers are kept in samples/, numbers of every answer; "
        "-1 keeps nothing (default: 4)",
    )
    group.add_argument(
        "--reward.timeout",
        type=float,
        default=60,
        help="seconds that a reward function or server may take for an answer, or an agent for a step; more ends the "
        "run (default: 60)",
    )
    group.add_argument("--eval.at_start", action="store_true", help="also evaluate before the first step")
    group.add_argument("--eval.at_end", action="store_true", help="also evaluate after the last step")
    group.add_argument(
        "--eval.k",
        type=int,
        nargs="+",
        default=None,
        help="report Pass@k for these k (default: the powers of two up to --eval.n_samples_per_prompt)",
    )
    group.add_argument(
        "--eval.max_samples",
        type=int,
        default=None,
        help="evaluate on so many prompts (default: all; --data.max_samples cuts the training data alone)",
    )
    group.add_argument(
        "--eval.split_by",
        nargs="+",
        default=None,
        help="columns of --eval.dataset to report Pass@k by (default: those of level, source, datasource, type that "
        "it has)",
    )


def _given(parser: argparse.ArgumentParser, argv: Sequence[str]) -> set[str]:
    """Destinations of the options that stand in `argv`, however they are abbreviated."""
    probe = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        copy = argparse.Namespace(**vars(action))
        nargs = 0 if action.nargs == 0 else action.nargs
        if nargs == 0:
            probe.add_argument(*copy.option_strings, dest=copy.dest, action="store_true", default=argparse.SUPPRESS)
        else:
            probe.add_argument(*copy.option_strings, dest=copy.dest, nargs=nargs)
    return set(vars(probe.parse_known_args(argv)[0]))


def _configure(values: dict, given: set[str], name: str, kind: type[Estimator]) -> None:
    """Give options the estimator's own defaults, and refuse what would quietly spoil it.

    Args:
        values: all options by dotted name.
        given: those that the user gave.
    """
    try:
        estimator = estimators.made(kind, _config(values.get, name, kind))
    except EstimatorError as error:
        _fail(str(error))
    except ValueError as error:
        _fail(f"--algo.{name}.{error}" + (f" ({kind.source})" if hasattr(kind, "source") else ""))
    unknown = [option for option in [*kind.defaults, *kind.requires] if option not in values]
    if unknown:
        _fail(f"{estimators.described(estimator)}: OpenRLHF has no option {unknown[0]}, which it decides")
    if "algo.kl.init_coef" not in given:
        values["algo.kl.init_coef"] = 0.0
    for option, value in kind.defaults.items():
        if option not in given and not (option == CLIP_PAIR and CLIP in given):
            values[option] = value
    for option, (value, reason) in kind.requires.items():
        if option in given and values[option] != value:
            _fail(f"--{option} {values[option]}: {reason}; use {value} with --{ESTIMATOR} {name}")
        values[option] = value
    for option, reason in _refused_by(kind).items():
        if option in given:
            _fail(f"--{option} with --{ESTIMATOR} {name}: {reason}; leave it out")
    get = values.get
    samples = get("rollout.n_samples_per_prompt")
    if samples < estimator.least_answers:
        _fail(
            f"--rollout.n_samples_per_prompt {samples}: the {name} estimator compares the answers to one prompt, and "
            f"so few teach it nothing; use at least {estimator.least_answers} (the paper of LENS: 16)"
        )
    kl = get("algo.kl.init_coef")
    if kl > 0 and not get("algo.kl.use_loss"):
        _fail(
            f"--algo.kl.init_coef {kl}: this adds a KL term to the reward, which the {name} estimator does not see; "
            "use 0 (the default with it), or --algo.kl.use_loss to have the KL in the loss"
        )
    low, high = get("algo.dynamic_filtering_range")
    if get("algo.dynamic_filtering_enable") and low >= 0 and kind.learns_from_negative_groups:
        _fail(
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
        _fail(
            f"the {name} estimator {what}, which a reward model does not give; use --reward.remote_url {MATH_VERIFY} "
            "(or a verifier of your own) or --train.agent_func_path"
        )
    freezing = get("critic.freezing_steps")
    if freezing >= 0:
        _fail(
            f"--critic.freezing_steps {freezing}: the {name} estimator has no critic to warm up, and the actor would "
            "collect samples without learning from them; leave the option out"
        )
    if get("algo.advantage.no_std_norm"):
        _fail(f"--algo.advantage.no_std_norm has no effect with the {name} estimator; leave the option out")
    gamma = get("algo.advantage.gamma")
    if "algo.advantage.gamma" in given and gamma != 1.0:
        _fail(f"--algo.advantage.gamma {gamma}: the {name} estimator does not discount; use 1")
    if kind.policy_loss != "ppo":
        for option in (CLIP, CLIP_PAIR, *PPO_OPTIONS):
            if option in given and values[option] != PPO_OPTIONS.get(option, ...):
                _fail(
                    f"--{option} {values[option]}: the {name} estimator brings a policy loss of its own; leave it out"
                )


def _config(get, name: str, kind: type[Estimator]) -> dict:
    return {option.name: get(f"algo.{name}.{option.name}") for option in kind.options()}


def _check_lora(get) -> None:
    """Adapters are merged into the weights that vLLM gets, which must be whole and unpacked for that."""
    if get("ds.lora.rank") <= 0:
        return
    for spoiled, what in (
        (get("ds.zero_stage") == 3, "--ds.zero_stage 3 splits every weight over the ranks; use 2"),
        (get("ds.load_in_4bit"), "--ds.load_in_4bit packs them; leave it out"),
        (get("ds.tensor_parallel_size") > 1, "--ds.tensor_parallel_size splits them; use 1"),
        (get("train.enable_ema"), "--train.enable_ema would average the weights without them; leave it out"),
    ):
        if spoiled:
            _fail(
                f"--ds.lora.rank {get('ds.lora.rank')}: adapters are merged into the weights that vLLM gets, but {what}"
            )


def _check_cpu(get) -> None:
    """Refuse what cannot work without CUDA."""
    refusals = {
        "vllm.enable_sleep": "vLLM's sleep mode needs CUDA",
        "ds.use_liger_kernel": "the Liger kernels need CUDA",
        "ds.load_in_4bit": "4-bit loading needs CUDA",
        "ds.deepcompile": "DeepCompile needs CUDA",
        "vllm.sync_with_ray": "Ray's gloo collectives fail beside DeepSpeed's process group",
    }
    for name, reason in refusals.items():
        if get(name):
            raise NeedsCuda(f"--{name}: {reason}, and this machine has none; leave the option out")
    if "flash" in get("ds.attn_implementation"):
        raise NeedsCuda(
            f"--ds.attn_implementation {get('ds.attn_implementation')}: flash attention needs CUDA; leave it out (sdpa)"
        )
    if get("vllm.sync_backend") != "gloo":
        raise NeedsCuda(f"--vllm.sync_backend {get('vllm.sync_backend')}: needs CUDA; leave the option out (gloo)")
    if get("ds.enable_sleep") and get("ds.zero_stage") == 3:
        raise NeedsCuda(
            "--ds.enable_sleep with --ds.zero_stage 3: needs DeepSpeed's fused Adam, and that needs CUDA; leave one out"
        )
    for name in ("ds.ring_attn_size", "ds.tensor_parallel_size", "vllm.tensor_parallel_size"):
        if get(name) > 1:
            raise NeedsCuda(f"--{name} {get(name)}: splitting a model over devices needs CUDA; use 1")
    for name in ("actor.num_nodes", "ref.num_nodes", "reward.num_nodes", "critic.num_nodes"):
        if get(name, 1) > 1:
            raise NeedsCuda(f"--{name} {get(name)}: the CPU runtime uses one machine; use 1")


def _sizes_here(values: dict, given: set[str], on_cpu: bool, there: int | None) -> dict[str, object]:
    """Options that the user left to us, so that the run suits this machine: {option: value}, in the order to be told.
    What OpenRLHF's defaults can do here stays as it is.

    Args:
        values: all options by dotted name; the sizes are put into it.
        given: those that the user gave.
        there: GPUs that are visible; None where others are used, or none.
    """
    chosen = {}

    def choose(option: str, value: object) -> None:
        if option not in given and values[option] != value:
            chosen[option] = values[option] = value

    together = values["vllm.num_engines"] is None
    if on_cpu or together or "actor.num_gpus_per_node" not in given:
        _choose_gpus(values, given, on_cpu, there, choose)
    if on_cpu or together or "actor.num_gpus_per_node" in chosen:
        for other in ("ref", "critic", "reward"):
            if f"{other}.num_gpus_per_node" not in given:
                values[f"{other}.num_gpus_per_node"] = values["actor.num_gpus_per_node"]
    _choose_batches(values, given, on_cpu, choose)
    if "data.max_len" not in given:
        # With a length of answers in the options a CPU's may leave no room for them.
        most = CPU_LENGTH if on_cpu and "rollout.max_new_tokens" not in given else values["data.max_len"]
        choose("data.max_len", min(most, _context(values["actor.model_name_or_path"]) or most))
    if on_cpu:
        choose("rollout.max_new_tokens", max(1, min(CPU_NEW_TOKENS, values["data.max_len"] // 2)))
    return chosen


def _choose_gpus(values: dict, given: set[str], on_cpu: bool, there: int | None, choose: Callable) -> None:
    """As many for the actor as its batches allow, on which vLLM takes turns with it; or, with engines whose number was
    given or that sample beside it, those that are left."""
    option, engines = "actor.num_gpus_per_node", values["vllm.num_engines"]
    parallel = values["vllm.tensor_parallel_size"]
    nodes, most = max(1, values["actor.num_nodes"]), 1 if on_cpu else min(values[option], there or values[option])
    beside, colocated = values["train.async_enable"], values["train.colocate_all"]
    # Models that have GPUs of their own, each as many as the actor.
    critic = values[ESTIMATOR] == "gae"
    reward = not (values["reward.remote_url"] or values["train.agent_func_path"])
    reference = values["algo.kl.init_coef"] > 0 and not values["train.colocate_actor_ref"]
    apart = reference + critic + (reward and not (critic and values["train.colocate_critic_reward"]))
    models = 1 + (0 if colocated else apart)
    shared, least = not beside and (engines is None or colocated), 1
    if engines is None and beside and not on_cpu:
        total = there or nodes * most
        most = min(most, total // nodes // (models + 1), (total - parallel) // nodes // models)
    elif engines is not None:
        left = None if there is None else (there - engines * parallel) // nodes // models
        if left is not None and left < 1 and not beside:
            shared = shared or engines * parallel <= there
        if shared:
            most = least = engines * parallel // nodes
        elif left is not None:
            most = min(most, left)
    batch, micro, copies = _fixed_batch(values, given), _micro_batch(values), _copies(values)

    def suits(gpus: int) -> bool:
        actor = nodes * gpus
        return not (actor % copies or (shared and actor % parallel) or batch % (actor // copies * micro))

    most, least = max(1, most), max(1, least)
    choose(option, next((gpus for gpus in range(most, least - 1, -1) if suits(gpus)), most))
    if engines is None:
        actor = values["actor.num_nodes"] * values[option]
        choose("vllm.num_engines", max(1, (actor if shared or not there else there - models * actor) // parallel))
    if shared and (engines is None or not colocated):
        choose("train.colocate_all", True)
        for name, value in {} if on_cpu else IN_TURNS.items():
            choose(name, value)


def _fixed_batch(values: dict, given: set[str]) -> int:
    """Samples that the ranks must divide, as the user gave them; 0 where they are for us to choose."""
    if "train.batch_size" in given:
        return values["train.batch_size"]
    samples = values["rollout.batch_size"] * values["rollout.n_samples_per_prompt"]
    return samples if "rollout.batch_size" in given else 0


def _micro_batch(values: Mapping[str, Any]) -> int:
    return 1 if values["train.dynamic_batch_enable"] else values["train.micro_batch_size"]


def _copies(values: Mapping[str, Any]) -> int:
    """GPUs that share a sequence."""
    return values["ds.ring_attn_size"] * values["ds.tensor_parallel_size"]


def _ranks(values: Mapping[str, Any]) -> int:
    """Data-parallel ranks."""
    return values["actor.num_nodes"] * values["actor.num_gpus_per_node"] // _copies(values)


def _choose_batches(values: dict, given: set[str], on_cpu: bool, choose: Callable) -> None:
    """Prompts and an update's samples that the ranks and their micro-batches divide, next to those of the defaults."""
    answers, batch, ranks = values["rollout.n_samples_per_prompt"], values["train.batch_size"], max(1, _ranks(values))
    micro = _micro_batch(values)
    smaller = on_cpu and not values["train.dynamic_batch_enable"]
    if smaller and "train.micro_batch_size" not in given:
        micro = math.gcd(CPU_MICRO_BATCH, _fixed_batch(values, given) // ranks)
    unit, is_given = ranks * micro, "train.batch_size" in given
    whole = math.lcm(answers, batch if is_given else unit) // answers
    choose("rollout.batch_size", whole * -(-(CPU_PROMPTS if on_cpu else values["rollout.batch_size"]) // whole))
    samples = values["rollout.batch_size"] * answers
    if not is_given:
        fitting = [n for n in range(unit, max(unit, 2 * batch) + 1, unit) if samples % n == 0]
        choose("train.batch_size", min(fitting, key=lambda n: abs(n - batch), default=samples))
    if smaller:
        choose("rollout.micro_batch_size", max(1, min(CPU_MICRO_BATCH, samples // ranks)))
        choose("train.micro_batch_size", micro)


def _context(model: str) -> int | None:
    """Tokens that a model takes, prompt and answer together; None where nothing here says so."""
    from .model_shape import find

    model = os.path.expanduser(model)
    if model.startswith((".", "/")) and not os.path.isdir(model):  # no name of the hub's; the preflight tells of it
        return None
    shape, _ = find(model)
    return shape.context if shape and shape.context > 0 else None


def _as_words(chosen: dict[str, object]) -> str:
    return " ".join(f"--{option}" if value is True else f"--{option} {value}" for option, value in chosen.items())


def _check_numbers(values: Mapping[str, Any]) -> None:
    """Numbers that can be of nothing; OpenRLHF divides by some of these."""
    for name, value in values.items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and math.isnan(number):
                _fail(f"--{name} nan: is no number; give one, or leave the option out")
            if isinstance(number, int) and abs(number) > LARGEST:
                _fail(f"--{name} {number}: is too large; use at most {LARGEST}")
    for name in COUNTS:
        if values.get(name) is not None and values[name] < 1:
            _fail(f"--{name} {values[name]}: use at least 1")


class LensArgumentParser(argparse.ArgumentParser):
    """OpenRLHF's parser, with LENS's options and checks."""

    argv: Sequence[str] = ()
    anywhere = False
    say: Callable[[str], None]

    @property
    def on_cpu(self) -> bool:
        return not self.anywhere and cpu_runtime.required()

    def error(self, message: str) -> NoReturn:
        """In one line, which argparse would put below the usage of 200 options."""
        unknown = [word for word in message.split() if word.startswith("--")] if "unrecognized" in message else []
        near = get_close_matches(unknown[0].partition("=")[0], self._option_string_actions, n=1) if unknown else []
        _fail(f"{message}; {f'did you mean {near[0]}? Else ' if near else ''}see lens-openrlhf train --help")

    def parse_args(self, args=None, namespace=None):
        self.prog = "lens-openrlhf train"
        offered = _offered(*method_in(self.argv))
        _add_options(self, offered)
        super().parse_args(self.argv)  # --help and misspelt options, before a torch for CUDA is asked for a GPU
        if self.on_cpu:
            self.set_defaults(**CPU_DEFAULTS)
        given = _given(self, self.argv)
        parsed = super().parse_args(self.argv)
        values = vars(parsed)
        if values["reward.remote_url"] == MATH_VERIFY:
            values["reward.remote_url"] = str(MATH_VERIFY_FILE)

        name = values[ESTIMATOR]
        if values[ESTIMATOR_PATH]:
            if ESTIMATOR in given and name not in (estimators.CUSTOM, "lens"):  # lens: as profiles have it
                _fail(
                    f"--{ESTIMATOR} {name}: --{ESTIMATOR_PATH} {values[ESTIMATOR_PATH]} is another one; leave one out"
                )
            name = estimators.CUSTOM
        for other in offered:
            stray = sorted(o for o in given if o.startswith(f"algo.{other}.") and other != name and o != ESTIMATOR_PATH)
            if stray:
                _fail(f"--{stray[0]} has no effect with --{ESTIMATOR} {name}")
        values[ENABLED] = name in offered
        values[CHOSEN] = name
        if values[ENABLED]:
            _configure(values, given, name, offered[name])
            single = values["rollout.n_samples_per_prompt"] == 1
            values[ESTIMATOR] = PLACEHOLDER_FOR_SINGLES if single else PLACEHOLDER_ESTIMATOR
        _check_numbers(values)
        _check_lora(values.get)
        if self.on_cpu:
            _check_cpu(values.get)
        if not values["actor.model_name_or_path"]:
            _fail("--actor.model_name_or_path is missing: a Hugging Face model name or a folder")
        if not values["data.prompt_dataset"]:
            _fail("--data.prompt_dataset is missing: a dataset name, or a .jsonl or .parquet file of prompts")
        template = values["data.input_template"]
        if template and "{}" not in template and not values["data.apply_chat_template"]:  # OpenRLHF would leave it out
            _fail(f"--data.input_template {template!r}: must hold {{}}, the prompt's place")
        told = self._suit_the_machine(values, given)
        if not values["vllm.num_engines"] > 0:
            _fail(
                f"--vllm.num_engines {values['vllm.num_engines']}: answers are sampled by vLLM; use at least 1, or "
                "leave it out"
            )
        if not values["reward.timeout"] > 0:
            _fail(f"--reward.timeout {values['reward.timeout']:g}: use a number of seconds above 0")
        self._check_devices(values)
        self._check_batches(values, given)
        self._check_evaluation(values)
        self._name_places(values)
        self._name_run(values, given)
        # Ray gives every process its device; the launcher's rank says nothing about them.
        values["local_rank"] = -1
        if told:
            self.say(told)
        return parsed

    def _suit_the_machine(self, values: dict, given: set[str]) -> str:
        """Choose what the user did not; returns what is to be said of it once nothing is refused."""
        from .preflight import ray_cluster

        there = None
        where = "for machines with CUDA" if self.anywhere else "without CUDA" if self.on_cpu else "on the Ray cluster"
        if not (self.anywhere or self.on_cpu or ray_cluster()):
            there, where = torch.cuda.device_count(), "with the GPUs of this machine"
            if there < 1:
                _fail("no GPU is visible: see that `nvidia-smi -L` lists one that CUDA_VISIBLE_DEVICES does not hide")
        chosen = _sizes_here(values, given, self.on_cpu, there)
        return f"{where}, what you do not give is: {_as_words(chosen)}" if chosen else ""

    @staticmethod
    def _check_devices(values: dict) -> None:
        """What OpenRLHF finds only when Ray runs and vLLM loads, or not at all."""
        size = {part: values[f"{part}.num_nodes"] * values[f"{part}.num_gpus_per_node"] for part in ("actor", "ref")}
        copies = _copies(values)
        actor = (
            f"--actor.num_nodes {values['actor.num_nodes']} x --actor.num_gpus_per_node "
            f"{values['actor.num_gpus_per_node']}"
        )
        if size["actor"] < 1:
            _fail(f"{actor}: the actor needs a GPU; use at least 1 of each")
        if size["actor"] % copies:
            _fail(
                f"--ds.ring_attn_size {values['ds.ring_attn_size']} x --ds.tensor_parallel_size "
                f"{values['ds.tensor_parallel_size']}: the actor's {size['actor']} GPUs are no multiple of the "
                f"{copies} that share a sequence ({actor}); use smaller ones, or other GPUs"
            )
        engines, parallel = values["vllm.num_engines"], values["vllm.tensor_parallel_size"]
        if values["train.colocate_all"] and not values["train.async_enable"] and engines * parallel != size["actor"]:
            if size["actor"] % parallel:
                _fail(
                    f"--vllm.tensor_parallel_size {parallel}: does not divide the {size['actor']} GPUs that vLLM and "
                    "the actor share (--actor.num_nodes x --actor.num_gpus_per_node); use a divisor of that, or other "
                    "GPUs"
                )
            _fail(
                f"--vllm.num_engines {engines} x --vllm.tensor_parallel_size {parallel}: with --train.colocate_all "
                f"vLLM uses the actor's GPUs, all {size['actor']} of them (--actor.num_nodes x "
                "--actor.num_gpus_per_node)"
            )
        shared = values["train.colocate_all"] or values["train.colocate_actor_ref"]
        if values["algo.kl.init_coef"] > 0 and shared:
            for name in ("num_nodes", "num_gpus_per_node"):
                if values[f"ref.{name}"] != values[f"actor.{name}"]:
                    _fail(
                        f"--ref.{name} {values[f'ref.{name}']}: the reference model shares the actor's GPUs; use "
                        f"--actor.{name}'s {values[f'actor.{name}']}, or --algo.kl.init_coef 0 for none"
                    )
        if not 0 < values["vllm.gpu_memory_utilization"] <= 1:
            _fail(
                f"--vllm.gpu_memory_utilization {values['vllm.gpu_memory_utilization']:g}: is a share of a GPU's "
                "memory; use more than 0 and at most 1"
            )
        new, both = values["rollout.max_new_tokens"], values["data.max_len"]
        if new is not None and new >= both:
            _fail(
                f"--rollout.max_new_tokens {new}: leaves no room for a prompt in --data.max_len {both}, which counts "
                f"prompt and answer; use a larger --data.max_len, such as {new + 1024}"
            )

    @staticmethod
    def _check_batches(values: dict, given: set[str]) -> None:
        ranks = _ranks(values)
        prompts, samples = values["rollout.batch_size"], values["rollout.n_samples_per_prompt"]
        batch, micro = values["train.batch_size"], values["train.micro_batch_size"]
        if prompts * samples % batch:
            _fail(
                f"--train.batch_size {batch}: does not divide the {prompts * samples} samples of a step "
                f"(--rollout.batch_size {prompts} x --rollout.n_samples_per_prompt {samples})"
            )
        if "train.batch_size" not in given and batch % (_micro_batch(values) * ranks):
            _fail(
                f"--rollout.batch_size {prompts} x --rollout.n_samples_per_prompt {samples}: the {prompts * samples} "
                f"samples of a step are no multiple of {ranks} data-parallel ranks x {_micro_batch(values)} "
                "(--train.micro_batch_size); use another --rollout.batch_size, or other GPUs"
            )
        if not values["train.dynamic_batch_enable"]:
            if batch % (micro * ranks):
                _fail(
                    f"--train.batch_size {batch}: is not a multiple of --train.micro_batch_size {micro} x {ranks} "
                    "data-parallel ranks"
                )
            return
        if batch % ranks:
            _fail(
                f"--train.batch_size {batch}: is not a multiple of the {ranks} data-parallel ranks, so that samples "
                "would be left out; use another --train.batch_size, or other GPUs"
            )
        if values["ds.zero_stage"] < 3:
            _fail(
                f"--train.dynamic_batch_enable with --ds.zero_stage {values['ds.zero_stage']}: DeepSpeed would keep "
                "the gradient of an update's last micro-batch alone; use --ds.zero_stage 3"
            )

    @staticmethod
    def _check_evaluation(values: dict) -> None:
        samples = values["eval.n_samples_per_prompt"]
        for k in values["eval.k"] or ():
            if not 1 <= k <= samples:
                _fail(
                    f"--eval.k {k}: is not between 1 and the {samples} answers of --eval.n_samples_per_prompt; sample "
                    "more, or leave it out"
                )
        if not values["eval.dataset"]:
            for name in ("eval.at_start", "eval.at_end", "eval.k", "eval.split_by", "eval.max_samples"):
                if values[name]:
                    _fail(f"--{name}: has no effect without --eval.dataset; name the held-out prompts")

    @staticmethod
    def _name_places(values: dict) -> None:
        """Ray's workers may have another working folder, so what lies here gets its absolute path."""

        def absolute(place: str) -> str:
            path, split = place_and_split(place)
            path = os.path.expanduser(path)
            return os.path.abspath(path) + (f"@{split}" if split else "") if os.path.exists(path) else place

        for name in ("actor.model_name_or_path", "data.prompt_dataset", "eval.dataset", "reward.remote_url"):
            if values[name]:
                values[name] = ",".join(map(absolute, data_names(values[name])))
        if values["train.agent_func_path"]:
            values["train.agent_func_path"] = os.path.abspath(values["train.agent_func_path"])
        for option in (ESTIMATOR_PATH, f"algo.{values[CHOSEN]}.scorer"):
            if values.get(option):
                file, _, member = values[option].rpartition(":")
                values[option] = f"{os.path.abspath(file)}:{member}"

    @staticmethod
    def _name_run(values: dict, given: set[str]) -> None:
        model = os.path.basename(values["actor.model_name_or_path"].rstrip("/"))
        if values["logger.run_dir"] is None:
            from datetime import datetime

            values["logger.run_dir"] = os.path.join("runs", f"{datetime.now():%Y%m%d-%H%M%S}-{model}")
        run = values["logger.run_dir"] = os.path.abspath(values["logger.run_dir"])
        for name, folder in {
            "ckpt.output_dir": "model",
            "ckpt.path": "checkpoints",
            "logger.tensorboard_dir": "tensorboard",
        }.items():
            if name not in given:
                values[name] = os.path.join(run, folder)
        if "logger.wandb.run_name" not in given:
            values["logger.wandb.run_name"] = os.path.basename(run)


def parse(
    argv: Sequence[str], anywhere: bool = False, say: Callable[[str], None] = lambda line: None
) -> SimpleNamespace:
    """`argv` to OpenRLHF's nested arguments, checked; what is LENS's lies in `.algo.lens`.

    With `anywhere` they are for a machine with CUDA, whether or not this one has it. `say` gets a line with the sizes
    that were chosen for this machine, as the user did not.

    Raises:
        OptionError: a value that cannot work, naming the option and the remedy; NeedsCuda where it works elsewhere.
        SystemExit: --help.
    """
    parser = type("Parser", (LensArgumentParser,), {"argv": list(argv), "anywhere": anywhere, "say": staticmethod(say)})
    try:
        args = openrlhf_command.parse(parser)
    except AssertionError as error:
        _fail(str(error))
    if args.ds.packing_samples and not anywhere and cpu_runtime.required():
        # OpenRLHF sets flash attention for packed samples; sdpa keeps them apart by their position ids.
        args.ds.attn_implementation = "sdpa"
    return args


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


def chosen(args: SimpleNamespace) -> dict:
    """{dotted option name: value} as the user chose it, without what stands for our estimators inside OpenRLHF, and
    without the options of other estimators.

    For records, which are handed on: a secret is HIDDEN.
    """
    flat = flatten(args)
    flat |= {name: HIDDEN for name in SECRETS if flat.get(name)}
    flat.pop(ENABLED)
    flat[ESTIMATOR] = name = flat.pop(CHOSEN)
    path = flat.pop(ESTIMATOR_PATH)
    others = tuple(f"algo.{other}." for other in [*estimators.names(), estimators.CUSTOM] if other != name)
    flat = {option: value for option, value in flat.items() if not option.startswith(others)}
    return flat | ({ESTIMATOR_PATH: path} if path else {})


def without_secrets(argv: Sequence[str], args: SimpleNamespace) -> list[str]:
    """The words of a command line, for records."""
    flat = flatten(args)
    hidden = {flat[name] for name in SECRETS if flat.get(name)}
    return [HIDDEN if word.rpartition("=")[2] in hidden else word for word in argv]


def flatten(args: SimpleNamespace, prefix: str = "") -> dict:
    """Nested arguments to {dotted option name: value}, with values that JSON can hold."""
    flat = {}
    for name, value in vars(args).items():
        if isinstance(value, SimpleNamespace):
            flat.update(flatten(value, f"{prefix}{name}."))
        elif isinstance(value, float) and not math.isfinite(value):
            flat[prefix + name] = str(value)
        else:
            flat[prefix + name] = value
    return flat
