"""The simulation against exact sums, and what it must show of the mechanism."""

from __future__ import annotations

import itertools
import json
import math
import re

import pytest
import torch

from lens_openrlhf.advantages import LensConfig, reference
from lens_openrlhf.experiments.tabular import (
    ARMS,
    CONFIDENT_WRONG,
    MOST,
    MOST_CELLS,
    RIGHT,
    Batch,
    Curves,
    Settings,
    figure,
    gradient,
    initial_logits,
    lens,
    main,
    parse,
    run,
    sample,
    simulate,
    table,
)


@pytest.fixture(autouse=True)
def one_thread():
    """Tables this small are slower when threads share them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SMALL = Settings(questions=40, answers=6, samples=4, steps=30, lr=2.0, right=0.01, wrong=0.7)


def batch_of(logits: torch.Tensor, answers: list[list[int]]) -> Batch:
    chosen = torch.tensor(answers)
    return Batch(chosen, logits.log_softmax(1).gather(1, chosen), (chosen == RIGHT).double())


def centred(batch: Batch) -> torch.Tensor:
    """Correctness less the group's mean: the estimator whose expectation is known in closed form."""
    return batch.correctness - batch.correctness.mean(1, keepdim=True)


def exact_update(logits: torch.Tensor, samples: int, estimator) -> torch.Tensor:
    """Expectation of the estimator for one question: autograd's gradient of log pi, summed over all sample tuples."""
    answers = range(logits.shape[1])
    probabilities = logits.softmax(1)[0].tolist()
    scores = []
    for answer in answers:
        free = logits.clone().requires_grad_()
        free.log_softmax(1)[0, answer].backward()
        scores.append(free.grad[0])
    total = torch.zeros_like(logits[0])
    for group in itertools.product(answers, repeat=samples):
        advantages = estimator(batch_of(logits, [list(group)]))[0].tolist()
        weight = math.prod(probabilities[answer] for answer in group)
        for answer, advantage in zip(group, advantages, strict=True):
            total += weight * advantage / samples * scores[answer]
    return total


LOGITS = torch.tensor([[-1.0, 1.2, 0.3]], dtype=torch.float64)


@pytest.mark.parametrize("estimator", [*ARMS.values(), centred], ids=[*ARMS, "centred"])
def test_the_sampled_update_is_unbiased(estimator):
    """Its mean over many questions with the same policy is the exact sum over all tuples of samples."""
    many, samples = 100_000, 3
    logits = LOGITS.expand(many, -1)
    batch = sample(logits, samples, torch.Generator().manual_seed(0))
    updates = gradient(logits, batch, estimator(batch))
    mean, error = updates.mean(0), updates.std(0) / many**0.5
    exact = exact_update(LOGITS, samples, estimator)
    assert exact.abs().max() > 20 * error.max(), "the expectation could be told from 0"
    assert ((mean - exact).abs() < 4 * error).all(), (mean, exact, error)


def test_the_exact_sum_is_the_gradient_of_the_success_probability():
    """For centred correctness it is (1 - 1/G) grad pi(right): both the sum and the estimator are what they claim."""
    free = LOGITS.clone().requires_grad_()
    free.softmax(1)[0, RIGHT].backward()
    torch.testing.assert_close(exact_update(LOGITS, 3, centred), (1 - 1 / 3) * free.grad[0])


