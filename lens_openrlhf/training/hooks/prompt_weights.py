"""Training prompts drawn by the weights that the estimator gives them (SPO)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from .tags import prompt_id

if TYPE_CHECKING:
    from torchdata.stateful_dataloader import StatefulDataLoader


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
        self.ids = torch.tensor([prompt_id(text) for text in prompts])
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
        self.sampler, self.drawn = sampler, 0
        self.block: list[int] = []

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
