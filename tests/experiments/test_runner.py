"""Starting, watching and ending runs, with the real training command where it is quick to refuse."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from lens_openrlhf.experiments import runner
from lens_openrlhf.experiments.runner import Runner, duration, end_strays, slot_environment
from lens_openrlhf.experiments.runs import arm_options, runs_of
from lens_openrlhf.experiments.state import State


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (192, "3 min 12 s"),
        (3600, "1 h 00 min"),
        (7510, "2 h 05 min"),
    ],
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("slot", "parallel", "devices", "variables"),
    [
        (0, 1, ["0", "1"], {}),
        (0, 2, [], {"OMP_NUM_THREADS": "4"}),
        (1, 3, [], {"OMP_NUM_THREADS": "2"}),
        (15, 16, [], {"OMP_NUM_THREADS": "1"}),
        (0, 2, ["0", "1", "2", "3", "4"], {"CUDA_VISIBLE_DEVICES": "0,1"}),
        (1, 2, ["4", "5", "6", "7"], {"CUDA_VISIBLE_DEVICES": "6,7"}),
    ],
)
def test_runs_at_once_share_the_machine(slot, parallel, devices, variables):
    assert slot_environment(slot, parallel, 8, devices) == variables


@pytest.fixture
def refused(sound, tmp_path):
    """A comparison whose runs the training command refuses at once."""
    wanted = sound({"algo.lens.alpha": -1}, seeds=[1])
    found = State(tmp_path / "c")
    arms = arm_options(wanted)
    runs = runs_of(wanted, arms)
    found.adopt(wanted, arms, runs)
    found.folder.mkdir()
    return found, runs


def test_a_failing_run_is_shown_and_the_others_go_on(refused, capsys):
    found, runs = refused
    assert Runner(found, runs, parallel=2).run() == 1
    shown = capsys.readouterr().out
    for number, run in enumerate(runs, 1):
        assert f"[{number}/2] {run.arm}, seed 1: failed after" in shown
        assert found.of(run)["state"] == "failed" and found.of(run)["exit"] == 2
        assert str(found.run_folder(run) / "train.log") in shown
    assert shown.count("    error: --algo.lens.alpha=-1") == 2
    assert State(found.folder).record == found.record, "the state on disk is another"

    # A failed run is tried again, in a clean folder.
    assert Runner(found, runs[:1]).run() == 1
    assert "GRPO/seed-1 begins anew; what it had is in seed-1.unfinished-1" in capsys.readouterr().out
    assert found.run_folder(runs[0]).with_name("seed-1.unfinished-1").is_dir()


# running: the comparison was killed, and its record not written
@pytest.mark.parametrize("before", ["failed", "interrupted", "running"])
def test_a_run_that_had_begun_goes_on_from_its_checkpoint(sound, tmp_path, monkeypatch, capsys, before):
    wanted = sound({"algo.lens.alpha": -1, "ckpt.load_enable": True, "ckpt.save_steps": 1}, seeds=[1])
    found, arms = State(tmp_path / "c"), arm_options(wanted)
    runs = runs_of(wanted, arms)
    found.adopt(wanted, arms, runs)
    folder = found.run_folder(runs[0])
    (folder / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr(runner.resuming, "newest", lambda where: runner.resuming.Resume(where.parent.name, 7))
    found.set(runs[0], state=before, seconds=3000.0, exit=1)
    assert Runner(found, runs[:1]).run() == 1
    assert "GRPO/seed-1 goes on after step 7" in capsys.readouterr().out
    assert 3000 < found.of(runs[0])["seconds"] < 3600, "what it took before, and now"
    assert (folder / "checkpoints").is_dir() and not list(folder.parent.glob("*.unfinished-*"))


# A run that notes its share of the machine and ends when told to.
WAIT = """
import os, pathlib, sys, time

