"""Rewards and agents with a time limit, and a record of those that failed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from openrlhf.utils.agent import AgentInstanceBase, SingleTurnAgentExecutor

from ...run_folder.log import REWARD_FAILED, RunLog

POLL_SECONDS = 2.0
T = TypeVar("T")


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

    async def from_servers(self, *args: Any) -> list[dict]:
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
        async def reset(self, states: dict, **kwargs: Any) -> dict:
            return await _within(limit, "no observation of the agent's reset", super().reset(states, **kwargs))

        async def step(self, state_dict: dict, **kwargs: Any) -> dict:
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
