"""Training, once everything is checked: OpenRLHF's own `train`, its output, and the end of what it started."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from ... import cpu_runtime
from ...process import complain, explain, interrupt_once, log_traceback, output_to
from ..hooks.install import install_hooks
from . import reaper
from .cluster import start_ray, stop_everything
from .console import Console
from .summary import summary_table


def run(args: SimpleNamespace) -> None:
    """Train, in a process where OpenRLHF can run."""
    if cpu_runtime.required():
        cpu_runtime.install()
    import openrlhf.cli.train_ppo_ray as command

    install_hooks(args)
    start_ray(args)
    # ray.init puts a handler of its own on SIGTERM.
    interrupt_once()
    command.train(args)


def train(args: SimpleNamespace, started: float) -> int:
    """Train with the output in the run folder's train.log and a line a step here; returns the exit status."""
    folder = Path(args.logger.run_dir)
    full = args.logger.console == "full"
    redirect = contextlib.nullcontext(sys.stdout) if full else output_to(folder / "train.log")
    problem, status = None, 0
    with redirect as terminal:
        watcher = reaper.start()
        console = Console(folder, terminal, quiet=full)
        try:
            with console:
                run(args)
        except KeyboardInterrupt:
            problem, status = "interrupted", 130
        except Exception as error:
            log_traceback()
            problem, status = explain(error), 1
        finally:
            stop_everything(but=watcher.pid)
            if watcher.stdin:
                watcher.stdin.close()
    if problem:
        complain(f"error: {problem}" if status == 1 else problem)
        complain(f"what was written is in {folder}; the full log is {folder / 'train.log'}")
        return status
    print(summary_table(folder, time.monotonic() - started, shutil.get_terminal_size().columns))
    return status
