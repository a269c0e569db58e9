"""A run that a person can follow: what is going on, a line a step and a bar, read from the run folder."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import IO

from tqdm import tqdm

from ...evaluation import mean_and_error, pass_at_k
from ...run_folder.log import EVALUATIONS, EVENTS, METRICS, Follower
from .progress import Progress

POLL_SECONDS = 0.3
# Metrics of answers that could not be graded, which count as wrong; and by how much of a step's answers their share
# must have grown to be told again.
UNGRADED = {"verifier/error": "errors", "verifier/timeout": "over the time limit"}
GROWTH = 0.05


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


def ungraded(record: dict) -> tuple[float, str]:
    """The share of a step's answers that could not be graded, and a line about it; (0, "") for none."""
    shares = {what: record.get(name) or 0.0 for name, what in UNGRADED.items()}
    share = sum(shares.values())
    if not share > 0:
        return 0.0, ""
    parts = ", ".join(f"{part:.1%} {what}" for what, part in shares.items() if part)
    return share, (
        f"warning: {share:.1%} of the answers of step {record['step']} could not be graded and count as wrong "
        f"({parts}); mostly labels are the cause"
    )


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
        self._ungraded = 0.0  # the largest share that was told

    def __enter__(self) -> Console:
        self._say(f"run folder: {self._folder}")
        self._say("starting Ray, vLLM and DeepSpeed …")
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._poll()
        if self._bar:
            self._bar.close()

    def _say(self, text: str, always: bool = False) -> None:
        if self._quiet and not always:
            return
        if self._bar:
            self._bar.write(text, file=self._terminal)
        else:
            print(text, file=self._terminal, flush=True)

    def _warn(self, record: dict) -> None:
        """Say that answers could not be graded: the first time, and when their share has grown."""
        share, line = ungraded(record)
        if share and (not self._ungraded or share > self._ungraded + GROWTH):
            self._ungraded = share
            self._say(f"{line}: lens-openrlhf grade {self._folder} --wrong shows them", always=True)

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
            self._warn(record)
            if self._bar is not None:
                self._bar.update()
            if line := self._progress.step(record):
                self._say(line)
