"""Bad surroundings end in one clear message, a non-zero exit and no stray process."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys

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


def test_model_path_that_does_not_exist(tiny, tmp_path):
    more = [*LENS, "--actor.model_name_or_path", str(tmp_path / "absent")]
    run = finish(command_line(tmp_path / "run", tiny, "math-verify", *more), tmp_path / "run")
    refused(run, "--actor.model_name_or_path", "absent", "no such folder")


def test_hub_model_without_a_network(tiny, tmp_path):
    more = [*LENS, "--actor.model_name_or_path", "no-such-user/no-such-model"]
    run = finish(command_line(tmp_path / "run", tiny, "math-verify", *more), tmp_path / "run", HF_HUB_OFFLINE="1")
    refused(run, "no-such-user/no-such-model", "network")


def test_dataset_line_without_the_label_key(tiny, tmp_path):
    bad = tmp_path / "bad.jsonl"
    lines = tiny.train.read_text().splitlines()
    lines[4] = '{"prompt": "1 + 1 ="}'
    bad.write_text("\n".join(lines) + "\n")
    run = finish(
        command_line(tmp_path / "run", tiny, "math-verify", *LENS, "--data.prompt_dataset", str(bad)), tmp_path / "run"
    )
    refused(run, "line 5", "'label'", "--data.label_key")


def test_parquet_row_without_a_label(tiny, tmp_path):
    import pandas

    bad = tmp_path / "bad.parquet"
    rows = pandas.read_json(tiny.train, lines=True, dtype={"label": str})
    rows.loc[6, "label"] = None
    rows.to_parquet(bad)
    run = finish(
        command_line(tmp_path / "run", tiny, "math-verify", *LENS, "--data.prompt_dataset", str(bad)), tmp_path / "run"
    )
    refused(run, "bad.parquet", "row 7", "'label'", "--data.label_key")


def test_label_that_math_verify_cannot_compare_with(tiny, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "1 + 1 =", "label": 2}\n{"prompt": "1 / 2 =", "label": 0.5}\n')
    run = finish(
        command_line(tmp_path / "run", tiny, "math-verify", *LENS, "--data.prompt_dataset", str(bad)), tmp_path / "run"
    )
    refused(run, "line 2", "0.5", "write it as text")


def test_run_folder_that_holds_a_run(tiny, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    run = finish(command_line(tmp_path, tiny, "math-verify", *LENS), tmp_path)
    refused(run, "--logger.run_dir", "holds a run already", "--ckpt.load_enable")


def test_full_disk(tiny, tmp_path):
    with small_disk(tmp_path / "full", "1m") as place:
        run = finish(command_line(place / "run", tiny, "math-verify", *LENS), place / "run")
        refused(run, "--logger.run_dir", "MiB are free")


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


# In a network of its own, where the two ports there are have been taken.
TAKE_ALL_PORTS = """
import socket, subprocess, sys
with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
    file.write("61000 61001")
held = []
try:
    while True:
        held.append(socket.socket())
        held[-1].bind(("", 0))
except OSError:
    sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""


def test_no_free_port(tiny, tmp_path):
    if not shutil.which("unshare") or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("a network name space of its own needs root")
    command = command_line(tmp_path / "run", tiny, "math-verify", *LENS)
    run = finish(["unshare", "-n", sys.executable, "-c", TAKE_ALL_PORTS, *command], tmp_path / "run")
    refused(run, "no network port is free")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://localhost:9/reward", "the reward server cannot be reached"),
        ("http://localhost:99999999", "http://host:port/path"),
        ("math_verify", "expected math-verify"),
    ],
)
def test_reward_server_that_is_down(tiny, tmp_path, url, words):
    run = finish(command_line(tmp_path / "run", tiny, url, *LENS), tmp_path / "run")
    refused(run, f"--reward.remote_url {url}", words)


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
