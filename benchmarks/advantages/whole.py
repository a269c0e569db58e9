"""Advantages by the operator and by torch, from log-probabilities or from means; GRPO as other packages have it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lens_openrlhf.advantages import LensConfig, lens_advantages

from .batches import GROUP, Batch
from .means import compiled, masked_mean

ALPHA = 0.25
STD_EPS = 1e-9


def torch_group_stage(mean: Tensor, correctness: Tensor) -> Tensor:
    """LENS's advantages in plain torch for groups of one size: [N] means to [N] advantages."""
    lp, c = mean.view(-1, GROUP), correctness.view(-1, GROUP).to(mean.dtype)
    q = (lp - lp.amax(1, keepdim=True)).exp()
    inverse = (c / q).sum(1, keepdim=True) / GROUP
    d = torch.where(inverse > 0, 1 / inverse.clamp(min=1e-30), 0).clamp(min=2)
    r = c - (1 - c) / GROUP * q / (d - q)
    centred = r - r.mean(1, keepdim=True)
    mixed = c.amax(1, keepdim=True) != c.amin(1, keepdim=True)
    return torch.where(mixed, centred / (r.std(1, keepdim=True) + STD_EPS), ALPHA * centred).flatten()


def whole_operator(batch: Batch) -> Tensor:
    return lens_advantages(batch.logprobs, batch.cu_seqlens, batch.correctness, batch.cu_groups, LensConfig()).advantage


def whole_by(means: Callable[[Batch], Tensor]) -> Callable[[Batch], Tensor]:
    """Torch's group stage after one of the methods above."""
    return lambda batch: torch_group_stage(means(batch), batch.correctness)


def masked_whole(padded: Tensor, mask: Tensor, correctness: Tensor) -> Tensor:
    return torch_group_stage(masked_mean(padded, mask), correctness)


def whole_compiled(batch: Batch) -> Tensor:
    return compiled(masked_whole)(batch.padded, batch.mask, batch.correctness)


# GRPO as other packages compute it: from rewards alone, without log-probabilities. Shown for scale. OpenRLHF's also
# spreads the advantages over tokens. TRL computes it inside a method of its trainer, so it cannot be called.
def verl_grpo() -> Callable[[Batch], Tensor]:
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    def compute(batch: Batch) -> Tensor:
        n = len(batch.correctness)
        index = np.arange(n) // GROUP
        return compute_grpo_outcome_advantage(batch.correctness[:, None].float(), torch.ones(n, 1), index)[0]

    return compute


def openrlhf_grpo() -> Callable[[Batch], Tensor]:
    from types import SimpleNamespace

    from lens_openrlhf import cpu_runtime
    from lens_openrlhf.training.commandline import options

    if cpu_runtime.required():
        cpu_runtime.install()
    from openrlhf.trainer.ppo_utils.experience import Experience
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

    args = options.parse(
        [
            *("--actor.model_name_or_path", "none", "--data.prompt_dataset", "none", "--reward.remote_url", "none"),
            *(
                "--vllm.num_engines",
                "1",
                "--actor.num_gpus_per_node",
                "1",
                "--rollout.n_samples_per_prompt",
                str(GROUP),
            ),
            *("--algo.advantage.estimator", "group_norm", "--algo.kl.init_coef", "0"),
            *("--rollout.micro_batch_size", "1"),
        ]
    )
    args.algo.advantage.gamma = 1.0
    strategy = SimpleNamespace(args=args)
    maker = RemoteExperienceMaker(None, None, None, None, SimpleNamespace(value=0.0), strategy, None)

    def compute(batch: Batch) -> list[Experience]:
        n, width = batch.mask.shape
        experience = Experience(
            index=list(range(n)),
            rewards=batch.correctness.float(),
            action_mask=batch.mask,
            action_log_probs=batch.padded,
            kl=torch.zeros(1).expand(n, width),
            info={},
        )
        return maker.compute_advantages_and_returns([experience])

    return compute


GRPO_PEERS = {
    "OpenRLHF compute_advantages_and_returns": openrlhf_grpo,
    "verl compute_grpo_outcome_advantage": verl_grpo,
}
