"""verl: every estimator of the registry as algorithm.adv_estimator. verl imports this module itself (`verl.plugins`).

verl computes old_log_probs before the advantages, but hands them to two estimators of its own only. The module
`lens_openrlhf.outside.verl_logprobs` makes it hand them to ours; verl imports it where the environment says so:

    VERL_USE_EXTERNAL_MODULES=lens_openrlhf.outside.verl_logprobs
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from verl.trainer.ppo import core_algos

from ..advantages.estimators import Estimator, EstimatorError, names
from ..advantages.responses import Responses, estimate, on_tokens, packed
from .estimate import check_answers, make

LOGPROBS_MODULE = "lens_openrlhf.outside.verl_logprobs"
# [N, A] of the batch whose advantages are being computed, see hand_on_logprobs.
_handed: ContextVar[Tensor | None] = ContextVar("old_log_probs", default=None)
_made: dict[str, tuple[Mapping[str, Any], Estimator]] = {}
_steps: dict[str, int] = {}


def _estimator(name: str, config: Any) -> Estimator:
    """The estimator with the options of algorithm.NAME; the same one in every step."""
    section = config.get(name) if config is not None else None
    options = {} if section is None else dict(section.items())
    if name not in _made or _made[name][0] != options:
        _made[name] = options, make(name, "verl", ("logprobs",), options, keeps_state=False)
    return _made[name][1]


def compute(
    name: str,
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Sequence[Any] | None = None,
    config: Any = None,
    old_log_probs: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """An estimator's advantages in the form of verl's register_adv_est.

    Args:
        name: the estimator's; its options are the section algorithm.NAME of verl's configuration.
        token_level_rewards: [N, A] whose sum is the verifier's outcome of a response, in [0, 1].
        response_mask: [N, A], 1 at action tokens.
        index: [N] the prompt's uid.
        config: verl's algorithm section.
        old_log_probs: [N, A] of the policy before the update.

    Returns:
        advantages and returns, the same [N, A] float32, 0 outside the mask.

    Raises:
        EstimatorError: what is missing or cannot be used, with the remedy.
    """
    old_log_probs = _handed.get() if old_log_probs is None else old_log_probs
    if old_log_probs is None:
        raise EstimatorError(
            f"verl: adv_estimator={name} needs old_log_probs, which verl computes but does not hand on; set "
            f"VERL_USE_EXTERNAL_MODULES={LOGPROBS_MODULE} in the environment of the trainer and its Ray workers"
        )
    if index is None:
        raise EstimatorError("verl: the batch has no uid, which tells whose answers are compared")
    if config is not None and config.get("use_kl_in_reward"):
        raise EstimatorError(
            "verl: algorithm.use_kl_in_reward puts a KL term into the reward, where the verifier's outcome is needed; "
            "use actor_rollout_ref.actor.use_kl_loss"
        )
    outcome = token_level_rewards.sum(-1).double()
    bad = (~((outcome >= 0) & (outcome <= 1))).nonzero()
    if len(bad):
        raise EstimatorError(
            f"verl: response {int(bad[0])} has the reward {outcome[bad[0]].item()}, but the verifier's outcome is in "
            "[0, 1]; let the reward function return that"
        )
    numbers: dict[Any, int] = {}
    group = torch.tensor([numbers.setdefault(uid, len(numbers)) for uid in index], device=outcome.device)
    estimator = _estimator(name, config)
    check_answers(estimator, int(group.bincount().max()), "verl: actor_rollout_ref.rollout.n")
    _steps[name] = _steps.get(name, 0) + 1
    result = estimate(
        estimator,
        Responses(
            group=group,
            lengths=response_mask.sum(1).long(),
            correctness=outcome,
            rewards=outcome,
            tokens={"logprobs": packed(old_log_probs, response_mask)},
            step=_steps[name],
        ),
    )
    advantages = on_tokens(result.advantage, result.per_token, response_mask)
    return advantages, advantages


def _register(name: str) -> bool:
    """Under its own name; what verl has under a name stays verl's."""
    if name in core_algos.ADV_ESTIMATOR_REGISTRY:
        return False

    def adv_estimator(**kwargs: Any) -> tuple[Tensor, Tensor]:
        return compute(name, **kwargs)

    core_algos.register_adv_est(name)(adv_estimator)
    return True


OURS = frozenset(name for name in names() if _register(name))


def hand_on_logprobs() -> None:
    """Make verl's compute_advantage hand old_log_probs to these estimators, in this process.

    Raises:
        EstimatorError: in training, a batch without old_log_probs.
    """
    from verl.trainer.ppo import ray_trainer

    theirs: Callable[..., Any] = ray_trainer.compute_advantage
    if getattr(theirs, "hands_on_logprobs", False):
        return

    @wraps(theirs)
    def compute_advantage(data: Any, adv_estimator: Any, *args: Any, **kwargs: Any) -> Any:
        if adv_estimator not in OURS:
            return theirs(data, adv_estimator, *args, **kwargs)
        if "old_log_probs" not in data.batch.keys():
            raise EstimatorError(f"verl: adv_estimator={adv_estimator}: the batch has no old_log_probs")
        token = _handed.set(data.batch["old_log_probs"])
        try:
            return theirs(data, adv_estimator, *args, **kwargs)
        finally:
            _handed.reset(token)

    vars(compute_advantage)["hands_on_logprobs"] = True
    # Other modules of verl have it by name.
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("verl.") and vars(module).get("compute_advantage") is theirs:
            vars(module)["compute_advantage"] = compute_advantage
