"""The rollout side: vLLM engines that suit LENS, and evaluation samples kept by prompt."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Awaitable
from typing import TypeVar

import ray
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.trainer.ray.vllm_engine import RolloutRayActor
from openrlhf.utils.agent import AgentInstanceBase, MultiTurnAgentExecutor, SingleTurnAgentExecutor
from vllm.sampling_params import RequestOutputKind

from ... import cpu_runtime
from ...inputs import MATH_VERIFY_FILE
from ...rewards.pool import isolation_in_force
from ...run_folder.log import REWARD_FAILED, REWARD_TIMEOUT_VARIABLE, RUN_DIR_VARIABLE, SAMPLED, SAMPLING, RunLog
from ..commandline.plan import most_new_tokens
from . import remote_code
from .counting import CountedAnswers
from .experience import require_scores
from .sampling import RolloutInRounds, UntilPositive

POLL_SECONDS = 2.0
T = TypeVar("T")
CPU_WORKER = "lens_openrlhf.cpu_runtime.weight_sync.CpuWorkerWrap"


class LensRollout(RolloutInRounds, RolloutRayActor.__ray_metadata__.modified_class):
    """OpenRLHF's vLLM actor; on CPU, vLLM's workers get the gloo weight sync. A model's code runs only if allowed."""

    async def __init__(self, *args, **kwargs):
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

    async def generate(self, prompt_token_ids, sampling_params, *args, **kwargs):
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


class WatchedRewards:
    """The rewards of OpenRLHF's executor, with a time limit and a record of failures.

    OpenRLHF logs a failure and goes on without the reward; the record is for the error that ends the run
    (experience.require_scores).
    """

    def __init__(self, executor: SingleTurnAgentExecutor, limit: float, run_log: RunLog):
        self._executor, self._limit, self._run_log = executor, limit, run_log
        self._ask_servers = executor._fetch_rewards_via_http
        self._hangs = False

    async def from_function(self, queries: list[str], prompts: list[str], labels: list[str]) -> list[dict]:
        """The function's result for one answer.

        Raises:
            TimeoutError: it took longer than the limit, or another call did: its thread cannot be had back, and soon
                all of them would wait.
        """
        begun = []

        def call() -> dict:
            begun.append(time.monotonic())  # until then the call waits for a thread, which is not its fault
            return self._executor.reward_func(queries, prompts, labels)

        task = asyncio.ensure_future(asyncio.to_thread(call))
        try:
            while not (await asyncio.wait({task}, timeout=POLL_SECONDS))[0]:
                self._hangs = self._hangs or bool(begun) and time.monotonic() - begun[0] > self._limit
                if self._hangs:
                    raise TimeoutError(_late("no reward", self._limit))
            return checked([task.result()])
        except Exception as error:
            self._record(error)
            raise

    async def from_servers(self, *args) -> list[dict]:
        """A server's result, by OpenRLHF's own calls; their retries alone would wait a quarter of an hour.

        Raises:
            TimeoutError: all tries together took longer than the limit.
        """
        try:
            return checked(await _within(self._limit, "no reward", self._ask_servers(*args)))
        except Exception as error:
            self._record(error)
            raise

    def _record(self, error: Exception) -> None:
        self._run_log.event(REWARD_FAILED, cause=str(error) or type(error).__name__)


def _late(what: str, limit: float) -> str:
    return f"{what} within {limit:g} s (--reward.timeout)"


async def _within(limit: float, what: str, waited_for: Awaitable[T]) -> T:
    """`waited_for`, or a TimeoutError that names the option; one that it raises itself stays what it is."""
    try:
        async with asyncio.timeout(limit) as deadline:
            return await waited_for
    except TimeoutError:
        if deadline.expired():
            raise TimeoutError(_late(what, limit)) from None
        raise


def watched(agent: type[AgentInstanceBase], limit: float) -> type[AgentInstanceBase]:
    """The agent, whose `reset` and `step` may each take so many seconds; more is a TimeoutError.

    What blocks the process instead of awaiting something cannot be watched from within it.
    """

    class Watched(agent):
        async def reset(self, states: dict, **kwargs):
            return await _within(limit, "no observation of the agent's reset", super().reset(states, **kwargs))

        async def step(self, state_dict: dict, **kwargs):
            return await _within(limit, "no feedback of the agent's step", super().step(state_dict, **kwargs))

    return Watched


def checked(rewards: list) -> list[dict]:
    """`rewards`, each of which must be what OpenRLHF expects of a reward function or server.

    Raises:
        ValueError: another form; OpenRLHF would stumble over it and lose the reward.
    """
    for reward in rewards:
        if not isinstance(reward, dict) or reward.get("rewards") is None:
            raise ValueError(f'expected {{"rewards": number, "scores": correctness in [0, 1]}}, got {reward!r:.200}')
    return rewards


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


class LensSamplesGenerator(UntilPositive, SamplesGenerator):
    """OpenRLHF's sample generator; remembers the last evaluation's samples until they are taken, and says what is
    sampled (progress.py)."""

    _evaluating = False

    def _say_sampling(self, prompts: int, **generate_kwargs) -> None:
        each = generate_kwargs.get("n_samples_per_prompt", self.args.rollout.n_samples_per_prompt)
        tokens = most_new_tokens(self.args)
        self._run_log.event(SAMPLING, answers=prompts * each, tokens=tokens, evaluation=self._evaluating)

    @functools.cached_property
    def _run_log(self) -> RunLog:
        return RunLog(self.args.logger.run_dir)

    def generate_samples(self, **generate_kwargs):
        samples = super().generate_samples(**generate_kwargs)
        self._run_log.event(SAMPLED)
        return samples

    def _dispatch_prompts_to_vllm(self, prompts, *args, **kwargs):
        if not self._evaluating:
            self._say_sampling(len(prompts), **kwargs)
        return super()._dispatch_prompts_to_vllm(prompts, *args, **kwargs)

    @torch.no_grad()
    def generate_eval_samples(self, **generate_kwargs) -> list[Experience]:
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
