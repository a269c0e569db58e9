"""OpenRLHF's command line with LENS's options in it.

OpenRLHF's own parser and checks are run (openrlhf_command.py) with one name exchanged: its ArgumentParser is the
subclass below, which adds our options to OpenRLHF's and checks them before OpenRLHF's own checks run. Nothing here
imports torch, so that a refusal does not wait for it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from ... import cpu_runtime
from ...advantages.estimators import Estimator
from ...advantages.lazily import torch
from ...commands import Parser, add_fields
from ...inputs import CODE_OPTION, MATH_VERIFY, MATH_VERIFY_FILE, OptionError, data_names, place_and_split
from . import checks, openrlhf_command
from .estimator import choose, method_in, offered_estimators
from .gpus import ray_cluster
from .records import CHOSEN, ESTIMATOR, ESTIMATOR_PATH
from .sizes import as_words, choose_sizes


def _add_options(parser: argparse.ArgumentParser, offered: dict[str, type[Estimator]]) -> None:
    estimator = next(a for a in parser._actions if a.dest == ESTIMATOR)
    estimator.choices = [*offered, *(estimator.choices or ())]
    reward = next(a for a in parser._actions if a.dest == "reward.remote_url")
    reward.help = f"{reward.help}; or a .py file with a reward_func; or {MATH_VERIFY}: answers checked by Math-Verify"
    estimator.help = f"{estimator.help}; lens: learns from groups in which every answer is wrong (--algo.lens.*)"
    for name, kind in offered.items():
        add_fields(parser, f"{kind.paper or name} (with --{ESTIMATOR} {name})", name, kind.options())
    group = parser.add_argument_group("an estimator of your own")
    group.add_argument(
        f"--{ESTIMATOR_PATH}",
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
        help="report Pass@k for these k (default: the powers of two up to --eval.n_samples_per_prompt)",
    )
    group.add_argument(
        "--eval.max_samples",
        type=int,
        help="evaluate on so many prompts (default: all; --data.max_samples cuts the training data alone)",
    )
    group.add_argument(
        "--eval.split_by",
        nargs="+",
        help="columns of --eval.dataset to report Pass@k by (default: those of level, source, datasource, type that "
        "it has)",
    )


def _given(parser: argparse.ArgumentParser, argv: Sequence[str]) -> set[str]:
    """Destinations of the options that stand in `argv`, however they are abbreviated."""
    probe = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    for action in parser._actions:
        takes: dict[str, Any] = {"action": "store_true"} if action.nargs == 0 else {"nargs": action.nargs}
        probe.add_argument(*action.option_strings, dest=action.dest, **takes)
    return set(vars(probe.parse_known_args(argv)[0]))


class LensArgumentParser(Parser):
    """OpenRLHF's parser, with LENS's options and checks."""

    argv: Sequence[str] = ()
    anywhere = False
    say: Callable[[str], None]

    @property
    def on_cpu(self) -> bool:
        return not self.anywhere and cpu_runtime.required()

    def parse_args(self, args: object = None, namespace: object = None) -> argparse.Namespace:  # type: ignore[override]  # argv's alone
        self.prog = "lens-openrlhf train"
        offered = offered_estimators(*method_in(self.argv))
        _add_options(self, offered)
        super().parse_args(self.argv)  # --help and misspelt options, before a torch for CUDA is asked for a GPU
        if self.on_cpu:
            self.set_defaults(**cpu_runtime.CPU_DEFAULTS)
        given = _given(self, self.argv)
        parsed = super().parse_args(self.argv)
        values = vars(parsed)
        if values["reward.remote_url"] == MATH_VERIFY:
            values["reward.remote_url"] = str(MATH_VERIFY_FILE)

        choose(values, given, offered)
        checks.check_values(values, self.on_cpu)
        told = self._suit_the_machine(values, given)
        checks.check_sizes(values, given)
        _name_places(values)
        _name_run(values, given)
        # Ray gives every process its device; the launcher's rank says nothing about them.
        values["local_rank"] = -1
        if told:
            self.say(told)
        return parsed

    def _suit_the_machine(self, values: dict, given: set[str]) -> str:
        """Choose what the user did not; returns what is to be said of it once nothing is refused."""
        there = None
        where = "for machines with CUDA" if self.anywhere else "without CUDA" if self.on_cpu else "on the Ray cluster"
        if not (self.anywhere or self.on_cpu or ray_cluster()):
            there, where = torch.cuda.device_count(), "with the GPUs of this machine"
            if there < 1:
                raise OptionError(
                    "no GPU is visible: see that `nvidia-smi -L` lists one that CUDA_VISIBLE_DEVICES does not hide"
                )
        chosen = choose_sizes(values, given, self.on_cpu, there)
        return f"{where}, what you do not give is: {as_words(chosen)}" if chosen else ""


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
        raise OptionError(str(error)) from None
    if args.ds.packing_samples and not anywhere and cpu_runtime.required():
        # OpenRLHF sets flash attention for packed samples; sdpa keeps them apart by their position ids.
        args.ds.attn_implementation = "sdpa"
    return args
