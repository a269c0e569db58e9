"""Starting, watching and ending runs, with the real training command where it is quick to refuse."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest
import torch

from lens_openrlhf.experiments import runner
from lens_openrlhf.experiments.runner import Runner, duration, end_strays, slot_environment
from lens_openrlhf.experiments.runs import arm_options, runs_of
from lens_openrlhf.experiments.state import State
from lens_openrlhf.inputs import OptionError

from .folders import write_run


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


@pytest.mark.parametrize(
    ("there", "visible", "devices"),
    [
        (False, "4,5", []),
        (True, "4,GPU-ab", ["4", "GPU-ab"]),
        (True, "", ["0", "1", "2"]),
        (True, None, ["0", "1", "2"]),
    ],
)
def test_the_devices_to_share_are_those_that_this_process_sees(monkeypatch, sound, tmp_path, there, visible, devices):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert runner._devices() == devices
    assert Runner(State(tmp_path), [], parallel=2)._devices == devices
    assert Runner(State(tmp_path), [])._devices == [], "a single run takes what there is, and is told of nothing"


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


def test_a_run_goes_on_or_begins_anew_with_the_time_it_has_taken(sound, tmp_path, monkeypatch, capsys):
    wanted = sound({"ckpt.load_enable": True, "ckpt.save_steps": 1}, seeds=[1])
    found, arms = State(tmp_path / "c"), arm_options(wanted)
    run = runs_of(wanted, arms)[0]
    folder = found.run_folder(run)
    (folder / "checkpoints").mkdir(parents=True)

    def newest(whole: bool):
        def look(where):
            assert where == folder / "checkpoints"
            if not whole:
                raise OptionError("none of its checkpoints is whole")
            return runner.resuming.Resume("global_step7", 7)

        return look

    monkeypatch.setattr(runner.resuming, "newest", newest(True))
    made = Runner(found, [run])
    found.set(run, state="failed", seconds=3000.0)
    assert made._make_room(run, folder) == 3000.0
    assert capsys.readouterr().out == "GRPO/seed-1 goes on after step 7\n"

    # Nothing is recorded: its options were others, or it was never started.
    found.record["runs"].clear()
    assert made._make_room(run, folder) == 0.0
    assert capsys.readouterr().out == "GRPO/seed-1 begins anew; what it had is in seed-1.unfinished-1\n"
    assert not folder.exists() and made._make_room(run, folder) == 0.0 and capsys.readouterr().out == ""

    # No checkpoint is whole, or none is there, or nobody asked to go on.
    found.set(run, state="interrupted", seconds=3000.0)
    for number, (options, look) in enumerate(
        [(run.options, newest(False)), (run.options, lambda where: None), ({}, newest(True))], 2
    ):
        folder.mkdir()
        monkeypatch.setattr(runner.resuming, "newest", look)
        assert made._make_room(runner.Run(run.arm, run.seed, options), folder) == 0.0
        assert f"what it had is in seed-1.unfinished-{number}\n" in capsys.readouterr().out


def test_how_a_run_is_started(refused, tmp_path, monkeypatch):
    """With its share of the machine, in a session of its own, its output at the end of its log."""
    found, runs = refused
    started = []

    def popen(command, stdout, **options):
        stdout.write("said\n")
        started.append((command, options))
        return SimpleNamespace(pid=os.getpid())

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(runner, "_devices", lambda: [])
    monkeypatch.setenv("OTHER", "kept")
    monkeypatch.setattr(time, "monotonic", lambda: 50.0)
    monkeypatch.setattr(Runner, "_make_room", lambda self, run, folder: 20.0)
    made = Runner(found, runs, parallel=2)
    folder = found.run_folder(runs[1])
    folder.mkdir(parents=True)
    (folder / "train.log").write_text("before\n")
    one = made._start(runs[1], slot=1)
    assert (one.run, one.began, one.slot) == (runs[1], 30.0, 1)
    assert (folder / "train.log").read_text() == "before\nsaid\n"
    ((command, options),) = started
    assert command == [sys.executable, "-m", "lens_openrlhf.cli", "train", *runs[1].command(folder)]
    environment = options.pop("env")
    assert environment == {**os.environ, "OMP_NUM_THREADS": "3"} and environment["OTHER"] == "kept"
    assert options == {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "start_new_session": True}
    created = psutil.Process().create_time()
    assert State(found.folder).record["runs"] == {
        runs[1].key: {"state": "running", "seconds": 20.0, "pid": os.getpid(), "created": created}
    }


@pytest.fixture
def ending(sound, tmp_path, monkeypatch, capsys):
    """ending(run, status, left, ...) -> what is said as one of three runs ends after 65 seconds. The first is done."""
    wanted = sound(seeds=[1, 2, 3], arms={"LENS": {}})
    found, arms = State(tmp_path / "c"), arm_options(wanted)
    runs = runs_of(wanted, arms)
    found.adopt(wanted, arms, runs)
    found.folder.mkdir()
    found.set(runs[0], state="finished", seconds=15.0)
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)

    def run(number: int, status: int, left: int = 0, **options) -> tuple[str, dict, Runner]:
        made = Runner(found, runs, **options)
        made._ended(runner._Active(runs[number], SimpleNamespace(returncode=status), 35.0, 0), left)
        return capsys.readouterr().out, found.of(runs[number]), made

    run.folder = found.folder / "runs" / "LENS"
    return run


@pytest.mark.parametrize("keep_models", [False, True])
def test_a_run_that_came_to_its_end(ending, keep_models):
    folder = ending.folder / "seed-2"
    write_run(folder, [[1, 0, 0, 0], [1, 1, 0, 0]])
    for name in ("model", "checkpoints", "samples"):
        (folder / name / "x").mkdir(parents=True)
    shown, record, made = ending(1, 0, keep_models=keep_models)
    assert shown == "[2/3] LENS, seed 2: 1 min 05 s, Pass@1 0.375\n"
    assert record == {"state": "finished", "seconds": 65.0} and made._failed == 0
    assert [(folder / name).exists() for name in ("model", "checkpoints", "samples")] == [keep_models] * 2 + [True]


@pytest.mark.parametrize(("left", "parallel", "told"), [(1, 1, "40 s"), (3, 1, "2 min 00 s"), (3, 2, "1 min 00 s")])
def test_what_is_left_takes_as_long_as_what_is_done_did(ending, left, parallel, told):
    write_run(ending.folder / "seed-2", [[1, 0]])
    shown, _, _ = ending(1, 0, left, parallel=parallel)  # 15 and 65 seconds
    assert shown == f"[2/3] LENS, seed 2: 1 min 05 s, Pass@1 0.500, about {told} left\n"


@pytest.mark.parametrize(
    ("status", "evaluated", "why"),
    [(7, True, "exit status 7"), (-9, True, "exit status -9"), (0, False, "no evaluation after its last step")],
)
def test_a_run_that_did_not_come_to_its_end(ending, status, evaluated, why):
    folder = ending.folder / "seed-3"
    write_run(folder, [[1, 0]])
    if not evaluated:
        (folder / "eval.jsonl").unlink()
    (folder / "model").mkdir()
    shown, record, made = ending(2, status, left=1)
    assert shown == (
        f"[3/3] LENS, seed 3: failed after 1 min 05 s ({why}); its log ends:\n"
        f"    everything the workers said\n    the whole log: {folder / 'train.log'}\n"
    )
    assert record == {"state": "failed", "seconds": 65.0, "exit": status} and made._failed == 1
    assert (folder / "model").exists(), "there may be something to find in it"


def test_runs_are_numbered_in_one_width(sound, tmp_path, capsys):
    wanted = sound(seeds=list(range(10)), arms={"A": {}})
    found, runs = State(tmp_path), runs_of(wanted, arm_options(wanted))
    for number in (0, 9):
        one = runner._Active(runs[number], SimpleNamespace(returncode=1), time.monotonic(), 0)
        Runner(found, runs)._ended(one, left=0)
    shown = capsys.readouterr().out
    assert "[ 1/10] A, seed 0: failed" in shown and "[10/10] A, seed 9: failed" in shown


def test_runs_that_are_stopped(refused, monkeypatch, capsys):
    """One ends as it is told to, one has come to its end by then, one does not listen and is killed."""
    found, _ = refused
    monkeypatch.setattr(runner, "STOP_SECONDS", 0.5)
    runs = [runner.Run("LENS", seed, {}) for seed in (1, 2, 3)]
    write_run(found.run_folder(runs[1]), [[1, 0]])
    bodies = ("trap 'exit 5' INT", "trap 'exit 0' INT", "trap '' INT")
    made, active = Runner(found, runs), []
    for run, body in zip(runs, bodies, strict=True):
        # A job in the background ignores SIGINT, and so would this one's shell.
        command = ["sh", "-c", f"{body}; echo; while :; do sleep 0.02; done"]
        restore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, **restore)
        process.stdout.readline()
        active.append(runner._Active(run, process, time.monotonic() - 10, len(active)))
    begin = time.monotonic()
    made._stop(active)
    assert 0.5 <= time.monotonic() - begin < 30
    assert [one.process.returncode for one in active] == [5, 0, -signal.SIGKILL]
    assert [found.of(run)["state"] for run in runs] == ["interrupted", "finished", "interrupted"]
    assert all(10 <= found.of(run)["seconds"] < 60 for run in runs)
    shown = capsys.readouterr().out
    assert shown.startswith("\nstopping LENS/seed-1, LENS/seed-2, LENS/seed-3 …\n[2/3] LENS, seed 2: 1")
    assert "left" not in shown
    made._stop([])
    assert capsys.readouterr().out == ""
    for one in active:
        one.process.stdout.close()


def test_a_signal_after_the_last_run_interrupts_nothing(refused, monkeypatch):
    """The run that has failed is what there is to say."""
    found, runs = refused
    done = SimpleNamespace(poll=lambda: 2, returncode=2)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0)
    monkeypatch.setattr(Runner, "_start", lambda self, run, slot: runner._Active(run, done, time.monotonic(), slot))
    signals = iter([signal.SIGTERM])

    def say(text: str) -> None:
        if text.startswith("[2/2]"):
            os.kill(os.getpid(), next(signals))

    monkeypatch.setattr(runner, "say", say)
    assert Runner(found, runs).run() == 1
    assert next(signals, None) is None, "the signal came"

    # Before the last run it does, whatever the signal.
    monkeypatch.setattr(runner, "say", lambda text: text.startswith("[1/2]") and os.kill(os.getpid(), signal.SIGHUP))
    assert Runner(found, runs).run() == 130


@pytest.mark.parametrize(
    ("parallel", "slots"), [(1, [0, 0, 0, 0, 0]), (2, [0, 1, 0, 1, 0]), (3, [0, 1, 2, 0, 1]), (9, [0, 1, 2, 3, 4])]
)
def test_as_many_as_are_wanted_run_at_once(sound, tmp_path, monkeypatch, parallel, slots):
    """In their order, each in a place of its own; what is left is told of each as it ends."""
    wanted = sound(seeds=[1, 2, 3, 4, 5], arms={"A": {}})
    found, runs = State(tmp_path), runs_of(wanted, arm_options(wanted))
    done, started, ended = SimpleNamespace(poll=lambda: 0, returncode=0), [], []

    def start(self, run, slot):
        started.append((run.seed, slot))
        return runner._Active(run, done, 0.0, slot)

    monkeypatch.setattr(runner, "POLL_SECONDS", 0)
    monkeypatch.setattr(Runner, "_start", start)
    monkeypatch.setattr(Runner, "_ended", lambda self, one, left: ended.append((one.run.seed, left)))
    assert Runner(found, runs, parallel).run() == 0
    assert started == list(zip([1, 2, 3, 4, 5], slots, strict=True))
    assert ended == [(1, 4), (2, 3), (3, 2), (4, 1), (5, 0)]


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


def test_only_processes_of_runs_that_are_said_to_go_on_are_ended(refused, monkeypatch, capsys):
    """By number and start, which may be told apart by two seconds; one that does not listen is killed."""
    found, _ = refused
    monkeypatch.setattr(runner, "STOP_SECONDS", 0.3)
    cases = {"finished": ("finished", 0, ""), "later": ("running", 2.5, ""), "earlier": ("running", -2.5, "")}
    cases |= {"deaf": ("running", 1.5, "trap '' INT"), "near": ("running", -1.5, "trap 'exit 5' INT")}
    there = {}
    for arm, (state, shift, body) in cases.items():
        command = ["sh", "-c", f"{body}; echo; while :; do sleep 0.02; done" if body else "echo; read line"]
        restore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, **restore
        )
        process.stdout.readline()
        there[arm] = process
        created = psutil.Process(process.pid).create_time() + shift
        found.set(runner.Run(arm, 1, {}), state=state, seconds=0.0, pid=process.pid, created=created)
    end_strays(found)
    assert {arm: process.poll() for arm, process in there.items() if arm in ("finished", "later", "earlier")} == {
        **dict.fromkeys(("finished", "later", "earlier"))
    }
    told = capsys.readouterr().out.splitlines()
    assert told == [
        f"{arm}/seed-1 still goes on although its comparison was killed; ending it …" for arm in ("deaf", "near")
    ]
    for process in there.values():
        process.communicate(b"\n")
        process.wait()
    # psutil has waited for those that were ended; Popen then knows no status.
    assert not any(psutil.pid_exists(there[arm].pid) for arm in ("deaf", "near"))


def test_the_tail_of_a_log_says_something(tmp_path):
    log = tmp_path / "train.log"
    assert runner.tail(log) == []
    log.write_bytes(b"\xff first\n" + b"\n".join(b"line %d\n" % i for i in range(30)) + b"\n\n  \n")
    assert runner.tail(log) == [f"line {i}" for i in range(18, 30)]
    log.write_bytes(b"\xff first\n  \n last")
    assert runner.tail(log) == ["\ufffd first", " last"]


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch, capsys):
    runner.say("steered \x1b[2J")
    assert capsys.readouterr().out == "steered \\x1b[2J\n"

    def gone(*_, **__):
        raise OSError("Input/output error")

    monkeypatch.setattr("builtins.print", gone)
    runner.say("unheard")
