"""The PPO actor with an estimator of ours: before each update it computes the advantages of its replay buffer.

Groups may lie on several data-parallel ranks in any way: each rank reduces its own tokens to one row a response,
the rows of all ranks are gathered, the estimator runs the same on every rank, and each keeps its own samples'
advantages. The tokens themselves are gathered only for an estimator that needs them.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openrlhf.models.actor as openrlhf_actor
import ray
import torch
import torch.distributed as dist
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ray.ppo_actor import PolicyModelActor
from torch import Tensor

from ..advantages import estimators, segment_mean
from ..advantages.estimators import Batch, Estimator
from ..advantages.token_statistics import STATISTICS, statistics
from . import checkpoints, cpu, lora
from .experience import CARRIERS, PROMPT, ROLLOUT_INDEX, TAGS, WithStatistics
from .metrics import group_metrics
from .options import chosen, make_estimator
from .policy_loss import PolicyGradientLoss
from .run_log import RunLog
from .samples import advantage_columns
from .sampling import EXTRA, checked_weights

# Columns of a gathered row, float64; an estimator's extras follow.
INDEX, PROMPT_ID, MEAN_LOGPROB, LENGTH, CORRECTNESS, REWARD = range(6)


@dataclass(frozen=True)
class Needs:
    """What is taken from the samples for an estimator."""

    logprobs: str = "action_log_probs"  # field of Experience behind the confidence
    option: str = ""  # that chose it
    tokens: tuple[str, ...] = ()  # numbers of every token, see Estimator.needs
    extras: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gathered:
    """What every data-parallel rank holds, in rank order: rows [N, 6 + extras], and tokens [T, K] of the same
    responses one after another."""

    rows: Tensor
    tokens: Tensor
    counts: list[int]  # rows of each rank
    token_counts: list[int]
    rank: int

    @property
    def mine(self) -> slice:
        return _part(self.counts, self.rank)

    @property
    def my_tokens(self) -> slice:
        return _part(self.token_counts, self.rank)


def _part(counts: list[int], rank: int) -> slice:
    start = sum(counts[:rank])
    return slice(start, start + counts[rank])


def _field(items: list[Experience], name: str, wanted_by: str) -> list[Tensor]:
    values = [getattr(item, name) for item in items]
    if any(value is None for value in values):
        raise ValueError(f"{wanted_by}: a sample has no {name}")
    return values


def pack(items: list[Experience], needs: Needs, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """One float64 row a sample, and [T, K] float32 for its action tokens.

    Raises:
        ValueError: a sample without score, rollout log-probabilities, extras or statistics of its tokens, or
            log-probabilities that are none.
    """
    width = REWARD + 1 + len(needs.extras)
    if not items:
        return (
            torch.empty(0, width, dtype=torch.float64, device=device),
            torch.empty(0, len(needs.tokens), device=device),
        )
    if any(item.scores is None for item in items):
        raise ValueError("a sample has no score: the estimator needs the raw correctness of every answer")
    lengths = torch.tensor([0] + [len(item.action_mask) for item in items], dtype=torch.int64)
    logprobs = torch.cat(_field(items, needs.logprobs, needs.option)).to(device)
    mask = torch.cat([item.action_mask for item in items]).bool().to(device)
    mean, action_tokens = segment_mean(logprobs, lengths.cumsum(0).to(device), mask)
    for name in needs.extras:
        if any(EXTRA + name not in item.info for item in items):
            raise ValueError(f"a sample has no {name}, which the estimator needs of the side that sampled it")
    scalars = torch.tensor(
        [
            [float(i.info[ROLLOUT_INDEX]), float(i.info[PROMPT]), float(i.scores), float(i.rewards)]
            + [float(i.info[EXTRA + name]) for name in needs.extras]
            for i in items
        ],
        dtype=torch.float64,
    ).to(device)
    index, prompt, *others = scalars.unbind(1)
    rows = torch.stack([index, prompt, mean, action_tokens.double(), *others], dim=1)
    numbers = [
        logprobs if name == "logprobs" else torch.cat(_field(items, CARRIERS[name], name)).to(device)
        for name in needs.tokens
    ]
    tokens = torch.stack([n.float()[mask] for n in numbers], dim=1) if numbers else rows.new_empty(0, 0).float()
    return rows, tokens


def gather(rows: Tensor, tokens: Tensor, error: str, group: dist.ProcessGroup | None) -> Gathered:
    """All ranks' rows and tokens. If any rank brings an error, every rank raises it, so that none waits for another.

    Raises:
        ValueError: the errors of all ranks.
    """
    if group is None or dist.get_world_size(group) == 1:
        if error:
            raise ValueError(error)
        return Gathered(rows, tokens, [len(rows)], [len(tokens)], 0)
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    message = torch.tensor(list(error.encode()), dtype=torch.uint8, device=rows.device)
    sizes = torch.tensor([len(rows), len(tokens), len(message)], dtype=torch.int64, device=rows.device)
    all_sizes = [torch.empty_like(sizes) for _ in range(world)]
    dist.all_gather(all_sizes, sizes, group=group)
    counts, token_counts, message_sizes = torch.stack(all_sizes).T.tolist()

    def collect(local: Tensor, lengths: list[int]) -> list[Tensor]:
        """Tensors of different lengths, by way of the longest."""
        padded = local.new_zeros(max(lengths), *local.shape[1:])
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(parts, padded, group=group)
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]

    if any(message_sizes):
        texts = [bytes(part.tolist()).decode() for part in collect(message, message_sizes)]
        raise ValueError("; ".join(f"data-parallel rank {r}: {text}" for r, text in enumerate(texts) if text))
    all_tokens = torch.cat(collect(tokens, token_counts)) if any(token_counts) else tokens
    return Gathered(torch.cat(collect(rows, counts)), all_tokens, counts, token_counts, rank)


def batch_of(gathered: Gathered, needs: Needs, samples_per_prompt: int, step: int) -> tuple[Batch, Tensor, Tensor]:
    """The gathered rows as a batch in rollout order, that order [N], and the order of the tokens [T].

    Raises:
        ValueError: no rows, or a rollout sample that came twice.
    """
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
    tokens, token_order = {}, torch.empty(0, dtype=torch.int64, device=rows.device)
    if needs.tokens:
        token_order = estimators.tokens_of(order, rows[:, LENGTH].long())
        numbers = gathered.tokens[token_order]
        tokens = {name: numbers[:, i].contiguous() for i, name in enumerate(needs.tokens)}
        tokens["cu_seqlens"] = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    batch = Batch(
        mean_logprob=ordered[:, MEAN_LOGPROB].contiguous(),
        lengths=lengths,
        correctness=ordered[:, CORRECTNESS].contiguous(),
        rewards=ordered[:, REWARD].contiguous(),
        cu_groups=cu_groups,
        prompts=ordered[cu_groups[:-1], PROMPT_ID].long(),
        step=step,
        extras={name: ordered[:, REWARD + 1 + i].contiguous() for i, name in enumerate(needs.extras)},
        **tokens,
    )
    return batch, order, token_order


@dataclass(frozen=True)
class Advantages:
    """A step's advantages, clipped, in the order of the gathered rows: [N], or [T] in that of their tokens. And the
    step's metrics; and what samples/ keeps of every answer, on rank 0, which is asked for it."""

    values: Tensor
    per_token: bool
    metrics: dict[str, float | None]
    columns: dict[str, list] | None


