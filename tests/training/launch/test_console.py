"""What the terminal shows of a run: every line, the bar, and the table at the end."""

from __future__ import annotations

import io
import time

import pytest

from lens_openrlhf.run_folder.log import RunLog
from lens_openrlhf.training.launch.console import Console, evaluation_line, step_line, ungraded
from lens_openrlhf.training.launch.progress import Progress
from lens_openrlhf.training.launch.summary import summary_table


class Terminal(io.StringIO):
    def isatty(self):
        return True


WHOLE = {
    "step": 12,
    "rollout/reward_mean": 0.12345,
    "lens/negative_groups": 0.256,
    "lens/rescued_samples": 0.0,
    "policy_loss": 0.00012,
    "timing/step_total": 3.14,
}


def test_a_step_in_a_line():
    assert step_line(WHOLE) == (
        "step   12  reward 0.123  negative groups 26%  rescued samples 0%  loss +0.0001  seconds 3.1"
    )
    for name in set(WHOLE) - {"step"}:
        line = step_line({**WHOLE, name: None})
        assert line.count("  ") == step_line(WHOLE).count("  ") - 1
    assert step_line({"step": 12345}) == "step 12345"


@pytest.mark.parametrize(
    ("record", "share", "parts"),
    [
        ({"step": 3}, 0.0, ""),
        ({"step": 3, "verifier/error": 0.0, "verifier/timeout": None}, 0.0, ""),
        ({"step": 3, "verifier/error": 0.25}, 0.25, "25.0% of the answers of step 3 .* [(]25.0% errors[)]"),
        ({"step": 4, "verifier/timeout": 0.001}, 0.001, "0.1% of the answers of step 4 .* [(]0.1% over the time limit"),
        (
            {"step": 5, "verifier/error": 0.5, "verifier/timeout": 0.25},
            0.75,
            "75.0% .* [(]50.0% errors, 25.0% over the",
        ),
    ],
)
def test_answers_that_could_not_be_graded(record, share, parts):
    import re

    found, line = ungraded(record)
    assert found == share and (re.match(f"warning: {parts}", line) if parts else line == "")


@pytest.mark.parametrize(
    ("scores", "line"),
    [
        ([[1.0], [0.0]], "2 prompts, after step 7: Pass@1 0.500 ± 0.500"),
        ([[1.0] * 8, [0.0] * 8], "2 prompts, after step 7: Pass@1 0.500 ± 0.500, Pass@8 0.500 ± 0.500"),
        (
            [[1.0, 0.9, 0.0], [1.0, 1.0, 1.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]],
            "4 prompts, after step 7: Pass@1 0.333 ± 0.236, Pass@3 0.500 ± 0.289",
        ),
    ],
)
def test_an_evaluation_in_a_line(scores, line):
    assert evaluation_line({"step": 7, "scores": scores}) == f"held-out, {line}"
    one = evaluation_line({"step": 7, "scores": [[1.0, 0.0]]})
    assert one.startswith("held-out, 1 prompts, after step 7: Pass@1 0.500 ± ") and ", Pass@2 1.000 ± " in one


def run(log: RunLog) -> None:
    log.event("ready", where="LensPolicyModel 1")
    log.event("ready", where="LensPolicyModel 0")
    log.event("steps", total=3)
    log.event("evaluating", step=0)
    log.evaluation(0, {"scores": [[1.0], [0.0]]}, {})
    log.event("sampling", answers=8, tokens=5, evaluation=False)
    log.event("sampled")
    for step in (1, 2):
        log.step(step, {"policy_loss": 0.5, "verifier/error": 0.25})


@pytest.mark.parametrize("quiet", [False, True])
def test_all_that_is_shown(tmp_path, monkeypatch, quiet):
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    RunLog(tmp_path).step(0, {"of": "the run before"})
    terminal = io.StringIO()
    with Console(tmp_path, terminal, quiet):
        run(RunLog(tmp_path))
    warning = (
        "warning: 25.0% of the answers of step 1 could not be graded and count as wrong (25.0% errors); mostly labels "
        f"are the cause: lens-openrlhf grade {tmp_path} --wrong shows them"
    )
    everything = [
        f"run folder: {tmp_path}",
        "starting Ray, vLLM and DeepSpeed …",
        "ready after 0 s",
        "3 steps to go",
        "evaluating after step 0 …",
        "held-out, 2 prompts, after step 0: Pass@1 0.500 ± 0.500",
        "step    1  loss +0.5000",
        warning,
        "about 0 s for 2 more steps",
        "step    2  loss +0.5000",
    ]
    assert terminal.getvalue().splitlines() == ([warning] if quiet else everything)


