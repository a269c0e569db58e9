"""The paper's theorems on small discrete policies, where every expectation is a sum that can be written out.

Several questions, each with its own softmax over the same few answers; autograd differentiates the
objectives of theory.py, the paper's right-hand sides are summed term by term.
"""

import itertools
import math
import re
from decimal import Context, Decimal, localcontext
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lens_openrlhf.advantages import LensConfig, theory

DOCUMENT = Path(__file__).parents[2] / "docs/theory.md"


def close(actual, expected):
    # Wrong answers come as close to D as 1.05 pi = D, so that odds reach 20 and sums lose little.
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def doubles(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Problem(NamedTuple):
    logits: Tensor  # [questions, answers] the policy's parameters theta; -inf for an impossible answer
    correctness: Tensor  # [questions, answers] r* in [0, 1]
    xi: Tensor  # [questions, 1] the distribution of questions
    preference: Tensor  # [questions, answers] rho > 0
    margin: Tensor  # [questions, 1] > 1

    @property
    def log_pi(self) -> Tensor:
        return self.logits.log_softmax(-1)

    def scale(self, preferences: bool) -> Tensor:
        """D rho, D being `margin` times what it must exceed: the largest pi / rho of an answer that may be wrong."""
        rho = self.preference if preferences else 1.0
        fallible = self.correctness < 1
        largest = torch.where(fallible, self.log_pi.exp() / rho, 0.0).amax(-1, keepdim=True)
        largest = torch.where(largest > 0, largest, 0.1)  # all answers are right: any D will do
        return (self.margin * largest * rho).expand_as(self.logits).detach()


@st.composite
def problems(draw) -> Problem:
    questions, answers = draw(st.integers(1, 3)), draw(st.integers(2, 5))

    def table(elements, columns=answers) -> Tensor:
        row = st.lists(elements, min_size=columns, max_size=columns)
        return doubles(draw(st.lists(row, min_size=questions, max_size=questions)))

    logits = table(st.one_of(st.floats(-3, 3), st.floats(-3, 3), st.just(-math.inf)))
    logits[:, 0] = logits[:, 0].clamp(min=-3)
    correctness = table(st.sampled_from([0.0, 0.0, 1.0, 0.3]))
    xi = table(st.floats(0.1, 1), 1)
    rho, margin = table(st.floats(0.1, 2)), table(st.floats(1.05, 5), 1)
    return Problem(logits.requires_grad_(), correctness, xi / xi.sum(), rho, margin)


def gradient(objective: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(objective, logits, retain_graph=True)[0]


def policy_gradient(factor: Tensor, log_pi: Tensor, logits: Tensor) -> Tensor:
    """The sum of factor * grad log pi, the factor being constant; impossible answers, which are not drawn, left out."""
    possible = log_pi > -math.inf
    return gradient((factor.detach() * log_pi)[possible].sum(), logits)


with_and_without_preferences = pytest.mark.parametrize("preferences", [False, True], ids=["all alike", "preferences"])


# The weight function


def exact_weight(z: float) -> float:
    with localcontext(Context(prec=250)):
        exact = Decimal(z)
        return float(-(1 - exact).ln() / exact - 1)


@given(z=st.one_of(st.floats(1e-100, 1 - 2**-53), st.floats(0.05, 0.08), st.floats(1e-9, 1e-3)))
def test_the_weight_function_is_exact_near_0_and_near_1(z):
    assert theory.weight(doubles(z)).item() == pytest.approx(exact_weight(z), rel=2e-14, abs=0)


@given(z=st.one_of(st.floats(0, 1 - 2**-40), st.floats(0.05, 0.08), st.floats(0, 1e-9)))
def test_w_and_its_slope_make_the_odds(z):
    z = doubles([z]).requires_grad_()
    w = theory.weight(z)
    torch.testing.assert_close(w + z * gradient(w, z), theory.odds(z), rtol=1e-13, atol=1e-300)


def test_the_weight_function_is_0_at_0_and_grows_without_bound():
    z = torch.linspace(0, 1, 1001).double()
    w = theory.weight(z)
    assert w[0] == 0 and (w.diff() > 0).all() and w[-1] == math.inf
    assert theory.weight(doubles(1.5)).isnan()


@given(z=st.floats(0.01, 0.99), difficulty=st.floats(0.01, 0.9))
def test_the_stray_d_of_b2_is_a_misprint(z, difficulty):
    """B.2 prints w' = (z/(1-z) + D log(1-z)) / z^2, which is w' for D = 1 alone: (D-1) log(1-z) / z too much."""
    z = doubles(z)
    printed = (z / (1 - z) + difficulty * torch.log1p(-z)) / z**2
    off = (difficulty - 1) * torch.log1p(-z) / z
    assert off > 1e-3
    close(theory.weight(z) + z * printed, theory.odds(z) + off)


# The theorems


@with_and_without_preferences
@settings(max_examples=40)
@given(problem=problems(), data=st.data())
def test_theorem_1(preferences, problem, data):
    """The gradient of eq. 8 (22) is eq. 9 (23), for any data set: n answers of any origin, and their outcomes."""
    loggable = (problem.log_pi.isfinite() | (problem.correctness == 0)).nonzero().tolist()
    q, o = torch.tensor(data.draw(st.lists(st.sampled_from(loggable), min_size=1, max_size=12))).T
    outcome = problem.correctness[q, o]
    drawn = data.draw(st.lists(st.sampled_from([0.0, 1.0, 0.3]), min_size=len(q), max_size=len(q)))
    outcome = torch.where((outcome > 0) & (outcome < 1), doubles(drawn), outcome)
    log_pi, scale = problem.log_pi[q, o], problem.scale(preferences)[q, o]

    loss = -theory.log_likelihood(log_pi, outcome, scale).mean()
    factor = outcome - (1 - outcome) * torch.where(outcome < 1, log_pi.exp() / (scale - log_pi.exp()), 0.0)
    close(gradient(loss, problem.logits), -policy_gradient(factor / len(q), log_pi, problem.logits))
    close(theory.calibrated_reward(log_pi.exp(), outcome, scale), factor)  # eq. 10

    # Eq. 7 in full: it differs by a constant, so eq. 8 may leave log D out.
    p = torch.where(outcome < 1, log_pi.exp() / scale, 0.5)
    log_p = torch.where(outcome > 0, log_pi - scale.log(), 0.0)
    in_full = -(outcome * log_p + (1 - outcome) * (1 - p).log()).mean()
    close(in_full - loss, (outcome * scale.log()).mean())


@with_and_without_preferences
@settings(max_examples=40)
@given(problem=problems())
def test_theorem_2(preferences, problem):
    """The gradient of J_MLE = J+ - J- (eq. 11 to 13) is eq. 15, where answers come from the policy itself."""
    log_pi, r, scale = problem.log_pi, problem.correctness, problem.scale(preferences)
    pi = log_pi.exp()
    j_mle = (problem.xi[:, 0] * theory.value(pi, r, scale)).sum()
    factor = theory.calibrated_reward(pi, r, scale)
    close(gradient(j_mle, problem.logits), policy_gradient(problem.xi * pi * factor, log_pi, problem.logits))

    # Term by term as in eq. 12, w spelled out.
    z = torch.where(r < 1, pi / scale, 0.0)
    w = torch.where(z > 1e-3, (1 / (1 - z)).log() / z - 1, theory.weight(z))
    j_plus, j_minus = (problem.xi * pi * r).sum(), (problem.xi * pi * w * (1 - r)).sum()
    close(j_mle, j_plus - j_minus)


def test_the_penalty_is_the_odds_and_not_w():
    """With -w, or nothing, as the reward of a wrong answer the gradient is another: w changes with the policy too."""
    logits = doubles([[0.5, 0.0, -1.0]]).requires_grad_()
    log_pi, r = logits.log_softmax(-1), doubles([[0.0, 0.0, 1.0]])
    pi, scale = log_pi.exp(), doubles(1.0)
    right = gradient(theory.value(pi, r, scale).sum(), logits)
    for reward in (r - (1 - r) * theory.weight(pi / scale), r):
        assert (policy_gradient(pi * reward, log_pi, logits) - right).abs().max() > 0.02


# Consistency


def tables(elements, size: int = 4):
    return st.lists(elements, min_size=size, max_size=size).map(doubles)


@given(p=tables(st.floats(0.02, 0.98)), rho=tables(st.floats(0.1, 2)), mu=tables(st.floats(0.01, 1)), data=st.data())
def test_the_true_policy_is_stationary_and_best(p, rho, mu, data):
    """At pi* = D rho p* the factor of every answer has conditional expectation 0 (B.1), and no policy is likelier."""
    scale = theory.difficulty(p, rho) * rho
    truth = scale * p
    close(truth.sum(), doubles(1.0))
    given_right, given_wrong = (theory.calibrated_reward(truth, doubles(r), scale) for r in (1.0, 0.0))
    close(p * given_right + (1 - p) * given_wrong, torch.zeros(4).double())

    def population(logits):
        log_pi = logits.log_softmax(-1)
        likelihoods = [theory.log_likelihood(log_pi, doubles(r), scale) for r in (1.0, 0.0)]
        return (mu / mu.sum() * (p * likelihoods[0] + (1 - p) * likelihoods[1])).sum()

    logits = truth.log().requires_grad_()
    best = population(logits)
    close(gradient(best, logits), torch.zeros(4).double())
    other = truth.log() + data.draw(tables(st.floats(-2, 2)))
    if (other.softmax(-1) < scale).all():  # elsewhere the model is not a probability
        assert population(other) <= best + 1e-12


# Difficulty (section 4.1, eq. 14)


def test_the_multiple_choice_question_of_section_4_1():
    right = doubles([1.0, 1, 0, 0, 0, 0])
    assert theory.difficulty(right).item() == 0.5
    assert (theory.difficulty(right) * right).tolist() == [0.5, 0.5, 0, 0, 0, 0]  # eq. 4
    rho = doubles([0.9, 0.1, 1, 1, 1, 1])  # appendix C's example
    close(theory.difficulty(right, rho) * rho * right, doubles([0.9, 0.1, 0, 0, 0, 0]))
    assert theory.difficulty(torch.zeros(6).double()).item() == math.inf


@given(pi=tables(st.floats(0.05, 1), 3), right=tables(st.sampled_from([0.0, 0.3, 1.0]), 3), size=st.integers(1, 4))
def test_one_over_d_imp_is_unbiased(implementation, pi, right, size):
    """Over all groups that the policy may draw, 1 / D_imp (0 where nothing is right) has the expectation 1 / D."""
    pi = pi / pi.sum()
    drawn = torch.tensor(list(itertools.product(range(3), repeat=size)))
    groups = len(drawn)
    result = implementation.group_advantages(
        pi.log()[drawn].flatten(),
        torch.ones(groups * size).long(),  # of one token, so that the confidence is pi
        right[drawn].flatten(),
        torch.arange(groups + 1) * size,
        LensConfig(),
    )
    inverse = torch.where(result.importance_difficulty.isnan(), 0.0, 1 / result.importance_difficulty)
    close((pi[drawn].prod(-1) * inverse).sum(), 1 / theory.difficulty(right)[0])


# From the theory to the rewards of a group (section 5.1)


@settings(max_examples=30)
@given(problem=problems(), data=st.data())
def test_the_calibrated_reward_is_theorem_1s_factor_scaled_by_the_group(implementation, problem, data):
    possible = problem.log_pi[0].isfinite().nonzero()[:, 0].tolist()
    o = torch.tensor(data.draw(st.lists(st.sampled_from(possible), min_size=2, max_size=16)))
    log_pi, r, size = problem.log_pi.detach()[0, o], problem.correctness[0, o], len(o)
    result = implementation.group_advantages(log_pi, torch.ones(size).long(), r, torch.tensor([0, size]), LensConfig())
    factor = theory.calibrated_reward(log_pi.exp(), r, result.difficulty)
    close(r - (r - result.calibrated_reward) * size, factor)
    assert (theory.odds(log_pi.exp() / result.difficulty) <= 1 + 1e-12).all()  # D is at least twice every confidence
    assert (factor >= -1 - 1e-12).all() and (factor <= 1).all()


@given(odds=st.lists(st.floats(0, 1), min_size=1, max_size=20), right=st.integers(1, 20))
def test_one_over_g_keeps_the_signs(odds, right):
    """One right answer among many wrong ones: without 1/G the least confident wrong one would be rewarded."""
    size = right + len(odds)
    rewards = torch.cat([torch.ones(right).double(), -doubles(odds) / size])
    centred = rewards - rewards.mean()
    assert (centred[:right] > 0).all() and (centred[right:] < 0).all()
    unscaled = doubles([1.0, 0.0] + [-1.0] * 14)  # the example of section 5.1
    assert (unscaled - unscaled.mean())[1] > 0


# Appendix C


@given(logits=tables(st.floats(-3, 3)), right=tables(st.sampled_from([0.0, 0.3, 1.0])))
def test_uniform_negative_weights_are_the_preference_for_what_the_policy_prefers(logits, right):
    """With rho = pi every wrong answer weighs 1/(D-1) = a/(1-a), a being the accuracy: the odds of a right answer. (The
    paper says "exactly the correction rate", which is a.) The gradient is that of a itself, over 1-a, and a is its
    baseline. rho is held: were it to follow pi, the model would be 1/D for every answer and have no gradient."""
    logits.requires_grad_()
    log_pi = logits.log_softmax(-1)
    pi, rho = log_pi.exp(), log_pi.exp().detach()
    accuracy = (pi * right).sum()
    if not 0.01 < accuracy < 0.99:
        return
    scale = theory.difficulty(right, rho).detach() * rho
    close(theory.odds(pi / scale), (accuracy / (1 - accuracy)).expand(4))
    factor = theory.calibrated_reward(pi, right, scale)
    close(factor, torch.where(right < 1, (right - accuracy) / (1 - accuracy), 1.0))
    gradient_mle = policy_gradient(pi * factor, log_pi, logits)
    close(gradient_mle, gradient(accuracy, logits) / (1 - accuracy).detach())


@given(confidence=st.floats(0.5, 0.99), ratio=st.floats(1.0001, 1.05), length=st.integers(1, 200))
def test_the_length_preference_bounds_the_exact_penalty(confidence, ratio, length):
    """Appendix C's x^L - 1 ~ L (x - 1), x = D^(1/L) gamma / confidence: a larger penalty, by x^(L-1) at most."""
    scale = (confidence * ratio) ** length  # D gamma^L
    exact = theory.odds(doubles(confidence**length / scale))
    approximate = theory.odds(doubles(1 / ratio)) / length
    assert exact <= approximate * (1 + 1e-9)
    assert approximate <= exact * ratio ** (length - 1) * (1 + 1e-9)


# The document


def test_the_examples_of_the_document_run():
    text = DOCUMENT.read_text()
    names: dict = {}
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) >= 4
    for block in blocks:
        line = text[: block.start(1)].count("\n")
        exec(compile("\n" * line + block[1], str(DOCUMENT), "exec"), names)  # errors name the document's line


def test_the_table_of_the_document_is_w():
    z, w, odds = zip(
        *re.findall(r"^\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", DOCUMENT.read_text(), re.MULTILINE), strict=True
    )
    assert len(z) >= 5
    numbers = doubles([float(x) for x in z])
    assert list(w) == [f"{x:.3f}" for x in theory.weight(numbers).tolist()]
    assert list(odds) == [f"{x:.3f}" for x in theory.odds(numbers).tolist()]
