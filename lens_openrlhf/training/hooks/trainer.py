"""OpenRLHF's trainers with LENS's experience maker, run records and evaluations at both ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import openrlhf.trainer.ppo_trainer as sync_module
import openrlhf.trainer.ppo_trainer_async as async_module
import ray
import torch
from openrlhf.trainer.ppo_trainer import PPOTrainer
from openrlhf.trainer.ppo_trainer_async import GenerateSamplesActor, PPOTrainerAsync, TrainingActor
from openrlhf.trainer.ppo_utils.experience import Experience

from ...run_folder.log import RunLog
from ..checkpoints.writing import resumable
from ..commandline.estimator import make_estimator, step_scorer
from ..commandline.plan import planned_steps
from .data_sets import blending_datasets
from .evaluation import evaluation_record, evaluation_set, tracked
from .experience import LensExperienceMaker, require_scores
from .prompt_weights import by_weight
from .rollout import LensSamplesGenerator
from .samples import write_samples
from .step_scores import score_steps

if TYPE_CHECKING:
    from openrlhf.trainer.ppo_trainer import BasePPOTrainer as Base
else:
    Base = object  # what stands before OpenRLHF's class in the classes below

sync_module.blending_datasets = blending_datasets  # what prepare_datasets calls, in this process


def _plain_class(actor_class: Any) -> Any:
    """The class under a Ray actor class: the one that can be subclassed."""
    return actor_class.__ray_metadata__.modified_class


# Where OpenRLHF has no types, Any says so.
_PPOTrainer: Any = _plain_class(PPOTrainer)
_GenerateSamples: Any = _plain_class(GenerateSamplesActor)
_Training: Any = _plain_class(TrainingActor)
_PPOTrainerAsync: Any = _plain_class(PPOTrainerAsync)


def _ask_first(group: Any, method: str, *args: Any) -> Any:
    """What rank 0 of a group of actors says; where all would say the same, the others need not send it too."""
    return ray.get(getattr(group._actor_handlers[0], method).remote(*args))


class _Recorded(Base):
    """What our trainers add to OpenRLHF's BasePPOTrainer: tagged experiences, a line a step in metrics.jsonl, and the
    step's answers in samples/."""

    last_step: int  # of fit

    def _set_up(self) -> None:
        self.run_log = RunLog(self.args.logger.run_dir)
        estimator = make_estimator(self.args)
        self.step_scorer = step_scorer(self.args, estimator)
        if estimator:
            self.experience_maker = LensExperienceMaker(
                self.actor_model_group,
                self.critic_model_group,
                self.reward_model_group,
                self.reference_model_group,
                self.kl_ctl,
                self.strategy,
                self.tokenizer,
            )
        self.run_log.event("ready", where=type(self).__name__, pid=os.getpid())

    def train_step(self, rollout_samples: list[Experience], global_step: int) -> tuple[dict, int]:
        if self.step_scorer:
            require_scores(rollout_samples, self.args.logger.run_dir)
            per_prompt = self.args.rollout.n_samples_per_prompt
            score_steps(rollout_samples, self.tokenizer, self.step_scorer, per_prompt)
        status, step = super().train_step(rollout_samples, global_step)
        text_prompts = self.args.logger.sample_prompts
        if text_prompts >= 0:
            columns = _ask_first(self.actor_model_group, "take_columns")
            write_samples(
                self.args.logger.run_dir,
                step,
                rollout_samples,
                columns,
                self.tokenizer,
                self.args.rollout.n_samples_per_prompt,
                text_prompts,
            )
        return status, step

    def save_logs_and_checkpoints(
        self, global_step: int, logs_dict: dict | None = None, client_states: dict | None = None
    ) -> None:
        self.last_step = global_step
        self.run_log.step(global_step, logs_dict or {})
        super().save_logs_and_checkpoints(global_step, logs_dict, resumable(client_states or {}))

    def save_best_checkpoint(self, eval_metrics: dict, global_step: int, client_states: dict | None = None) -> None:
        super().save_best_checkpoint(eval_metrics, global_step, resumable(client_states or {}))

    def _keep_trackers_open(self) -> None:
        """OpenRLHF closes its trackers at the end of fit, before our last evaluation."""
        self._close_trackers = []
        for tracker in (self.wandb_logger, self.tensorboard_logger):
            if tracker:
                self._close_trackers.append(tracker.close)
                tracker.close = lambda: None

    def _track_evaluation(self, step: int, logs: dict) -> None:
        for tracker in (self.wandb_logger, self.tensorboard_logger):
            if tracker:
                tracker.log_eval(step, logs)

    def _finish_trackers(self) -> None:
        for close in self._close_trackers:
            close()