def test_lines_are_shown_while_the_run_goes_on(tmp_path):
    terminal = io.StringIO()
    with Console(tmp_path, terminal):
        RunLog(tmp_path).step(1, {})
        deadline = time.monotonic() + 20
        while "step    1" not in terminal.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_bar_counts_the_steps_of_a_terminal(tmp_path):
    terminal = Terminal()
    with Console(tmp_path, terminal) as console:
        run(RunLog(tmp_path))
    assert (console._bar.n, console._bar.total, console._bar.unit) == (2, 3, "step")
    shown = terminal.getvalue()
    assert "0/3" in shown and "?step/s" in shown and "\nstep    2  loss +0.5000\n" in shown.replace("\r", "\n")
    assert shown.endswith("\r"), "it is gone when the run is over"


@pytest.mark.parametrize(("shares", "told"), [([0.01, 0.06, 0.0601], [0, 2]), ([0.0, 0.5, 0.1, 0.5, 0.56], [1, 4])])
def test_a_share_is_told_again_once_it_has_grown_by_a_twentieth(tmp_path, shares, told):
    terminal = io.StringIO()
    with Console(tmp_path, terminal, quiet=True):
        for step, share in enumerate(shares):
            RunLog(tmp_path).step(step, {"verifier/timeout": share})
    steps = [line.partition("of step ")[2].split()[0] for line in terminal.getvalue().splitlines()]
    assert steps == [str(step) for step in told]


@pytest.mark.parametrize("after", ["steps", "sampling"])
def test_how_long_the_others_take_needs_both_the_steps_and_a_rollout(after):
    progress = Progress(clock=lambda: 1000.0)
    sampling = {"event": "sampling", "time": 900.0, "answers": 8, "tokens": 5, "evaluation": False}
    events = {"steps": {"event": "steps", "time": 0, "total": 9}, "sampling": sampling}
    progress.event(events[after])
    assert progress.step({"step": 1, "time": 950.0}) is None
    progress.event(events["steps" if after == "sampling" else "sampling"])
    progress.event({**sampling, "time": 940.0})  # more prompts for the same step
    assert progress.step({"step": 5, "time": 950.0}) == "about 3 min 20 s for 4 more steps"


def test_what_is_finished_counts_while_something_is_sampled_and_no_longer():
    moment = [1000.0]
    progress = Progress(clock=lambda: moment[0])
    answers = {"event": "answers", "more": 4, "seconds_a_token": 2.0}
    sampling = {"event": "sampling", "answers": 8, "tokens": 16, "evaluation": True}
    progress.event({**answers, "time": 1000.0})
    progress.event({**sampling, "time": 1000.0})
    moment[0] = 1030.0
    assert progress.line() == "sampling: 0 of 8 answers after 30 s"
    progress.event({**answers, "more": 1, "time": 1030.0})
    moment[0] = 1060.0
    # One of eight is enough; in turns the other seven take 7 x 60 s.
    assert progress.line() == "sampling: 1 of 8 answers after 1 min 00 s, about 7 min 00 s to go"
    progress.event({"event": "sampled", "time": 1060.0})
    progress.event({**sampling, "tokens": 3600, "time": 1060.0})
    moment[0] = 1090.0
    assert progress.line() == "sampling: 0 of 8 answers after 30 s", "and the longest is another one"
    progress.event({**answers, "more": 8, "seconds_a_token": 1.0, "time": 1090.0})
    moment[0] = 1120.0
    assert progress.line() == "sampling: 8 of 8 answers after 1 min 00 s, about 59 min 00 s to go", "an hour in all"
    progress.event({**answers, "more": 0, "seconds_a_token": 1.001, "time": 1120.0})
    moment[0] = 1150.0
    assert progress.line().endswith(
        "about 58 min 34 s to go (less with --rollout.batch_size, --rollout.max_new_tokens)"
    )


