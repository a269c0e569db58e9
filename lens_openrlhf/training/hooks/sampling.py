"""The sampling side of estimators that choose what is sampled, or know more of an answer than its outcome.

What they know of an answer travels in its `info` under EXTRA + name, and reaches the estimator as `batch.extras`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ...advantages.config import GroupKind
from ...advantages.estimators import group_kinds
from ..commandline.step_scorer import StepScorer
from .tags import EXTRA

if TYPE_CHECKING:
    from openrlhf.trainer.ppo_utils.experience import Experience
    from torchdata.stateful_dataloader import StatefulDataLoader

    from ...advantages.estimators.reinforce_ada import ReinforceAdaConfig

SCORER_THREADS = 32


def prompt_id(text: str) -> int:
    """A number for a prompt, the same in every run: 52 bits of its SHA-256, which float64 holds exactly."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 12


# Rounds of answers (Reinforce-Ada)


def is_right(score: float) -> bool:
    return score > 0.7  # as in the paper's code, for fractions


def enough(scores: Sequence[float], keep: int, stop: str) -> bool:
    """Whether a prompt needs no more rounds: one right answer (`positive`), or half of `keep` right and half wrong."""
    right = sum(map(is_right, scores))
    if stop == "positive":
        return right >= 1
    return right >= keep // 2 and len(scores) - right >= keep - keep // 2


