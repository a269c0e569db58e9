"""Scores of the steps of wrong answers, which travel to the estimator (spectral policy optimization)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch

from ...advantages.config import GroupKind
from ...advantages.estimators import group_kinds
from ..commandline.step_scorer import StepScorer
from .tags import EXTRA

if TYPE_CHECKING:
    from openrlhf.trainer.ppo_utils.experience import Experience

SCORER_THREADS = 32


def score_steps(samples: Sequence[Experience], tokenizer: Any, scorer: StepScorer, per_prompt: int) -> None:
    """Put the scorer's score of every answer of all-wrong groups into its `info`, and 0 into the others'.

    Args:
        samples: a step's rollouts in their order, one answer each, those to a prompt side by side; with scores.
        tokenizer: decodes the answers.
        scorer: called from several threads.
        per_prompt: answers to a prompt.

    Raises:
        ValueError: the scorer's.
    """
    from .samples import response_text  # needs OpenRLHF, the rest here does not

    correctness = torch.cat([sample.scores for sample in samples]).double()
    cu_groups = torch.arange(0, len(samples) + 1, per_prompt)
    wrong = (group_kinds(correctness, cu_groups) == GroupKind.NEGATIVE).repeat_interleave(per_prompt).tolist()
    judged = [sample for sample, is_wrong in zip(samples, wrong, strict=True) if is_wrong]

    def score(sample: Experience) -> float:
        return scorer(sample.prompts[0], response_text(sample, tokenizer), sample.labels[0])

    with ThreadPoolExecutor(SCORER_THREADS) as pool:
        scores = iter(list(pool.map(score, judged)))
    for sample, is_wrong in zip(samples, wrong, strict=True):
        sample.info[EXTRA + "step_score"] = torch.tensor([next(scores) if is_wrong else 0.0])
