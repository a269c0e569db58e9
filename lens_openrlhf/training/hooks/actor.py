"""The PPO actor with an estimator of ours: before each update it computes the advantages of its replay buffer.

Groups may lie on several data-parallel ranks in any way: each rank reduces its own tokens to one row a response,
the rows of all ranks are gathered, the estimator runs the same on every rank, and each keeps its own samples'
advantages. The tokens themselves are gathered only for an estimator that needs them.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openrlhf.models.actor as openrlhf_actor
import ray
import torch
import torch.distributed as dist
from openrlhf.trainer.ray.ppo_actor import PolicyModelActor
from torch import Tensor

from ... import cpu_runtime
from ...advantages import estimators
from ...advantages.across_ranks import gather
from ...advantages.estimators import Estimator
from ...advantages.token_statistics import STATISTICS, statistics
from ...run_folder.log import RunLog
from ..checkpoints import estimator_state, layout, writing
from ..commandline.estimator import make_estimator
from ..commandline.records import chosen
from . import lora
from .advantages import compute, dropped_samples, set_advantages
from .columns import needs_of, pack
from .experience import WithStatistics
from .policy_loss import PolicyGradientLoss
from .prompt_weights import checked_weights


class _WithStatistics:
    """OpenRLHF's model, called for log-probabilities, that keeps statistics of the tokens' distributions.

    OpenRLHF computes an entropy where it is asked to, unpacks it and gathers it from ring attention's ranks; the
    statistics take its place.
    """

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        self._model, self._names = model, names
        self.is_vlm = getattr(model, "is_vlm", False)
        self.kept: dict[str, Tensor] = {}

    def eval(self) -> None:
        self._model.eval()

    def train(self) -> None:
        self._model.train()

    def __call__(self, sequences: Tensor, action_mask: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with _entropy_replaced(lambda logits: statistics(logits, self._names)):
            logprobs, output = self._model(
                sequences, action_mask, *args, return_output=True, return_entropy=True, **kwargs
            )
        width = action_mask.shape[1]
        numbers = output.entropy.reshape(*sequences[:, 1:].shape, len(self._names))[:, -width:]
        self.kept = {name: numbers[..., i].cpu() for i, name in enumerate(self._names)}
        return logprobs


@contextmanager
def _entropy_replaced(function: Callable[[Tensor], Tensor]) -> Iterator[None]:
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

    actor: Any  # OpenRLHF's model
    estimator: Estimator | None

    def init_model_from_pretrained(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.estimator = estimator = make_estimator(strategy.args)
        self.columns: dict[str, list] | None = None
        super().init_model_from_pretrained(strategy, *args, **kwargs)
        if estimator:
            self._set_up_estimator(estimator, strategy.args)
        run_log = RunLog(strategy.args.logger.run_dir)
        run_log.event("ready", where=f"LensPolicyModel {dist.get_rank()}", pid=os.getpid())
        if cpu_runtime.required():
            # OpenRLHF builds this as "cuda:<index>".
            self.trainer.replay_buffer.target_device = torch.device("cpu")

    def _set_up_estimator(self, estimator: Estimator, args: SimpleNamespace) -> None:
        self.needs = needs_of(estimator)
        self.step = self.checkpoint_states.get("global_step", 0)
        if self.checkpoint_states:
            estimator_state.load_estimator(Path(args.ckpt.path), estimator)
        if estimator.policy_loss != "ppo":
            self.trainer.actor_loss_fn = PolicyGradientLoss(
                estimator.policy_loss, token_level_loss=args.actor.loss_agg_mode == "token-mean"
            )

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | WithStatistics:
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
        assert self.estimator
        args, buffer = self.strategy.args, self.trainer.replay_buffer
        device: Any = torch.cuda.current_device()  # a number, or "cpu" by the CPU runtime
        error = None
        try:
            mine = pack(buffer.items, self.needs, device)
        except ValueError as fault:
            mine, error = pack([], self.needs, device), fault
        gathered = gather(*mine, error, self.strategy.ds_device_mesh["dp"].get_group())
        self.step += 1
        result = compute(
            gathered,
            self.estimator,
            self.needs,
            args.rollout.n_samples_per_prompt,
            self.step,
            args.reward.clip_range,
        )
        set_advantages(buffer.items, gathered.own(result.values, result.per_token), result.per_token)
        self.columns = result.columns
        more = {
            "lens/dropped_samples": float(dropped_samples(args, gathered.counts)),
            "lens/seconds": time.perf_counter() - start,
        }
        return result.metrics | more

    def fit(self, kl_ctl: float = 0) -> dict:
        metrics = self.compute_advantages() if self.estimator else {}
        status = super().fit(kl_ctl)
        check_update(status, self.strategy.args.ds.param_dtype)
        if self.estimator:
            with estimators.asked(self.estimator, "updated"):
                self.estimator.updated(status)
        return status | metrics

    def prompt_weights(self, prompts: Tensor) -> Tensor:
        """How often each of `prompts` [P] is to be drawn, see Estimator.prompt_weights."""
        assert self.estimator
        with estimators.asked(self.estimator, "prompt_weights"):
            return checked_weights(self.estimator.prompt_weights(prompts), len(prompts))

    def broadcast_to_vllm(self) -> None:
        with lora.under_vllm_names(self.actor.model.module):
            super().broadcast_to_vllm()

    def save_checkpoint(
        self, tag: str, client_states: dict | None = None, metric_value: Any = None, metric_key: Any = None
    ) -> None:
        args, folder = self.strategy.args, Path(self.strategy.args.ckpt.path)
        try:
            if self.strategy.is_rank_0():
                writing.sweep(folder)
            with writing.nothing_deleted(args.ckpt):
                super().save_checkpoint(layout.UNFINISHED + tag, client_states, metric_value, metric_key)
            if self.strategy.is_rank_0():
                if self.estimator:
                    estimator_state.save_estimator(folder, tag, self.estimator)
                facts = {
                    "step": (client_states or {}).get("global_step", 0),
                    "options": chosen(args),
                    "architecture": layout.architecture(args.actor.model_name_or_path),
                }
                writing.finish(folder, tag, facts, args.ckpt)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter
            raise writing.not_written(folder, tag, error) from error
        dist.barrier()

    def take_columns(self) -> dict[str, list] | None:
        """What samples/ keeps of the last update's answers; None with an estimator of OpenRLHF's."""
        columns, self.columns = self.columns, None
        return columns


LensPolicyModelActor = ray.remote(num_gpus=1)(LensPolicyModel)
