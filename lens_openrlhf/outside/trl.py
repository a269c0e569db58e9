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
import torch.distributed as dist
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer

from ..advantages.across_ranks import Gathered, gather
from ..advantages.estimators import Estimator, EstimatorError, same_rewards, segment_sum
from ..advantages.responses import Responses, estimate, mean_logprobs, offsets, on_tokens, packed
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
        mask = (output["completion_mask"] * output.get("tool_mask", 1)).bool()
        # Where an environment makes the prompt, what the row has is not the whole of it.
        prompts = [_prompt_number(row["prompt"]) for row in inputs] if self.environment_factories is None else None
        output["advantages"], of_all = self._advantages(self._token_values(output), mask, prompts)

        logged = self._logs["advantages"]  # TRL has put its own there
        for _ in range(min(len(of_all), len(logged))):
            logged.pop()
        logged.extend(of_all.tolist())
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

    def _advantages(
        self, values: Mapping[str, Tensor], mask: Tensor, prompts: list[int] | None
    ) -> tuple[Tensor, Tensor]:
        """Float32 of this process's B completions, [B] or [B, A], and [N] of those of all processes, the sum over the
        tokens where they differ. Those that the verifier gave no outcome (None) are no part of their group, and get 0.

        Args:
            values: [B, A] by name, see :meth:`_token_values`.
            mask: [B, A], true at action tokens.
            prompts: a number for each completion's, if known.
        """
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
        known = ~outcome.isnan()
        of_all = torch.zeros(len(outcome), device=mask.device)
        first = self.accelerator.process_index * len(mask)
        here = slice(first, first + len(mask))
        if not known.any():
            return of_all[here], of_all
        gathered = self._of_all_processes(values, mask, known[here], prompts)
        lengths, group = gathered.columns["lengths"], known.nonzero()[:, 0] // per_prompt
        rewards = (self._rewards_per_func.double() * weights).nansum(1)[known]
        # An evaluation must not teach an estimator that remembers.
        estimator = self.estimator if mode == "train" else copy.deepcopy(self.estimator)
        columns: dict[str, Any] = gathered.columns
        responses = Responses(
            group=group,
            correctness=outcome[known],
            rewards=rewards,
            tokens=gathered.tokens,
            step=self.state.global_step + 1,
            **columns,
        )
        result = estimate(estimator, responses)
        advantage, per_token = result.advantage.float(), result.per_token
        if per_token:
            of_all[known] = segment_sum(advantage, lengths).float()
            moved = segment_sum((advantage != 0).double(), lengths) > 0
            local = on_tokens(gathered.own(advantage, per_token), per_token, mask & known[here, None])
        else:
            of_all[known], moved = advantage, advantage != 0
            local = of_all[here]

        metrics = self._metrics[mode]
        sizes = torch.unique_consecutive(group, return_counts=True)[1]
        same = same_rewards(rewards, offsets(sizes)).repeat_interleave(sizes)
        metrics["lens/rescued_samples"].append((same & moved).double().mean().item())
        for name, value in result.metrics.items():
            if value is not None:
                metrics[name].append(value)
        return local, of_all

    def _of_all_processes(
        self, values: Mapping[str, Tensor], mask: Tensor, known: Tensor, prompts: list[int] | None
    ) -> Gathered:
        """What the estimator reads of the completions of all processes that have an outcome (known [B]), as the answers
        to a prompt may lie on several, and all compute the same."""
        lengths, error = mask[known].sum(1), None
        tokens = {name: packed(value[known], mask[known]) for name, value in values.items()}
        columns = {"lengths": lengths}
        try:
            columns["mean_logprob"] = mean_logprobs(tokens["logprobs"], lengths)
        except ValueError as raised:
            error = raised
        if prompts is not None:
            columns["prompts"] = torch.tensor(prompts, device=mask.device)[known]
        needed = {name: value for name, value in tokens.items() if name in self.estimator.needs}
        return gather(columns, needed, error, dist.group.WORLD if self.accelerator.num_processes > 1 else None)

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
