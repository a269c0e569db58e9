"""The answers of a step as rows of the run folder's samples/: the texts, and what the actor knows of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openrlhf.trainer.ppo_utils.experience import Experience

from ...advantages.reference import group_kind
from ...run_folder import samples as answers


def _from_rollouts(samples: Sequence[Experience], per_prompt: int) -> dict[str, list]:
    """The same columns where OpenRLHF computes the advantages, and nobody the confidence."""
    rewards = [None if sample.rewards is None else float(sample.rewards) for sample in samples]
    scores = [None if sample.scores is None else float(sample.scores) for sample in samples]
    kinds: list[str | None] = []
    for start in range(0, len(samples), per_prompt):
        group = scores[start : start + per_prompt]
        known = [score for score in group if score is not None]
        kinds += [group_kind(known).name.lower() if len(known) == len(group) else None] * len(group)
    nothing = [None] * len(samples)
    return {
        "index": list(range(len(samples))),
        "reward": rewards,
        "confidence": nothing,
        "advantage": nothing,
        "kind": kinds,
    }


def response_text(sample: Experience, tokenizer: Any) -> str:
    """Everything after the prompt, tool output included."""
    # The mask begins at the second token.
    first = int(sample.action_mask[0].nonzero()[0]) + 1 if sample.action_mask.any() else sample.sequences.shape[1]
    return tokenizer.decode(sample.sequences[0, first:], skip_special_tokens=True)


def write_samples(
    run_dir: str | Path,
    step: int,
    samples: Sequence[Experience],
    columns: dict[str, list] | None,
    tokenizer: Any,
    per_prompt: int,
    text_prompts: int,
) -> Path:
    """Write a step's answers.

    Args:
        run_dir: the run folder.
        step: number of the training step.
        samples: the step's rollouts in their order, one answer each.
        columns: see :func:`advantages.advantage_columns`; None where the estimator is OpenRLHF's own.
        tokenizer: decodes the answers.
        per_prompt: answers to a prompt.
        text_prompts: of so many prompts the texts are kept.
    """
    columns = columns or _from_rollouts(samples, per_prompt)
    chosen = [samples[i] for i in columns["index"]]
    texts = [i // per_prompt < text_prompts for i in columns["index"]]
    rows = columns | {
        "step": [step] * len(chosen),
        "prompt_id": [i // per_prompt for i in columns["index"]],
        "prompt": [s.prompts[0] if kept else None for s, kept in zip(chosen, texts, strict=True)],
        "label": [str(s.labels[0]) if kept else None for s, kept in zip(chosen, texts, strict=True)],
        "response": [response_text(s, tokenizer) if kept else None for s, kept in zip(chosen, texts, strict=True)],
        "correctness": [None if s.scores is None else float(s.scores) for s in chosen],
        "tokens": [int(s.action_mask.sum()) for s in chosen],
        "truncated": [bool(s.truncated) for s in chosen],
    }
    return answers.write(run_dir, step, rows)
