"""Evaluations during training: which prompts, in which order, and what is recorded of the answers."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openrlhf.datasets import PromptDataset
from openrlhf.trainer.ppo_utils.experience import Experience

from ...evaluation.splits import SPLIT_COLUMNS, default_ks, default_split_columns, pass_at_k_by_split
from .data_sets import blending_datasets


@dataclass(frozen=True)
class EvaluationSet:
    """The prompts of --eval.dataset. OpenRLHF cuts them to --data.max_samples and keeps no other column of the data."""

    dataset: PromptDataset
    dataloader: object
    splits: dict[str, list]  # {column: [P] values}

    def in_order(self, samples: Sequence[Experience], n: int) -> list[list[Experience]]:
        """The n answers of each prompt, in the order of the data; OpenRLHF returns prompts as they are finished.

        Raises:
            ValueError: a prompt without answers, or answers to another one.
        """
        answers: dict[tuple, deque] = defaultdict(deque)
        for start in range(0, len(samples), n):
            first = samples[start]
            answers[first.prompts[0], str(first.labels[0])].append(list(samples[start : start + n]))
        ordered = []
        for prompt, label in zip(self.dataset.prompts, self.dataset.labels, strict=True):
            if not answers[prompt, str(label)]:
                raise ValueError(f"the evaluation has no answers to the prompt {prompt[:200]!r}")
            ordered.append(answers[prompt, str(label)].popleft())
        return ordered


def evaluation_set(strategy: Any, tokenizer: Any) -> EvaluationSet | None:
    """The prompts of --eval.dataset, all or the first --eval.max_samples; None without the option."""
    args = strategy.args
    if not args.eval.dataset:
        return None
    rows = blending_datasets(args.eval.dataset, None, strategy, dataset_split=args.eval.split)
    if args.eval.max_samples:
        rows = rows.select(range(min(args.eval.max_samples, len(rows))))
    dataset = PromptDataset(rows, tokenizer, strategy, input_template=args.data.input_template)
    loader = strategy.setup_dataloader(dataset, 1, True, False, dataset.collate_fn)
    columns = {name: list(rows[name]) for name in args.eval.split_by or SPLIT_COLUMNS if name in rows.column_names}
    chosen = args.eval.split_by or default_split_columns(columns)
    return EvaluationSet(dataset, loader, {name: columns[name] for name in chosen})


def evaluation_record(answers: Sequence[Sequence[Experience]], splits: dict, ks: Sequence[int] | None) -> dict:
    """What eval.jsonl keeps of an evaluation (docs/run_folder.md).

    Args:
        answers: [P][n] one experience an answer.
        splits: {column: [P] values}.
        ks: for Pass@k; None for the powers of two up to n.
    Raises:
        ValueError: a score that is no number; it would count as a wrong answer.
    """
    scores = [[float(answer.scores) for answer in prompt] for prompt in answers]
    if none := sum(not math.isfinite(score) for prompt in scores for score in prompt):
        raise ValueError(
            f"{none} of {sum(map(len, scores))} answers of the evaluation have a score that is no number (NaN or "
            "infinite); --reward.remote_url must give `scores` in [0, 1]"
        )
    return {
        "scores": scores,
        "lengths": [[int(answer.action_mask.sum()) for answer in prompt] for prompt in answers],
        "truncated": [[bool(answer.truncated) for answer in prompt] for prompt in answers],
        "splits": splits,
        "pass_at_k": pass_at_k_by_split(scores, splits, ks or default_ks(len(scores[0]))),
    }


def tracked(record: dict) -> dict[str, float]:
    """The Pass@k of a record by name, for TensorBoard and wandb."""
    return {
        f"{'' if split == 'all' else split + '/'}pass@{k}": mean
        for split, by_k in record["pass_at_k"].items()
        for k, (mean, _) in by_k.items()
    }