def compute(
    gathered: Gathered,
    estimator: Estimator,
    needs: Needs,
    samples_per_prompt: int,
    step: int,
    clip_range: tuple[float, float],
) -> Advantages:
    """The estimator's advantages of the gathered rows.

    Raises:
        ValueError: rows that make no batch, or what :func:`estimators.run` raises.
    """
    batch, order, token_order = batch_of(gathered, needs, samples_per_prompt, step)
    result = estimators.run(estimator, batch)
    clipped = result.advantage.clamp(*clip_range)
    if result.per_token:
        response, magnitude = batch.token_mean(clipped), batch.token_mean(clipped.abs())
    else:
        response, magnitude = clipped, clipped.abs()
    metrics = group_metrics(batch, magnitude, result.confidence) | dict(result.metrics)
    values = torch.empty_like(clipped)
    values[token_order if result.per_token else order] = clipped
    columns = None
    if gathered.rank == 0:
        columns = advantage_columns(gathered.rows[order, INDEX].long(), batch, response, result.confidence)
    return Advantages(values, result.per_token, metrics, columns)


def set_advantages(items: list[Experience], values: Tensor, per_token: bool) -> None:
    """Replace OpenRLHF's placeholder advantages by `values` [len(items)] on every action token, or [T], one for each.

    Tensors are replaced, never written to: those that come through Ray can be read-only.
    """
    values = values.float().cpu()
    masks = [item.action_mask.bool() for item in items]
    if per_token:
        parts = values.split([int(mask.sum()) for mask in masks])
        means = [part.mean() if len(part) else values.new_zeros(()) for part in parts]
    else:
        parts = means = values.unbind()
    for item, mask, part, mean in zip(items, masks, parts, means, strict=True):
        item.advantages = torch.zeros(mask.shape).masked_scatter(mask, part.expand(int(mask.sum())))
        item.returns, item.values = item.advantages, None
        item.info = {k: v for k, v in item.info.items() if not k.startswith(TAGS)} | {"return": mean}


