"""What a long run meets: processes that die, numbers that are none, rewards that never come (make test-long)."""

from __future__ import annotations

import os
import shutil
import signal
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from lens_openrlhf.run_folder.log import read

from .conftest import command_line, explained, finish, interrupt, small_disk, started

pytestmark = pytest.mark.long

LENS = ["--algo.advantage.estimator", "lens"]


def ended(process, folder) -> str:
    """The error that a run ended with, within a minute."""
    output, _ = process.communicate(timeout=60)
    errors = [line for line in output.splitlines() if line.startswith("error:")]
    assert process.returncode == 1 and len(errors) == 1 and "Traceback" not in output, output
    assert str(folder) in output, "where what was written is"
    return errors[0]


def pid_of(folder, where: str) -> int:
    (event,) = [e for e in read(folder / "events.jsonl") if e["event"] == "ready" and e["where"] == where]
    return event["pid"]


@pytest.mark.parametrize(
    ("victim", "words"),
    [
        ("LensPolicyModel 0", "PolicyModelActor has died"),
        ("LensRollout", "RolloutRayActor has died"),
        ("vLLM's engine", "EngineCore"),
        ("LensPPO", "PPOTrainer has died"),
    ],
)
def test_a_process_that_dies_ends_the_run(tiny, reward_file, tmp_path, victim, words):
    folder = tmp_path / "run"
    with started(command_line(folder, tiny, reward_file, *LENS, "--train.num_episodes", "1000"), folder) as process:
        pid = pid_of(folder, "LensRollout" if victim == "vLLM's engine" else victim)
        if victim == "vLLM's engine":
            pid = next(c.pid for c in psutil.Process(pid).children(recursive=True) if "EngineCore" in c.name())
        os.kill(pid, signal.SIGKILL)
        assert words in ended(process, folder)
    assert (folder / "metrics.jsonl").read_text().endswith("}\n")


def test_weights_that_are_nan(tiny, reward_file, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny.model, model)
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    command = command_line(tmp_path / "run", tiny, reward_file, *LENS)
    command[command.index("--actor.model_name_or_path") + 1] = str(model)
    run = finish(command, tmp_path / "run")
    (error,) = [line for line in run.output.splitlines() if line.startswith("error:")]
    assert run.status == 1 and "log-probability NaN" in error, explained(run)


def test_an_update_that_spoils_the_weights_is_not_kept(tiny, reward_file, tmp_path):
    steep = ["--actor.adam.lr", "1e30", "--actor.lr_scheduler", "constant", "--actor.lr_warmup_ratio", "0"]
    command = command_line(tmp_path / "run", tiny, reward_file, *LENS, *steep, "--ckpt.save_steps", "1")
    run = finish(command, tmp_path / "run")
    assert run.status == 1 and "error: the update has policy_loss nan" in run.output, explained(run)
    assert not list((tmp_path / "run").glob("checkpoints/_actor/global_step*")) and not run.records("metrics")


def test_one_rank_of_two_raises(tiny, reward_file, tmp_path):
    (tmp_path / "my.py").write_text(
        "import torch.distributed as dist\n\n\n"
        "def unlucky(batch):\n"
        "    if dist.get_rank() == 1 and batch.step == 2:\n"
        "        raise RuntimeError('no luck')\n"
        "    return batch.grpo(batch.rewards)\n"
    )
    more = ["--algo.lens.estimator_path", f"{tmp_path}/my.py:unlucky", "--actor.num_gpus_per_node", "2"]
    with started(command_line(tmp_path / "run", tiny, reward_file, *more), tmp_path / "run") as process:
        error = ended(process, tmp_path / "run")
    assert f"({tmp_path}/my.py): advantages raised RuntimeError: no luck" in error


