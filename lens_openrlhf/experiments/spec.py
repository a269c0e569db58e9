"""The spec of a comparison: read, checked as a whole, and turned into the command line of every run."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from ..evaluation.splits import SPLIT_COLUMNS
from ..training.commandline.estimator import method_in, overruled_by

# An option's words on the command line; none for a bare flag.
Options = dict[str, list[str]]

# What decides whether arms are comparable: an arm may not change an option that begins with one of these.
UNFAIR = (
    *("data.", "eval.", "actor.model_name_or_path", "train.seed", "train.num_episodes"),
    *("reward.remote_url", "reward.model_name_or_path"),
    *("train.agent_func_path", "train.batch_size", "train.micro_batch_size", "rollout.batch_size"),
    *("rollout.micro_batch_size", "rollout.vllm_generate_batch_size", "rollout.n_samples_per_prompt"),
    *("rollout.max_new_tokens", "rollout.top_p"),  # both hold in evaluations too
)
# What every run gets from the comparison itself.
RESERVED = {
    "train.seed": "it is set from `seeds`",
    "logger.run_dir": "every run gets its own folder in the comparison's",
    "logger.tensorboard_dir": "every run writes into its own folder",
    "ckpt.path": "every run writes into its own folder",
    "ckpt.output_dir": "every run writes into its own folder",
}
# Option strings that write to another option's name.
TWINS = {"actor.muon.no_nesterov", "critic.muon.no_nesterov"}
# The least that OpenRLHF's command accepts, to ask it for its options.
MINIMAL = [
    *("--actor.model_name_or_path", "m", "--data.prompt_dataset", "d", "--reward.remote_url", "r"),
    *("--vllm.num_engines", "1", "--actor.num_gpus_per_node", "1", "--algo.kl.init_coef", "0"),
]
LABEL = re.compile(r"\w[\w .,=+()-]*")
LABEL_LENGTH = 30
MAX_VALUES = 100_000


class SpecError(ValueError):
    """A spec that cannot be run, or not fairly, with the place and the remedy."""


def _fail(message: str) -> NoReturn:
    raise SpecError(message)


def _nearest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A comparison as its file has it. The first arm is the baseline."""

    name: str
    profile: str | None = None
    gpus: int | None = None  # the profile's size; None: its own
    paper: str | None = None  # which of the paper's tables to lay beside, see paper.yaml
    options: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int]
    k: Sequence[int] | None = None  # None: powers of two up to the answers a prompt
    split_by: Sequence[str] | None = None  # None: all that the runs recorded
    parallel: int = 1
    allow_unfair: Sequence[str] = ()
    keep_models: bool = False


@dataclass(frozen=True)
class Run:
    """One training run of a comparison."""

    arm: str
    seed: int
    options: Options

    @property
    def key(self) -> str:
        """Its folder under runs/."""
        return f"{self.arm}/seed-{self.seed}"

    def command(self, folder: Path) -> list[str]:
        """Words for `lens-openrlhf train`, run in `folder`."""
        return [*join_words(self.options), "--train.seed", str(self.seed), "--logger.run_dir", str(folder)]


def read(path: Path) -> Spec:
    """The spec in a YAML file.

    Raises:
        SpecError: a file that cannot be read, an unknown key, a value of the wrong type, duplicate seeds, an arm whose
            label makes no good folder name.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML itself takes the last of several equal keys without a word."""

        def construct_mapping(self, node, deep=False):
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        _fail(f"{path}: line {key.start_mark.line + 1}: {key.value!r} stands there twice")
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        with open(path) as file:
            content = yaml.load(file, Loader)
    except OSError as error:
        _fail(f"{path}: cannot be read ({error.strerror})")
    except SpecError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        _fail(f"{path}: is not YAML ({' '.join(str(error).split())})")
    try:
        _check_size(content)
        return _check_types(content)
    except SpecError as error:
        _fail(f"{path}: {error}")


def _check_size(content: Any) -> None:
    """A few lines of aliases to aliases can mean more values than the memory holds; messages would print them."""
    values = [content]
    for _ in range(MAX_VALUES):
        if not values:
            return
        value = values.pop()
        values += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    _fail(f"means more than {MAX_VALUES:,} values, with every alias written out; a spec needs far fewer")


