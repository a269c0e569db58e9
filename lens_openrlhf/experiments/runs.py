"""The runs of a comparison: the options of its profile, of all arms and of each, and a command line a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .spec import Spec, fail

# An option's words on the command line; none for a bare flag.
Options = dict[str, list[str]]

# What every run gets from the comparison itself.
RESERVED = {
    "train.seed": "it is set from `seeds`",
    "logger.run_dir": "every run gets its own folder in the comparison's",
    "logger.tensorboard_dir": "every run writes into its own folder",
    "ckpt.path": "every run writes into its own folder",
    "ckpt.output_dir": "every run writes into its own folder",
}


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


def split_words(words: Sequence[str]) -> Options:
    """A command line as {option: words}; of an option that stands there twice, the last."""
    options: Options = {}
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            options[name] = [value] if equals else []
        elif not options:
            fail(f"the profile begins with {word!r}: expected an option")
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
            fail("gpus gives a profile its size, and no profile is named; set actor.num_gpus_per_node in options")
        return {}
    from ..training.commandline import profiles

    size = [] if spec.gpus is None else ["--gpus", str(spec.gpus)]
    nowhere = ["--logger.run_dir", ""]  # or the profile would name a folder; it is RESERVED
    try:
        words = profiles.expand(["--profile", spec.profile, *size, *nowhere], portable=not make)
        if make:
            profiles.make(words)
    except profiles.ProfileError as error:
        fail(f"profile: {str(error).removeprefix('--profile ')}")
    return split_words(words)


def _for_method(profile: Options, later: Mapping[str, list[str] | None]) -> Options:
    """A profile's options without those in which it has no say for the method chosen later, as in profiles.expand."""
    from ..training.commandline.estimator import method_in, overruled_by

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
    """All runs, seed by seed, so that an interrupted comparison has whole seeds."""
    return [run_of(label, seed, options) for seed in spec.seeds for label, options in arms.items()]


def run_of(label: str, seed: int, options: Options) -> Run:
    """An arm's run on a seed, which takes the place of `{seed}` in the arm's options."""
    return Run(label, seed, {name: [w.replace("{seed}", str(seed)) for w in words] for name, words in options.items()})