def test_the_update_of_one_batch_is_autograds():
    logits = initial_logits(SMALL)
    batch = sample(logits, 5, torch.Generator().manual_seed(1))
    advantages = torch.randn(batch.answers.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    free = logits.clone().requires_grad_()
    (advantages * free.log_softmax(1).gather(1, batch.answers)).mean(1).sum().backward()
    torch.testing.assert_close(gradient(logits, batch, advantages), free.grad)


def test_the_policy_begins_as_told():
    probabilities = initial_logits(Settings()).softmax(1)
    torch.testing.assert_close(probabilities[:, RIGHT], torch.full((400,), 0.001, dtype=torch.float64))
    torch.testing.assert_close(probabilities[:, CONFIDENT_WRONG], torch.full((400,), 0.9, dtype=torch.float64))
    torch.testing.assert_close(probabilities[:, 2:], torch.full((400, 18), 0.099 / 18, dtype=torch.float64))


ALL_WRONG = [[CONFIDENT_WRONG, CONFIDENT_WRONG, CONFIDENT_WRONG, 2]]


def test_grpo_learns_nothing_from_all_wrong_groups():
    logits = initial_logits(SMALL)[:1]
    batch = batch_of(logits, ALL_WRONG)
    assert (gradient(logits, batch, ARMS["GRPO"](batch)) == 0).all()


@pytest.mark.parametrize("alpha", [0.25, 1.0, 4.0])
def test_lens_lowers_the_confident_wrong_answer_of_an_all_wrong_group(alpha):
    logits = initial_logits(SMALL)[:1]
    batch = batch_of(logits, ALL_WRONG)
    step = gradient(logits, batch, lens(LensConfig(alpha=alpha))(batch))
    before, after = logits.softmax(1)[0], (logits + step).softmax(1)[0]
    assert after[CONFIDENT_WRONG] < before[CONFIDENT_WRONG]
    assert after[RIGHT] > before[RIGHT] and after[2] > before[2]
    torch.testing.assert_close(step, alpha * gradient(logits, batch, lens(LensConfig(alpha=1.0))(batch)))


def test_a_group_of_one_wrong_answer_teaches_nobody():
    logits = initial_logits(SMALL)[:1]
    batch = batch_of(logits, [[CONFIDENT_WRONG] * 4])
    for estimator in ARMS.values():
        assert (estimator(batch) == 0).all()


def test_seeds_reproduce_and_differ():
    first, again, other = (simulate(ARMS["LENS, alpha 1"], SMALL, seed) for seed in (3, 3, 4))
    assert torch.equal(first.right, again.right) and torch.equal(first.negative, again.negative)
    assert not torch.equal(first.right, other.right)
    assert first.right.shape == (31,) and first.negative.shape == (30,)
    assert first.right[0] == pytest.approx(0.01)


def test_the_arms_of_a_seed_see_the_same_first_samples():
    results = run(ARMS, SMALL, [0, 1])
    assert len({tuple(curves.negative[:, 0].tolist()) for curves in results.values()}) == 1


def test_lens_finds_the_right_answer_sooner():
    """The point of it all, at the settings the command has; far outside the noise of 3 seeds."""
    results = run(ARMS, Settings(), range(3))
    at_end = [results[label].right[:, -1] for label in list(ARMS)[:4]]
    for less, more in itertools.pairwise(at_end):
        assert (more > less).all()
    negative = [results[label].negative[:, -1].mean() for label in list(ARMS)[:4]]
    assert negative == sorted(negative, reverse=True)


SCOPES = {"GRPO": {"scope": "none"}, "LENS, alpha 0.25": {"alpha": 0.25}, "LENS, alpha 1": {"alpha": 1.0}}
SCOPES |= {"LENS, alpha 4": {"alpha": 4.0}, "LENS, alpha 0.25, difficulty max": {"alpha": 0.25, "difficulty": "max"}}


@pytest.mark.parametrize("label", [*ARMS])
def test_the_arms_are_what_they_are_called(label):
    assert list(ARMS) == list(SCOPES)
    batch = sample(initial_logits(SMALL), 4, torch.Generator().manual_seed(5))
    parts = batch.logprobs.reshape(-1), torch.ones(160, dtype=torch.int64), batch.correctness.reshape(-1)
    exact = reference.group_advantages(*parts, torch.arange(0, 161, 4), LensConfig(**SCOPES[label])).advantage
    found = ARMS[label](batch)
    assert found.shape == (40, 4) and found.dtype == torch.float64
    torch.testing.assert_close(found, exact.view(40, 4))
    assert len(batch.correctness.sum(1).unique()) > 1, "there are groups of more than one kind"


def test_what_is_sampled_is_what_it_is_said_to_be():
    logits = initial_logits(SMALL) + torch.arange(6)
    batch = sample(logits, 5, torch.Generator().manual_seed(1))
    assert [part.shape for part in batch] == [(40, 5)] * 3
    chances = logits.softmax(1)
    for question in (0, 17, 39):
        for answer, logprob, right in zip(*(part[question].tolist() for part in batch), strict=True):
            assert math.exp(logprob) == pytest.approx(chances[question, answer].item())
            assert right == (answer == 0)


def curves_of(right: list[list[float]], negative: list[list[float]]) -> Curves:
    return Curves(torch.tensor(right, dtype=torch.float64), torch.tensor(negative, dtype=torch.float64))


# Two seeds of 5 steps: half-way is the second step. One seed has no error.
TABLE = """\
                          right answer                  negative groups
                          step 2          step 5          step 2          step 5
one seed                   0.300           0.600           0.700           0.400
a longer label     0.500 ± 0.100   0.750 ± 0.050   0.650 ± 0.050   0.300 ± 0.200"""


def test_the_table_in_full():
    settings = Settings(steps=5)
    results = {
        "one seed": curves_of([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]], [[0.8, 0.7, 0.6, 0.5, 0.4]]),
        "a longer label": curves_of(
            [[0.1, 0.2, 0.4, 0.5, 0.6, 0.7], [0.1, 0.2, 0.6, 0.5, 0.6, 0.8]],
            [[0.9, 0.6, 0.6, 0.5, 0.1], [0.9, 0.7, 0.6, 0.5, 0.5]],
        ),
    }
    assert table(results, settings) == TABLE