def _check_types(content: Any) -> Spec:
    if not isinstance(content, dict):
        _fail("expected keys such as arms and seeds, each with a value")
    known = list(Spec.__dataclass_fields__)
    for key in content:
        if key not in known:
            _fail(f"unknown key {key!r}{_nearest(str(key), known)} (keys are: {', '.join(known)})")
    # A key without a value is one that was left out.
    content = {"options": {}} | {key: value for key, value in content.items() if value is not None}
    for key in ("name", "arms", "seeds"):
        if key not in content:
            _fail(f"{key} is missing")

    for key, kind, expected in (
        ("name", str, "text"),
        ("profile", str, "the name of a profile"),
        ("paper", str, "the name of one of the paper's tables"),
        ("keep_models", bool, "true or false"),
    ):
        if key in content and not isinstance(content[key], kind):
            _fail(f"{key} is {content[key]!r}: expected {expected}")
    for key, kind, expected in (
        ("seeds", int, "whole numbers"),
        ("k", int, "whole numbers"),
        ("split_by", str, "columns of the evaluation data"),
        ("allow_unfair", str, "options"),
    ):
        values = content.get(key, [])
        if not isinstance(values, list) or any(type(value) is not kind for value in values):
            _fail(f"{key} is {values!r}: expected a list of {expected}")
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            _fail(f"{key}: {twice[0]} stands there twice")
    if not content["seeds"]:
        _fail("seeds is empty: expected at least one")
    for key in ("seeds", "k"):
        for value in content.get(key, []):
            if value < (key == "k"):
                _fail(f"{key}: {value} is too small: expected at least {int(key == 'k')}")
    for key, expected in (("parallel", "how many runs at once"), ("gpus", "how many GPUs the profile is for")):
        number = content.get(key, 1)
        if type(number) is not int or number < 1:
            _fail(f"{key} is {number!r}: expected {expected}, at least 1")
    _check_label("name", content["name"])

    arms = content["arms"]
    if not isinstance(arms, dict) or not arms:
        _fail(f"arms is {arms!r}: expected a label and options for each arm")
    folders = {}
    for label in arms:
        if not isinstance(label, str):
            _fail(f"arms: the label {label!r} is no text; write it in quotes")
        _check_label(f"arm {label!r}", label)
        other = folders.setdefault(label.lower(), label)
        if other != label:
            _fail(f"arms {other!r} and {label!r} differ by case alone, and some disks take their folders for one")
    content["arms"] = {label: _check_options(f"arm {label!r}", given) for label, given in arms.items()}
    if "paper" in content:
        _check_paper(content["paper"], arms)
    content["options"] = _check_options("options", content["options"])
    return Spec(**content)


def _check_paper(table: str, arms: Iterable[str]) -> None:
    from . import paper

    if table not in paper.names():
        _fail(f"paper is {table!r}: expected one of {'; '.join(paper.names())}")
    theirs = paper.pass_at_k(table)
    if not set(arms) & set(theirs):
        _fail(f"paper: none of the arms is called as those of {table} ({', '.join(theirs)})")


def _check_label(place: str, label: str) -> None:
    if not LABEL.fullmatch(label) or label[-1] in " ." or len(label) > LABEL_LENGTH:
        _fail(
            f"{place}: {label!r} makes no good folder name; use at most {LABEL_LENGTH} letters, digits, spaces and "
            ". , = + ( ) -, beginning with a letter or digit and not ending with a dot"
        )


def _check_options(place: str, given: Any) -> dict[str, list[str] | None]:
    """{option: words, or None to leave it out}."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        _fail(f"{place} is {given!r}: expected options, such as algo.lens.alpha: 0.25")
    return {str(name): _to_words(f"{place}: {name}", value) for name, value in given.items()}


def _to_words(place: str, value: Any) -> list[str] | None:
    if value is None:
        return None
    if value is True:
        return []
    if value is False:
        _fail(f"{place}: false says nothing on a command line; write null to leave the option out")
    values = value if isinstance(value, list) else [value]
    if not values or any(type(item) not in (str, int, float) for item in values):
        _fail(
            f"{place} is {value!r}: expected a value, a list of values, true for a bare flag, or null to leave the "
            "option out; options have dotted names, such as algo.lens.alpha"
        )
    return [str(item) for item in values]


def split_words(words: Sequence[str]) -> Options:
    """A command line as {option: words}; of an option that stands there twice, the last."""
    options: Options = {}
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            options[name] = [value] if equals else []
        elif not options:
            _fail(f"the profile begins with {word!r}: expected an option")
        else:
            options[name].append(word)
    return options


def join_words(options: Mapping[str, Sequence[str]]) -> list[str]:
    """{option: words} as a command line."""
    return [word for name, values in options.items() for word in (f"--{name}", *values)]


def _profile_options(spec: Spec, make: bool) -> Options:
    """Options of the spec's profile. What a profile makes on first use is made, or named: ${demo}."""
    if spec.profile is None:
        if spec.gpus is not None:
            _fail("gpus gives a profile its size, and no profile is named; set actor.num_gpus_per_node in options")
        return {}
    from ..training.commandline import profiles

    size = [] if spec.gpus is None else ["--gpus", str(spec.gpus)]
    folder = ["--logger.run_dir", ""]
    try:
        words = profiles.expand(["--profile", spec.profile, *size, *folder], portable=not make)
        if make:
            profiles.make(words)
    except profiles.ProfileError as error:
        _fail(f"profile: {str(error).removeprefix('--profile ')}")
    return split_words(words[: -len(folder)])