def dropped_samples(args, counts: list[int]) -> int:
    """How many samples OpenRLHF will leave out of the update: tails that fill no batch."""
    if not args.train.dynamic_batch_enable:
        return sum(count % args.train.micro_batch_size for count in counts)
    local_batch = args.train.batch_size // len(counts)
    per_step = args.rollout.batch_size * args.rollout.n_samples_per_prompt // args.train.batch_size
    steps = min(per_step, min(counts) // local_batch)
    return sum(counts) - steps * local_batch * len(counts)


class _WithStatistics:
    """OpenRLHF's model, called for log-probabilities, that keeps statistics of the tokens' distributions.

    OpenRLHF computes an entropy where it is asked to, unpacks it and gathers it from ring attention's ranks; the
    statistics take its place.
    """

    def __init__(self, model, names: tuple[str, ...]):
        self._model, self._names = model, names
        self.is_vlm = getattr(model, "is_vlm", False)
        self.kept: dict[str, Tensor] = {}

    def eval(self) -> None:
        self._model.eval()

    def train(self) -> None:
        self._model.train()

    def __call__(self, sequences: Tensor, action_mask: Tensor, *args, **kwargs) -> Tensor:
        with _entropy_replaced(lambda logits: statistics(logits, self._names)):
            logprobs, output = self._model(
                sequences, action_mask, *args, return_output=True, return_entropy=True, **kwargs
            )
        width = action_mask.shape[1]
        numbers = output.entropy.reshape(*sequences[:, 1:].shape, len(self._names))[:, -width:]
        self.kept = {name: numbers[..., i].cpu() for i, name in enumerate(self._names)}
        return logprobs


@contextmanager
def _entropy_replaced(function) -> Iterator[None]:
    before = openrlhf_actor.compute_entropy
    openrlhf_actor.compute_entropy = function
    try:
        yield
    finally:
        openrlhf_actor.compute_entropy = before


def check_update(status: Mapping[str, float], param_dtype: str) -> None:
    """What OpenRLHF reports of a step's updates, before their weights reach vLLM or a checkpoint.

    Raises:
        FloatingPointError: a loss or gradient that is no number. DeepSpeed calls the norm of such a gradient -1; with
            fp16 it then skips the update, as its loss scaling needs.
    """
    loss, norm = status.get("policy_loss", 0.0), status.get("actor_grad_norm", 0.0)
    if not math.isfinite(loss) or not math.isfinite(norm) or (norm < 0 and param_dtype != "fp16"):
        raise FloatingPointError(
            f"the update has policy_loss {loss:g} and actor_grad_norm {norm:g}{' (none)' if norm < 0 else ''}; the "
            "weights may be spoiled and are not kept. Go on from the last checkpoint (--ckpt.load_enable), with "
            "a smaller --actor.adam.lr"
        )


class LensPolicyModel(PolicyModelActor.__ray_metadata__.modified_class):
    """OpenRLHF's PPO actor. `fit` computes the advantages first where an estimator of ours was chosen."""

    def init_model_from_pretrained(self, strategy, *args, **kwargs):
        self.estimator = make_estimator(strategy.args)
        self.columns = None
        super().init_model_from_pretrained(strategy, *args, **kwargs)
        if self.estimator:
            self._set_up_estimator(strategy.args)
        run_log = RunLog(strategy.args.logger.run_dir)
        run_log.event("ready", where=f"LensPolicyModel {dist.get_rank()}", pid=os.getpid())
        if cpu.required():
            # OpenRLHF builds this as "cuda:<index>".
            self.trainer.replay_buffer.target_device = torch.device("cpu")

    def _set_up_estimator(self, args) -> None:
        self.needs = needs_of(self.estimator)
        self.step = self.checkpoint_states.get("global_step", 0)
        if self.checkpoint_states:
            checkpoints.load_estimator(Path(args.ckpt.path), self.estimator)
        if self.estimator.policy_loss != "ppo":
            self.trainer.actor_loss_fn = PolicyGradientLoss(
                self.estimator.policy_loss, token_level_loss=args.actor.loss_agg_mode == "token-mean"
            )

    def forward(self, *args, **kwargs):
        """OpenRLHF's log-probabilities [B, A]; WithStatistics where the estimator needs them."""
        names = tuple(name for name in self.needs.tokens if name in STATISTICS) if self.estimator else ()
        if not names:
            return super().forward(*args, **kwargs)
        model = self.actor
        self.actor = _WithStatistics(model, names)
        try:
            logprobs = super().forward(*args, **kwargs)
            return WithStatistics(logprobs, self.actor.kept)
        finally:
            self.actor = model

    def compute_advantages(self) -> dict[str, float | None]:
        """Set the advantages of this rank's replay buffer; returns the step's metrics, the same on every rank.

        Raises:
            ValueError: on every rank, if any rank holds a sample that has no valid score or log-probability, or if the
                estimator fails.
        """
        start = time.perf_counter()
        args, buffer = self.strategy.args, self.trainer.replay_buffer
        device = torch.cuda.current_device()
        (rows, tokens), error = pack([], self.needs, device), ""
        try:
            rows, tokens = pack(buffer.items, self.needs, device)
        except ValueError as fault:
            error = str(fault)
        gathered = gather(rows, tokens, error, self.strategy.ds_device_mesh["dp"].get_group())
        self.step += 1
        result = compute(
            gathered,
            self.estimator,
            self.needs,
            args.rollout.n_samples_per_prompt,
            self.step,
            args.reward.clip_range,
        )
        mine = gathered.my_tokens if result.per_token else gathered.mine
        set_advantages(buffer.items, result.values[mine], result.per_token)
        self.columns = result.columns
        more = {
            "lens/dropped_samples": float(dropped_samples(args, gathered.counts)),
            "lens/seconds": time.perf_counter() - start,
        }
        return result.metrics | more

    def fit(self, kl_ctl: float = 0):
        metrics = self.compute_advantages() if self.estimator else {}
        status = super().fit(kl_ctl)
        check_update(status, self.strategy.args.ds.param_dtype)
        if self.estimator:
            with estimators.asked(self.estimator, "updated"):
                self.estimator.updated(status)
        return status | metrics

    def prompt_weights(self, prompts: Tensor) -> Tensor:
        """How often each of `prompts` [P] is to be drawn, see Estimator.prompt_weights."""
        with estimators.asked(self.estimator, "prompt_weights"):
            return checked_weights(self.estimator.prompt_weights(prompts), len(prompts))

    def broadcast_to_vllm(self):
        with lora.under_vllm_names(self.actor.model.module):
            super().broadcast_to_vllm()

    def save_checkpoint(self, tag, client_states=None, metric_value=None, metric_key=None):
        args, folder = self.strategy.args, Path(self.strategy.args.ckpt.path)
        try:
            if self.strategy.is_rank_0():
                checkpoints.sweep(folder)
            with checkpoints.nothing_deleted(args.ckpt):
                super().save_checkpoint(checkpoints.UNFINISHED + tag, client_states, metric_value, metric_key)
            if self.strategy.is_rank_0():
                if self.estimator:
                    checkpoints.save_estimator(folder, tag, self.estimator)
                facts = {
                    "step": (client_states or {}).get("global_step", 0),
                    "options": chosen(args),
                    "architecture": checkpoints.architecture(args.actor.model_name_or_path),
                }
                checkpoints.finish(folder, tag, facts, args.ckpt)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter
            raise checkpoints.not_written(folder, tag, error) from error
        dist.barrier()

    def take_columns(self) -> dict[str, list] | None:
        """What samples/ keeps of the last update's answers; None with an estimator of OpenRLHF's."""
        columns, self.columns = self.columns, None
        return columns


def needs_of(estimator: Estimator) -> Needs:
    """What the samples must bring for it."""
    source = getattr(estimator.config, "confidence_from", "actor")
    return Needs(
        logprobs="action_log_probs" if source == "actor" else "rollout_log_probs",
        option=f"--algo.{estimator.name}.confidence_from {source}",
        tokens=tuple(name for name in ("logprobs", "entropies", "self_certainty") if name in estimator.needs),
        extras=estimator.extras,
    )


LensPolicyModelActor = ray.remote(num_gpus=1)(LensPolicyModel)
