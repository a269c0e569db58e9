"""A long rollout says that it goes on, and when it will be over."""

from __future__ import annotations

import asyncio
import io
import time

import pytest

from lens_openrlhf.run_folder.log import ANSWERS, SAMPLING, RunLog, read
from lens_openrlhf.training.hooks import counting
from lens_openrlhf.training.hooks.counting import CountedAnswers
from lens_openrlhf.training.launch import progress
from lens_openrlhf.training.launch.console import Console
from lens_openrlhf.training.launch.progress import Progress


class Run:
    """A run's events at moments of the test's choosing, and the lines that a console would show."""

    def __init__(self):
        self.now = 1000.0
        self.progress = Progress(clock=lambda: self.now)

    def __call__(self, name: str, after: float = 0, **facts) -> str | None:
        self.now += after
        self.progress.event({"event": name, "time": self.now, **facts})
        return self.progress.line()

    def later(self, seconds: float) -> str | None:
        self.now += seconds
        return self.progress.line()


def test_answers_that_are_there_are_told_every_half_minute():
    run = Run()
    assert run.later(100) is None, "nothing is sampled yet"
    assert run("sampling", answers=64, tokens=256, evaluation=False) is None
    assert run.later(29) is None
    assert run.later(1) == "sampling: 0 of 64 answers after 30 s"
    assert run("answers", 5, more=3, seconds_a_token=0.1) is None
    assert run.later(25) == "sampling: 3 of 64 answers after 1 min 00 s", "too few to tell when it will be over"
    run("answers", 1, more=10, seconds_a_token=0.1)
    run("answers", 1, more=3, seconds_a_token=0.1)
    assert run.later(28) == "sampling: 16 of 64 answers after 1 min 30 s, about 4 min 30 s to go"
    run("sampled")
    assert run.later(100) is None
    run("sampling", answers=8, tokens=256, evaluation=True)
    assert run.later(30) == "sampling: 0 of 8 answers after 30 s", "counted anew"


def test_the_last_answers_may_be_the_longest():
    run = Run()
    run("sampling", answers=64, tokens=256, evaluation=False)
    run("answers", 20, more=48, seconds_a_token=0.5)
    assert run.later(12) == "sampling: 48 of 64 answers after 32 s, about 1 min 36 s to go", "256 tokens take 128 s"
    run("answers", 28, more=15, seconds_a_token=0.1)
    assert run.later(32).endswith("about 1 s to go")


def test_what_is_sampled_in_place_of_others_is_counted_too():
    run = Run()
    run("sampling", answers=8, tokens=256, evaluation=False)
    run("answers", 20, more=8, seconds_a_token=0.1)
    run("sampling", answers=4, tokens=256, evaluation=False)
    assert run.later(10).startswith("sampling: 8 of 12 answers after 30 s")
    run("answers", more=30, seconds_a_token=0.1)
    assert run.later(30) == "sampling: 38 answers after 1 min 00 s", "in rounds nobody knows how many there will be"


def test_a_step_of_hours_names_what_makes_it_shorter():
    run = Run()
    run("sampling", answers=8192, tokens=256, evaluation=False)
    line = run("answers", 3000, more=1024, seconds_a_token=0.1)
    assert line.endswith("about 5 h 50 min to go (less with --rollout.batch_size, --rollout.max_new_tokens)")


def test_the_first_step_tells_how_long_the_others_take():
    run = Run()
    run("steps", total=8)
    run("sampling", answers=64, tokens=256, evaluation=True)
    run("sampled", 500)
    run("sampling", answers=64, tokens=256, evaluation=False)
    run("sampled", 60)
    assert run.progress.step({"step": 1, "time": run.now + 30}) == "about 10 min 30 s for 7 more steps"
    assert run.progress.step({"step": 2, "time": run.now + 60}) is None, "once"


@pytest.mark.parametrize("step", [8, 9])
def test_after_the_last_step_nothing_is_left(step):
    run = Run()
    run("steps", total=8)
    run("sampling", answers=64, tokens=256, evaluation=False)
    assert run.progress.step({"step": step, "time": run.now}) is None


def test_an_actor_counts_answers_and_the_console_shows_them(tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "COUNT_SECONDS", 0.05)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.2)

    async def execute(number: int) -> int:
        await asyncio.sleep(0.1 * number)
        if number == 3:
            raise RuntimeError("no answer")
        return {"number": number, "action_ranges": [(3, 5), (7, 7 + number)]}

    log = RunLog(tmp_path)
    counted = CountedAnswers(execute, log)

    async def rollout() -> list:
        return await asyncio.gather(*(counted(number=i) for i in range(1, 9)), return_exceptions=True)

    terminal = io.StringIO()
    with Console(tmp_path, terminal):
        log.event(SAMPLING, answers=8, tokens=256, evaluation=False)
        answers = asyncio.run(rollout())
        time.sleep(0.4)
    assert [answer["number"] for answer in answers if isinstance(answer, dict)] == [1, 2, 4, 5, 6, 7, 8]
    events = [event for event in read(tmp_path / "events.jsonl") if event["event"] == ANSWERS]
    assert sum(event["more"] for event in events) == 7 and "of 8 answers after" in terminal.getvalue()
