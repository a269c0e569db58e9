"""From the command line to the beginning of training; two runs do not write the same folders."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time

import pytest

from lens_openrlhf.inputs import OptionError
from lens_openrlhf.process import Held, holding
from lens_openrlhf.training import command
from lens_openrlhf.training.command import _hold

HOLD = """
import sys, time
from pathlib import Path
from lens_openrlhf.process import holding
with holding(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def held_by_another(folder):
    """Its process id."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process.pid
        finally:
            process.kill()


def hold(args):
    with contextlib.ExitStack() as stack:
        _hold(args, stack)


def test_a_folder_that_another_run_writes_is_refused_until_that_run_is_gone(parse, tmp_path):
    args = parse("--logger.run_dir", str(tmp_path / "run"))
    with (
        held_by_another(tmp_path / "run") as pid,
        pytest.raises(OptionError, match=rf"--logger.run_dir .*run: process {pid} on .* trains there; wait for it"),
    ):
        hold(args)
    hold(args)  # it was killed outright
    hold(args)


@pytest.mark.parametrize("option", ["--ckpt.load_enable", "--ckpt.save_steps=5"])
def test_so_is_a_checkpoint_folder_elsewhere(parse, tmp_path, option):
    words = ["--logger.run_dir", str(tmp_path / "run"), "--ckpt.path", str(tmp_path / "shared")]
    with holding(tmp_path / "shared"):
        with pytest.raises(OptionError, match="--ckpt.path .*shared: process .* trains there"):
            hold(parse(*words, option))
        for none in ([], ["--ckpt.save_steps=0"]):
            hold(parse(*words, *none))  # it writes none
    hold(parse(*words, option))
    assert (tmp_path / "shared").is_dir()


def test_a_checkpoint_folder_in_the_run_folder_is_held_with_it(parse, tmp_path):
    for path in ([], ["--ckpt.path", str(tmp_path / "run" / "deep" / "er")]):
        hold(parse("--logger.run_dir", str(tmp_path / "run"), "--ckpt.save_steps", "1", *path))
    assert [place.name for place in (tmp_path / "run").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("environment", "drives"),
    [
        ({}, True),
        ({"RANK": "0"}, True),
        ({"RANK": "1"}, False),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "2"}, False),
        ({"RANK": "0", "LOCAL_RANK": "3"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
    ],
)
def test_one_process_of_a_launchers_drives_the_run(monkeypatch, environment, drives):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert command.drives() is drives
    monkeypatch.setattr(command.profiles, "expand", lambda *_, **__: pytest.fail("it goes on"))
    if not drives:
        assert command.main([]) == 0
    bad = "RANK" if "RANK" in environment else "LOCAL_RANK"
    monkeypatch.setenv(bad, "one")
    with pytest.raises(OptionError, match=f"^{bad}='one': is no rank, which launchers set; unset it$"):
        command.drives()


def test_the_words_are_those_of_the_process_unless_given(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(command, "_main", lambda words: seen.append(words) or len(words))
    monkeypatch.setattr(sys, "argv", ["lens-openrlhf", "--a", "1"])
    assert (command.main(), command.main(("--b",))) == (2, 1) and seen == [["--a", "1"], ["--b"]]

    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_main", interrupted)
    assert command.main([]) == 130 and capsys.readouterr().err == "interrupted before the run began\n"


def test_a_runs_config_whole(parse, tmp_path, monkeypatch):
    from lens_openrlhf.training.checkpoints.resuming import Resume
    from lens_openrlhf.training.commandline import records

    monkeypatch.setattr(command, "versions", lambda: {"python": "3.99"})
    monkeypatch.setattr(command, "git_commit", lambda: "abc")
    monkeypatch.setattr("time.time", lambda: 900.5)
    args = parse("--logger.run_dir", str(tmp_path / "runs" / "a"), "--logger.wandb.key", "s3cret")
    words = ["--logger.wandb.key", "s3cret", "--x"]
    command.write_config(args, words)
    file = tmp_path / "runs" / "a" / "config.json"
    options = json.loads(json.dumps(records.chosen(args)))
    expected = {
        "command": ["--logger.wandb.key", "(not recorded)", "--x"],
        "options": options,
        "versions": {"python": "3.99"},
        "git_commit": "abc",
        "resumed": [],
    }
    assert json.loads(file.read_text()) == expected and list(json.loads(file.read_text())) == list(expected)
    assert file.read_text() == json.dumps(json.loads(file.read_text()), indent=2) + "\n"
    assert len(options) > 150 and options["logger.run_dir"] == str(tmp_path / "runs" / "a")
    args.data.prompt_dataset = tmp_path  # whatever JSON does not know is written as text
    command.write_config(args, words, Resume("global_step4", 4))
    again = json.loads(file.read_text())
    assert again["options"]["data.prompt_dataset"] == str(tmp_path) and [r["step"] for r in again["resumed"]] == [4]


LAUNCHERS = """
RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE CROSS_RANK CROSS_SIZE LOCAL_SIZE MASTER_ADDR MASTER_PORT
""".split()


@pytest.fixture
def started(tmp_path, monkeypatch, own_signals):
    """started(words) -> exit status, and what training would begin with: arguments and seconds; None if it does not."""
    from lens_openrlhf import cpu_runtime
    from lens_openrlhf.training.commandline import machine, preflight

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cpu_runtime, "required", lambda: True)
    monkeypatch.setattr(cpu_runtime, "without_sampler", lambda: None)
    monkeypatch.setattr(preflight, "check_model", lambda *_, **__: None)
    monkeypatch.setattr(machine, "free_memory", lambda: 10**15)
    for name in LAUNCHERS:
        monkeypatch.setenv(name, "0")
    (tmp_path / "model").mkdir()
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4}
    sizes |= {"intermediate_size": 128, "vocab_size": 500, "max_position_embeddings": 512}
    config = {"model_type": "llama", "tie_word_embeddings": True, **sizes}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "1 + 1 =", "label": "2"}\n' * 20)
    (tmp_path / "reward.py").touch()

    def run(*words: str, train=lambda args: 7):
        began = []
        monkeypatch.setattr(command, "train", lambda args, started: began.append((args, started)) or train(args))
        given = "--actor.model_name_or_path model --data.prompt_dataset prompts.jsonl --data.input_key prompt "
        given += "--reward.remote_url reward.py --algo.advantage.estimator lens --rollout.n_samples_per_prompt 4"
        return command.main([*given.split(), "--logger.run_dir", "run", *words]), *(began or [None])

    return run


def test_a_run_is_announced_recorded_and_begun(started, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    before = time.monotonic()
    status, (args, began) = started("--train.enable_ema", "--ckpt.save_steps", "1")
    assert status == 7 and before <= began <= time.monotonic()
    assert args.logger.run_dir == str(tmp_path / "run") and args.algo.lens.estimator == "lens"
    assert not set(LAUNCHERS) & set(os.environ)
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].startswith("without CUDA, what you do not give is: --actor.num_gpus_per_node 1 ")
    labels = [line[:12].strip() for line in lines[1:]]
    assert [label for label in labels if label] == ["model", "devices", "a step", "the run", "evaluation", "memory"]
    assert shown.err == (
        "warning: --train.enable_ema: OpenRLHF's checkpoints do not hold the averaged weights; a run that goes on from "
        "one has to do without\n"
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["options"]["train.enable_ema"] is True and "--train.enable_ema" in config["command"]


@pytest.mark.parametrize(
    "more",
    [["--train.enable_ema"], ["--train.enable_ema", "--ckpt.save_steps", "0"], ["--ckpt.save_steps", "1"]],
    ids=" ".join,
)
def test_averaged_weights_need_no_word_without_checkpoints(started, capsys, more):
    assert started(*more)[0] == 7 and capsys.readouterr().err == ""


def test_from_where_a_run_goes_on_is_recorded_and_told(started, tmp_path, capsys, monkeypatch):
    from lens_openrlhf.training.checkpoints.resuming import Resume
    from lens_openrlhf.training.commandline import records

    found, asked = Resume("global_step4", 4), []
    monkeypatch.setattr(command.resuming, "check", lambda args, options: asked.append((args, options)) or found)
    monkeypatch.setattr(command.resuming, "go_on", lambda args, resume: [f"goes on from {resume.tag}", "and more"])
    status, (args, _) = started()
    assert status == 7 and asked == [(args, records.chosen(args))]
    assert capsys.readouterr().out.splitlines()[-2:] == ["goes on from global_step4", "and more"]
    assert [r["step"] for r in json.loads((tmp_path / "run" / "config.json").read_text())["resumed"]] == [4]


def test_warnings_of_the_surroundings_are_told(started, capsys, monkeypatch):
    monkeypatch.setattr(command, "check_surroundings", lambda args: ["one", "two"])
    assert started()[0] == 7 and capsys.readouterr().err == "warning: one\nwarning: two\n"


def test_nothing_begins_where_something_is_refused(started, capsys, tmp_path):
    assert started("--data.max_len", "513") == (2, None)
    shown = capsys.readouterr()
    assert shown.err.startswith("error: --data.max_len 513: ") and not shown.out and not (tmp_path / "run").exists()


def test_another_run_in_the_folder_is_met_before_anything_is_written(started, capsys, tmp_path):
    with holding(tmp_path / "run"):
        assert started() == (2, None)
    assert "trains there" in capsys.readouterr().err and not (tmp_path / "run" / "config.json").exists()


def test_the_folder_is_held_while_the_run_goes_on(started, tmp_path):
    def train(args):
        with pytest.raises(Held), holding(tmp_path / "run"):
            pass
        return 0

    assert started(train=train)[0] == 0


def test_what_a_profile_names_is_made_for_a_profile_alone(started, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(command.profiles, "make", lambda words: made.append(list(words)))
    (tmp_path / "mine.args").write_text("--train.seed 3")
    assert started()[0] == 7 and made == []
    status, (args, _) = started("--profile", "mine.args")
    assert status == 7 and args.train.seed == 3 and made[0][:2] == ["--train.seed", "3"]
