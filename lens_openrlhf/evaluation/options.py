"""The options of `lens-openrlhf evaluate`, checked as far as they tell."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ..commands import Parser
from ..inputs import MATH_VERIFY, OptionError

DEFAULTS: dict[str, Any] = {
    "input_key": "prompt",
    "label_key": "label",
    "apply_chat_template": False,
    "prompt_template": None,
    "split_by": None,
    "max_prompts": None,
    "samples": 16,
    "k": None,
    "temperature": 1.0,
    "top_p": 1.0,
    "max_new_tokens": 4096,
    "seed": 0,
    "reward": MATH_VERIFY,
    "prompts_per_part": 64,
    "allow_remote_code": False,
    "tensor_parallel_size": 1,
    "gpu_memory_utilization": None,
    "out": None,
}
RECOMPUTING = ("recompute", "k", "split_by")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="lens-openrlhf evaluate",
        description="Samples answers with vLLM, grades them, and computes Pass@k, the majority vote and more, with 95% "
        "intervals. Every answer is kept. An interrupted evaluation goes on with the same command and --out.",
        # What was not given is told apart from what was.
        argument_default=argparse.SUPPRESS,
    )

    def option(group: Any, name: str, help: str, **kwargs: Any) -> None:
        default = DEFAULTS.get(name.lstrip("-"))
        shown = "" if default is None or default is False else f" (default: {default})"
        group.add_argument(name, help=help + shown, **kwargs)

    parser.add_argument("model", nargs="?", metavar="MODEL", help="a Hugging Face model: a folder or a hub name")
    option(
        parser,
        "--allow_remote_code",
        "run Python code that the model brings along (auto_map in its config.json); without it such a model is refused",
        action="store_true",
    )
    group = parser.add_argument_group("data")
    option(group, "--data", "a .jsonl, .json, .csv, .parquet or .arrow file, or a hub name, as NAME@SPLIT")
    option(group, "--input_key", "column of the prompts, texts or lists of messages")
    option(group, "--label_key", "column of the right answers")
    option(group, "--prompt_template", "text around each prompt, which takes the place of its {}")
    option(group, "--apply_chat_template", "put each prompt into the tokenizer's chat template", action="store_true")
    option(group, "--max_prompts", "take the first prompts only", type=int)
    option(
        group,
        "--split_by",
        "columns to split the figures by (default: those of level, source, datasource and type that the data has)",
        nargs="*",
        metavar="COLUMN",
    )
    group = parser.add_argument_group("sampling")
    option(group, "--samples", "answers to a prompt", type=int)
    option(group, "--temperature", "of sampling; 0 takes the likeliest token", type=float)
    option(group, "--top_p", "sample from the likeliest tokens of this mass", type=float)
    option(group, "--max_new_tokens", "limit of an answer; the model's own limit holds, too", type=int)
    option(group, "--seed", "with the same seed and batches the answers are the same", type=int)
    option(group, "--prompts_per_part", "prompts that are sampled together, and then written", type=int)
    option(group, "--tensor_parallel_size", "GPUs to split the model over", type=int)
    option(group, "--gpu_memory_utilization", "share of a GPU's memory for vLLM (default: 0.9)", type=float)
    group = parser.add_argument_group("grading and figures")
    option(group, "--reward", f"{MATH_VERIFY}, or a .py file with OpenRLHF's reward_func")
    option(group, "--k", "Pass@k for these (default: powers of two up to --samples)", type=int, nargs="+", metavar="K")
    group = parser.add_argument_group("where")
    group.add_argument(
        "-o", "--out", metavar="FOLDER", help="folder of the results (default: evaluations/<time>-<model>)"
    )
    group.add_argument(
        "--from",
        dest="recompute",
        metavar="FOLDER",
        help="compute the figures of an evaluation anew, without a model; goes with --k and --split_by only",
    )
    return parser


def _check_numbers(settings: dict[str, Any]) -> None:
    for name in ("samples", "max_new_tokens", "prompts_per_part", "tensor_parallel_size", "max_prompts"):
        if settings[name] is not None and settings[name] < 1:
            raise OptionError(f"--{name} {settings[name]}: at least 1 is needed")
    if settings["seed"] < 0:
        raise OptionError(f"--seed {settings['seed']}: a seed is 0 or more")
    if not 0 <= settings["temperature"] < float("inf"):
        raise OptionError(f"--temperature {settings['temperature']}: expected 0 or more")
    if settings["temperature"] == 0 and settings["samples"] > 1:
        raise OptionError("--temperature 0: all answers to a prompt would be the same; add --samples 1")
    for name in ("top_p", "gpu_memory_utilization"):
        if settings[name] is not None and not 0 < settings[name] <= 1:
            raise OptionError(f"--{name} {settings[name]}: expected more than 0 and at most 1")
    if settings["k"]:
        from . import figures

        figures.check_ks(settings["k"], settings["samples"])
    template = settings["prompt_template"]
    if template is not None and template.count("{}") != 1:
        raise OptionError(f"--prompt_template {template!r}: must hold {{}}, the prompt's place, exactly once")


def parse(argv: Sequence[str]) -> dict[str, Any]:
    """The settings: either "recompute" with "k" and "split_by", or everything a new evaluation needs.

    Raises:
        OptionError: values that cannot work.
        SystemExit: --help.
    """
    given = vars(_parser().parse_args(argv))
    if "recompute" in given:
        if stray := [name for name in given if name not in RECOMPUTING]:
            name = "MODEL" if stray[0] == "model" else f"--{stray[0]}"
            raise OptionError(f"--from {given['recompute']}: takes no {name}; it computes from answers that are there")
        return {"k": None, "split_by": None, **given}
    for name, shown in (("model", "MODEL"), ("data", "--data")):
        if name not in given:
            raise OptionError(f"{shown} is missing; see lens-openrlhf evaluate --help")
    settings = {**DEFAULTS, **given}
    _check_numbers(settings)
    return settings
