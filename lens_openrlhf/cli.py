"""The console command `lens-openrlhf`."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

from . import __version__


def _command(module: str) -> Callable[[Sequence[str]], int]:
    """`main` of a module, imported when the command is called: each needs packages that others do not."""
    return lambda argv: import_module(module, __package__).main(argv)


# OpenRLHF asks for the package `pynvml`, about which torch warns in every process.
PYNVML_WARNING = "The pynvml package"

COMMANDS = {
    "train": (_command(".training.command"), "train with the real OpenRLHF; --profile NAME or OpenRLHF's own options"),
    "data": (_command(".data.command"), "the paper's training and test sets: MATH with DAPO or NuminaMath 1.5"),
    "evaluate": (_command(".evaluation.command"), "Pass@k of a model on a set of prompts"),
    "grade": (
        _command(".grade"),
        "answers of any framework: what was read and compared, and the verdict",
    ),
    "compare": (_command(".experiments.compare"), "train arms over seeds on equal terms, and their table"),
    "report": (_command(".reporting.command"), "figures of one or many runs as a page, or live"),
    "advantages": (_command(".outside.command"), "what estimators give the rollouts of any framework, side by side"),
    "simulate": (_command(".experiments.tabular"), "the mechanism in seconds: LENS and GRPO on a table of answers"),
    "doctor": (_command(".doctor"), "what is installed, what will run, and how to mend what will not"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the process's exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # else it is none of Python's own
            stream.reconfigure(errors="backslashreplace")  # a path need not be text that a terminal can show
    warnings.filterwarnings("ignore", PYNVML_WARNING, FutureWarning)
    os.environ.setdefault("PYTHONWARNINGS", f"ignore:{PYNVML_WARNING}:FutureWarning")
    # bitsandbytes, which OpenRLHF brings along on CUDA machines, misses kernels for 4-bit weights on CPUs.
    logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(
        prog="lens-openrlhf",
        description="LENS: GRPO that learns from groups in which every answer is wrong, inside OpenRLHF.",
        epilog="\n".join(f"  {name:<10} {help}" for name, (_, help) in COMMANDS.items())
        + "\n\nOptions of a command: lens-openrlhf COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lens-openrlhf {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    if not argv:
        parser.print_help()
        return 0
    # Only the first word is ours; the rest belongs to the command, whose options may look like ours.
    name = parser.parse_args(argv[:1]).command
    try:
        return COMMANDS[name][0](argv[1:])
    except KeyboardInterrupt:  # while a command is being imported; it then has its own way of ending
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
