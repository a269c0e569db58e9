"""The answers' texts for the page, as many as fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .arms import Arm
from .runs import Problem
from .samples import StepSamples, read_rows
from .series import short, spread

TEXT_BYTES = 3_000_000  # of all texts on the page
MAX_CHARACTERS = 4000  # of one text


def _cut(text: str | None, characters: int) -> str | None:
    if text is None or len(text) <= characters:
        return text
    return f"{text[:characters]} … ({len(text) - characters:,} more characters)"


def _step_texts(path: Path, samples: StepSamples, budget: int) -> list[dict]:
    """Prompts with texts and their answers, in rollout order: the first, and more as fit into `budget` characters."""
    difficulty = samples.groups.difficulty.tolist()
    groups: dict[int, list[dict]] = {}
    for row, number in zip(read_rows(path), samples.group.tolist(), strict=True):
        if row["response"] is not None:
            groups.setdefault(number, []).append(row)
    answers = max(map(len, groups.values()), default=0)
    characters = min(MAX_CHARACTERS, max(200, budget // (answers + 1)))
    prompts: list[dict] = []
    for number, group in groups.items():
        prompt = {
            "prompt": _cut(group[0]["prompt"], characters),
            "label": _cut(group[0]["label"], characters),
            "kind": group[0]["kind"],
            "difficulty": short(difficulty[number]),
            "answers": [
                {
                    "text": _cut(row["response"], characters),
                    "correctness": short(row["correctness"]),
                    "reward": short(row["reward"]),
                    "confidence": short(row["confidence"]),
                    "advantage": short(row["advantage"]),
                    "tokens": row["tokens"],
                    "truncated": bool(row["truncated"]),
                }
                for row in group
            ],
        }
        budget -= sum(len(a["text"]) + 120 for a in prompt["answers"]) + len(prompt["prompt"] or "")
        if prompts and budget < 0:
            break
        prompts.append(prompt)
    return prompts


def text_data(arms: Sequence[Arm], samples: dict[Path, dict[int, StepSamples]], steps: int) -> list[dict]:
    """Texts for the page: one entry a run that has samples, `steps` of its steps at most, evenly apart."""
    chosen = {run.folder: spread(list(samples[run.folder]), steps) for arm in arms for run in arm.runs}
    total = sum(map(len, chosen.values()))
    entries = []
    for number, arm in enumerate(arms):
        for run in arm.runs:
            texts = {}
            for step in chosen[run.folder]:
                try:
                    texts[step] = _step_texts(run.samples[step], samples[run.folder][step], TEXT_BYTES // total)
                except ValueError as error:
                    run.problems.append(Problem(str(run.samples[step]), f"{error}; the step's texts are left out"))
            entries.append(
                {
                    "arm": number,
                    "run": run.name,
                    "seed": run.seed,
                    "recorded": len(run.samples),
                    "texts": {str(step): prompts for step, prompts in texts.items() if prompts},
                }
            )
    return entries
