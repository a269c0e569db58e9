"""What a run says while it samples, and how long it will take: from the events of those who sample.

The trainer says how many answers it asks for (SAMPLING) and when they are there (SAMPLED); each vLLM actor, every few
seconds, how many more it has finished (ANSWERS), as OpenRLHF hears of a prompt's answers only when all are there.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ...process import duration
from ...run_folder.log import ANSWERS, SAMPLED, SAMPLING

LINE_SECONDS = 30  # between two lines of a rollout
LONG_SECONDS = 3600
ENOUGH = 8  # one answer of so many tells when all will be there; the very first are the shortest


class Progress:
    """Lines about a run's rollouts, for the console; `None` where there is nothing to say.

    Args:
        clock: seconds as `time.time`, which the events have.
    """

    def __init__(self, clock: Callable[[], float] = time.time):
        self._clock = clock
        self._wanted = self._done = 0
        self._since = self._told = self._longest = 0.0
        self._steps: int | None = None
        self._first: float | None = None  # when the first step's sampling began
        self._expected = False

    def event(self, event: dict) -> None:
        """Take note of an event of the run."""
        kind = event["event"]
        if kind == "steps":
            self._steps = event["total"]
        elif kind == SAMPLING:
            if not self._wanted:
                self._since = self._told = event["time"]
                self._done = 0
                self._longest = 0.0
            if self._first is None and not event["evaluation"]:
                self._first = event["time"]
            self._wanted += event["answers"]
            self._most = event["tokens"]
        elif kind == ANSWERS and self._wanted:
            self._done += event["more"]
            self._longest = event["seconds_a_token"] * self._most  # with as many others beside it as the last one had
        elif kind == SAMPLED:
            self._wanted = 0

    def line(self) -> str | None:
        """That sampling goes on, every LINE_SECONDS."""
        now = self._clock()
        if not self._wanted or now - self._told < LINE_SECONDS:
            return None
        self._told = now
        took = now - self._since
        if self._done > self._wanted:  # drawn in rounds, of which nobody knows how many
            return f"sampling: {self._done:,} answers after {duration(took)}"
        text = f"sampling: {self._done:,} of {self._wanted:,} answers after {duration(took)}"
        if self._done * ENOUGH >= self._wanted:
            # In turns, as fast as so far; or all at once, until the longest of them ends.
            left = max((self._wanted - self._done) * took / self._done, self._longest - took)
            text += f", about {duration(left)} to go"
            if took + left > LONG_SECONDS:
                text += " (less with --rollout.batch_size, --rollout.max_new_tokens)"
        return text

    def step(self, record: dict) -> str | None:
        """After the first step that this process sees, how long the others will take."""
        if self._first is None or self._expected or self._steps is None:
            return None
        self._expected = True
        left = self._steps - record["step"]
        each = record["time"] - self._first
        return f"about {duration(left * each)} for {left} more steps" if left > 0 else None
