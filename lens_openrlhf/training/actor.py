"""The PPO actor with LENS: before each update it computes the advantages of its replay buffer.

Groups may lie on several data-parallel ranks in any way: each rank reduces its own tokens to one row a response,
the rows of all ranks are gathered, the group stage runs the same on every rank, and each keeps its own samples'
advantages.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import ray
import torch
import torch.distributed as dist
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ray.ppo_actor import PolicyModelActor
from torch import Tensor

from ..advantages import LensConfig, group_advantages, segment_mean
from . import checkpoints, cpu, lora
from .experience import ROLLOUT_INDEX
from .metrics import group_metrics
from .options import chosen, lens_config
from .run_log import RunLog
from .samples import advantage_columns

# Columns of a gathered row, float64.
INDEX, MEAN_LOGPROB, LENGTH, CORRECTNESS, REWARD = range(5)


@dataclass(frozen=True)
class Gathered:
    """The rows of every data-parallel rank, [N, 5] in rank order."""

    rows: Tensor
    counts: list[int]  # rows of each rank
    rank: int

    @property
    def mine(self) -> slice:
        start = sum(self.counts[: self.rank])
        return slice(start, start + self.counts[self.rank])


def pack_rows(items: list[Experience], confidence_from: str, device: torch.device | str) -> Tensor:
    """One float64 row a sample: rollout index, mean log-probability, action tokens, correctness, shaped reward.

    Raises:
        ValueError: a sample without score or rollout log-probabilities, or log-probabilities that are none.
    """
    if not items:
        return torch.empty(0, 5, dtype=torch.float64, device=device)
    if any(item.scores is None for item in items):
        raise ValueError("a sample has no score: the lens estimator needs the raw correctness of every answer")
    name = "action_log_probs" if confidence_from == "actor" else "rollout_log_probs"
    logprobs = [getattr(item, name) for item in items]
    if any(value is None for value in logprobs):
        raise ValueError(f"--algo.lens.confidence_from {confidence_from}: a sample has no {name}")
    lengths = torch.tensor([0] + [len(item.action_mask) for item in items], dtype=torch.int64)
    mean, tokens = segment_mean(
        torch.cat(logprobs).to(device),
        lengths.cumsum(0).to(device),
        torch.cat([item.action_mask for item in items]).bool().to(device),
    )
    scalars = torch.tensor(
        [[float(i.info[ROLLOUT_INDEX]), float(i.scores), float(i.rewards)] for i in items],
        dtype=torch.float64,
    ).to(device)
    return torch.stack([scalars[:, 0], mean, tokens.double(), scalars[:, 1], scalars[:, 2]], dim=1)


def gather_rows(rows: Tensor, error: str, group: dist.ProcessGroup | None) -> Gathered:
    """All ranks' rows. If any rank brings an error, every rank raises it, so that none waits for another.

    Raises:
        ValueError: the errors of all ranks.
    """
    if group is None or dist.get_world_size(group) == 1:
        if error:
            raise ValueError(error)
        return Gathered(rows, [len(rows)], 0)
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    message = torch.tensor(list(error.encode()), dtype=torch.uint8, device=rows.device)
    sizes = torch.tensor([len(rows), len(message)], dtype=torch.int64, device=rows.device)
    all_sizes = [torch.empty_like(sizes) for _ in range(world)]
    dist.all_gather(all_sizes, sizes, group=group)
    counts, message_sizes = torch.stack(all_sizes).T.tolist()

    def gather(local: Tensor, lengths: list[int]) -> list[Tensor]:
        """Tensors of different lengths, by way of the longest."""
        padded = local.new_zeros(max(lengths), *local.shape[1:])
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(parts, padded, group=group)
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]

    if any(message_sizes):
        texts = [bytes(part.tolist()).decode() for part in gather(message, message_sizes)]
        raise ValueError("; ".join(f"data-parallel rank {r}: {text}" for r, text in enumerate(texts) if text))
    return Gathered(torch.cat(gather(rows, counts)), counts, rank)


def advantages_of_rows(
    gathered: Gathered, config: LensConfig, samples_per_prompt: int, clip_range: tuple[float, float]
) -> tuple[Tensor, dict[str, float | None], dict[str, list]]:
    """Advantages [N] float64 of the gathered rows, in their order and clipped, the step's metrics, and what
    samples/ keeps of every answer."""
    rows = gathered.rows
    if len(rows) == 0:
        raise ValueError("the replay buffer is empty on every rank")
    order = rows[:, INDEX].argsort(stable=True)
    ordered = rows[order]
    index = ordered[:, INDEX].long()
    repeated = (index.diff() == 0).nonzero()
    if len(repeated):
        raise ValueError(
            f"rollout sample {int(index[repeated[0]])} was gathered twice: copies of a rank (ring attention, tensor "
            "parallelism) must not take part"
        )
    prompt, sizes = torch.unique_consecutive(index // samples_per_prompt, return_counts=True)
    cu_groups = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    lengths = ordered[:, LENGTH].long()
    correctness, rewards = ordered[:, CORRECTNESS].contiguous(), ordered[:, REWARD].contiguous()
    result = group_advantages(ordered[:, MEAN_LOGPROB], lengths, correctness, cu_groups, config, rewards=rewards)
    metrics = group_metrics(result, lengths, correctness, rewards, cu_groups)
    clipped = result.advantage.clamp(*clip_range)
    advantage = torch.empty_like(clipped)
    advantage[order] = clipped
    return advantage, metrics, advantage_columns(index, rewards, clipped, result, cu_groups)


def set_advantages(items: list[Experience], advantage: Tensor) -> None:
    """Replace OpenRLHF's placeholder advantages by `advantage` [len(items)], on every action token.

    Tensors are replaced, never written to: those that come through Ray can be read-only.
    """
    values = advantage.float().cpu()
    for item, value in zip(items, values, strict=True):
        item.advantages = torch.where(item.action_mask.bool(), value, torch.zeros(()))
        item.returns = item.advantages
        item.info = {k: v for k, v in item.info.items() if k != ROLLOUT_INDEX} | {"return": value}


def dropped_samples(args, counts: list[int]) -> int:
    """How many samples OpenRLHF will leave out of the update: tails that fill no batch."""
    if not args.train.dynamic_batch_enable:
        return sum(count % args.train.micro_batch_size for count in counts)
    local_batch = args.train.batch_size // len(counts)
    per_step = args.rollout.batch_size * args.rollout.n_samples_per_prompt // args.train.batch_size
    steps = min(per_step, min(counts) // local_batch)
    return sum(counts) - steps * local_batch * len(counts)


class LensPolicyModel(PolicyModelActor.__ray_metadata__.modified_class):
    """OpenRLHF's PPO actor. `fit` computes LENS's advantages first where the lens estimator was chosen."""

    def init_model_from_pretrained(self, strategy, *args, **kwargs):
        self.config = lens_config(strategy.args)
        self.columns = None
        super().init_model_from_pretrained(strategy, *args, **kwargs)
        run_log = RunLog(strategy.args.logger.run_dir)
        run_log.event("ready", where=f"LensPolicyModel {dist.get_rank()}", pid=os.getpid())
        if cpu.required():
            # OpenRLHF builds this as "cuda:<index>".
            self.trainer.replay_buffer.target_device = torch.device("cpu")

    def compute_advantages(self) -> dict[str, float | None]:
        """Set the advantages of this rank's replay buffer; returns the step's metrics, the same on every rank.

        Raises:
            ValueError: on every rank, if any rank holds a sample that has no valid score or log-probability.
        """
        start = time.perf_counter()
        args, buffer = self.strategy.args, self.trainer.replay_buffer
        device = torch.cuda.current_device()
        rows, error = torch.empty(0, 5, dtype=torch.float64, device=device), ""
        try:
            rows = pack_rows(buffer.items, self.config.confidence_from, device)
        except ValueError as fault:
            error = str(fault)
        gathered = gather_rows(rows, error, self.strategy.ds_device_mesh["dp"].get_group())
        advantage, metrics, self.columns = advantages_of_rows(
            gathered, self.config, args.rollout.n_samples_per_prompt, args.reward.clip_range
        )
        set_advantages(buffer.items, advantage[gathered.mine])
        metrics["lens/dropped_samples"] = float(dropped_samples(args, gathered.counts))
        metrics["lens/seconds"] = time.perf_counter() - start
        return metrics

    def fit(self, kl_ctl: float = 0):
        metrics = self.compute_advantages() if self.config else {}
        return super().fit(kl_ctl) | metrics

    def broadcast_to_vllm(self):
        with lora.under_vllm_names(self.actor.model.module):
            super().broadcast_to_vllm()

    def save_checkpoint(self, tag, client_states=None, metric_value=None, metric_key=None):
        args, folder = self.strategy.args, Path(self.strategy.args.ckpt.path)
        if self.strategy.is_rank_0():
            checkpoints.sweep(folder)
        with checkpoints.nothing_deleted(args.ckpt):
            super().save_checkpoint(checkpoints.UNFINISHED + tag, client_states, metric_value, metric_key)
        if self.strategy.is_rank_0():
            facts = {
                "step": (client_states or {}).get("global_step", 0),
                "options": chosen(args),
                "architecture": checkpoints.architecture(args.actor.model_name_or_path),
            }
            checkpoints.finish(folder, tag, facts, args.ckpt)
        dist.barrier()

    def take_columns(self) -> dict[str, list] | None:
        """What samples/ keeps of the last update's answers, the same on every rank; None without LENS."""
        columns, self.columns = self.columns, None
        return columns


LensPolicyModelActor = ray.remote(num_gpus=1)(LensPolicyModel)
