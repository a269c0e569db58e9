"""The paper's theorems on small discrete policies, where every expectation is a sum that can be written out.

Several questions, each with its own softmax over the same few answers; autograd differentiates the
objectives, the paper's right-hand sides are summed term by term.
"""

from typing import NamedTuple

import pytest
import torch

from lens_openrlhf.advantages import LensConfig

from .comparison import EPS

QUESTIONS, ANSWERS = 3, 5
seeds = pytest.mark.parametrize("seed", range(8))


class Problem(NamedTuple):
    logits: torch.Tensor  # (questions, answers), the policy's parameters theta
    correct: torch.Tensor  # (questions, answers), r* in {0, 1}; every question has a wrong answer
    weights: torch.Tensor  # (questions,), xi
    difficulty: torch.Tensor  # (questions, 1), larger than the probability of any wrong answer

    @property
    def log_policy(self):
        return self.logits.log_softmax(-1)


def random_problem(seed: int, impossible_answer: bool = False) -> tuple[Problem, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    logits = 3 * uniform(QUESTIONS, ANSWERS)
    if impossible_answer:
        logits[:, 1] = -torch.inf
    logits.requires_grad_()
    correct = (uniform(QUESTIONS, ANSWERS) < 0.4).double()
    correct[:, 0] = 0
    most_confident_error = (logits.softmax(-1) * (1 - correct)).amax(-1, keepdim=True).detach()
    difficulty = most_confident_error * (1.05 + 2 * uniform(QUESTIONS, 1))
    weights = uniform(QUESTIONS)
    return Problem(logits, correct, weights / weights.sum(), difficulty), generator


def gradient(objective: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(objective, logits, retain_graph=True)[0]


def weighted_score(weights: torch.Tensor, problem: Problem) -> torch.Tensor:
    """The sum of weight * grad log pi over all questions and answers; an impossible answer weighs nothing."""
    possible = problem.log_policy.detach() > -torch.inf
    return gradient((weights.detach() * problem.log_policy)[possible].sum(), problem.logits)


def log_likelihood(r, log_pi, scale):
    """One term of eq. 8 or 22, scale being D or D * rho: r log pi + (1 - r) log(1 - pi / scale).

    The wrong branch is taken where r < 1 only, since pi may exceed D for right answers.
    """
    wrong = torch.log1p(-torch.where(r < 1, log_pi.exp() / scale, 0.0))
    return r * log_pi + (1 - r) * wrong


def odds(pi, scale):
    return pi / (scale - pi)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-13)


def dataset(problem: Problem, generator: torch.Generator, size: int = 12):
    """n questions, one answer each from any distribution, and their outcomes."""
    q = torch.randint(QUESTIONS, (size,), generator=generator)
    o = torch.randint(ANSWERS, (size,), generator=generator)
    return q, o, problem.correct[q, o]


@seeds
def test_theorem_1(seed):
    problem, generator = random_problem(seed)
    q, o, r = dataset(problem, generator)
    log_pi, scale = problem.log_policy[q, o], problem.difficulty[q, 0]
    loss = -log_likelihood(r, log_pi, scale).mean()  # eq. 8
    factor = r - (1 - r) * odds(log_pi.exp(), scale)
    expected = -gradient((factor.detach() * log_pi).mean(), problem.logits)  # eq. 9
    close(gradient(loss, problem.logits), expected)


def w(z):
    """Eq. 13; w(0) = 0. The inner `where` keeps autograd off the quotient at 0."""
    safe = torch.where(z > 0, z, 0.5)
    return torch.where(z > 0, -torch.log1p(-safe) / safe - 1, 0.0)


def test_weight_function():
    z = torch.cat([torch.tensor([0.0]), torch.linspace(0.01, 0.99, 50)]).double().requires_grad_()
    (slope,) = torch.autograd.grad(w(z).sum(), z)
    close((w(z) + z * slope).detach(), (z / (1 - z)).detach())
    assert w(torch.zeros(1, dtype=torch.float64)).item() == 0
    assert (w(z).diff() > 0).all()


@seeds
@pytest.mark.parametrize("impossible", [False, True], ids=["full support", "an impossible answer"])
def test_theorem_2(seed, impossible):
    problem, _ = random_problem(seed, impossible)
    xi, r, pi = problem.weights[:, None], problem.correct, problem.log_policy.exp()
    z = torch.where(r < 1, pi / problem.difficulty, 0.0)
    j_plus = (xi * pi * r).sum()
    j_minus = (xi * pi * w(z) * (1 - r)).sum()
    factor = r - (1 - r) * odds(pi, problem.difficulty)
    expected = weighted_score(xi * pi * factor, problem)  # eq. 15
    close(gradient(j_plus - j_minus, problem.logits), expected)
    # Without the penalty the gradient is another one, so that the equality above says something.
    plain = weighted_score(xi * pi * r, problem)
    assert (plain - expected).abs().max() > 1e-3


@seeds
def test_the_true_policy_is_stationary_and_best(seed):
    # p* in (0, 1), D its inverse sum, pi* = D p*, answers from any distribution mu.
    generator = torch.Generator().manual_seed(seed)
    p = 0.02 + 0.96 * torch.rand(QUESTIONS, ANSWERS, generator=generator, dtype=torch.float64)
    scale = 1 / p.sum(-1, keepdim=True)
    pi = scale * p
    assert (p - (1 - p) * odds(pi, scale)).abs().max() <= 8 * EPS

    mu = torch.rand(QUESTIONS, ANSWERS, generator=generator, dtype=torch.float64).softmax(-1)

    def population(logits):
        log_pi = logits.log_softmax(-1)
        return (mu * (p * log_pi + (1 - p) * torch.log1p(-log_pi.exp() / scale))).sum()

    logits = pi.log().requires_grad_()
    best = population(logits)
    assert gradient(best, logits).abs().max() < 1e-13
    for size in (1e-3, 1e-2):
        for _ in range(10):
            step = size * torch.randn(logits.shape, generator=generator, dtype=torch.float64)
            assert population(logits + step) < best


@seeds
def test_appendix_c(seed):
    problem, generator = random_problem(seed)
    q, o, r = dataset(problem, generator)
    preference = 0.2 + torch.rand(QUESTIONS, ANSWERS, generator=generator, dtype=torch.float64)
    wrong = (problem.log_policy.exp() / preference * (1 - problem.correct)).amax(-1).detach()
    scale = 1.1 * wrong[q] * preference[q, o]  # D * rho, larger than pi for wrong answers
    log_pi = problem.log_policy[q, o]
    loss = -log_likelihood(r, log_pi, scale).mean()  # eq. 22
    factor = r - (1 - r) * odds(log_pi.exp(), scale)
    expected = -gradient((factor.detach() * log_pi).mean(), problem.logits)  # eq. 23
    close(gradient(loss, problem.logits), expected)


@pytest.mark.parametrize("size, right", [(4, 1), (16, 3), (16, 15), (7, 4)])
def test_the_policy_as_preference_is_grpo(size, right):
    # With rho = pi every wrong answer weighs 1/(D - 1), D = G/k: k/(G - k). Normalised, two values are
    # two values.
    r = (torch.arange(size) < right).double()
    close(torch.tensor(1 / (size / right - 1)), torch.tensor(right / (size - right)))
    weighted = r - (1 - r) * right / (size - right)
    close((weighted - weighted.mean()) / weighted.std(), (r - r.mean()) / r.std())


@seeds
def test_the_calibrated_reward_is_theorem_1s_factor_scaled_by_the_group(implementation, seed):
    # One-token answers of one question, at the group's own D; the paper scales the penalties by 1/G.
    problem, generator = random_problem(seed)
    o = torch.randint(ANSWERS, (16,), generator=generator)
    log_pi, r = problem.log_policy.detach()[0, o], problem.correct[0, o]
    result = implementation.group_advantages(log_pi, torch.ones(16).long(), r, torch.tensor([0, 16]), LensConfig())
    factor = r - (1 - r) * odds(log_pi.exp(), result.difficulty)
    close(torch.where(r < 1, 16 * result.calibrated_reward, result.calibrated_reward), factor)
