"""The simulation against exact sums, and what it must show of the mechanism."""

from __future__ import annotations

import itertools
import json
import math
import re

import pytest
import torch

from lens_openrlhf.advantages import LensConfig
from lens_openrlhf.experiments.tabular import (
    ARMS,
    CONFIDENT_WRONG,
    MOST_CELLS,
    RIGHT,
    Batch,
    Settings,
    figure,
    gradient,
    initial_logits,
    lens,
    main,
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


def test_the_table_shows_means_and_errors_of_the_curves():
    results = run({"GRPO": ARMS["GRPO"]}, SMALL, [0, 1])
    last = results["GRPO"].right[:, -1].tolist()
    mean, error = sum(last) / 2, abs(last[0] - last[1]) / 2
    (row,) = [line for line in table(results, SMALL).splitlines() if line.startswith("GRPO")]
    assert f"{mean:.3f} ± {error:.3f}" in row
    assert all(len(line) <= 100 for line in table(run(ARMS, SMALL, [0, 1]), SMALL).splitlines())


def test_the_figure_has_a_line_and_a_band_for_every_arm():
    results = run(ARMS, SMALL, [0, 1])
    traces = json.loads(figure(results).to_json())["data"]
    lines = [trace for trace in traces if "fill" not in trace]
    assert len(lines) == len(traces) - len(lines) == 2 * len(ARMS)
    assert {line["name"] for line in lines} == set(ARMS)


def test_the_command_writes_a_page_that_needs_no_network(tmp_path, capsys):
    page = tmp_path / "figure.html"
    words = "--questions 20 --answers 5 --samples 4 --steps 10 --seeds 2".split()
    assert main([*words, "-o", str(page)]) == 0
    assert "LENS, alpha 4" in capsys.readouterr().out
    html = page.read_text()
    assert "Plotly.newPlot" in html and not re.search(r"<script[^>]+src=", html)


@pytest.mark.parametrize(
    ("words", "message"),
    [
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