def test_runs_follow_from_the_formulas():
    """Step by step: what is sampled, what it is worth, and what the policy becomes."""
    config = LensConfig(alpha=2.0)
    settings = Settings(questions=3, answers=5, samples=4, steps=3, lr=1.5, right=0.2, wrong=0.5)
    generator = torch.Generator().manual_seed(7)
    logits = initial_logits(settings)
    right, negative = [0.2], []
    for _ in range(3):
        batch = sample(logits, 4, generator)
        negative.append(sum(not any(row) for row in batch.correctness.tolist()) / 3)
        logits = logits + 1.5 * gradient(logits, batch, lens(config)(batch))
        right.append(logits.softmax(1)[:, 0].mean().item())
    found = run({"x": lens(config)}, settings, [7, 8])["x"]
    assert found.right.shape == (2, 4) and found.negative.shape == (2, 3)
    assert found.right[0].tolist() == pytest.approx(right) and found.negative[0].tolist() == pytest.approx(negative)
    assert found.right[1].tolist() == simulate(lens(config), settings, 8).right.tolist() != found.right[0].tolist()


def test_the_table_shows_means_and_errors_of_the_curves():
    results = run({"GRPO": ARMS["GRPO"]}, SMALL, [0, 1])
    last = results["GRPO"].right[:, -1].tolist()
    mean, error = sum(last) / 2, abs(last[0] - last[1]) / 2
    (row,) = [line for line in table(results, SMALL).splitlines() if line.startswith("GRPO")]
    assert f"{mean:.3f} ± {error:.3f}" in row
    assert all(len(line) <= 100 for line in table(run(ARMS, SMALL, [0, 1]), SMALL).splitlines())


def test_the_figure_has_a_line_and_a_band_for_every_arm():
    results = run(ARMS, SMALL, [0, 1])
    plot = json.loads(figure(results).to_json())
    traces = plot["data"]
    lines = [trace for trace in traces if "fill" not in trace]
    assert len(lines) == len(traces) - len(lines) == 2 * len(ARMS)
    assert [line["name"] for line in lines] == [label for label in ARMS for _ in range(2)]
    # Each arm has a colour and a place in the legend, and the fifth is dotted, as lines may lie on each other.
    assert [line["line"]["dash"] for line in lines] == ["solid"] * 8 + ["dot"] * 2
    assert len({line["line"]["color"] for line in lines}) == len(ARMS)
    assert [trace["showlegend"] for trace in traces] == [False, True, False, False] * len(ARMS)
    assert [trace["legendgroup"] for trace in traces] == [label for label in ARMS for _ in range(4)]
    assert [trace["yaxis"] for trace in traces] == ["y", "y", "y2", "y2"] * len(ARMS)
    assert [note["text"] for note in plot["layout"]["annotations"]] == [
        *("mean probability of the right answer", "share of negative groups"),
    ]


def test_lines_of_the_figure_are_means_and_bands_a_standard_error_about_them():
    results = {"a": curves_of([[0.1, 0.2, 0.6], [0.1, 0.4, 0.8]], [[0.9, 0.5], [0.7, 0.5]])}
    plot = json.loads(figure(results).to_json())
    above, right, below, negative = plot["data"]
    assert right["x"] == [0, 1, 2] and right["y"] == pytest.approx([0.1, 0.3, 0.7])
    assert negative["x"] == [1, 2] and negative["y"] == pytest.approx([0.8, 0.5])
    assert above["x"] == [0, 1, 2, 2, 1, 0] and above["y"] == pytest.approx([0.1, 0.4, 0.8, 0.6, 0.2, 0.1])
    assert below["x"] == [1, 2, 2, 1] and below["y"] == pytest.approx([0.9, 0.5, 0.5, 0.7])
    assert {band["fill"] for band in (above, below)} == {"toself"} and above["line"] == below["line"] == {"width": 0}
    assert above["fillcolor"] == "rgba(31, 119, 180, 0.2)" and right["line"]["color"] == "#1F77B4"
    assert above["hoverinfo"] == "skip" and right["mode"] == negative["mode"] == "lines"
    layout = plot["layout"]
    assert layout["xaxis2"]["title"]["text"] == "step" and "title" not in layout["xaxis"]
    assert layout["yaxis"]["range"] == layout["yaxis2"]["range"] == [0, 1.02]
    assert layout["xaxis"]["matches"] == "x2", "both show the same steps"
    assert layout["hovermode"] == "x unified" and layout["legend"]["orientation"] == "h"

    single = json.loads(figure({"a": curves_of([[0.1, 0.2]], [[0.9]])}).to_json())["data"]
    assert [trace["mode"] for trace in single] == ["lines", "lines"], "a single seed has no error"


