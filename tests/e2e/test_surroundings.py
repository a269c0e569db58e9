"""Bad surroundings end in one clear message, a non-zero exit and no stray process."""

from __future__ import annotations

import signal

import pytest

from .conftest import command_line, finish, interrupt, small_disk, started

LENS = ["--algo.advantage.estimator", "lens"]


def refused(run, *words: str) -> None:
    assert run.status not in (0, None)
    message = [line for line in run.output.splitlines() if line.startswith("error:")]
    assert len(message) == 1, run.output
    for word in words:
        assert word in message[0]
    assert "Traceback" not in run.output


@pytest.mark.long
def test_disk_that_fills_during_the_run(tiny, reward_file, tmp_path):
    with small_disk(tmp_path / "filling", "1100m") as place:
        folder = place / "run"
        with started(command_line(folder, tiny, reward_file, *LENS, "--train.num_episodes", "1000"), folder) as process:
            with open(place / "filler", "wb", buffering=0) as filler, pytest.raises(OSError):
                while True:
                    filler.write(bytes(1 << 20))
            output, _ = process.communicate(timeout=120)
        message = [line for line in output.splitlines() if line.startswith("error:")]
        assert process.returncode == 1 and len(message) == 1, output
        assert "No space left on device" in message[0] and str(folder) in output
        assert "Traceback" not in output
        assert (folder / "metrics.jsonl").read_text().startswith('{"step": 1')


@pytest.mark.long
def test_reward_function_that_raises(tiny, tmp_path):
    reward = tmp_path / "reward.py"
    reward.write_text("def reward_func(queries, prompts, labels):\n    raise RuntimeError('the grader is broken')\n")
    run = finish(command_line(tmp_path / "run", tiny, reward, *LENS), tmp_path / "run")
    refused(run, "came back without a score", "--reward.remote_url")
    assert "the grader is broken" in (run.folder / "train.log").read_text()


@pytest.mark.long  # Ctrl-C is met in test_compare_end_to_end.py too
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_keeps_what_it_wrote(tiny, reward_file, tmp_path, signal_number):
    folder = tmp_path / "run"
    command = command_line(folder, tiny, reward_file, *LENS, "--train.num_episodes", "1000")
    with started(command, folder) as process:
        output = interrupt(process, signal_number)
    assert process.returncode == 130
    assert "interrupted" in output and str(folder) in output
    assert "Traceback" not in output
    assert (folder / "metrics.jsonl").read_text().endswith("}\n")


@pytest.mark.long
def test_driver_killed_outright_leaves_no_process(tiny, reward_file, tmp_path):
    folder = tmp_path / "run"
    with started(command_line(folder, tiny, reward_file, *LENS, "--train.num_episodes", "1000"), folder):
        pass
    assert (folder / "metrics.jsonl").exists()
