"""Puts the training run together: options, checks, run folder, Ray, OpenRLHF's own `train`, summary."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from ..commands import ended
from ..inputs import OptionError
from ..process import (
    Held,
    complain,
    git_commit,
    holding,
    interrupt_once,
    versions,
    write_atomically,
)
from .checkpoints import resuming
from .commandline import dry_run, options, profiles, records
from .commandline.preflight import check_surroundings
from .launch.run import train

# Set by the deepspeed launcher and torchrun; Ray's actors set their own.
LAUNCHER_VARIABLES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "CROSS_RANK", "CROSS_SIZE", "LOCAL_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT"),
)


def drives() -> bool:
    """Whether this process drives the run: a launcher starts one process a GPU, and Ray needs one in all."""
    name = "RANK" if "RANK" in os.environ else "LOCAL_RANK"
    try:
        return int(os.environ.get(name, "0")) == 0
    except ValueError:
        raise OptionError(f"{name}={os.environ[name]!r}: is no rank, which launchers set; unset it") from None


def write_config(args: SimpleNamespace, argv: Sequence[str], resume: resuming.Resume | None = None) -> None:
    """config.json: what the user chose, every option, what it runs on, and when the run went on from a checkpoint."""
    folder = Path(args.logger.run_dir)
    record = {
        "command": records.without_secrets(argv, args),
        "options": records.chosen(args),
        "versions": versions(),
        "git_commit": git_commit(),
        "resumed": resuming.history(folder, resume),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "config.json", json.dumps(record, indent=2, default=str) + "\n")


def _hold(args: SimpleNamespace, stack: contextlib.ExitStack) -> None:
    """Keep other runs out of the folders that this one writes.

    Raises:
        OptionError: another one is there.
    """
    run, checkpoints_folder = Path(args.logger.run_dir), Path(args.ckpt.path)
    places = {"--logger.run_dir": run}
    if (args.ckpt.save_steps > 0 or args.ckpt.load_enable) and run not in checkpoints_folder.parents:
        places["--ckpt.path"] = checkpoints_folder
    for option, folder in places.items():
        try:
            stack.enter_context(holding(folder))
        except Held as held:
            raise OptionError(f"{option} {folder}: {held} trains there; wait for it, or name another folder") from None


def _prepare(argv: Sequence[str], stack: contextlib.ExitStack, by_profile: bool) -> SimpleNamespace:
    """The checked arguments of a run whose folder is ready for it. What a profile names is made once they are checked.

    Raises:
        OptionError: what cannot work, before anything expensive.
    """
    chosen: list[str] = []
    args = options.parse(argv, say=chosen.append)
    if by_profile:
        profiles.make(argv)
    for warning in check_surroundings(args):
        complain(f"warning: {warning}")
    plan = dry_run.announcement(args)
    _hold(args, stack)
    resume = resuming.check(args, records.chosen(args))
    write_config(args, argv, resume)
    for line in [*chosen, *plan, *resuming.go_on(args, resume)]:
        print(line, flush=True)
    if args.train.enable_ema and args.ckpt.save_steps > 0:
        complain(
            "warning: --train.enable_ema: OpenRLHF's checkpoints do not hold the averaged weights; a run that goes on "
            "from one has to do without"
        )
    return args


def _main(argv: Sequence[str]) -> int:
    if not drives():
        return 0
    for name in LAUNCHER_VARIABLES:
        os.environ.pop(name, None)
    interrupt_once()
    words = profiles.expand(argv, say=print)
    if profiles.DRY_RUN in words:
        print(dry_run.main(words))
        return 0
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        return train(_prepare(words, stack, by_profile=profiles.OPTION in argv), started)


def main(argv: Sequence[str] | None = None) -> int:
    """The training command. Returns the process's exit status; every failure ends in one line that says why."""
    words = list(sys.argv[1:] if argv is None else argv)
    return ended(lambda: _main(words), "interrupted before the run began")
