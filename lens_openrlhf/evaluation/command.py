"""`lens-openrlhf evaluate`: Pass@k of a model on a set of prompts, resumable, and again from the kept answers."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tqdm import tqdm

from ..commands import main_of
from ..process import complain, printable
from .options import parse

# What computes is imported where it is used: pandas, SciPy and Math-Verify take longer than an option to refuse.
if TYPE_CHECKING:
    from .grading import Grade
    from .job import Job
    from .prompts import Prompt
    from .sampling import Completion


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
    from .job import prepare

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


def _with_words(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    return list(argv), parse(argv)


def _run(parsed: tuple[list[str], dict[str, Any]]) -> int:
    argv, settings = parsed
    if "recompute" in settings:
        print(printable(summarise(Path(settings["recompute"]), settings["k"], settings["split_by"])))
        return 0
    from ..process import interrupt_once

    interrupt_once()
    return _evaluate(argv, settings)


main = main_of(_with_words, _run, "interrupted before anything was sampled")