def _for_method(profile: Options, later: Mapping[str, list[str] | None]) -> Options:
    """A profile's options without those in which it has no say for the method chosen later, as in profiles.expand."""

    method = method_in(join_words(profile))
    together = {name: words for name, words in {**profile, **later}.items() if words is not None}
    chosen = method_in(join_words(together))
    if chosen == method:
        return profile
    overruled = overruled_by(chosen)
    return {name: words for name, words in profile.items() if not overruled(name)}


def arm_options(spec: Spec, make: bool = False) -> dict[str, Options]:
    """Options of every arm: the profile's, then those for all arms, then the arm's own.

    With `make`, what the profile makes on first use is made, and its place stands in the options; without, they say
    ${demo}, which holds on any machine.
    """
    profile = _profile_options(spec, make)
    arms = {}
    for label, own in spec.arms.items():
        merged = {**_for_method(profile, {**spec.options, **own}), **spec.options, **own}
        arms[label] = {name: words for name, words in merged.items() if words is not None and name not in RESERVED}
    return arms


def runs_of(spec: Spec, arms: Mapping[str, Options]) -> list[Run]:
    """All runs, seed by seed, so that an interrupted comparison has whole seeds. `{seed}` is replaced."""
    return [
        Run(label, seed, {name: [w.replace("{seed}", str(seed)) for w in words] for name, words in options.items()})
        for seed in spec.seeds
        for label, options in arms.items()
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
                _fail(f"{place}: unknown option {name}{_nearest(name, known)}")
            if name in RESERVED:
                _fail(f"{place}: {name} cannot be set: {RESERVED[name]}; leave it out")
    for name in spec.allow_unfair:
        if name not in known:
            _fail(f"allow_unfair: unknown option {name}{_nearest(name, known)}")

    baseline: dict[int, dict] = {}
    for run in runs_of(spec, arms):
        place = f"arm {run.arm!r}, seed {run.seed}"
        args = parse(run, Path("run"), place, anywhere=True)
        _check_fairness(run, args, baseline.setdefault(run.seed, _flat(args)), spec)
        if not (args.eval.dataset and args.eval.at_end):
            missing = "--eval.at_end" if args.eval.dataset else "--eval.dataset"
            _fail(
                f"{place}: {missing} is missing: the tables are made of the evaluation at the end of a run; add "
                "eval.dataset: FILE and eval.at_end: true to options"
            )
        recorded = args.eval.split_by or SPLIT_COLUMNS
        for column in spec.split_by or []:
            if column not in recorded:
                _fail(
                    f"split_by: the runs do not record {column!r} ({place}: {', '.join(recorded)}); add eval.split_by: "
                    f"[{column}] to options"
                )
        for k in spec.k or []:
            if k > args.eval.n_samples_per_prompt:
                _fail(
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
        parse(run, Path("run"), f"arm {run.arm!r}, seed {run.seed}")


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
        args = parse(run, folder / "runs", place)
        args.eval.split_by = [*(args.eval.split_by or []), *(spec.split_by or [])]  # the data must have them
        try:
            check_surroundings(args)
        except ValueError as error:
            _fail(f"{place}: {error}")
        if spec.parallel > 1 and not cpu_runtime.required():
            import torch

            share = torch.cuda.device_count() // spec.parallel
            if gpus_needed(args) > share:
                _fail(
                    f"parallel is {spec.parallel}, which leaves {share} GPUs a run, and {place} needs "
                    f"{gpus_needed(args)}: run fewer at once"
                )


def parse(run: Run, folder: Path, place: str, anywhere: bool = False) -> SimpleNamespace:
    """The run's options as the training command understands them, on this machine or on any.

    Raises:
        SpecError: what that command refuses, with its own message.
    """
    from ..inputs import OptionError
    from ..training.commandline.options import parse

    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return parse(run.command(folder), anywhere)
    except OptionError as error:
        _fail(f"{place}: {error}")


def meaning(run: Run) -> dict:
    """Every option of a run with its value, given or default: equal for runs that compute the same."""
    return _flat(parse(run, Path("run"), run.key))


def _flat(args: SimpleNamespace) -> dict:

    from ..training.commandline.records import flatten

    return flatten(args)


def _known_options() -> set[str]:
    everything = _flat(parse(Run("", 0, split_words(MINIMAL)), Path("run"), "any run"))
    return set(everything) - {"algo.lens.enabled", "algo.lens.estimator"} | TWINS


def _check_fairness(run: Run, args: SimpleNamespace, baseline: dict, spec: Spec) -> None:
    for name, value in _flat(args).items():
        if value == baseline[name] or name in spec.allow_unfair or not name.startswith(UNFAIR):
            continue
        _fail(
            f"arm {run.arm!r}: {name} is {value!r} and {baseline[name]!r} in the first arm, so that the arms are not "
            f"comparable; set it in options for all arms, or say allow_unfair: [{name}]"
        )