if "--logger.run_dir" in sys.orig_argv:
    folder = pathlib.Path(sys.orig_argv[sys.orig_argv.index("--logger.run_dir") + 1])
    (folder / "devices").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    while not (folder / "end").exists():
        time.sleep(0.02)
    os._exit(3)
"""


@pytest.mark.parametrize("first", [0, 1])
def test_a_run_takes_the_share_of_the_one_that_ended(sound, tmp_path, monkeypatch, first):
    (tmp_path / "sitecustomize.py").write_text(WAIT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(runner, "_devices", lambda: ["4", "5", "6", "7"])
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.02)
    wanted = sound(seeds=[1, 2])
    found, arms = State(tmp_path / "c"), arm_options(wanted)
    runs = runs_of(wanted, arms)
    found.adopt(wanted, arms, runs)
    found.folder.mkdir()
    folders = [found.run_folder(run) for run in runs]

    def devices(number: int) -> str:
        while not (text := (folders[number] / "devices").read_text() if (folders[number] / "devices").exists() else ""):
            time.sleep(0.02)
        return text

    seen = []

    def end_one_by_one() -> None:
        seen.extend((devices(0), devices(1)))
        for ended, begins in ((first, 2), (2, 3)):
            (folders[ended] / "end").touch()
            seen.append(devices(begins))
        for number in (1 - first, 3):
            (folders[number] / "end").touch()

    thread = threading.Thread(target=end_one_by_one)
    thread.start()
    assert Runner(found, runs, parallel=2).run() == 1
    thread.join()
    shares = ["4,5", "6,7"]
    assert seen == [*shares, shares[first], shares[first]]
    assert [found.of(run)["exit"] for run in runs] == [3] * 4


def test_finished_runs_are_never_started_again(refused):
    found, runs = refused
    for run in runs:
        found.set(run, state="finished", seconds=1.0)
    assert Runner(found, runs).run() == 0
    assert not found.run_folder(runs[0]).exists()


def test_an_interrupt_ends_the_running_process_and_is_recorded(refused, tmp_path, monkeypatch, capsys):
    found, runs = refused
    # Python imports this first, so that the run is still there when it is interrupted.
    (tmp_path / "sitecustomize.py").write_text("import time\n\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    handler = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        while found.of(runs[0]).get("state") != "running":
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert Runner(found, runs).run() == 130
    thread.join()
    assert found.of(runs[0])["state"] == "interrupted" and found.of(runs[1]) == {}
    assert "stopping GRPO/seed-1" in capsys.readouterr().out
    children = [child.cmdline() for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    assert not any("lens_openrlhf.cli" in command for command in children)
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_process_that_outlived_its_comparison_is_ended(refused, capsys):
    found, runs = refused
    # A job in the background ignores SIGINT, and so would this process.
    sleep = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print(flush=True); time.sleep(600)"
    command = [sys.executable, "-c", sleep]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as stray:
        stray.stdout.readline()
        created = psutil.Process(stray.pid).create_time()
        found.set(runs[0], state="running", seconds=0.0, pid=stray.pid, created=created)
        end_strays(State(found.folder))
        assert not psutil.pid_exists(stray.pid)
    assert "GRPO/seed-1 still goes on" in capsys.readouterr().out


def test_a_process_that_only_has_the_same_number_is_left_alone(refused):
    found, runs = refused
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        created = psutil.Process(other.pid).create_time()
        found.set(runs[0], state="running", seconds=0.0, pid=other.pid, created=created - 3600)
        end_strays(found)
        assert other.poll() is None
        other.communicate(b"\n")
        assert other.returncode == 0
    end_strays(found)  # the number belongs to nobody


def test_the_tail_of_a_log_says_something(tmp_path):
    log = tmp_path / "train.log"
    assert runner.tail(log) == []
    log.write_bytes(b"\xff first\n" + b"\n".join(b"line %d\n" % i for i in range(30)) + b"\n\n  \n")
    assert len(runner.tail(log)) == runner.TAIL_LINES and runner.tail(log)[-1] == "line 29"
