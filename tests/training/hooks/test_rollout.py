"""The vLLM actor: what vLLM is told, whose rewards are watched, and which answers are counted."""

from __future__ import annotations

import asyncio
import importlib
import os
from types import SimpleNamespace

import pytest
from openrlhf.utils.agent import AgentExecutorBase, AgentInstanceBase, MultiTurnAgentExecutor, SingleTurnAgentExecutor
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from lens_openrlhf import cpu_runtime
from lens_openrlhf.cpu_runtime.weight_sync import CpuWorkerWrap
from lens_openrlhf.run_folder.log import ANSWERS, EVENTS, RunLog, read
from lens_openrlhf.training.hooks import counting, install, rewards_watched, rollout
from lens_openrlhf.training.hooks.counting import CountedAnswers

from ..conftest import MINIMAL

OPENRLHFS = rollout.RolloutRayActor.__ray_metadata__.modified_class


def facts(folder):
    """The events, without time and process."""
    return [{k: v for k, v in event.items() if k not in ("time", "pid")} for event in read(folder / EVENTS)]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """start(class, executor, **arguments) -> the actor, and what OpenRLHF's was told."""
    monkeypatch.setenv(rollout.RUN_DIR_VARIABLE, str(tmp_path))
    monkeypatch.setenv(rollout.REWARD_TIMEOUT_VARIABLE, "0.05")
    monkeypatch.setattr(rewards_watched, "POLL_SECONDS", 0.01)

    def make(kind=rollout.LensRollout, executor=None, *args, **kwargs):
        given = []

        async def init(self, *args, **kwargs):
            given.append((args, kwargs))
            self.executor = executor or SimpleNamespace(execute=None)

        monkeypatch.setattr(OPENRLHFS, "__init__", init)
        actor = object.__new__(kind)
        asyncio.run(actor.__init__(*args, **kwargs))
        return actor, given[0]

    return make


@pytest.mark.parametrize(
    ("on_cpu", "backend", "expected"),
    [
        (True, "uni", {"worker_extension_cls": rollout.CPU_WORKER, "distributed_executor_backend": "cpus"}),
        (True, "ray", {"worker_extension_cls": rollout.CPU_WORKER, "distributed_executor_backend": "ray"}),
        (True, None, {"worker_extension_cls": rollout.CPU_WORKER}),
        (False, "uni", {"worker_extension_cls": "theirs", "distributed_executor_backend": "uni"}),
    ],
)
def test_vllm_is_told_of_its_workers(start, tmp_path, monkeypatch, on_cpu, backend, expected):
    monkeypatch.setattr(cpu_runtime, "required", lambda: on_cpu)
    monkeypatch.setattr(cpu_runtime, "UNI_EXECUTOR", "cpus")
    backends = {"distributed_executor_backend": backend} if backend else {}
    actor, (args, kwargs) = start(rollout.LensRollout, None, "model", 2, worker_extension_cls="theirs", **backends)
    assert args == ("model", 2) and kwargs == {"trust_remote_code": True, **expected}
    assert facts(tmp_path) == [{"event": "ready", "where": "LensRollout"}]
    assert read(tmp_path / EVENTS)[0]["pid"] == os.getpid()


def test_the_workers_class_is_there():
    module, _, name = rollout.CPU_WORKER.rpartition(".")
    assert getattr(importlib.import_module(module), name) is CpuWorkerWrap


def test_log_probabilities_are_those_after_the_temperature(start, tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_runtime, "required", lambda: False)
    actor, (args, kwargs) = start(rollout.LensRolloutWithLogprobs, None, "model", enforce_eager=True)
    told = {"logprobs_mode": "processed_logprobs", "max_logprobs": 1}
    assert args == ("model",) and kwargs == {"enforce_eager": True, "trust_remote_code": True, **told}
    assert facts(tmp_path) == [{"event": "ready", "where": "LensRolloutWithLogprobs"}]

    async def theirs(self, *args, sampling_params, **kwargs):
        return [args, sampling_params.logprobs, kwargs]

    monkeypatch.setattr(OPENRLHFS, "generate_responses", theirs)
    asked = actor.generate_responses("1 + 1 =", sampling_params=SamplingParams(), num_samples=2)
    assert asyncio.run(asked) == [("1 + 1 =",), 1, {"num_samples": 2}]


def test_an_answer_comes_whole(start, monkeypatch):
    actor, _ = start()

    async def theirs(self, *args, **kwargs):
        return args, kwargs

    monkeypatch.setattr(OPENRLHFS, "generate", theirs)
    params = SamplingParams()
    assert params.output_kind != RequestOutputKind.FINAL_ONLY
    assert asyncio.run(actor.generate([1, 2], params, "data", more=3)) == (([1, 2], params, "data"), {"more": 3})
    assert params.output_kind == RequestOutputKind.FINAL_ONLY


def slow(queries, prompts, labels):
    import time

    time.sleep(0.3)


async def never(*args, **kwargs):
    await asyncio.sleep(30)


def test_rewards_have_a_limit(start, tmp_path):
    executor = SingleTurnAgentExecutor()
    executor.reward_func, executor._fetch_rewards_via_http = slow, never
    start(rollout.LensRollout, executor)
    for fetch in (executor._fetch_rewards_via_func, executor._fetch_rewards_via_http):
        with pytest.raises(TimeoutError, match=r"^no reward within 0.05 s \(--reward.timeout\)$"):
            asyncio.run(fetch(["q"], ["p"], ["l"]))
    late = {"event": "reward_failed", "cause": "no reward within 0.05 s (--reward.timeout)"}
    assert facts(tmp_path)[1:] == [late, late]


