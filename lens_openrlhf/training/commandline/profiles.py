"""Profiles: named sets of options, one file each in examples/scripts/profiles/, for `--profile NAME`.

A file holds options as they stand on a command line, over as many lines as one likes; # begins a comment.
`${package}` is the folder of lens_openrlhf; `${demo}` and `${smollm2}` hold the model and the questions of these
profiles, made when a run first starts; `${gpus}`, `${nodes}` and `${gpus_per_node}` follow from `--gpus N`.
A profile may begin with `--profile OTHER`. What comes later wins: a profile's options over those of the one that it
names, and options on the command line over all. Where a later one chooses another estimator, what that brings of its
own (clip range, averaging of the loss, a KL term) also wins over the profile's, which was made for another method;
how many answers a prompt has stays the profile's.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from string import Template

from ... import cpu_runtime
from ...inputs import OptionError
from ...process import cache_folder

PACKAGE = Path(__file__).parents[2]
FOLDER = PACKAGE.parent / "examples" / "scripts" / "profiles"
DEFAULT_GPUS = GPUS_PER_NODE = 8
OPTION, DRY_RUN = "--profile", "--dry_run"


class ProfileError(OptionError):
    """A profile that does not exist or cannot be read, or whose model need not be made, as nothing could sample it."""


def _demo(folder: Path) -> None:
    from ...demo import prepare

    prepare(folder)


def _smollm2(folder: Path) -> None:
    from ...demo.smollm2 import MissingPackage, prepare

    try:
        prepare(folder)
    except MissingPackage as error:
        raise ProfileError(str(error)) from None


# ${name} in a profile: the folder of that name in cache_folder(), and the function that makes it on first use.
FOLDERS = {"demo": _demo, "smollm2": _smollm2}


def find(name: str) -> Path:
    """File of a profile: a name in the profiles folder, or a path."""
    path = Path(name) if name.endswith(".args") else FOLDER / f"{name}.args"
    if not os.path.isfile(path):
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.args")))
        raise ProfileError(f"--profile {name}: no such profile; there are: {known}; or give the path of a .args file")
    return path


def _take(argv: list[str], option: str) -> str | None:
    """Remove an option and its value from `argv`; returns the value, or None where the option is not there."""
    if option not in argv:
        return None
    at = argv.index(option)
    if at + 1 == len(argv):
        raise ProfileError(f"{option}: the {'name' if option == OPTION else 'value'} is missing")
    value = argv[at + 1]
    del argv[at : at + 2]
    return value


def _sizes(gpus: str | None) -> dict[str, int]:
    """The values of the variables that `--gpus` decides.

    Raises:
        ProfileError: a number of GPUs that is no machine's nor a whole number of machines'.
    """
    number = DEFAULT_GPUS if gpus is None else int(gpus) if gpus.isdecimal() else 0
    nodes = max(1, number // GPUS_PER_NODE)
    if number < 1 or number % nodes or number // nodes > GPUS_PER_NODE:
        raise ProfileError(
            f"--gpus {gpus}: expected 1 to {GPUS_PER_NODE}, or a multiple of {GPUS_PER_NODE} for several machines; for "
            "machines of another size set --actor.num_nodes, --actor.num_gpus_per_node and --vllm.num_engines"
        )
    return {"gpus": number, "nodes": nodes, "gpus_per_node": number // nodes}


def _chain(name: str, within: tuple[str, ...] = ()) -> list[tuple[Path, list[str]]]:
    """Files and words of a profile, after those of the profile that it names."""
    if name in within:
        raise ProfileError(f"--profile {name}: {' names '.join((*within, name))}, which has no end")
    file = find(name)
    try:
        words = shlex.split(file.read_text(), comments=True)
    except (OSError, ValueError) as error:
        raise ProfileError(f"--profile {name}: {file}: cannot be read ({error})") from None
    base = _take(words, OPTION)
    return [*([] if base is None else _chain(base, (*within, name))), (file, words)]


def _without(words: Sequence[str], unwanted: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """A command line without some options (by dotted name) and their values; and those words."""
    kept: list[str] = []
    taken: list[str] = []
    into = kept
    for word in words:
        if word.startswith("--"):
            into = taken if unwanted(word.removeprefix("--").partition("=")[0]) else kept
        into.append(word)
    return kept, taken


def _let_the_method_win(layers: list[list[str]], say: Callable[[str], None]) -> list[str]:
    """Layers of words, later ones winning, as one; what the chosen method brings wins over layers made for another."""
    from .estimator import method_in, overruled_by

    def method(number: int) -> tuple[str | None, str | None]:
        return method_in([word for layer in layers[:number] for word in layer])

    chosen = method(len(layers))
    result = []
    for number, words in enumerate(layers, 1):
        if method(number) != chosen:
            words, taken = _without(words, overruled_by(chosen))
            if taken:
                say(f"with {chosen[1] or chosen[0]} the profile's {shlex.join(taken)} has no say")
        result += words
    return result


def expand(argv: Sequence[str], say: Callable[[str], None] = lambda line: None, portable: bool = False) -> list[str]:
    """`argv` with `--profile NAME`, and `--gpus N` where it stands, replaced by the profile's options.

    Nothing is made: see :func:`make`. `say` gets a line where options of the profile are left out for those of another
    method. With `portable` they say ${demo}, which holds on any machine, and not where that is on this one.

    Raises:
        ProfileError: an unknown profile, one that cannot be read, or a size that it cannot take.
    """
    rest = list(argv)
    name, gpus = _take(rest, OPTION), _take(rest, "--gpus")
    remedy = "set --actor.num_gpus_per_node and --vllm.num_engines"
    if name is None:
        if gpus is not None:
            raise ProfileError(f"--gpus {gpus}: gives a profile its size, and no profile is named; {remedy}")
        return rest
    chain, sizes = _chain(name), _sizes(gpus)
    everything = " ".join(word for _, words in chain for word in words)
    if gpus is not None and not any(f"${{{variable}}}" in everything for variable in sizes):
        raise ProfileError(f"--gpus {gpus}: the profile {name} has a fixed size; {remedy}")
    folders = {name: f"${{{name}}}" if portable else str(cache_folder() / name) for name in FOLDERS}
    values = {"package": str(PACKAGE), **sizes, **folders}
    layers = []
    for file, words in chain:
        try:
            layers.append([Template(word).substitute(values) for word in words])
        except (KeyError, ValueError) as error:
            raise ProfileError(f"--profile {name}: {file}: cannot be read ({error})") from None
    if "--logger.run_dir" not in rest:
        run = f"{time.strftime('%Y%m%d-%H%M%S')}-{find(name).stem}"
        layers[-1] += ["--logger.run_dir", os.path.join("runs", run)]
    return _let_the_method_win([*layers, rest], say)


def make(words: Sequence[str]) -> None:
    """Make what a profile's words name and is not there yet, in minutes; for words that have been checked.

    Raises:
        ProfileError: a model that cannot be made, or that nothing could sample here.
    """
    for variable, made in FOLDERS.items():
        folder = cache_folder() / variable
        if any(folder in Path(word).parents for word in words):
            if problem := cpu_runtime.without_sampler():
                raise ProfileError(problem)  # the preflight would say so after a model had been made
            try:
                made(folder)
            except OSError as error:
                raise ProfileError(
                    f"--profile: {folder} cannot be made ({error.strerror or error}); name a folder for it in "
                    "XDG_CACHE_HOME"
                ) from None