class _Evaluating(Base):
    """What our trainers add to the side that samples: evaluations on all held-out prompts, recorded in their order."""

    prompts_dataloader: Any  # OpenRLHF's

    def _set_up_sampling(self, strategy: Any, tokenizer: Any, vllm_engines: Any) -> None:
        self.run_log = RunLog(self.args.logger.run_dir)
        self.evaluation_set = evaluation_set(strategy, tokenizer)
        # OpenRLHF's has been cut to --data.max_samples.
        self.eval_dataloader = self.evaluation_set and self.evaluation_set.dataloader
        estimator = make_estimator(self.args)
        self.prompts_are_weighed = estimator is not None and estimator.sampling == "by_weight"
        if self.prompts_are_weighed:
            block = self.args.rollout.vllm_generate_batch_size  # as OpenRLHF draws them
            self.prompts_dataloader = by_weight(self.prompts_dataloader, block, self.args.train.seed)
        self.samples_generator = LensSamplesGenerator(
            strategy=strategy,
            prompts_dataloader=self.prompts_dataloader,
            eval_dataloader=self.eval_dataloader,
            tokenizer=tokenizer,
            vllm_engines=vllm_engines,
        )
        if estimator and estimator.sampling == "until_positive":
            self.samples_generator.rounds = estimator.config
        self.run_log.event("steps", total=planned_steps(self.args, len(self.prompts_dataloader)))

    def _recorded_evaluation(self, step: int, evaluate: Callable[[], dict]) -> tuple[dict, dict]:
        """OpenRLHF's evaluation metrics, and every Pass@k by name."""
        self.run_log.event("evaluating", step=step)
        started = time.monotonic()
        logs = evaluate()
        held_out = self.evaluation_set
        assert held_out  # where there is something to evaluate
        answers = held_out.in_order(self.samples_generator.take_eval_samples(), self.args.eval.n_samples_per_prompt)
        record = evaluation_record(answers, held_out.splits, self.args.eval.k)
        self.run_log.evaluation(step, {"seconds": time.monotonic() - started, **record}, logs)
        return logs, tracked(record)


class LensPPO(_Recorded, _Evaluating, _PPOTrainer):
    """The synchronous trainer."""

    def __init__(self, pretrain: Any, strategy: Any, *groups: Any, **generate_kwargs: Any) -> None:
        seed_data_order(strategy.args.train.seed)
        super().__init__(pretrain, strategy, *groups, **generate_kwargs)
        self._set_up_sampling(strategy, self.tokenizer, self.vllm_engines)
        self._set_up()

    def _weigh_prompts(self) -> None:
        if self.prompts_are_weighed:
            sampler = self.prompts_dataloader.sampler
            sampler.weights = _ask_first(self.actor_model_group, "prompt_weights", sampler.ids)

    def train_step(self, rollout_samples: list[Experience], global_step: int) -> tuple[dict, int]:
        result = super().train_step(rollout_samples, global_step)
        self._weigh_prompts()
        return result

    def evaluate(self, global_step: int, **generate_kwargs: Any) -> dict:
        logs, more = self._recorded_evaluation(
            global_step, lambda: super(LensPPO, self).evaluate(global_step, **generate_kwargs)
        )
        self._track_evaluation(global_step, more)
        return logs

    def _evaluate_now(self, global_step: int) -> None:
        settings = self.args.eval
        self.evaluate(
            global_step,
            **self.generate_kwargs
            | {"temperature": settings.temperature, "n_samples_per_prompt": settings.n_samples_per_prompt},
        )

    def fit(self, global_step: int = 0) -> None:
        self._keep_trackers_open()
        self._weigh_prompts()
        self.last_step = self.init_checkpoint_states()["global_step"]  # a resumed run may have no step left
        if self.eval_dataloader and evaluation_due(self.args, self.run_log, self.last_step):
            if self.last_step:
                self.broadcast_to_vllm()
            self._evaluate_now(self.last_step)
        super().fit(global_step)
        if self.args.eval.at_end and not self.run_log.evaluated(self.last_step):
            self._evaluate_now(self.last_step)
        self._finish_trackers()


