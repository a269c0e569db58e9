"""Real training runs, with Ray, DeepSpeed and vLLM, as a user starts them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from lens_openrlhf.run_folder.log import read
from lens_openrlhf.training.launch import reaper

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "scripts" / "train_lens.sh"
MARK = "LENS_TEST_MARK"  # in the environment of all that a test starts


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@dataclass
class Run:
    """A finished training run."""

    status: int
    output: str
    folder: Path

    def records(self, name: str) -> list[dict]:
        return read(self.folder / f"{name}.jsonl")

    @property
    def config(self) -> dict:
        return json.loads((self.folder / "config.json").read_text())


def marked(mark: str) -> dict[int, str]:
    """Processes that carry the mark, whoever their parents are by now: {pid: command}."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # gone by now, or another user's
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = " ".join(process.cmdline())
    return found


@contextlib.contextmanager
def no_strays(seconds: float = 60):
    """Whatever is started inside is gone so many seconds later. What else runs on the machine is not looked at."""
    mark = uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, mark)
        patch.setenv(reaper.KEEP_ENVIRONMENT, "1")
        # Where something else runs, threads that wait for each other in a loop take ten times as long as one.
        patch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
        yield
    deadline = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left, f"left running: {left}"


@pytest.fixture(scope="session")
def reward_file(tmp_path_factory):
    """Rewards that even an untrained model meets now and then, so that groups of all kinds occur."""
    path = tmp_path_factory.mktemp("reward") / "reward.py"
    path.write_text(
        "def reward_func(queries, prompts, labels):\n"
        "    answer = queries[0][len(prompts[0]):]\n"
        "    score = float('3' in answer) if int(labels[0]) % 2 else 0.0\n"
        "    return {'rewards': score, 'scores': score, 'extra_logs': {'answer_chars': float(len(answer))}}\n"
    )
    return path


def command_line(folder: Path, tiny, reward: str | Path, *more: str) -> list[str]:
    options = {
        "--logger.run_dir": folder,
        "--actor.model_name_or_path": tiny.model,
        "--data.prompt_dataset": tiny.train,
        "--data.input_key": "prompt",
        "--data.label_key": "label",
        "--data.max_len": 96,
        "--reward.remote_url": reward,
        "--rollout.batch_size": 8,
        "--rollout.n_samples_per_prompt": 4,
        "--rollout.max_new_tokens": 24,
        "--rollout.micro_batch_size": 8,
        "--train.batch_size": 16,
        "--train.micro_batch_size": 4,
        "--actor.adam.lr": "1e-4",
        "--actor.num_gpus_per_node": 1,
        "--vllm.num_engines": 1,
    }
    words = [str(word) for pair in options.items() for word in pair]
    return [sys.executable, "-m", "lens_openrlhf.cli", "train", *words, *more]


def finish(command: list[str], folder: Path, timeout: float = 900, **environment: str) -> Run:
    """Run a command to its end, with so much more in its environment; nothing may be left behind."""
    with no_strays():
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            cwd=ROOT,
            env=os.environ | environment,
        )
    return Run(done.returncode, done.stdout, folder)


def explained(run: Run) -> str:
    log = run.folder / "train.log"
    return run.output + (log.read_text()[-3000:] if log.exists() else "")


@contextlib.contextmanager
def started(command: list[str], folder: Path, timeout: float = 600):
    """A run that has finished its first step; killed at the end if it still runs, and nothing may be left behind."""
    with no_strays():
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True
        )
        try:
            deadline = time.monotonic() + timeout
            while not (folder / "metrics.jsonl").exists():
                assert process.poll() is None, process.stdout.read()
                assert time.monotonic() < deadline, "the first step took too long"
                time.sleep(0.2)
            yield process
        finally:
            process.kill()
            process.wait(timeout=30)


def interrupt(process: subprocess.Popen, signal_number: int) -> str:
    """SIGINT as a terminal sends it, to the whole process group; others to the process. Returns what was printed."""
    if signal_number == signal.SIGINT:
        os.killpg(process.pid, signal_number)
    else:
        process.send_signal(signal_number)
    output, _ = process.communicate(timeout=180)
    return output


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of its own."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
