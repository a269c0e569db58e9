"""The rollout side: vLLM engines that suit LENS, and evaluation samples kept by prompt."""

from __future__ import annotations

import asyncio
import functools
import os
from typing import Any

import ray
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.trainer.ray.vllm_engine import RolloutRayActor
from openrlhf.utils.agent import MultiTurnAgentExecutor, SingleTurnAgentExecutor
from vllm.sampling_params import RequestOutputKind

from ... import cpu_runtime
from ...inputs import MATH_VERIFY_FILE
from ...rewards.pool import isolation_in_force
from ...run_folder.log import REWARD_TIMEOUT_VARIABLE, RUN_DIR_VARIABLE, SAMPLED, SAMPLING, RunLog
from ..commandline.plan import most_new_tokens
from . import remote_code
from .counting import CountedAnswers
from .experience import require_scores
from .rewards_watched import WatchedRewards, watched
from .rounds import RolloutInRounds, UntilPositive

CPU_WORKER = "lens_openrlhf.cpu_runtime.weight_sync.CpuWorkerWrap"


class LensRollout(RolloutInRounds, RolloutRayActor.__ray_metadata__.modified_class):
    """OpenRLHF's vLLM actor; on CPU, vLLM's workers get the gloo weight sync. A model's code runs only if allowed."""

    async def __init__(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[misc]  # Ray waits for it
        kwargs["trust_remote_code"] = not remote_code.forbidden()
        if cpu_runtime.required():
            kwargs["worker_extension_cls"] = CPU_WORKER
            if kwargs.get("distributed_executor_backend") == "uni":
                kwargs["distributed_executor_backend"] = cpu_runtime.UNI_EXECUTOR
        await super().__init__(*args, **kwargs)
        self.run_log = RunLog(os.environ[RUN_DIR_VARIABLE])
        self._watch_rewards()
        self.executor.execute = CountedAnswers(self.executor.execute, self.run_log)
        facts = {}
        if str(MATH_VERIFY_FILE) in (kwargs.get("remote_rm_url") or []):
            facts["reward_workers_isolated_by"] = await asyncio.to_thread(isolation_in_force)
        self.run_log.event("ready", where=type(self).__name__, pid=os.getpid(), **facts)

    async def generate(self, prompt_token_ids: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> Any:
        sampling_params.output_kind = RequestOutputKind.FINAL_ONLY  # OpenRLHF waits for the last of an answer's outputs
        return await super().generate(prompt_token_ids, sampling_params, *args, **kwargs)

    def _watch_rewards(self) -> None:
        if isinstance(self.executor, MultiTurnAgentExecutor):
            limit = float(os.environ[REWARD_TIMEOUT_VARIABLE])
            self.executor.agent_instance_cls = watched(self.executor.agent_instance_cls, limit)
        elif isinstance(self.executor, SingleTurnAgentExecutor):
            rewards = WatchedRewards(self.executor, float(os.environ[REWARD_TIMEOUT_VARIABLE]), self.run_log)
            self.executor._fetch_rewards_via_func = rewards.from_function
            self.executor._fetch_rewards_via_http = rewards.from_servers


class LensRolloutWithLogprobs(LensRollout):
    """Also asks vLLM for the log-probability of each sampled token, after temperature (confidence_from rollout)."""

    async def __init__(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[misc]  # Ray waits for it
        kwargs |= {"logprobs_mode": "processed_logprobs", "max_logprobs": 1}
        await super().__init__(*args, **kwargs)

    async def generate_responses(self, *args: Any, sampling_params: Any, **kwargs: Any) -> list[dict]:
        sampling_params.logprobs = 1
        return await super().generate_responses(*args, sampling_params=sampling_params, **kwargs)


LensRolloutActor = ray.remote(LensRollout)
LensRolloutActorWithLogprobs = ray.remote(LensRolloutWithLogprobs)


class LensSamplesGenerator(UntilPositive, SamplesGenerator):
    """OpenRLHF's sample generator; remembers the last evaluation's samples until they are taken, and says what is
    sampled (progress.py)."""

    _evaluating = False

    def _say_sampling(self, prompts: int, **generate_kwargs: Any) -> None:
        each = generate_kwargs.get("n_samples_per_prompt", self.args.rollout.n_samples_per_prompt)
        tokens = most_new_tokens(self.args)
        self._run_log.event(SAMPLING, answers=prompts * each, tokens=tokens, evaluation=self._evaluating)

    @functools.cached_property
    def _run_log(self) -> RunLog:
        return RunLog(self.args.logger.run_dir)

    def generate_samples(self, **generate_kwargs: Any) -> tuple:
        samples = super().generate_samples(**generate_kwargs)
        self._run_log.event(SAMPLED)
        return samples

    def _dispatch_prompts_to_vllm(self, prompts: list[str], *args: Any, **kwargs: Any) -> list:
        if not self._evaluating:
            self._say_sampling(len(prompts), **kwargs)
        return super()._dispatch_prompts_to_vllm(prompts, *args, **kwargs)

    @torch.no_grad()
    def generate_eval_samples(self, **generate_kwargs: Any) -> list[Experience]:
        self._evaluating = True
        self._say_sampling(len(self.eval_dataloader.dataset), **generate_kwargs)  # of all parts
        self._last_eval = super().generate_eval_samples(**generate_kwargs)
        self._evaluating = False
        self._run_log.event(SAMPLED)
        require_scores(self._last_eval, self.args.logger.run_dir)
        return self._last_eval

    def take_eval_samples(self) -> list[Experience]:
        samples, self._last_eval = self._last_eval, []
        return samples
