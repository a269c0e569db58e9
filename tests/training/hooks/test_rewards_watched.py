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