def test_colours_begin_again_where_there_are_more_arms_than_colours():
    results = {str(number): curves_of([[0.1, 0.2]], [[0.9]]) for number in range(11)}
    colours = [trace["line"]["color"] for trace in json.loads(figure(results).to_json())["data"][::2]]
    assert len(set(colours)) == 10 and colours[10] == colours[0]


def test_the_command_writes_a_page_that_needs_no_network(tmp_path, capsys):
    page = tmp_path / "figure.html"
    words = "--questions 20 --answers 5 --samples 4 --steps 10 --seeds 2 --lr 0.5 --right 0.1 --wrong 0.6".split()
    torch.set_num_threads(2)
    assert main([*words, "-o", str(page)]) == 0
    assert torch.get_num_threads() == 1, "the tables are too small to share"
    settings = Settings(questions=20, answers=5, samples=4, steps=10, lr=0.5, right=0.1, wrong=0.6)
    told = capsys.readouterr().out
    rows = [line for line in told.splitlines() if line.startswith(("GRPO", "LENS"))]
    assert [re.split(r"\s{2,}", row)[0] for row in rows] == [*SCOPES]
    assert told == (
        "20 questions, 5 answers (right 0.1, confident wrong 0.6), 4 samples, learning rate 0.5, 2 seeds\n\n"
        f"{table(run(ARMS, settings, [0, 1]), settings)}\n\nfigure: {page}\n"
    )
    html = page.read_text()
    assert "Plotly.newPlot" in html and not re.search(r"<script[^>]+src=", html)


def test_without_options_the_settings_are_the_defaults(tmp_path):
    assert parse([]) == (Settings(), 8, None)
    defaults = dict(questions=400, answers=20, samples=16, steps=200, lr=1.0, right=0.001, wrong=0.9)
    assert vars(Settings()) == defaults
    other = dict(questions=2, answers=3, samples=4, steps=5, lr=6.0, right=0.07, wrong=0.8)
    words = [word for name, value in other.items() for word in (f"--{name}", str(value))]
    page = tmp_path / "page.html"
    assert parse([*words, "--seeds", "9", "--out", str(page)]) == (Settings(**other), 9, page)
    assert parse(["--seeds", "1"])[1] == 1 and parse(["--seeds", str(10**6)])[1] == 10**6 == MOST


def test_settings_have_bounds_on_both_sides():
    for name, least in {"questions": 1, "answers": 3, "samples": 2, "steps": 2}.items():
        others = {} if name == "questions" else {"questions": 1}
        for good in (least, MOST):
            Settings(**others | {name: good} | ({"samples": 2, "answers": 3} if name == "questions" else {}))
        with pytest.raises(ValueError, match=f"{name} {least - 1}: expected at least {least}"):
            Settings(**others | {name: least - 1})
        with pytest.raises(ValueError, match=f"{name} {MOST + 1}: expected at most {MOST}"):
            Settings(**others | {name: MOST + 1})
    assert MOST_CELLS == 10**8
    for wrong in ({"lr": -1.0}, {"lr": math.inf}, {"right": 0.0}, {"wrong": 0.0}, {"right": 0.5, "wrong": 0.5}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} "):
            Settings(**wrong)
    Settings(right=0.5, wrong=0.4375, lr=1e-300)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "1000001"], "--seeds 1000001: expected 1 to 1000000"),
        (["--questions", "1.5"], "--questions"),
        (["--right", "0.2", "--wrong", "0.9"], "right 0.2 and wrong 0.9"),
        (["--lr", "0"], "--lr 0.0"),
        (["--lr", "nan"], "--lr nan"),
        (["--samples", "1"], "--samples 1"),
        (["--answers", "2"], "--answers 2"),
        (["--questions", "0"], "--questions 0"),
        (["--steps", "1"], "--steps 1"),
        (["--seeds", "0"], "--seeds 0"),
        (["-o", "/no/such/folder/figure.html"], "/no/such/folder is no folder that can be written to"),
    ],
)
def test_bad_input_is_named(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(("answers", "samples"), [(20, 2000), (2000, 20), (2000, 2000)])
def test_the_table_and_what_is_sampled_of_it_are_limited(answers, samples):
    largest = MOST_CELLS // 2000
    Settings(questions=largest, answers=answers, samples=samples)
    with pytest.raises(ValueError, match=f"questions {largest + 1}: with {answers} answers .* too large"):
        Settings(questions=largest + 1, answers=answers, samples=samples)
