"""TRL: its GRPOTrainer with an estimator's advantages."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer

from ..advantages.estimators import Estimator, EstimatorError
from ..advantages.responses import Responses, estimate, packed, padded
from .estimate import check_answers, make

STATE = "lens_estimator.pt"  # in each checkpoint, where the estimator has a state


def _prompt_number(prompt: Any) -> int:
    """The same number for the same prompt, in every process and run."""
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=str)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)


class LensGRPOTrainer(GRPOTrainer):
    """TRL's GRPOTrainer, whose advantages are an estimator's.

    The estimator sees the log-probabilities of the policy before the update, which TRL otherwise computes only where
    it needs them, and the verifier's raw outcome. Everything else is TRL's: sampling, the loss, its clipping and KL.

    Args:
        estimator: name in the registry, or an Estimator subclass.
        estimator_options: values of its Config, such as {"alpha": 0.25}.
        correctness: name of the reward function that is the verifier and returns an outcome in [0, 1]; it may be left
            out where there is one function. The weighted sum of all is the reward after shaping.
        *args, **kwargs: GRPOTrainer's.

    Raises:
        EstimatorError: an estimator, an option or a setting of TRL that cannot work, with the remedy; in training, an
            outcome outside [0, 1].
    """

    def __init__(
        self,
        *args: Any,
        estimator: str | type[Estimator] = "lens",
        estimator_options: Mapping[str, Any] | None = None,
        correctness: str | None = None,
        **kwargs: Any,
    ):
        self.estimator = make(estimator, "TRL", ("logprobs", "entropies"), estimator_options or {})
        super().__init__(*args, **kwargs)
        if self.multi_objective_aggregation != "sum_then_normalize":
            raise EstimatorError(
                f"multi_objective_aggregation={self.multi_objective_aggregation!r}: the estimator takes the weighted "
                "sum of the rewards; use 'sum_then_normalize'"
            )
        if self.scale_rewards != "group":
            raise EstimatorError(
                f"scale_rewards={self.scale_rewards!r}: has no effect, as {self.estimator.name} makes the advantages; "
                "leave it out"
            )
        check_answers(self.estimator, self.num_generations, "num_generations")
        names = self.reward_func_names
        if correctness is None and len(names) > 1:
            raise EstimatorError(
                f"reward_funcs: {len(names)} functions; name the verifier, whose outcome is in [0, 1], with "
                f"correctness=, one of {', '.join(names)}"
            )
        if correctness is not None and names.count(correctness) != 1:
            raise EstimatorError(
                f"correctness={correctness!r}: expected one of the reward functions {', '.join(names)}"
            )
        self._verifier = 0 if correctness is None else names.index(correctness)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        # [N, number of functions], of all processes; what follows keeps a normalised sum alone.
        self._rewards_per_func = super()._calculate_rewards(*args, **kwargs)
        return self._rewards_per_func

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        # Where an environment makes the prompt, what the row has is not the whole of it.
        known = self.environment_factories is None
        prompts = [_prompt_number(row["prompt"]) if known else 0 for row in inputs]
        # The answers to a prompt may lie on several processes, and all compute the same. Their widths differ.
        gather, pad = self.accelerator.gather, self.accelerator.pad_across_processes
        values = {name: gather(pad(value, dim=1)) for name, value in self._token_values(output).items()}
        all_prompts = gather(torch.tensor(prompts, device=mask.device))
        advantage = self._advantages(values, gather(pad(mask, dim=1)), all_prompts if known else None)

        logged = self._logs["advantages"]  # TRL has put its own there
        for _ in range(min(len(advantage), len(logged))):
            logged.pop()
        logged.extend((advantage if advantage.dim() == 1 else advantage.sum(1)).tolist())
        first = self.accelerator.process_index * len(mask)
        local = advantage[first : first + len(mask)]
        output["advantages"] = local if local.dim() == 1 else local[:, : mask.shape[1]]
        return output

    def _token_values(self, output: dict[str, Any]) -> dict[str, Tensor]:
        """[B, A] by name, of this process's completions: log-probabilities before the update, and entropies."""
        entropies = "entropies" in self.estimator.needs
        if "old_per_token_logps" in output and not entropies:
            return {"logprobs": output["old_per_token_logps"]}
        # What a model with images takes beside the tokens.
        takes = inspect.signature(self._get_per_token_logps_and_entropies).parameters
        with torch.no_grad():
            logprobs, entropy, _ = self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1),
                torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1),
                output["completion_ids"].shape[1],
                batch_size=self.args.per_device_train_batch_size
                if self.model.training
                else self.args.per_device_eval_batch_size,
                compute_entropy=entropies,
                **{name: value for name, value in output.items() if name in takes},
            )
        values = {"logprobs": output.get("old_per_token_logps", logprobs)}
        return values | {"entropies": entropy} if entropies else values

    def _advantages(self, values: Mapping[str, Tensor], mask: Tensor, prompts: Tensor | None) -> Tensor:
        """[N] or [N, A] float32 of the completions of all processes. Those that the verifier gave no outcome (None) are
        no part of their group, and get 0."""
        mode = "train" if self.model.training else "eval"
        per_prompt = self.num_generations if mode == "train" else self.num_generations_eval
        outcome = self._rewards_per_func[:, self._verifier].double()
        bad = (~outcome.isnan() & ~((outcome >= 0) & (outcome <= 1))).nonzero()
        if len(bad):
            raise EstimatorError(
                f"reward function {self.reward_func_names[self._verifier]}: completion {int(bad[0])} has "
                f"{outcome[bad[0]].item()}, but the verifier's outcome is in [0, 1]; let it return that, and shape the "
                "reward with another function beside it (correctness= names the verifier)"
            )
        weights = self.reward_weights.to(outcome)
        known = (~outcome.isnan()).nonzero()[:, 0]
        if not len(known):
            return torch.zeros(len(mask), device=mask.device)
        rewards = (self._rewards_per_func.double() * weights).nansum(1)[known]
        group = known // per_prompt
        # An evaluation must not teach an estimator that remembers.
        estimator = self.estimator if mode == "train" else copy.deepcopy(self.estimator)
        responses = Responses(
            group=group,
            lengths=mask[known].sum(1),
            correctness=outcome[known],
            rewards=rewards,
            tokens={name: packed(value[known], mask[known]) for name, value in values.items()},
            prompts=None if prompts is None else prompts[known],
            step=self.state.global_step + 1,
        )
        result = estimate(estimator, responses)
        advantage = padded(result, mask[known]) if result.per_token else result.advantage.float()
        found = advantage.new_zeros((len(mask), *advantage.shape[1:]))
        found[known] = advantage

        metrics = self._metrics[mode]
        metrics["lens/rescued_samples"].append(self._rescued(group, rewards, advantage))
        for name, value in result.metrics.items():
            if value is not None:
                metrics[name].append(value)
        return found

    @staticmethod
    def _rescued(group: Tensor, rewards: Tensor, advantage: Tensor) -> float:
        """The share of samples that have an advantage although the rewards of their group are all the same."""
        count = int(group.max()) + 1
        low, high = (
            rewards.new_full((count,), start).scatter_reduce(0, group, rewards, kind)
            for start, kind in ((torch.inf, "amin"), (-torch.inf, "amax"))
        )
        moved = advantage != 0 if advantage.dim() == 1 else (advantage != 0).any(1)
        return ((low == high)[group] & moved).double().mean().item()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.estimator.remembers and self.args.should_save:
            folder = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            torch.save(self.estimator.state_dict(), os.path.join(self._get_output_dir(trial=trial), folder, STATE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not self.estimator.remembers:
            return
        path = os.path.join(checkpoint, STATE)
        if not os.path.exists(path):
            raise EstimatorError(
                f"{checkpoint}: has no {STATE}, the state of {self.estimator.name}; begin a new training with this "
                "model, or go on with the estimator that the checkpoint was made with"
            )
        self.estimator.load_state_dict(torch.load(path, weights_only=True))
