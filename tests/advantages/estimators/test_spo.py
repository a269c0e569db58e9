"""SPO's tracker against hand-worked numbers and a loop over single answers."""

from __future__ import annotations

import io
import math
import random
import statistics

import pytest
import torch

from lens_openrlhf.advantages.estimators import EstimatorError, find, run
from lens_openrlhf.advantages.estimators.spo import Spo, SpoConfig

from .groups import batch_of

FAR = 2**52 - 1  # the largest number a prompt can have


def test_hand_worked_steps():
    spo = Spo()
    first = run(spo, batch_of([[1.0], [0.0]], [7, FAR]))
    # Both start at 0.5, which counts one answer: 0.5 and -0.5, whose standard deviation is sqrt(1/2).
    assert first.advantage.tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)])
    assert first.metrics == {
        "spo/value": 0.5,
        "spo/rho": None,
        "spo/drift": None,
        "spo/new_prompts": 1.0,
        "spo/tracked_prompts": 2.0,
    }
    # 0.96 of (0.5, 0.5), and the answer.
    assert spo.tracker.tolist() == [pytest.approx([1.48, 0.48, 0]), pytest.approx([0.48, 1.48, 0])]

    spo.updated({"ppo_kl": 0.006})
    second = run(spo, batch_of([[0.0, 1.0], [1.0]], [7, 9]))
    raw = [-1.48 / 1.96, 1 - 1.48 / 1.96, 0.5]
    mean, std = statistics.fmean(raw), statistics.stdev(raw)
    assert second.advantage.tolist() == pytest.approx([(value - mean) / std for value in raw])
    rho = 2**-0.1
    assert spo.tracker[0].tolist() == pytest.approx([rho * 1.48 + 1, rho * 0.48 + 1, 0.006])
    assert second.metrics["spo/rho"] == pytest.approx(rho) and second.metrics["spo/drift"] == 0.006
    assert spo.prompts.tolist() == [7, 9, FAR]


def test_groups_of_a_prompt_need_not_stand_side_by_side():
    """Right answers 1, 1 and 0 of three to prompt 7 in two groups, with one to prompt 3 between them."""
    spo = Spo()
    result = run(spo, batch_of([[1.0, 1.0], [0.0], [0.0]], [7, 3, 7]))
    raw = [0.5, 0.5, -0.5, -0.5]
    assert result.advantage.tolist() == pytest.approx([value / statistics.stdev(raw) for value in raw])
    assert spo.prompts.tolist() == [3, 7]
    assert spo.tracker.tolist() == [pytest.approx([0.48, 1.48, 0]), pytest.approx([2.48, 1.48, 0])]
    assert result.metrics["spo/tracked_prompts"] == 2.0
    # Prompt 3 comes again between two new ones; what it is compared with is its own.
    spo.updated({"ppo_kl": 0.001})
    again = run(spo, batch_of([[1.0], [1.0], [0.0]], [9, 3, 1]))
    value = 0.48 / 1.96
    raw = [0.5, 1 - value, -0.5]
    mean, std = statistics.fmean(raw), statistics.stdev(raw)
    assert again.advantage.tolist() == pytest.approx([(number - mean) / std for number in raw])
    assert spo.prompts.tolist() == [1, 3, 7, 9]
    assert spo.tracker.tolist() == [
        pytest.approx([0.48, 1.48, 0.001]),
        pytest.approx([0.96 * 0.48 + 1, 0.96 * 1.48, 0.001]),
        pytest.approx([2.48, 1.48, 0]),
        pytest.approx([1.48, 0.48, 0.001]),
    ]
    assert again.metrics == {
        "spo/value": pytest.approx((0.5 + value + 0.5) / 3),
        "spo/rho": 0.96,
        "spo/drift": pytest.approx(0.001),
        "spo/new_prompts": pytest.approx(2 / 3),
        "spo/tracked_prompts": 4.0,
    }


def test_a_small_spread_is_kept_from_0():
    # Two rewards 4e-8 apart: 2e-8 from the mean, a standard deviation of 4e-8 / sqrt(2), and 1e-8.
    close = batch_of([[0.0, 0.0]], [7], rewards=[[0.0, 4e-8]])
    expected = 2e-8 / (4e-8 * 0.5**0.5 + 1e-8)
    assert run(Spo(), close).advantage.tolist() == pytest.approx([-expected, expected])


def test_drawing_weights():
    spo = Spo()
    run(spo, batch_of([[1.0], [0.0]], [7, 3]))
    value = 1.48 / 1.96
    expected = math.sqrt(value * (1 - value)) + 0.05
    assert spo.prompt_weights(torch.tensor([3, 5, 7])).tolist() == pytest.approx([expected, 0.55, expected])


def random_steps(generator, count):
    """Steps of groups of different sizes; prompts come again, also within a step. And the update's ppo_kl."""
    for _ in range(count):
        groups = [
            [float(generator.random() < 0.4) for _ in range(generator.randint(1, 4))]
            for _ in range(generator.randint(2, 5))
        ]
        yield groups, [generator.choice([4, 8, 15, 16, 23, FAR]) for _ in groups], generator.uniform(-0.002, 0.02)


