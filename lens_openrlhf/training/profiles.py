"""Profiles: named sets of options, one file each in examples/scripts/profiles/, for `--profile NAME`.

A file holds options as they stand on a command line, over as many lines as one likes; # begins a comment.
`${package}` is the folder of lens_openrlhf; `${demo}` and `${smollm2}` hold the model and the questions of these
profiles, made on first use.
Options given after --profile come later and so win.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from string import Template

PACKAGE = Path(__file__).parent.parent
FOLDER = PACKAGE.parent / "examples" / "scripts" / "profiles"


class ProfileError(ValueError):
    """A profile that does not exist or cannot be read."""


def cache_folder() -> Path:
    """Where things made once are kept: $XDG_CACHE_HOME/lens_openrlhf, by default ~/.cache/lens_openrlhf."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lens_openrlhf"


def _demo() -> str:
    from ..demo import prepare

    folder = cache_folder() / "demo"
    prepare(folder)
    return str(folder)


def _smollm2() -> str:
    from ..demo.smollm2 import MissingPackage, prepare

    folder = cache_folder() / "smollm2"
    try:
        prepare(folder)
    except MissingPackage as error:
        raise ProfileError(str(error)) from None
    return str(folder)


# ${name} in a profile: the folder that its function makes on first use.
FOLDERS = {"demo": _demo, "smollm2": _smollm2}


def find(name: str) -> Path:
    """File of a profile: a name in the profiles folder, or a path."""
    path = Path(name) if name.endswith(".args") else FOLDER / f"{name}.args"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.args")))
        raise ProfileError(f"--profile {name}: no such profile; there are: {known}; or give the path of a .args file")
    return path


def expand(argv: Sequence[str]) -> list[str]:
    """`argv` with `--profile NAME` replaced by the profile's options.

    Raises:
        ProfileError: an unknown profile, or one with an unknown ${variable}.
    """
    argv = list(argv)
    if "--profile" not in argv:
        return argv
    at = argv.index("--profile")
    if at + 1 == len(argv):
        raise ProfileError("--profile: the name is missing")
    name = argv[at + 1]
    rest = argv[:at] + argv[at + 2 :]
    text = find(name).read_text()
    values = {"package": str(PACKAGE)}
    for variable, make in FOLDERS.items():
        placeholder = f"${{{variable}}}"
        # --help needs no model.
        needed = placeholder in text and not {"-h", "--help"} & set(rest)
        values[variable] = make() if needed else placeholder
    try:
        words = shlex.split(Template(text).substitute(values), comments=True)
    except (KeyError, ValueError) as error:
        raise ProfileError(f"--profile {name}: {find(name)}: cannot be read ({error})") from None
    if "--logger.run_dir" not in rest:
        words += [
            "--logger.run_dir",
            os.path.join("runs", f"{time.strftime('%Y%m%d-%H%M%S')}-{find(name).stem}"),
        ]
    return words + rest
