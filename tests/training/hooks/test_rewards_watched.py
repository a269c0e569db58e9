"""A reward function that hangs or fails ends the run; one that is merely busy does not."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from openrlhf.utils.agent import AgentInstanceBase, MultiTurnAgentExecutor, SingleTurnAgentExecutor

from lens_openrlhf.run_folder.log import REWARD_FAILED, RunLog, read
from lens_openrlhf.training.hooks import rewards_watched


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """watched(reward_func, limit) -> WatchedRewards of an executor with that function, recording in tmp_path."""
    monkeypatch.setattr(rewards_watched, "POLL_SECONDS", 0.02)

    def make(function, limit):
        executor = SingleTurnAgentExecutor()
        executor.reward_func = function
        return rewards_watched.WatchedRewards(executor, limit, RunLog(tmp_path))

    return make


def causes(tmp_path):
    return [event["cause"] for event in read(tmp_path / "events.jsonl") if event["event"] == REWARD_FAILED]


async def fetch_all(rewards, count):
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(4))
    calls = (rewards.from_function([str(i)], [""], [""]) for i in range(count))
    return await asyncio.gather(*calls, return_exceptions=True)


def test_calls_that_wait_for_a_thread_are_not_late(watched, tmp_path):
    def busy(queries, prompts, labels):
        time.sleep(0.2)
        return {"rewards": float(queries[0]), "scores": 0.0}

    count = 60  # more than there are threads, so that the last waits for longer than the limit
    results = asyncio.run(fetch_all(watched(busy, limit=2), count))
    assert [result[0]["rewards"] for result in results] == [float(i) for i in range(count)]
    assert not causes(tmp_path)


def test_a_call_that_hangs_fails_all_that_wait(watched, tmp_path):
    release = threading.Event()

    def hang(queries, prompts, labels):
        release.wait(30)

    async def run():
        try:
            return await asyncio.wait_for(fetch_all(watched(hang, limit=0.1), 100), 10)
        finally:
            release.set()

    assert all(isinstance(result, TimeoutError) for result in asyncio.run(run()))
    assert causes(tmp_path)[0] == "no reward within 0.1 s (--reward.timeout)"


def test_a_reward_of_another_form_is_recorded(watched, tmp_path):
    (result,) = asyncio.run(fetch_all(watched(lambda queries, prompts, labels: [0.5], limit=5), 1))
    assert isinstance(result, ValueError)
    assert causes(tmp_path) == ['expected {"rewards": number, "scores": correctness in [0, 1]}, got [0.5]']


def test_what_a_function_raises_is_recorded(watched, tmp_path):
    def broken(queries, prompts, labels):
        raise KeyError("answer")

    (result,) = asyncio.run(fetch_all(watched(broken, limit=1), 1))
    assert isinstance(result, KeyError) and causes(tmp_path) == ["'answer'"]


def test_a_server_that_never_answers_is_late(watched, tmp_path):
    rewards = watched(None, limit=0.1)

    async def never(queries, prompts, labels):
        await asyncio.sleep(30)

    rewards._ask_servers = never
    with pytest.raises(TimeoutError, match=r"no reward within 0.1 s \(--reward.timeout\)"):
        asyncio.run(rewards.from_servers([""], [""], [""]))
    assert causes(tmp_path) == ["no reward within 0.1 s (--reward.timeout)"]


def test_a_time_limit_of_the_agents_own_keeps_its_words():
    class Agent(AgentInstanceBase):
        def __init__(self, *args, **kwargs):
            pass

        async def step(self, state_dict, **kwargs):
            raise TimeoutError("the tool gave up")

    with pytest.raises(TimeoutError, match="^the tool gave up$"):
        asyncio.run(rewards_watched.watched(Agent, 5)().step({}))


@pytest.mark.parametrize(("slow", "words"), [("reset", "no observation of the agent's reset"), ("step", "no feedback")])
def test_an_agent_that_never_answers_is_late(slow, words):
    class Agent(AgentInstanceBase):
        def __init__(self, *args, **kwargs):
            pass

        async def reset(self, states, **kwargs):
            await asyncio.sleep(30 if slow == "reset" else 0)
            return states

        async def step(self, state_dict, **kwargs):
            await asyncio.sleep(30)

    async def turn():
        agent = MultiTurnAgentExecutor(rewards_watched.watched(Agent, 0.1)).agent_instance_cls()
        assert await agent.reset({"observation": "2+2"}) == {"observation": "2+2"}
        await agent.step({})

    with pytest.raises(TimeoutError, match=rf"{words}.* within 0.1 s \(--reward.timeout\)"):
        asyncio.run(turn())


@pytest.mark.parametrize("reward", [None, 0.5, {}, {"scores": 1.0}, {"rewards": None}, [{"rewards": 1.0}]])
def test_what_is_no_reward_is_recorded(watched, tmp_path, reward):
    said = f'expected {{"rewards": number, "scores": correctness in [0, 1]}}, got {reward!r}'
    (result,) = asyncio.run(fetch_all(watched(lambda *_: reward, limit=5), 1))
    assert type(result) is ValueError and str(result) == said

    async def servers(*_):
        return [{"rewards": 1.0}, reward]

    rewards = watched(None, limit=5)
    rewards._ask_servers = servers
    with pytest.raises(ValueError):
        asyncio.run(rewards.from_servers([""], [""], [""]))
    assert causes(tmp_path) == [said, said]


def test_a_reward_of_0_is_one(watched, tmp_path):
    (result,) = asyncio.run(fetch_all(watched(lambda *_: {"rewards": 0.0}, limit=5), 1))
    assert result == [{"rewards": 0.0}] and not causes(tmp_path)


def test_an_error_without_a_word_is_recorded_by_its_name(watched, tmp_path):
    def broken(*_):
        raise RuntimeError

    async def also(*_):
        raise ConnectionError("no route")

    rewards = watched(broken, limit=1)
    rewards._ask_servers = also
    (result,) = asyncio.run(fetch_all(rewards, 1))
    with pytest.raises(ConnectionError, match="no route"):
        asyncio.run(rewards.from_servers([""], [""], [""]))
    assert isinstance(result, RuntimeError) and causes(tmp_path) == ["RuntimeError", "no route"]


def test_once_a_call_hangs_the_next_does_not_wait(watched, tmp_path):
    release = threading.Event()
    rewards = watched(lambda *_: release.wait(10) and {"rewards": 1.0}, limit=0.2)

    async def run():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(4))
        first = await asyncio.gather(rewards.from_function([""], [""], [""]), return_exceptions=True)
        began = time.monotonic()
        second = await asyncio.gather(rewards.from_function([""], [""], [""]), return_exceptions=True)
        release.set()
        return [*first, *second], time.monotonic() - began

    results, waited = asyncio.run(run())
    assert [type(result) for result in results] == [TimeoutError] * 2 and waited < 0.2
    assert causes(tmp_path) == ["no reward within 0.2 s (--reward.timeout)"] * 2


def test_an_agents_turns_are_its_own():
    class Agent(AgentInstanceBase):
        def __init__(self, *args, **kwargs):
            pass

        async def reset(self, states, **kwargs):
            return {"reset": states, **kwargs}

        async def step(self, state_dict, **kwargs):
            return {"step": state_dict, **kwargs}

    agent = rewards_watched.watched(Agent, 5)()
    assert asyncio.run(agent.reset({"a": 1}, b=2)) == {"reset": {"a": 1}, "b": 2}
    assert asyncio.run(agent.step({"c": 3}, d=4)) == {"step": {"c": 3}, "d": 4} and isinstance(agent, Agent)
