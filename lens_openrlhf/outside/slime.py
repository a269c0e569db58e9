"""slime: functions for --custom-advantage-function-path, such as lens_openrlhf.outside.slime.lens.

Every estimator of the registry is an attribute of this module under its own name, with its default options; another
value of an option, or an estimator of your own, is a line in a file of yours:

    from lens_openrlhf.outside.slime import advantage_function
    mine = advantage_function("lens", alpha=0.5)  # --custom-advantage-function-path my_module.mine
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch

from ..advantages.estimators import Estimator, EstimatorError, names
from ..advantages.responses import Responses, estimate
from .estimate import check_answers, make

AdvantageFunction = Callable[[Namespace, dict[str, Any]], None]


def _local(args: Namespace, rollout_data: dict[str, Any]) -> list[dict[str, Any]]:
    """What is known of each response of this rank; its log-probabilities are those of the action tokens, on the CPU."""
    # The loss takes the same for the old policy's.
    name = "rollout_log_probs" if args.use_rollout_logprobs else "log_probs"
    if not rollout_data.get(name):
        raise EstimatorError(
            f"slime: rollout_data has no {name}, the log-probabilities before the update; leave out the option that "
            "skips them, or give --use-rollout-logprobs with an engine that returns them"
        )
    if "local_raw_reward" not in rollout_data:
        raise EstimatorError("slime: rollout_data has no local_raw_reward, the verifier's outcomes; use slime 0.3.1")
    # By default `rewards` have been normalised within their group.
    rewards = rollout_data["local_raw_reward" if args.rewards_normalization else "rewards"]
    rows = []
    for i, values in enumerate(rollout_data[name]):
        outcome, index = rollout_data["local_raw_reward"][i], rollout_data["sample_indices"][i]
        mask = rollout_data["loss_masks"][i].to(values.device).bool()
        if index is None:
            raise EstimatorError("slime: a sample has no index, which tells groups; keep Sample.index while sampling")
        if not isinstance(outcome, int | float) or not 0 <= outcome <= 1:
            raise EstimatorError(
                f"slime: sample {index} has the raw reward {outcome!r}, but the verifier's outcome is a number in "
                "[0, 1]; let the reward function return that, or put it into metadata['raw_reward']"
            )
        if mask.shape != values.shape:
            raise EstimatorError(
                f"slime: sample {index} has {len(values)} log-probabilities for a loss mask of {len(mask)} tokens"
            )
        rows.append(
            {
                "group": int(index) // args.n_samples_per_prompt,
                "logprobs": values[mask].detach().float().cpu(),
                "correctness": float(outcome),
                "reward": float(rewards[i]),
            }
        )
    return rows


def _of_all_ranks(local: Callable[[], list[dict[str, Any]]]) -> tuple[list[dict[str, Any]], int]:
    """The rows of all data-parallel ranks, as a group may lie on several, and where this rank's begin.

    An error of one rank is raised on all, so that none waits for it.
    """
    if not torch.distributed.is_initialized():
        return local(), 0
    from megatron.core import mpu

    error = None
    try:
        mine: Any = local()
    except Exception as raised:
        mine, error = str(raised), raised
    group = mpu.get_data_parallel_group_gloo(with_context_parallel=False)
    parts: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(parts, mine, group=group)
    if error is not None:
        raise error
    for rank, part in enumerate(parts):
        if isinstance(part, str):
            raise EstimatorError(f"data-parallel rank {rank}: {part}")
    first = sum(len(part) for part in parts[: torch.distributed.get_rank(group)])
    return [row for part in parts for row in part], first


def _check(args: Namespace, estimator: Estimator) -> None:
    check_answers(estimator, args.n_samples_per_prompt, "slime: n_samples_per_prompt")
    if getattr(args, "context_parallel_size", 1) > 1:
        raise EstimatorError(
            f"slime: --context-parallel-size {args.context_parallel_size} splits a response's log-probabilities over "
            "ranks, which is not supported; use 1"
        )
    if args.normalize_advantages:
        raise EstimatorError(
            "slime: --normalize-advantages would shift and scale the estimator's advantages; leave it out"
        )


def advantage_function(estimator: str | type[Estimator], **options: Any) -> AdvantageFunction:
    """A function of slime's (args, rollout_data), which sets rollout_data["advantages"] and ["returns"].

    Args:
        estimator: name in the registry, or an Estimator subclass that needs no numbers of tokens but "logprobs".
        options: values of its Config.

    Raises:
        EstimatorError: what cannot work; when it is called also settings of slime, with the remedy.
    """
    made = make(estimator, "slime", ("logprobs",), options, keeps_state=False)
    steps = 0

    def advantages(args: Namespace, rollout_data: dict[str, Any]) -> None:
        nonlocal steps
        _check(args, made)
        rows, first = _of_all_ranks(lambda: _local(args, rollout_data))
        steps += 1
        lengths = torch.tensor([len(row["logprobs"]) for row in rows])
        result = estimate(
            made,
            Responses(
                group=torch.tensor([row["group"] for row in rows]),
                lengths=lengths,
                correctness=torch.tensor([row["correctness"] for row in rows], dtype=torch.float64),
                rewards=torch.tensor([row["reward"] for row in rows], dtype=torch.float64),
                tokens={"logprobs": torch.cat([row["logprobs"] for row in rows])},
                step=steps,
            ),
        )
        of_rows = result.advantage.split(lengths.tolist()) if result.per_token else result.advantage.unbind()
        masks = [mask.bool() for mask in rollout_data["loss_masks"]]
        rollout_data["advantages"] = [
            torch.zeros(mask.shape, device=mask.device).masked_scatter(
                mask, value.float().to(mask.device).expand(int(mask.sum()))
            )
            for mask, value in zip(masks, of_rows[first : first + len(masks)], strict=True)
        ]
        rollout_data["returns"] = rollout_data["advantages"]

    return advantages


def __getattr__(name: str) -> AdvantageFunction:
    if name.startswith("_") or name not in names():
        raise AttributeError(f"{__name__} has no {name}; estimators: {', '.join(names())}")
    function = globals()[name] = advantage_function(name)
    return function