class Loop:
    """The tracker of a dictionary, answer by answer."""

    def __init__(self, config):
        self.config, self.drift, self.of = config, 0.0, {}

    def step(self, groups, prompts, kl):
        config, raw, seen = self.config, [], {}
        for group, prompt in zip(groups, prompts, strict=True):
            prior = config.prior_weight * config.prior_value, config.prior_weight * (1 - config.prior_value), self.drift
            a, b, then = self.of.get(prompt, prior)
            rho = min(max(2 ** (-(self.drift - then) / config.half_life), config.rho_min), config.rho_max)
            forgotten = seen.setdefault(prompt, [rho * a, rho * b, self.drift])
            for answer in group:
                raw.append(answer - a / (a + b))
                forgotten[0] += answer
                forgotten[1] += 1 - answer
        self.of.update(seen)
        self.drift += max(kl, 0)
        return [(value - statistics.fmean(raw)) / (statistics.stdev(raw) + 1e-8) for value in raw]


@pytest.mark.parametrize(
    "config", [SpoConfig(), SpoConfig(half_life=0.01, rho_min=0.2, prior_value=0.2, prior_weight=8.0)]
)
def test_it_is_the_loop(config):
    spo, loop = Spo(config), Loop(config)
    for groups, prompts, kl in random_steps(random.Random(3), 15):
        result = run(spo, batch_of(groups, prompts))
        assert result.advantage.tolist() == pytest.approx(loop.step(groups, prompts, kl))
        spo.updated({"ppo_kl": kl})
    assert spo.prompts.tolist() == sorted(loop.of)
    for prompt, row in zip(spo.prompts.tolist(), spo.tracker.tolist(), strict=True):
        assert row == pytest.approx(loop.of[prompt])


def test_a_run_goes_on_with_the_state():
    steps = list(random_steps(random.Random(5), 12))

    def go(spo, steps):
        results = []
        for groups, prompts, kl in steps:
            results.append(run(spo, batch_of(groups, prompts)).advantage.tolist())
            spo.updated({"ppo_kl": kl})
        return results

    whole = Spo()
    expected = go(whole, steps)
    half = Spo()
    go(half, steps[:7])
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    file.seek(0)
    again = Spo()
    again.load_state_dict(torch.load(file, weights_only=True))
    assert go(again, steps[7:]) == expected[7:]
    assert torch.equal(again.tracker, whole.tracker) and again.drift == whole.drift


def test_the_state_is_a_copy():
    spo = Spo()
    run(spo, batch_of([[1.0]], [1]))
    state = spo.state_dict()
    run(spo, batch_of([[1.0]], [1]))
    assert state["tracker"].tolist() == [pytest.approx([1.48, 0.48, 0])]


def test_the_tracker_stays_in_bounds():
    spo = Spo(SpoConfig(rho_min=0.05, rho_max=0.1))
    for _ in range(15):
        run(spo, batch_of([[1.0], [0.0]], [1, 2]))
    right, wrong = spo.tracker[:, :2]
    assert right.sum() == pytest.approx(1 / (1 - 0.1)) and right[1] < 1e-14 and wrong[0] < 1e-14
    assert spo.prompt_weights(torch.tensor([1, 2])).tolist() == pytest.approx([0.05, 0.05])
    spo.updated({"ppo_kl": 1e6})
    run(spo, batch_of([[0.0], [0.0]], [1, 2]))
    assert spo.tracker[0, :2].tolist() == pytest.approx([0.05 / 0.9, 1])


@pytest.mark.parametrize("status", [{}, {"ppo_kl": -0.1}, {"ppo_kl": math.nan}])
def test_no_change_of_the_policy_is_no_drift(status):
    spo = Spo()
    spo.updated(status)
    assert spo.drift == 0


def test_groups_without_a_right_answer_teach_and_constant_batches_do_not():
    advantage = run(Spo(), batch_of([[0.0, 0.0], [1.0, 1.0]], [1, 2])).advantage.tolist()
    assert advantage[:2] == pytest.approx([-(0.75**0.5)] * 2) and advantage[2:] == pytest.approx([0.75**0.5] * 2)
    assert run(Spo(), batch_of([[0.0, 0.0]], [1])).advantage.tolist() == [0, 0]
    assert run(Spo(), batch_of([[1.0]], [1])).advantage.tolist() == [0]


def test_shaped_rewards_are_compared_and_correctness_is_remembered():
    spo = Spo()
    result = run(spo, batch_of([[1.0], [1.0]], [1, 2], rewards=[[1.0], [-0.5]]))
    assert result.advantage[0] > 0 > result.advantage[1]
    assert spo.tracker[0].tolist() == spo.tracker[1].tolist()


def test_it_goes_by_prompts():
    with pytest.raises(EstimatorError, match="estimator spo .*which prompts"):
        run(Spo(), batch_of([[1.0]]))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"half_life": 0.0}, "half_life=0.0: expected a finite number above 0"),
        ({"prior_weight": 0}, "prior_weight=0: expected a finite number above 0"),
        ({"bonus": -0.05}, "bonus=-0.05: expected a finite number above 0"),
        ({"rho_min": -0.1}, "rho_min=-0.1, rho_max=0.96"),
        ({"rho_max": 1.1}, "rho_min=0.875, rho_max=1.1"),
        ({"prior_value": -0.1}, "prior_value=-0.1"),
        ({"bonus": math.nan}, "bonus=nan"),
        ({"rho_min": 0.97}, "rho_min=0.97, rho_max=0.96: expected 0 <= rho_min <= rho_max <= 1"),
        ({"prior_value": 2.0}, r"prior_value=2.0: expected a success rate in \[0, 1\]"),
    ],
)
def test_options_out_of_range(option, words):
    with pytest.raises(ValueError, match=words):
        SpoConfig(**option)


def test_it_is_found_by_name():
    assert find("spo") is Spo and not Spo.compares_answers and Spo.sampling == "by_weight"
