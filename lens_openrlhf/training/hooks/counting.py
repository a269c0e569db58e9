"""How many answers a vLLM actor has finished, told every few seconds: OpenRLHF hears of a prompt's answers when all are
there."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from ...run_folder.log import ANSWERS, RunLog

COUNT_SECONDS = 5  # between two events of an actor


class CountedAnswers:
    """An executor's `execute`, one call an answer, that reports how many have been finished since it last did, and
    how many seconds the last one took for a token."""

    _more: int
    _told: float  # when

    def __init__(self, execute: Callable[..., Awaitable], run_log: RunLog):
        self._execute, self._run_log = execute, run_log
        self._under_way = 0

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._under_way:  # another rollout; the rest of the last one's count has no meaning now
            self._more, self._told = 0, time.monotonic()
        self._under_way += 1
        began = time.monotonic()
        try:
            answer = await self._execute(*args, **kwargs)
        finally:
            self._under_way -= 1
        self._more += 1
        if time.monotonic() - self._told >= COUNT_SECONDS:
            tokens = sum(end - start for start, end in answer["action_ranges"])
            pace = (time.monotonic() - began) / max(1, tokens)
            self._run_log.event(ANSWERS, more=self._more, seconds_a_token=round(pace, 6))
            self._more, self._told = 0, time.monotonic()
        return answer
