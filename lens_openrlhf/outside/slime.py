"""slime: functions for --custom-advantage-function-path, such as lens_openrlhf.outside.slime.lens.

Every estimator of the registry is an attribute of this module under its own name, with its default options; another
value of an option, or an estimator of your own, is a line in a file of yours:

    from lens_openrlhf.outside.slime import advantage_function
    mine = advantage_function("lens", alpha=0.5)  # --custom-advantage-function-path my_module.mine
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from ..advantages.across_ranks import Gathered, gather
from ..advantages.estimators import Estimator, EstimatorError, names
from ..advantages.responses import Responses, by_response, estimate, mean_logprobs, on_tokens, packed
from .estimate import check_answers, make

AdvantageFunction = Callable[[Namespace, dict[str, Any]], None]


def _local(
    args: Namespace, rollout_data: dict[str, Any], needs: Collection[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What is gathered of this rank's responses, and of their tokens where the estimator needs those; on the CPU."""
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
    logprobs = []
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
        logprobs.append(packed(values.detach(), mask).cpu())
    lengths = torch.tensor([len(values) for values in logprobs])
    tokens = torch.cat(logprobs)
    columns = {
        "group": torch.tensor([int(index) // args.n_samples_per_prompt for index in rollout_data["sample_indices"]]),
        "lengths": lengths,
        "mean_logprob": mean_logprobs(tokens, lengths),
        "correctness": torch.tensor([float(v) for v in rollout_data["local_raw_reward"]], dtype=torch.float64),
        "rewards": torch.tensor([float(v) for v in rewards], dtype=torch.float64),
    }
    return columns, {"logprobs": tokens} if needs else {}


def _of_all_ranks(args: Namespace, rollout_data: dict[str, Any], needs: Collection[str]) -> Gathered:
    """Of all data-parallel ranks, as a group may lie on several. An error of one rank is raised on all."""
    group = None
    if torch.distributed.is_initialized():
        from megatron.core import mpu

        group = mpu.get_data_parallel_group_gloo(with_context_parallel=False)
    mine: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    error = None
    try:
        mine = _local(args, rollout_data, needs)
    except Exception as raised:
        error = raised
    try:
        return gather(*mine, error, group)
    except ValueError as problem:
        raise error or EstimatorError(str(problem)) from None


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
        gathered = _of_all_ranks(args, rollout_data, made.needs)
        steps += 1
        columns: dict[str, Any] = gathered.columns
        result = estimate(made, Responses(**columns, tokens=gathered.tokens, step=steps))
        masks = rollout_data["loss_masks"]
        own, lengths = gathered.own(result.advantage, result.per_token), [int(mask.bool().sum()) for mask in masks]
        rollout_data["advantages"] = [
            on_tokens(part, result.per_token, mask)
            for part, mask in zip(by_response(own, result.per_token, lengths), masks, strict=True)
        ]
        rollout_data["returns"] = rollout_data["advantages"]

    return advantages


def __getattr__(name: str) -> AdvantageFunction:
    if name.startswith("_") or name not in names():
        raise AttributeError(f"{__name__} has no {name}; estimators: {', '.join(names())}")
    function = globals()[name] = advantage_function(name)
    return function