def kept(scores: Sequence[float], keep: int) -> list[int]:
    """Which answers are kept: the first right and the first wrong ones, half and half where there are as many."""
    right = [i for i, score in enumerate(scores) if is_right(score)]
    wrong = [i for i, score in enumerate(scores) if not is_right(score)]
    rights = min(max(keep // 2, keep - len(wrong)), len(right))
    return sorted(right[:rights] + wrong[: keep - rights])


class RolloutInRounds:
    """For OpenRLHF's vLLM actor: draws answers to a prompt in rounds, and says what was drawn.

    The rounds of one prompt do not wait for another's, and answers that are not kept never leave this process.
    """

    async def generate_in_rounds(
        self, *, rounds: ReinforceAdaConfig, num_samples: int, sampling_params, **call
    ) -> list[dict]:
        """`num_samples` of the answers drawn in up to `rounds.rounds` rounds, with extras in `extra_logs`: mean and
        unbiased standard deviation of all drawn rewards, and their number.

        The other arguments are those of `generate_responses`. Where an answer has no score, the first ones are given
        back as they are; experience.require_scores ends the run.
        """
        drawn = []
        for _ in range(rounds.rounds):
            drawn += await self.generate_responses(
                num_samples=rounds.oversample * num_samples,
                sampling_params=deepcopy(sampling_params),  # answers of several turns change theirs
                **call,
            )
            if any(answer["scores"] is None for answer in drawn):
                return drawn[:num_samples]
            scores = [float(answer["scores"]) for answer in drawn]
            if enough(scores, num_samples, rounds.stop):
                break
        rewards = torch.tensor([float(answer["reward"]) for answer in drawn], dtype=torch.float64)
        extras = {
            EXTRA + "drawn_mean": rewards.mean().item(),
            EXTRA + "drawn_std": rewards.std().item() if len(rewards) > 1 else 0.0,
            EXTRA + "drawn": float(len(rewards)),
        }
        return [drawn[i] | {"extra_logs": drawn[i]["extra_logs"] | extras} for i in kept(scores, num_samples)]


class UntilPositive:
    """For OpenRLHF's SamplesGenerator: training prompts are answered in rounds where `rounds` is set, evaluation's not.

    The engines must be RolloutInRounds.
    """

    rounds: ReinforceAdaConfig | None = None
    _training = False

    def generate_samples(self, **generate_kwargs):
        self._training = True
        try:
            return super().generate_samples(**generate_kwargs)
        finally:
            self._training = False

    def _dispatch_prompts_to_vllm(self, *args, **kwargs):
        if self.rounds is None or not self._training:
            return super()._dispatch_prompts_to_vllm(*args, **kwargs)
        engines = self.vllm_engines
        self.vllm_engines = [self._in_rounds(engine) for engine in engines]
        try:
            return super()._dispatch_prompts_to_vllm(*args, **kwargs)
        finally:
            self.vllm_engines = engines

    def _in_rounds(self, engine) -> SimpleNamespace:
        """What OpenRLHF calls of an engine, with the rounds behind it."""
        remote = functools.partial(engine.generate_in_rounds.remote, rounds=self.rounds)
        return SimpleNamespace(
            get_num_unfinished_requests=engine.get_num_unfinished_requests,
            generate_responses=SimpleNamespace(remote=remote),
        )


# Prompts by weight (SPO)


def checked_weights(weights: Tensor, prompts: int) -> Tensor:
    """`weights`. Raises ValueError unless they are one number above 0 for each of so many prompts."""
    if tuple(weights.shape) != (prompts,):
        raise ValueError(f"weights of shape {list(weights.shape)}, expected one for each of {prompts} prompts")
    bad = (~(weights.isfinite() & (weights > 0))).nonzero()
    if len(bad):
        raise ValueError(f"prompt {int(bad[0])} has weight {weights[bad[0]].item()!r}, expected a number above 0")
    return weights


class PromptsByWeight(Sampler[int]):
    """Draws as many prompts an episode as there are, each with probability in proportion to its weight at that moment.

    Within `block` draws, counted from the episode's start, no prompt comes twice; beyond, it may, so that an episode
    has some prompts often and others not at all. Iterators have a state, which a StatefulDataLoader keeps; the
    weights are not in it.

    Attributes:
        ids: [P] int64, see prompt_id.
        weights: [P] float64 above 0; all the same until they are set.
    """

    def __init__(self, prompts: Sequence[str], block: int, seed: int):
        self.ids = torch.tensor([prompt_id(text) for text in prompts], dtype=torch.int64)
        self.block = min(block, len(prompts))
        self.generator = torch.Generator().manual_seed(seed)
        self.weights = torch.ones(len(prompts))

    @property
    def weights(self) -> Tensor:
        return self._weights

    @weights.setter
    def weights(self, weights: Tensor) -> None:
        self._weights = checked_weights(weights, len(self.ids)).double().cpu()

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[int]:
        return _WeightedDraws(self)


class _WeightedDraws(Iterator[int]):
    """One episode's draws."""

    def __init__(self, sampler: PromptsByWeight):
        self.sampler, self.drawn, self.block = sampler, 0, []

    def __next__(self) -> int:
        sampler = self.sampler
        if self.drawn == len(sampler):
            raise StopIteration
        if len(self.block) == sampler.block:
            self.block = []
        weights = sampler.weights.clone()
        weights[self.block] = 0
        # torch.multinomial takes at most 2^24 categories, and this needs one number a draw.
        total = weights.cumsum(0)
        at = torch.rand((), dtype=torch.float64, generator=sampler.generator) * total[-1]
        index = min(int(torch.searchsorted(total, at, right=True)), len(sampler) - 1)
        self.block.append(index)
        self.drawn += 1
        return index

    def state_dict(self) -> dict[str, Any]:
        generator = self.sampler.generator.get_state()
        return {"drawn": self.drawn, "block": list(self.block), "generator": generator}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawn, self.block = state["drawn"], list(state["block"])
        self.sampler.generator.set_state(state["generator"])


def by_weight(dataloader: StatefulDataLoader, block: int, seed: int) -> StatefulDataLoader:
    """OpenRLHF's dataloader of training prompts, drawn by the weights of its `.sampler`, a PromptsByWeight.

    Prompts are drawn one by one in this process, none ahead, whatever --data.dataloader_num_workers says, so that each
    draw sees the newest weights.
    """
    from torchdata.stateful_dataloader import StatefulDataLoader

    dataset = dataloader.dataset
    sampler = PromptsByWeight(dataset.prompts, block, seed)
    return StatefulDataLoader(dataset, dataloader.batch_size, sampler=sampler, collate_fn=dataloader.collate_fn)


# Scores of an answer's steps (spectral policy optimization)


def score_steps(samples: Sequence[Experience], tokenizer, scorer: StepScorer, per_prompt: int) -> None:
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