class LensGenerateSamples(_Evaluating, _GenerateSamples):
    """The asynchronous trainer's sampling side."""

    _last_eval_step: int  # OpenRLHF's

    def __init__(self, pretrain: Any, strategy: Any, vllm_engines: Any, **kwargs: Any) -> None:
        seed_data_order(strategy.args.train.seed)
        super().__init__(pretrain, strategy, vllm_engines, **kwargs)
        self._set_up_sampling(strategy, self.samples_generator.tokenizer, vllm_engines)
        self.run_log.event("ready", where=type(self).__name__, pid=os.getpid())

    def _run_eval(self) -> dict:
        logs, more = self._recorded_evaluation(self._last_eval_step, super()._run_eval)
        return logs | more

    def evaluate(self, global_step: int) -> dict:
        """OpenRLHF's evaluation metrics now."""
        self._last_eval_step = global_step
        return self._run_eval()

    def was_evaluated(self, global_step: int) -> None:
        """OpenRLHF would evaluate again where a run goes on."""
        self._last_eval_step = global_step


class LensTraining(_Recorded, _Training):
    """The asynchronous trainer's training side, where the experiences are made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._set_up()
        self._keep_trackers_open()

    def fit(self, global_step: int = 0) -> None:
        self.last_step = global_step  # a resumed run may have no step left
        super().fit(global_step)

    def get_last_step(self) -> int:
        return self.last_step

    def log_evaluation(self, step: int, logs: dict) -> None:
        self._track_evaluation(step, logs)

    def finish(self) -> None:
        self._finish_trackers()


class LensPPOAsync(_PPOTrainerAsync):
    """The asynchronous trainer. It creates both sides itself, so their classes are exchanged in its process."""

    def __init__(self, pretrain: Any, strategy: Any, *groups: Any, **generate_kwargs: Any) -> None:
        self.settings = strategy.args
        async_module.GenerateSamplesActor = ray.remote(LensGenerateSamples)
        async_module.TrainingActor = ray.remote(LensTraining)
        super().__init__(pretrain, strategy, *groups, **generate_kwargs)
        self.run_log = RunLog(self.settings.logger.run_dir)
        self.run_log.event("ready", where=type(self).__name__, pid=os.getpid())

    def _evaluate_now(self, step: int) -> None:
        logs = ray.get(self.generator_actor.evaluate.remote(step))
        ray.get(self.trainer_actor.log_evaluation.remote(step, logs))

    def fit(self) -> None:
        resumed = ray.get(self.trainer_actor.init_checkpoint_states.remote())["global_step"]
        if self.settings.eval.dataset and evaluation_due(self.settings, self.run_log, resumed):
            if resumed:
                ray.get(self.trainer_actor.broadcast_to_vllm.remote())
            self._evaluate_now(resumed)
        elif resumed:
            ray.get(self.generator_actor.was_evaluated.remote(resumed))
        super().fit()
        last_step = ray.get(self.trainer_actor.get_last_step.remote())
        if self.settings.eval.at_end and not self.run_log.evaluated(last_step):
            self._evaluate_now(last_step)
        ray.get(self.trainer_actor.finish.remote())


def seed_data_order(seed: int) -> None:
    """OpenRLHF seeds the process that shuffles the prompts with nothing, so that every seed had the same order."""
    torch.manual_seed(seed)


def evaluation_due(args: SimpleNamespace, run_log: RunLog, step: int) -> bool:
    """Whether a run that begins after `step` has an evaluation to make first: of the untrained model, or one that was
    due when it was interrupted."""
    wanted = step % args.eval.steps == 0 if step else args.eval.at_start
    return wanted and not run_log.evaluated(step)


LensPPOTrainer = ray.remote(LensPPO)
LensPPOTrainerAsync = ray.remote(LensPPOAsync)