def test_rewards_in_time_are_as_they_came(start, tmp_path):
    executor, asked = SingleTurnAgentExecutor(), []
    executor.reward_func = lambda *given: asked.append(given) or {"rewards": 0.5}

    async def servers(*given):
        asked.append(given)
        return [{"rewards": 0.25, "scores": 1.0}]

    executor._fetch_rewards_via_http = servers
    start(rollout.LensRollout, executor)
    assert asyncio.run(executor._fetch_rewards_via_func(["q"], ["p"], ["l"])) == [{"rewards": 0.5}]
    assert asyncio.run(executor._fetch_rewards_via_http(["q"], ["p"], ["l"])) == [{"rewards": 0.25, "scores": 1.0}]
    assert asked == [(["q"], ["p"], ["l"])] * 2 and len(facts(tmp_path)) == 1


def test_an_agents_turns_have_a_limit(start):
    class Agent(AgentInstanceBase):
        def __init__(self, *args, **kwargs):
            pass

        step = never

    executor = MultiTurnAgentExecutor(Agent)
    start(rollout.LensRollout, executor)
    with pytest.raises(TimeoutError, match=r"no feedback .* within 0.05 s"):
        asyncio.run(executor.agent_instance_cls().step({}))


def test_an_executor_of_ones_own_is_counted_only(start, tmp_path, monkeypatch):
    class Executor(AgentExecutorBase):
        async def execute(self, prompt, **kwargs):
            return {"prompt": prompt, "action_ranges": [(0, 1)], **kwargs}

    executor = Executor()
    start(rollout.LensRollout, executor)
    monkeypatch.setattr(counting, "COUNT_SECONDS", 0)
    assert asyncio.run(executor.execute("p", label="l")) == {"prompt": "p", "action_ranges": [(0, 1)], "label": "l"}
    assert [event["event"] for event in facts(tmp_path)] == ["ready", ANSWERS]
    assert set(vars(executor)) == {"execute"}


# Counting


def test_what_is_counted_and_how_long_a_token_takes(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(counting, "time", SimpleNamespace(monotonic=lambda: now[0]))
    gates = {}

    async def execute(name):
        gates[name] = asyncio.Event()
        tokens = await gates[name].wait() and gates.pop(name).tokens
        if tokens is None:
            raise RuntimeError("no answer")
        return {"action_ranges": tokens}

    counted = CountedAnswers(execute, RunLog(tmp_path))

    async def ends(task, name, at, tokens):
        now[0] = at
        gates[name].tokens = tokens
        gates[name].set()
        await asyncio.gather(task, return_exceptions=True)

    async def begins(name, at):
        now[0] = at
        task = asyncio.ensure_future(counted(name))
        await asyncio.sleep(0)
        return task

    async def rollouts():
        a, b, c, d = [await begins(name, 100.0 + i) for i, name in enumerate("abcd")]
        await ends(a, "a", 104.5, [(0, 2)])  # too soon to tell
        await ends(b, "b", 105, [(3, 7), (10, 12)])  # 4 s for 6 tokens
        await ends(c, "c", 109, None)  # failed
        e = await begins("e", 110)
        await ends(d, "d", 111, [(2, 2)])  # 8 s, and no token
        await ends(e, "e", 112, [(0, 1)])  # the rest of a rollout, not told
        f = await begins("f", 300)  # another one
        g = await begins("g", 301)
        await ends(f, "f", 304, [(0, 8)])
        await ends(g, "g", 305, [(0, 8)])  # 4 s for 8 tokens, 5 s after the rollout began

    asyncio.run(rollouts())
    assert facts(tmp_path) == [
        {"event": ANSWERS, "more": 2, "seconds_a_token": 0.666667},
        {"event": ANSWERS, "more": 1, "seconds_a_token": 8.0},
        {"event": ANSWERS, "more": 2, "seconds_a_token": 0.5},
    ]
    assert counting.COUNT_SECONDS == 5


# Where the classes go


@pytest.mark.parametrize(
    ("estimator", "more", "engine"),
    [
        ("lens", [], "LensRolloutActor"),
        ("lens", ["--algo.lens.confidence_from", "rollout"], "LensRolloutActorWithLogprobs"),
        ("grpo", [], "LensRolloutActor"),
        ("rloo", [], "LensRolloutActor"),
    ],
)
def test_classes_are_put_where_openrlhf_looks_for_them(monkeypatch, estimator, more, engine):
    import openrlhf.cli.train_ppo_ray as command
    import openrlhf.trainer.ppo_trainer as ppo_trainer
    import openrlhf.trainer.ppo_trainer_async as ppo_trainer_async
    import openrlhf.trainer.ray.vllm_engine as vllm_engine

    from lens_openrlhf.training.commandline import options
    from lens_openrlhf.training.hooks import actor, trainer

    places = {
        (command, "PolicyModelActor"): actor.LensPolicyModelActor,
        (vllm_engine, "RolloutRayActor"): getattr(rollout, engine),
        (ppo_trainer, "PPOTrainer"): trainer.LensPPOTrainer,
        (ppo_trainer_async, "PPOTrainerAsync"): trainer.LensPPOTrainerAsync,
    }
    for module, name in places:
        monkeypatch.setattr(module, name, "OpenRLHF's")
    from openrlhf.trainer.ray.ppo_actor import PolicyModelActor

    # A GPU for each rank, as OpenRLHF has it.
    assert actor.LensPolicyModelActor._default_options == PolicyModelActor._default_options
    assert actor.LensPolicyModelActor._default_options["num_gpus"] == 1
    install.install_hooks(options.parse([*MINIMAL, "--algo.advantage.estimator", estimator, *more]))
    assert {place: getattr(*place) for place in places} == places
