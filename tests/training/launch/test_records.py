"""The run folder's records, the console and the summary that read them, and profiles."""

from __future__ import annotations

import io
import json

import pytest

from lens_openrlhf.run_folder.log import Follower, RunLog, read
from lens_openrlhf.training.commandline import profiles
from lens_openrlhf.training.launch.console import Console, step_line
from lens_openrlhf.training.launch.summary import summary_table


def fill(folder, steps=10):
    folder.mkdir(exist_ok=True)
    log = RunLog(folder)
    log.event("steps", total=steps)
    log.evaluation(0, {"scores": [[1.0, 0.0], [0.0, 0.0]]}, {"eval_default_pass1": 0.25})
    for step in range(1, steps + 1):
        log.step(
            step, {"rollout/reward_mean": step / steps, "lens/negative_groups": 1 - step / steps, "policy_loss": 0.1}
        )
    log.evaluation(steps, {"scores": [[1.0, 1.0], [0.0, 1.0]]}, {"eval_default_pass1": 0.75})


def test_records_are_json_lines_without_nan(tmp_path):
    log = RunLog(tmp_path)
    log.step(1, {"a": float("nan"), "b": None, "c": 2.0, "generated_samples": ["text", 1.0]})
    (record,) = read(tmp_path / "metrics.jsonl")
    assert (record["step"], record["a"], record["b"], record["c"]) == (1, None, None, 2.0)
    assert "generated_samples" not in record


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path):
    fill(tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 11, "rew')
    assert read(tmp_path / "metrics.jsonl")[-1]["step"] == 10


def test_records_after_a_line_cut_off_by_a_crash_are_whole(tmp_path):
    fill(tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 11, "rew')
    RunLog(tmp_path).step(11, {"policy_loss": 0.1})
    RunLog(tmp_path).step(12, {"policy_loss": 0.1})
    assert [record["step"] for record in read(tmp_path / "metrics.jsonl")] == list(range(1, 13))


def test_a_follower_reads_what_is_new_and_whole(tmp_path):
    path = tmp_path / "events.jsonl"
    early = Follower(path)
    path.write_text('{"a": 1}\n{"a": 2}\n{"a":')
    late = Follower(path)
    assert early.new() == [{"a": 1}, {"a": 2}] and early.new() == late.new() == []
    with open(path, "a") as file:
        file.write(' 3}\n{"a": 4}\n')
    assert early.new() == late.new() == [{"a": 3}, {"a": 4}]


def test_console_shows_each_step_once(tmp_path):
    terminal = io.StringIO()
    with Console(tmp_path, terminal):
        fill(tmp_path)
    lines = terminal.getvalue().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("step ")] == [str(n) for n in range(1, 11)]
    assert any("Pass@1 0.250" in line for line in lines) and any("Pass@2 1.000" in line for line in lines)


def test_the_console_says_when_answers_cannot_be_graded_and_when_more_cannot(tmp_path):
    terminal = io.StringIO()
    with Console(tmp_path, terminal, quiet=True):  # where the workers' own output is shown, too
        log = RunLog(tmp_path)
        for step, (errors, timeouts) in enumerate([(0, 0), (0.01, 0), (0.02, 0), (0.5, 0.1), (0.5, 0.1), (0.4, 0)], 1):
            log.step(step, {"verifier/error": errors, "verifier/timeout": timeouts})
    first, second = terminal.getvalue().splitlines()
    assert "1.0% of the answers of step 2 could not be graded and count as wrong (1.0% errors)" in first
    assert "60.0% of the answers of step 4" in second and "(50.0% errors, 10.0% over the time limit)" in second
    assert f"lens-openrlhf grade {tmp_path} --wrong" in second


def test_what_is_not_measured_is_not_shown():
    assert step_line({"step": 3, "policy_loss": None}) == "step    3"


def test_summary_compares_before_and_after(tmp_path):
    fill(tmp_path)
    table = summary_table(tmp_path, seconds=12)
    (pass1,) = [line for line in table.splitlines() if line.startswith("Pass@1")]
    assert pass1.split()[1:] == ["0.250", "±", "0.250", "0.750", "±", "0.250", "+0.500", "±", "0.000"]
    assert str(tmp_path) in table


def test_an_unknown_profile_lists_the_known_ones():
    with pytest.raises(profiles.ProfileError, match="no such profile; there are: .*tiny"):
        profiles.expand(["--profile", "absent"])
    with pytest.raises(profiles.ProfileError, match="name is missing"):
        profiles.expand(["--profile"])


def test_a_profile_is_expanded_and_what_follows_wins(tmp_path):
    file = tmp_path / "mine.args"
    file.write_text("# a comment\n--actor.model_name_or_path ${package}/model  # another\n--train.seed 1\n")
    argv = profiles.expand(["--profile", str(file), "--train.seed", "2", "--logger.run_dir", "here"])
    package = str(profiles.PACKAGE)
    expected = ["--actor.model_name_or_path", f"{package}/model", "--train.seed", "1", "--train.seed", "2"]
    assert argv == [*expected, "--logger.run_dir", "here"]


def test_a_profile_with_an_unknown_variable_is_named(tmp_path):
    file = tmp_path / "mine.args"
    file.write_text("--actor.model_name_or_path ${nowhere}/model\n")
    with pytest.raises(profiles.ProfileError, match="nowhere"):
        profiles.expand(["--profile", str(file)])


def test_config_records_the_users_choice(parse, tmp_path):
    from lens_openrlhf.training.command import write_config

    write_config(parse("--logger.run_dir", str(tmp_path), "--algo.lens.alpha", "0.5"), ["--some", "words"])
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["options"]["algo.advantage.estimator"] == "lens"
    assert config["options"]["algo.lens.alpha"] == 0.5
    assert config["command"] == ["--some", "words"]
    assert config["versions"]["openrlhf"] == "0.11.2" and "git_commit" in config


@pytest.mark.parametrize("words", [["--logger.wandb.key", "s3cret"], ["--logger.wandb.key=s3cret"]])
def test_config_does_not_record_secrets(parse, tmp_path, words):
    from lens_openrlhf.training.command import write_config

    args = parse("--logger.run_dir", str(tmp_path), *words)
    assert args.logger.wandb.key == "s3cret"
    write_config(args, [*words, "--train.seed", "1"])
    text = (tmp_path / "config.json").read_text()
    assert "s3cret" not in text and json.loads(text)["options"]["logger.wandb.key"] == "(not recorded)"
    assert json.loads(text)["command"][-2:] == ["--train.seed", "1"]
