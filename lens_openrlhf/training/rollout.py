"""The rollout side: vLLM engines that suit LENS, and evaluation samples kept by prompt."""

from __future__ import annotations

import asyncio
import os

import ray
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.trainer.ray.vllm_engine import RolloutRayActor

from ..rewards.pool import isolation_in_force
from . import cpu, remote_code
from .experience import require_scores
from .options import MATH_VERIFY_FILE
from .run_log import RUN_DIR_VARIABLE, RunLog

CPU_WORKER = "lens_openrlhf.training.cpu.weight_sync.CpuWorkerWrap"


class LensRollout(RolloutRayActor.__ray_metadata__.modified_class):
    """OpenRLHF's vLLM actor; on CPU, vLLM's workers get the gloo weight sync. A model's code runs only if allowed."""

    async def __init__(self, *args, **kwargs):
        kwargs["trust_remote_code"] = not remote_code.forbidden()
        if cpu.required():
            kwargs["worker_extension_cls"] = CPU_WORKER
        await super().__init__(*args, **kwargs)
        facts = {}
        if str(MATH_VERIFY_FILE) in (kwargs.get("remote_rm_url") or []):
            facts["reward_workers_isolated_by"] = await asyncio.to_thread(isolation_in_force)
        RunLog(os.environ[RUN_DIR_VARIABLE]).event("ready", where=type(self).__name__, pid=os.getpid(), **facts)


class LensRolloutWithLogprobs(LensRollout):
    """Also asks vLLM for the log-probability of each sampled token, after temperature (confidence_from rollout)."""

    async def __init__(self, *args, **kwargs):
        kwargs |= {"logprobs_mode": "processed_logprobs", "max_logprobs": 1}
        await super().__init__(*args, **kwargs)

    async def generate_responses(self, *args, sampling_params, **kwargs):
        sampling_params.logprobs = 1
        return await super().generate_responses(*args, sampling_params=sampling_params, **kwargs)


LensRolloutActor = ray.remote(LensRollout)
LensRolloutActorWithLogprobs = ray.remote(LensRolloutWithLogprobs)


class LensSamplesGenerator(SamplesGenerator):
    """OpenRLHF's sample generator; remembers the last evaluation's samples until they are taken."""

    @torch.no_grad()
    def generate_eval_samples(self, **generate_kwargs) -> list[Experience]:
        self._last_eval = super().generate_eval_samples(**generate_kwargs)
        require_scores(self._last_eval)
        return self._last_eval

    def take_eval_samples(self) -> list[Experience]:
        samples, self._last_eval = self._last_eval, []
        return samples
