"""What the commands of `lens-openrlhf` have in common: how they refuse, where they write to, and how they end."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import Field
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn, TypeVar

from .inputs import OptionError
from .process import complain

Arguments = TypeVar("Arguments")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that refuses in one line, which argparse would put below the usage."""

    def error(self, message: str) -> NoReturn:
        unknown = [word for word in message.split() if word.startswith("--")] if "unrecognized" in message else []
        near = get_close_matches(unknown[0].partition("=")[0], self._option_string_actions, n=1) if unknown else []
        hint = f"did you mean {near[0]}? Else " if near else ""
        raise OptionError(f"{message}; {hint}see {self.prog} --help")


def add_fields(parser: argparse.ArgumentParser, title: str, name: str, options: Sequence[Field]) -> None:
    """Offer the fields of an estimator's Config as `--algo.NAME.FIELD`, in a group of their own."""
    if not options:
        return
    group = parser.add_argument_group(title)
    for option in options:
        choices = option.metadata.get("choices")
        group.add_argument(
            f"--algo.{name}.{option.name}",
            type=_boolean if isinstance(option.default, bool) else type(option.default),
            default=option.default,
            choices=choices,
            metavar=None if choices else "VALUE",
            help=f"{option.metadata.get('help', '')} (default: {option.default})".strip().replace("%", "%%"),
        )


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected true or false")
    return text.lower() == "true"


def check_out(
    out: Path, suffixes: Sequence[str] = (), reads: Sequence[Path] = (), new: bool = False, option: str = "-o"
) -> None:
    """A file that is written when all is done.

    Args:
        suffixes: of which its name must have one, if there are any.
        reads: files that are read, of which it must be none.
        new: whether it must not be there yet.

    Raises:
        OptionError: naming the option, the file and the remedy.
    """
    if suffixes and out.suffix not in suffixes:
        raise OptionError(f"{option} {out}: expected a name that ends in {' or '.join(suffixes)}")
    if os.path.isdir(out):
        raise OptionError(f"{option} {out}: is a folder; name a file in it")
    if not (os.path.isdir(out.parent) and os.access(out.parent, os.W_OK)):
        raise OptionError(
            f"{option} {out}: {out.parent} is no folder that can be written to; make it, or name another file"
        )
    if os.path.exists(out) and any(os.path.exists(path) and os.path.samefile(out, path) for path in reads):
        raise OptionError(f"{option} {out}: is one of the files that are read; name another one")
    if new and os.path.lexists(out):
        raise OptionError(f"{option} {out}: is there already; name another one")


def ended(command: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Run a command to its exit status: 2 where it refused its input (OptionError), 130 where it was interrupted, 1
    where the system failed it. Each ends in one line that says why."""
    try:
        status = command()
        sys.stdout.flush()
        return status
    except OptionError as error:
        complain(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        complain(interrupted)
        return 130
    except BrokenPipeError:  # whoever read the output has had enough of it, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        complain(f"error: {error}")
        return 1


def main_of(
    parse: Callable[[list[str]], Arguments], run: Callable[[Arguments], int], interrupted: str = "interrupted"
) -> Callable[[Sequence[str] | None], int]:
    """A command's `main`, which takes the words of its command line and returns the process's exit status.

    Args:
        parse: the words to checked arguments; raises OptionError for what cannot work.
        run: the command; see :func:`ended`.
        interrupted: what is said where it was interrupted.
    """

    def main(argv: Sequence[str] | None = None) -> int:
        words = list(sys.argv[1:] if argv is None else argv)
        return ended(lambda: run(parse(words)), interrupted)

    return main