def write(folder, rewards, negative=(), rescued=(), evaluations=()):
    log = RunLog(folder)
    for step, scores in evaluations:
        log.evaluation(step, {"scores": scores}, {})
    for step, reward in enumerate(rewards, 1):
        metrics = {"rollout/reward_mean": reward}
        metrics |= {"lens/negative_groups": negative[step - 1]} if negative else {}
        metrics |= {"lens/rescued_samples": rescued[step - 1]} if rescued else {}
        log.step(step, metrics)


def test_a_summary_whole(tmp_path):
    """Two of twenty-nine steps are a tenth."""
    between = [9.0] * 25
    write(
        tmp_path,
        rewards=[0.1, 0.3, *between, 0.5, 0.7],
        negative=[1.0, 0.5, *between, 0.5, 0.25],
        rescued=[0.0, 0.25, *between, 0.125, 0.125],
        evaluations=[
            (0, [[1.0, 0.0], [0.0, 0.0], [0.0, 0.5]]),
            (15, [[1.0, 1.0]] * 3),
            (29, [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]),
        ],
    )
    lines = summary_table(tmp_path, 12.4, width=60).split("\n")
    assert lines == [
        "",
        "─" * 60,
        "held-out prompts: 3                    before            after           change",
        "Pass@1                          0.167 ± 0.167    0.500 ± 0.289   +0.333 ± 0.167",
        "Pass@2                          0.333 ± 0.333    0.667 ± 0.333   +0.333 ± 0.333",
        "negative groups                 0.750            0.375           -0.375",
        "rescued samples                 0.125            0.125           +0.000",
        "mean reward in training         0.200            0.600           +0.400",
        f"29 steps in 12 s; metrics, log and model: {tmp_path}",
    ]


@pytest.mark.parametrize(("width", "rule"), [(40, 40), (79, 79), (100, 79), (None, 79)])
def test_a_summary_of_what_there_is(tmp_path, width, rule):
    write(tmp_path, [0.5, 1.0, None, 0.75], evaluations=[(4, [[0.0], [1.0], [1.0]])])
    table = summary_table(tmp_path, 3) if width is None else summary_table(tmp_path, 3, width)
    assert table.split("\n") == [
        "",
        "─" * rule,
        "held-out prompts: 3                    before            after           change",
        "Pass@1                          0.667 ± 0.333    0.667 ± 0.333   +0.000 ± 0.000",
        "mean reward in training         0.500            0.750           +0.250",
        f"4 steps in 3 s; metrics, log and model: {tmp_path}",
    ]


def test_a_summary_of_eight_answers_a_prompt(tmp_path):
    write(tmp_path, [], evaluations=[(0, [[1.0] + [0.0] * 7, [0.0] * 8]), (9, [[1.0] * 8, [0.0] * 8])])
    assert summary_table(tmp_path, 3).split("\n")[3:5] == [
        "Pass@1                          0.062 ± 0.062    0.500 ± 0.500   +0.438 ± 0.438",
        "Pass@8                          0.500 ± 0.500    0.500 ± 0.500   +0.000 ± 0.000",
    ]


def test_a_summary_of_one_prompt_and_no_step(tmp_path):
    write(tmp_path, [], evaluations=[(0, [[1.0]]), (0, [[0.0]])])
    lines = summary_table(tmp_path, 3).split("\n")
    assert lines[3] == "Pass@1                          1.000 ± 0.000    0.000 ± 0.000   -1.000 ± 0.000"
    assert lines[4:] == [f"0 steps in 3 s; metrics, log and model: {tmp_path}"]


def test_a_tenth_of_which_little_was_measured(tmp_path):
    """The mean is of what was measured, which may be less than a tenth of the steps."""
    write(tmp_path, [0.5, *[None] * 28, 0.25])
    assert "mean reward in training         0.375            0.375           +0.000" in summary_table(tmp_path, 3)
