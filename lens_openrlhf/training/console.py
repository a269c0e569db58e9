"""A run that a person can follow: what is going on, a line a step and a bar, read from the run folder."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import IO

from tqdm import tqdm

from ..evaluation import mean_and_error, pass_at_k
from .progress import Progress
from .run_log import EVALUATIONS, EVENTS, METRICS, Follower

POLL_SECONDS = 0.3


def step_line(record: dict) -> str:
    """One step in a line; what a run does not measure is left out."""
    parts = [f"step {record['step']:>4}"]
    for label, key, form in (
        ("reward", "rollout/reward_mean", "{:.3f}"),
        ("negative groups", "lens/negative_groups", "{:.0%}"),
        ("rescued samples", "lens/rescued_samples", "{:.0%}"),
        ("loss", "policy_loss", "{:+.4f}"),
        ("seconds", "timing/step_total", "{:.1f}"),
    ):
        if record.get(key) is not None:
            parts.append(f"{label} {form.format(record[key])}")
    return "  ".join(parts)


def evaluation_line(record: dict) -> str:
    """One evaluation in a line: Pass@1 and Pass@n over its prompts."""
    scores = record["scores"]
    n = len(scores[0])
    parts = []
    for k in sorted({1, n}):
        mean, error = mean_and_error([pass_at_k(sum(s == 1 for s in prompt), n, k) for prompt in scores])
        parts.append(f"Pass@{k} {mean:.3f} ± {error:.3f}")
    return f"held-out, {len(scores)} prompts, after step {record['step']}: " + ", ".join(parts)


class Console:
    """Shows a run's records on `terminal` while they are written; a context manager around the run."""

    def __init__(self, folder: Path, terminal: IO[str], quiet: bool = False):
        self._folder, self._terminal, self._quiet = folder, terminal, quiet
        # A resumed run continues its files; what stands in them was shown before.
        self._records = {name: Follower(folder / name) for name in (EVENTS, EVALUATIONS, METRICS)}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._bar: tqdm | None = None
        self._started = time.monotonic()
        self._progress = Progress()

    def __enter__(self) -> Console:
        self._say(f"run folder: {self._folder}")
        self._say("starting Ray, vLLM and DeepSpeed …")
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._stop.set()
        self._thread.join()
        self._poll()
        if self._bar:
            self._bar.close()

    def _say(self, text: str) -> None:
        if self._quiet:
            return
        if self._bar:
            self._bar.write(text, file=self._terminal)
        else:
            print(text, file=self._terminal, flush=True)

    def _watch(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self._poll()

    def _poll(self) -> None:
        for event in self._records[EVENTS].new():
            self._progress.event(event)
            if event["event"] == "ready" and event["where"] == "LensPolicyModel 0":
                self._say(f"ready after {time.monotonic() - self._started:.0f} s")
            elif event["event"] == "steps":
                self._say(f"{event['total']} steps to go")
                if not self._quiet:
                    self._bar = tqdm(
                        total=event["total"],
                        file=self._terminal,
                        unit="step",
                        disable=None,  # no bar where the output is no terminal
                        leave=False,
                    )
            elif event["event"] == "evaluating":
                self._say(f"evaluating after step {event['step']} …")
        if line := self._progress.line():
            self._say(line)
        for record in self._records[EVALUATIONS].new():
            self._say(evaluation_line(record))
        for record in self._records[METRICS].new():
            self._say(step_line(record))
            if self._bar is not None:
                self._bar.update()
            if line := self._progress.step(record):
                self._say(line)