def test_one_rank_of_two_meets_a_score_that_is_none(tiny, tmp_path):
    reward = tmp_path / "reward.py"
    reward.write_text(
        "def reward_func(queries, prompts, labels):\n"
        "    score = 2.0 if labels[0].endswith('7') else 0.0\n"
        "    return {'rewards': score, 'scores': score}\n"
    )
    command = command_line(tmp_path / "run", tiny, reward, *LENS, "--actor.num_gpus_per_node", "2")
    run = finish(command, tmp_path / "run")
    assert run.status == 1 and "correctness" in run.output and "2.0" in run.output, explained(run)


def test_a_reward_that_never_comes(tiny, tmp_path):
    reward = tmp_path / "reward.py"
    reward.write_text("import time\n\n\ndef reward_func(queries, prompts, labels):\n    time.sleep(10**6)\n")
    command = command_line(tmp_path / "run", tiny, reward, *LENS, "--reward.timeout", "5")
    run = finish(command, tmp_path / "run")
    assert run.status == 1 and "no reward within 5 s (--reward.timeout)" in run.output, explained(run)


def test_a_reward_server_that_goes_away(tiny, tmp_path):
    import http.server
    import json
    import threading

    class Server(http.server.BaseHTTPRequestHandler):
        answers = 0

        def do_POST(self):
            Server.answers += 1
            if Server.answers > 40:
                self.close_connection = True
                return
            self.rfile.read(int(self.headers["Content-Length"]))
            score = float(Server.answers % 2)
            body = json.dumps({"rewards": score, "scores": score}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/reward"
        run = finish(command_line(tmp_path / "run", tiny, url, *LENS), tmp_path / "run")
        server.shutdown()
    assert run.status == 1 and "Request error for 5 times" in run.output, explained(run)
    assert [record["step"] for record in run.records("metrics")] == [1]


STEPS = 8  # as many as there are prompts for
CHECKPOINTS = [*LENS, "--ckpt.save_steps", "1", "--ckpt.load_enable", "--data.max_samples", str(8 * STEPS)]


def newest_step(states) -> int:
    """Of the checkpoints that have their names, and so are whole."""
    return max(int(path.name.removeprefix("global_step")) for path in states.glob("global_step*"))


def wait_for(process, condition, every: float) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(every)


def goes_on_to_the_end(command, folder, states, step: int) -> None:
    run = finish(command, folder)
    assert run.status == 0, explained(run)
    assert f"goes on after step {step}, from the checkpoint" in run.output
    assert [record["step"] for record in run.records("metrics")] == list(range(1, STEPS + 1))
    assert newest_step(states) == STEPS and not list(states.glob("unfinished-*"))


def test_a_disk_that_is_full_when_a_checkpoint_is_written(tiny, reward_file, tmp_path):
    with small_disk(tmp_path / "disk", "1g") as disk:
        folder, states = tmp_path / "run", disk / "checkpoints" / "_actor"
        command = command_line(folder, tiny, reward_file, *CHECKPOINTS, "--ckpt.path", str(disk / "checkpoints"))
        with started(command, folder) as process:
            wait_for(process, (states / "latest").exists, 0.05)
            with open(disk / "filler", "wb", buffering=0) as filler, pytest.raises(OSError):
                while True:
                    filler.write(bytes(1 << 20))
            error = ended(process, folder)
        assert f"--ckpt.path {disk / 'checkpoints'}: checkpoint global_step" in error and "cannot be written" in error
        step = newest_step(states)
        (disk / "filler").unlink()
        goes_on_to_the_end(command, folder, states, step)


def test_ctrl_c_while_a_checkpoint_is_written(tiny, reward_file, tmp_path):
    folder = tmp_path / "run"
    states = folder / "checkpoints" / "_actor"
    command = command_line(folder, tiny, reward_file, *CHECKPOINTS)
    with started(command, folder) as process:
        wait_for(process, lambda: (states / "latest").exists() and list(states.glob("unfinished-*")), 0.001)
        output = interrupt(process, signal.SIGINT)
    assert process.returncode == 130 and "Traceback" not in output
    goes_on_to_the_end(command, folder, states, newest_step(states))
