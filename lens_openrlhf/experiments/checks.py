"""Whether the runs of a comparison can be made, and on equal terms: asked of the training command, run by run."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from ..evaluation.splits import SPLIT_COLUMNS
from .runs import RESERVED, Options, Run, arm_options, runs_of, split_words
from .spec import Spec, fail, nearest

# What decides whether arms are comparable: an arm may not change an option that begins with one of these.
UNFAIR = (
    *("data.", "eval.", "actor.model_name_or_path", "reward.remote_url", "reward.model_name_or_path"),
    *("train.num_episodes", "train.agent_func_path", "train.batch_size", "train.micro_batch_size"),
    *("rollout.batch_size", "rollout.micro_batch_size", "rollout.vllm_generate_batch_size"),
    *("rollout.n_samples_per_prompt", "rollout.max_new_tokens", "rollout.top_p"),  # the last two in evaluations, too
)
# Of a run whose options alone are looked at.
ANY_FOLDER = Path("run")
# Option strings that write to another option's name.
TWINS = {"actor.muon.no_nesterov", "critic.muon.no_nesterov"}
# The least that OpenRLHF's command accepts, to ask it for its options.
MINIMAL = [
    *("--actor.model_name_or_path", "m", "--data.prompt_dataset", "d", "--reward.remote_url", "r"),
    *("--vllm.num_engines", "1", "--actor.num_gpus_per_node", "1", "--algo.kl.init_coef", "0"),
]


def check(spec: Spec) -> dict[str, Options]:
    """Everything about the spec that can be known before anything is made or started; returns its arms' options.

    Raises:
        SpecError: an unknown option, a value that the training command refuses, an arm that would make the comparison
            unfair, a missing final evaluation, a k larger than the answers a prompt; with the arm and the option.
    """
    known = _known_options()
    arms = arm_options(spec)
    places = [("options", spec.options), *((f"arm {label!r}", own) for label, own in spec.arms.items())]
    for place, given in places:
        for name in given:
            if name not in known:
                fail(f"{place}: unknown option {name}{nearest(name, known)}")
            if name in RESERVED:
                fail(f"{place}: {name} cannot be set: {RESERVED[name]}; leave it out")
    for name in spec.allow_unfair:
        if name not in known:
            fail(f"allow_unfair: unknown option {name}{nearest(name, known)}")

    baseline: dict[int, dict] = {}
    for run in runs_of(spec, arms):
        place = f"arm {run.arm!r}, seed {run.seed}"
        args = parse(run, place, anywhere=True)
        _check_fairness(run, args, baseline.setdefault(run.seed, _flat(args)), spec)
        if not (args.eval.dataset and args.eval.at_end):
            missing = "--eval.at_end" if args.eval.dataset else "--eval.dataset"
            fail(
                f"{place}: {missing} is missing: the tables are made of the evaluation at the end of a run; add "
                "eval.dataset: FILE and eval.at_end: true to options"
            )
        recorded = args.eval.split_by or SPLIT_COLUMNS
        for column in spec.split_by or []:
            if column not in recorded:
                fail(
                    f"split_by: the runs do not record {column!r} ({place}: {', '.join(recorded)}); add eval.split_by: "
                    f"[{column}] to options"
                )
        for k in spec.k or []:
            if k > args.eval.n_samples_per_prompt:
                fail(
                    f"k: {k} is more than the {args.eval.n_samples_per_prompt} answers a prompt of the evaluation "
                    f"({place}); ask for a smaller k, or set eval.n_samples_per_prompt: {k}"
                )
    return arms


def check_machine(runs: Sequence[Run]) -> None:
    """Options that this machine cannot run, before a profile makes anything.

    Raises:
        SpecError: naming the arm and the option.
    """
    for run in runs:
        parse(run, f"arm {run.arm!r}, seed {run.seed}")


def check_inputs(spec: Spec, runs: Sequence[Run], folder: Path) -> None:
    """Models, data and machine of the runs that are to be started.

    Raises:
        SpecError: what does not exist or cannot be read, naming the arm and the option.
    """
    from .. import cpu_runtime
    from ..training.commandline.gpus import gpus_needed
    from ..training.commandline.preflight import check_surroundings

    for run in runs:
        place = f"arm {run.arm!r}, seed {run.seed}"
        # The runs' own folders may hold what an interrupted run left; that is dealt with later.
        args = parse(run, place, folder / "runs")
        args.eval.split_by = [*(args.eval.split_by or []), *(spec.split_by or [])]  # the data must have them
        try:
            check_surroundings(args)
        except ValueError as error:
            fail(f"{place}: {error}")
        if spec.parallel > 1 and not cpu_runtime.required():
            import torch

            share = torch.cuda.device_count() // spec.parallel
            if gpus_needed(args) > share:
                fail(
                    f"parallel is {spec.parallel}, which leaves {share} GPUs a run, and {place} needs "
                    f"{gpus_needed(args)}: run fewer at once"
                )


def parse(run: Run, place: str, folder: Path = ANY_FOLDER, anywhere: bool = False) -> SimpleNamespace:
    """The run's options as the training command understands them, on this machine or on any; `place` is for messages.

    Raises:
        SpecError: what that command refuses, with its own message.
    """
    from ..inputs import OptionError
    from ..training.commandline.options import parse

    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return parse(run.command(folder), anywhere)
    except OptionError as error:
        fail(f"{place}: {error}")


def meaning(run: Run) -> dict:
    """Every option of a run with its value, given or default: equal for runs that compute the same."""
    return _flat(parse(run, run.key))


def _flat(args: SimpleNamespace) -> dict:
    from ..training.commandline.records import flatten

    return flatten(args)


def _known_options() -> set[str]:
    everything = meaning(Run("any", 0, split_words(MINIMAL)))
    return set(everything) - {"algo.lens.enabled", "algo.lens.estimator"} | TWINS


def _check_fairness(run: Run, args: SimpleNamespace, baseline: dict, spec: Spec) -> None:
    for name, value in _flat(args).items():
        if value == baseline[name] or name in spec.allow_unfair or not name.startswith(UNFAIR):
            continue
        fail(
            f"arm {run.arm!r}: {name} is {value!r} and {baseline[name]!r} in the first arm, so that the arms are not "
            f"comparable; set it in options for all arms, or say allow_unfair: [{name}]"
        )
