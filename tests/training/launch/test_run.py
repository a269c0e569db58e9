"""A run from its start to its end, with something else in the place of OpenRLHF's training."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest

from lens_openrlhf import cpu_runtime
from lens_openrlhf.run_folder.log import RunLog
from lens_openrlhf.training.launch import run as run_module


class Watcher:
    pid = 4321

    def __init__(self):
        self.stdin = self

    def close(self):
        self.closed = True


@pytest.fixture
def trained(args, monkeypatch, tmp_path, capfd):
    """trained(what happens, console) -> exit status, what was shown and said, and train.log's text."""

    def run(happens, console: str = "progress") -> tuple[int, str, str, str | None]:
        watcher, ended = Watcher(), []
        for number, name in enumerate(("stdout", "stderr"), 1):  # as in a command, which the test runner's are not
            monkeypatch.setattr(sys, name, open(number, "w", closefd=False))
        monkeypatch.setattr(run_module.reaper, "start", lambda: watcher)
        monkeypatch.setattr(run_module, "stop_everything", lambda **but: ended.append(but))
        monkeypatch.setattr(run_module, "run", happens)
        monkeypatch.setattr(run_module.shutil, "get_terminal_size", lambda: type("Size", (), {"columns": 50}))
        monkeypatch.setattr(time, "monotonic", lambda: 100.0)
        status = run_module.train(args({"logger.run_dir": str(tmp_path), "logger.console": console}), 88.0)
        assert ended == [{"but": 4321}] and watcher.closed, "whatever happens"
        sys.stdout.flush()
        sys.stderr.flush()
        shown = capfd.readouterr()
        log = tmp_path / "train.log"
        return status, shown.out, shown.err, log.read_text() if log.exists() else None

    return run


BEGINNING = "run folder: {}\nstarting Ray, vLLM and DeepSpeed …\n"
END = "\n" + "─" * 50 + "\n1 steps in 12 s; metrics, log and model: {}\n"


def well(args) -> None:
    print("what OpenRLHF says", flush=True)
    print("and its errors", file=sys.stderr, flush=True)
    RunLog(args.logger.run_dir).step(1, {"policy_loss": 0.5})


def test_a_run_that_ends_well(trained, tmp_path):
    status, out, err, log = trained(well)
    assert (status, err, log) == (0, "", "what OpenRLHF says\nand its errors\n")
    assert out == BEGINNING.format(tmp_path) + "step    1  loss +0.5000\n" + END.format(tmp_path)


def test_a_run_whose_whole_output_is_shown(trained, tmp_path):
    status, out, err, log = trained(well, "full")
    assert (status, err, log) == (0, "and its errors\n", None)
    assert out == "what OpenRLHF says\n" + END.format(tmp_path)


WHERE = "what was written is in {0}; the full log is {0}/train.log\n"


def test_a_run_that_fails_or_is_interrupted(trained, tmp_path):
    def fails(args):
        raise RuntimeError("no such thing")

    status, out, err, log = trained(fails)
    assert (status, out) == (1, BEGINNING.format(tmp_path))
    assert err == "error: no such thing\n" + WHERE.format(tmp_path)
    assert log.startswith("Traceback") and log.endswith("RuntimeError: no such thing\n")

    def interrupted(args):
        raise KeyboardInterrupt

    status, out, err, log = trained(interrupted)
    assert (status, err) == (130, "interrupted\n" + WHERE.format(tmp_path)) and log.count("Traceback") == 1


@pytest.mark.parametrize("on_cpu", [True, False])
def test_the_order_of_a_start(args, monkeypatch, on_cpu):
    """OpenRLHF can be imported once the CPU runtime is there; its signals are ours after Ray has taken them."""
    import openrlhf.cli

    done = []
    given = args({})
    command = SimpleNamespace()  # importing it takes seconds
    monkeypatch.setitem(sys.modules, "openrlhf.cli.train_ppo_ray", command)
    monkeypatch.setattr(openrlhf.cli, "train_ppo_ray", command, raising=False)
    monkeypatch.setattr(cpu_runtime, "required", lambda: on_cpu)
    monkeypatch.setattr(cpu_runtime, "install", lambda: done.append("install"))
    for module, name in ((run_module, "install_hooks"), (run_module, "start_ray"), (command, "train")):
        monkeypatch.setattr(module, name, lambda its, name=name: done.append((name, its is given)), raising=False)
    monkeypatch.setattr(run_module, "interrupt_once", lambda: done.append("interrupt_once"))
    run_module.run(given)
    assert done == [
        *(["install"] if on_cpu else []),
        *(("install_hooks", True), ("start_ray", True), "interrupt_once", ("train", True)),
    ]
