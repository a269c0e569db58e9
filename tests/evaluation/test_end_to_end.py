"""The command as a user runs it, with the real vLLM: interrupted, killed, continued."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import termios
import time
import tty
from pathlib import Path

import pandas as pd
import pytest

from lens_openrlhf.evaluation import pass_at_k

pytestmark = pytest.mark.e2e
PROMPTS, SAMPLES, PER_PART = 16, 48, 2


def command(tiny, out: Path) -> list[str]:
    options = ["--samples", SAMPLES, "--prompts_per_part", PER_PART, "--k", 1, SAMPLES, "--out", out]
    words = [tiny.model, "--data", tiny.heldout, "--max_new_tokens", 100, *options]
    return [sys.executable, "-m", "lens_openrlhf.cli", "evaluate", *map(str, words)]


def kept(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "samples")


def stopped_after(parts: int, argv: list[str], out: Path, number: signal.Signals) -> subprocess.CompletedProcess:
    """Run the command and send it a signal when `parts` parts are there."""
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        while len(list((out / "samples").glob("part-*.parquet"))) < parts:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        os.killpg(process.pid, number)
        output, errors = process.communicate(timeout=180)
    finally:
        process.kill()
        process.wait()
    return subprocess.CompletedProcess(argv, process.returncode, output, errors)


def on_a_terminal(argv: list[str]) -> subprocess.CompletedProcess:
    """Run the command with a terminal for its standard output."""
    terminal, end = pty.openpty()
    tty.setraw(end)
    termios.tcsetwinsize(end, (24, 80))
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(argv, stdout=end, stderr=errors, stdin=subprocess.DEVNULL)
        os.close(end)
        output = b""
        with contextlib.suppress(OSError):  # the terminal's end was closed
            while chunk := os.read(terminal, 65536):
                output += chunk
        os.close(terminal)
        process.wait(timeout=180)
        errors.seek(0)
        return subprocess.CompletedProcess(argv, process.returncode, output.decode(), errors.read())


def own_lines(text: str) -> list[str]:
    """What was printed, without torch's remark about a package that it does not need."""
    return [line for line in text.splitlines() if "pynvml" not in line]


@pytest.mark.long
def test_interrupted_killed_and_continued_is_as_uninterrupted(tiny, tmp_path):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    done = on_a_terminal(command(tiny, whole))
    assert done.returncode == 0, done.stderr
    assert own_lines(done.stderr) == []
    bars, table = done.stdout.split("\r")[:-1], done.stdout.split("\r")[-1].splitlines()
    assert f"/{PROMPTS * SAMPLES}" in bars[-2] and all("sampling" in bar or not bar.strip() for bar in bars[1:])
    assert table[0].endswith(str(tiny.heldout)) and table[-1].endswith(str(whole))
    assert max(map(len, table[1:-1])) <= 80 and any("maj@" in line for line in table)

    first = stopped_after(1, command(tiny, pieces), pieces, signal.SIGINT)
    assert first.returncode == 130
    (line,) = own_lines(first.stderr)
    after_interrupt = kept(pieces)
    finished = after_interrupt["prompt_id"].nunique()
    assert 0 < finished < PROMPTS
    assert line.startswith("interrupted") and f"{finished} of {PROMPTS} prompts" in line and str(pieces) in line

    second = stopped_after(finished // PER_PART + 1, command(tiny, pieces), pieces, signal.SIGKILL)
    assert second.returncode == -signal.SIGKILL
    assert finished < kept(pieces)["prompt_id"].nunique() < PROMPTS

    third = subprocess.run(command(tiny, pieces), capture_output=True, text=True)
    assert third.returncode == 0, third.stderr
    assert "prompts are there already" in third.stdout
    pd.testing.assert_frame_equal(kept(pieces), kept(whole))
    assert not list((pieces / "samples").glob(".*"))
    summaries = [json.loads((out / "summary.json").read_text()) for out in (whole, pieces)]
    assert summaries[0] == summaries[1]

    # What was kept is what the prompts and the figures say.
    rows = kept(whole)
    questions = [json.loads(text) for text in tiny.heldout.read_text().splitlines()]
    assert {"all", "datasource=addition", "datasource=subtraction"} <= summaries[0]["splits"].keys()
    assert len(rows) == PROMPTS * SAMPLES and rows["response"].nunique() > SAMPLES
    first_answers = rows[rows["sample"] == 0]
    for column, key in (("prompt", "prompt"), ("label", "label"), ("datasource", "datasource")):
        assert first_answers[column].tolist() == [question[key] for question in questions]
    assert (rows["tokens"] <= 100).all() and (rows["truncated"] == (rows["tokens"] == 100)).all()
    assert rows["response"].str.endswith("<eos>").eq(~rows["truncated"]).all()
    assert (rows["correctness"] == (rows["outcome"] == "correct")).all()
    counts = rows.groupby("prompt_id")["correctness"].sum().astype(int)
    for split, figures in summaries[0]["splits"].items():
        column, _, value = split.partition("=")
        chosen = counts if split == "all" else counts[(first_answers[column] == value).to_numpy()]
        assert figures["prompts"] == len(chosen)
        for k, estimate in figures["pass_at_k"].items():
            expected = sum(pass_at_k(count, SAMPLES, int(k)) for count in chosen) / len(chosen)
            assert estimate["mean"] == pytest.approx(expected)


def test_prompts_that_do_not_fit_one_step_of_the_engine(tiny, tmp_path):
    """256 answers at once of prompts of 60 tokens are more than the engine takes in at once."""
    options = ["--samples", 64, "--prompt_template", "1" * 48 + " {}", "--max_new_tokens", 4, "--out", tmp_path / "out"]
    words = [sys.executable, "-m", "lens_openrlhf.cli", "evaluate", tiny.model, "--data", tiny.heldout, *options]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(kept(tmp_path / "out")) == PROMPTS * 64
