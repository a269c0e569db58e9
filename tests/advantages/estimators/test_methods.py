"""Every method: by hand, against its loop-wise double in plain.py, and what it says of itself."""

from __future__ import annotations

import math
import random
import re
import warnings
from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_openrlhf.advantages.estimators import EstimatorError, find, registry, run

from . import plain
from .batches import Answer, answers, batch_of, random_groups

# name: options, and the method of plain.py with them
METHODS = {
    "grpo": ({}, plain.grpo),
    "dapo": ({}, plain.grpo),
    "ngrpo": ({}, plain.ngrpo),
    "rl_zvp": ({"alpha": 0.25}, lambda group: plain.rl_zvp(group, 0.25)),
    "nsr": ({}, plain.nsr),
    "psr": ({}, plain.psr),
    "w_reinforce": ({"lambd": 0.3}, lambda group: plain.w_reinforce(group, 0.3)),
    "asymre": ({"delta": 0.25}, lambda group: plain.asymre(group, 0.25)),
    "topr": ({}, plain.topr),
    "passk": ({"k": 3}, lambda group: plain.passk(group, 3)),
    "intuitor": ({}, plain.intuitor),
    "rent": ({}, plain.rent),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*that rewards differ from it has no effect")
every_estimator = pytest.mark.parametrize("name", ["lens", *METHODS])


def make(name: str, **options):
    method = find(name)
    return method(method.Config(**options)) if options else method()


def advantages(name: str, *groups, **options) -> list[float]:
    """Of each answer, or of each token."""
    return run(make(name, **options), batch_of(list(groups))).advantage.tolist()


def near(expected):
    return pytest.approx(expected, rel=1e-5, abs=1e-9)


# By hand. Each number was worked on paper from the formula in the method's docstring.

ROOT3 = math.sqrt(3)


def test_ngrpo_by_hand():
    # 1 0 0 and the virtual 1: mean 1/2, variance (4 x 1/4) / 3 = 1/3, std 1/√3; (1 - 1/2)√3 and (0 - 1/2)√3.
    assert advantages("ngrpo", answers(1, 0, 0)) == near([ROOT3 / 2, -ROOT3 / 2, -ROOT3 / 2])
    # 0 0 0 and 1: mean 1/4, variance (3 x 1/16 + 9/16) / 3 = 1/4, std 1/2; -1/4 / (1/2).
    assert advantages("ngrpo", answers(0, 0, 0), answers(1, 1)) == near([-0.5] * 3 + [0, 0])
    # A lone wrong answer and the virtual 1: mean 1/2, variance 1/2.
    assert advantages("ngrpo", answers(0), answers(1)) == near([-1 / math.sqrt(2), 0])
    # Shaped rewards -1 and 0 of wrong answers, and 1: mean 0, variance 1.
    assert advantages("ngrpo", [Answer(0, reward=-1), Answer(0)]) == near([-1, 0])
    # Positive groups are dropped whatever their rewards; two of one fraction are negative: 1/2 1/2 1, mean 2/3,
    # variance (2/36 + 1/9) / 2 = 1/12, std 1/(2√3); -1/6 x 2√3.
    shaped = [Answer(1, reward=0.5), Answer(1)]
    assert advantages("ngrpo", shaped, answers(0.5, 0.5)) == near([0, 0, -ROOT3 / 3, -ROOT3 / 3])


def test_rl_zvp_by_hand():
    right = [Answer(1, (0.5, 2.0)), Answer(1, ()), Answer(1, (0.0,))]
    assert advantages("rl_zvp", right) == near([0.05, 0.2, 0])  # 0.1 H
    wrong = [Answer(0, (0.5, 2.0, 1.0)), Answer(0, (3.0,)), Answer(0, (0.25, 0.25))]
    # -0.1 times 2 - 0.5, 2 - 2 and 2 - 1; the maximum is each answer's own.
    assert advantages("rl_zvp", wrong) == near([-0.15, 0, -0.1, 0, 0, 0])
    assert advantages("rl_zvp", wrong, alpha=1) == near([-1.5, 0, -1, 0, 0, 0])
    # 1 0 0 by GRPO: mean 1/3, variance (4/9 + 2/9) / 2 = 1/3; 2/3 √3 and -1/3 √3, on 2, 0 and 3 tokens.
    mixed = [Answer(1, (0.5, 2.0)), Answer(0, ()), Answer(0, (0.1, 0.2, 0.3))]
    assert advantages("rl_zvp", mixed) == near([2 / ROOT3, 2 / ROOT3, -1 / ROOT3, -1 / ROOT3, -1 / ROOT3])
    # Shaping tells right answers apart, but not here; one fraction counts as wrong.
    assert advantages("rl_zvp", [Answer(1, (1.0,), reward=0), Answer(1, (2.0,))]) == near([0.1, 0.2])
    assert advantages("rl_zvp", [Answer(0.5, (1.0, 2.0)), Answer(0.5, (2.0,))]) == near([-0.1, 0, 0])


def test_the_signs_by_hand():
    group = answers(1, 0, 0.25)
    assert advantages("nsr", group) == [0, -1, -0.75]
    assert advantages("psr", group) == [1, 0, 0.25]
    assert advantages("w_reinforce", group) == near([0.1, -1, 0.1 * 0.25 - 0.75])
    assert advantages("w_reinforce", group, lambd=1) == advantages("topr", group) == [1, -1, -0.5]
    shaped = [Answer(1, reward=-0.5), Answer(0, reward=0.5), Answer(1, ())]
    assert advantages("topr", shaped) == [1, -1, 1]


def test_asymre_by_hand():
    # Means 1/4, 0 and 1; V is 0.1 below them.
    assert advantages("asymre", answers(1, 0, 0, 0), answers(0, 0), answers(1)) == near(
        [0.85, -0.15, -0.15, -0.15, 0.1, 0.1, 0.1]
    )
    assert advantages("asymre", [Answer(1, reward=0.5), Answer(0)], delta=0) == near([0.25, -0.25])


def test_passk_by_hand():
    # N = 4, n = 2, k = 2: C(2,2) / C(4,2) = 1/6, R̄ = 5/6, σ = √5/6. Right: (1/6) / σ = 1/√5. Wrong: C(1,1) / C(3,1) =
    # 1/3, (1/6 - 1/3) / σ = -1/√5.
    assert advantages("passk", answers(1, 0, 0, 1), k=2) == near([5**-0.5, -(5**-0.5), -(5**-0.5), 5**-0.5])
    # N = 8, n = 7, k = 4: C(7,4) / C(8,4) = 1/2, R̄ = σ = 1/2. Right: 1. Wrong: C(6,3) / C(7,3) = 4/7, (1/2 - 4/7) / σ.
    assert advantages("passk", answers(1, *[0] * 7)) == near([1, *[-1 / 7] * 7])
    # k = 1 is GRPO with the population's std: 1 0 0, mean 1/3, std √2/3.
    assert advantages("passk", answers(1, 0, 0), k=1) == near([2**0.5, -(2**-0.5), -(2**-0.5)])


def test_passk_is_zero_where_nothing_can_be_told_apart():
    nothing = [
        answers(0, 0, 0, 0, 0, 0),  # negative
        answers(1, 1, 1, 1, 1, 1),
        answers(1, 1, 1, 0, 0, 0),  # any four hold a right one
        answers(1, 0, 0, 0),  # one set of four
        answers(1, 0, 0),  # none
        answers(1),
        answers(0.9, 0.5, 0, 0, 0, 0),  # fractions are wrong
    ]
    assert advantages("passk", *nothing) == [0.0] * sum(len(group) for group in nothing)
    assert advantages("passk", answers(1, 0.9, 0.5, 0, 0, 0)) == near(advantages("passk", answers(1, 0, 0, 0, 0, 0)))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("right", range(7))
def test_passk_is_the_mean_over_all_sets_of_k_answers(k, right):
    group = answers(*[1] * right, *[0] * (6 - right))
    assert advantages("passk", group, k=k) == pytest.approx(plain.passk_by_counting(group, k), abs=1e-12)


def test_certainty_by_hand():
    # Means 1, 2 and 3: mean 2, std 1. The empty answer counts nowhere.
    group = [
        Answer(0, (2.0, 0.0), certainty=(1.0, 1.0)),
        Answer(0, ()),
        Answer(1, (4.0, 1.0, 1.0), certainty=(0.0, 2.0, 4.0)),
        Answer(0, (3.0,), certainty=(3.0,)),
    ]
    assert advantages("intuitor", group) == near([-1, 0, 0, 1])
    assert advantages("rent", group) == near([1, 0, 0, -1])


def test_small_spreads_are_kept_from_0_by_a_millionth():
    # A reward 3e-6 below the virtual one: 1.5e-6 below their mean, with a standard deviation of 3e-6 / sqrt(2).
    almost = [Answer(0, reward=1 - 3e-6)]
    assert advantages("ngrpo", almost) == pytest.approx([-1.5 / (3 * 0.5**0.5 + 1)], rel=1e-6)
    # Two certainties 4e-6 apart.
    close = [Answer(0, (0.0,), certainty=(4e-6,)), Answer(0, (4e-6,), certainty=(0.0,))]
    expected = 2 / (4 * 0.5**0.5 + 1)
    for name in ("intuitor", "rent"):
        assert advantages(name, close) == pytest.approx([expected, -expected], rel=1e-6)


def test_passk_takes_rounding_for_right():
    assert advantages("passk", answers(1 - 1e-9, 0, 0, 0, 0)) == advantages("passk", answers(1, 0, 0, 0, 0))
    assert not any(advantages("passk", answers(1 - 2e-9, 0, 0, 0, 0)))


def test_dapo_by_hand():
    assert advantages("dapo", answers(1, 0, 0), answers(0, 0)) == near([2 / ROOT3, -1 / ROOT3, -1 / ROOT3, 0, 0])


# Against the doubles


@given(groups=random_groups(), order=st.integers(0, 2**32))
def test_methods_equal_their_plain_doubles_whatever_the_order_of_groups_and_answers(groups, order):
    shuffle = random.Random(order).shuffle
    for name, (options, double) in METHODS.items():
        shuffle(groups)
        for group in groups:
            shuffle(group)
        batch = batch_of(groups)
        expected = [x for group in groups for x in double(group)]
        if name == "rl_zvp":
            expected = [x for tokens in expected for x in tokens]
        result = run(make(name, **options), batch)
        assert result.advantage.dtype == torch.float64
        assert result.advantage.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9), name


def test_every_method_has_a_double():
    # LENS's is advantages/reference.py, the others' stand in files of their own.
    written_elsewhere = {"lens", "spo", "reinforce_ada", "spectral"}
    assert set(METHODS) | written_elsewhere == set(registry.OURS)


# What a method says of itself


def groups_that_differ(correctness) -> list:
    """Answers told apart by tokens, entropies and confidence."""
    return [Answer(c, tuple(0.5 + i + t for t in range(1 + i % 3)), logprob=-1 - i) for i, c in enumerate(correctness)]


TOKEN_MEAN = {"actor.loss_agg_mode": "token-mean"}
FILTER, RANGE = "algo.dynamic_filtering_enable", "algo.dynamic_filtering_range"
SAMPLES_OTHERS = "DAPO samples other prompts in place of those whose answers are all right or all wrong"
PLAIN = {
    "needs": frozenset(),
    "extras": (),
    "defaults": {},
    "requires": {},
    "learns_from_negative_groups": True,
    "compares_answers": True,
    "verified": True,
    "reads_reward": True,
    "sampling": "plain",
    "policy_loss": "ppo",
    "least_answers": 2,
    "remembers": False,
}
ALONE = {"reads_reward": False, "compares_answers": False, "least_answers": 1, "defaults": TOKEN_MEAN}
BLIND = {"reads_reward": False, "verified": False}
KL_LOSS = {"algo.kl.use_loss": True, "algo.kl.estimator": "k3"}
# name: what is not as in PLAIN, and the options with their defaults
SAYS = {
    "lens": (
        {},
        {
            **{"scope": "both", "alpha": 0.25, "confidence": "geometric", "confidence_from": "actor"},
            **{"difficulty": "importance", "preference": "none", "gamma": 0.0},
        },
    ),
    "grpo": ({"learns_from_negative_groups": False}, {}),
    "dapo": (
        {
            "learns_from_negative_groups": False,
            "defaults": {FILTER: True, RANGE: [0.0, 1.0], "actor.eps_clip_low_high": [0.2, 0.28], **TOKEN_MEAN},
            "requires": {FILTER: (True, SAMPLES_OTHERS), RANGE: ([0.0, 1.0], SAMPLES_OTHERS)},
        },
        {},
    ),
    "ngrpo": ({"defaults": {"actor.eps_clip_low_high": [0.16, 0.24]}}, {}),
    "rl_zvp": ({"needs": frozenset({"entropies"})}, {"alpha": 0.1}),
    "nsr": (ALONE, {}),
    "psr": ({**ALONE, "learns_from_negative_groups": False}, {}),
    "w_reinforce": (ALONE, {"lambd": 0.1}),
    "asymre": ({"defaults": TOKEN_MEAN, "policy_loss": "reinforce"}, {"delta": -0.1}),
    "topr": ({**ALONE, "policy_loss": "topr"}, {}),
    "passk": ({"reads_reward": False, "learns_from_negative_groups": False, "least_answers": 5}, {"k": 4}),
    "intuitor": (
        {**BLIND, "needs": frozenset({"self_certainty"}), "defaults": {**KL_LOSS, "algo.kl.init_coef": 0.005}},
        {},
    ),
    "rent": ({**BLIND, "needs": frozenset({"entropies"}), "defaults": {**KL_LOSS, "algo.kl.init_coef": 0.001}}, {}),
    "spo": (
        {
            **{"compares_answers": False, "least_answers": 1, "sampling": "by_weight", "remembers": True},
            "defaults": {"actor.eps_clip_low_high": [0.2, 0.28], **TOKEN_MEAN},
        },
        {
            **{"half_life": 0.06, "rho_min": 0.875, "rho_max": 0.96},
            **{"prior_value": 0.5, "prior_weight": 1.0, "bonus": 0.05},
        },
    ),
    "reinforce_ada": (
        {
            "learns_from_negative_groups": False,
            "extras": ("drawn_mean", "drawn_std", "drawn"),
            "sampling": "until_positive",
            "defaults": {"rollout.n_samples_per_prompt": 4, "actor.eps_clip_low_high": [0.2, 0.28], **TOKEN_MEAN},
        },
        {"rounds": 4, "oversample": 2, "stop": "balance", "scale": "none"},
    ),
    "spectral": ({"extras": ("step_score",), "sampling": "scored"}, {"scorer": "", "beta": 5.0, "gamma": 0.5}),
}
CHOICES = {
    ("lens", "scope"): ("both", "mixed", "negative", "none"),
    ("lens", "confidence"): ("geometric", "sequence"),
    ("lens", "confidence_from"): ("actor", "rollout"),
    ("lens", "difficulty"): ("importance", "max"),
    ("lens", "preference"): ("none", "length", "policy"),
    ("reinforce_ada", "stop"): ("balance", "positive"),
    ("reinforce_ada", "scale"): ("none", "std"),
}


@pytest.mark.parametrize("name", registry.OURS)
def test_what_a_method_says_of_itself_and_its_options(name):
    method, (says, options) = find(name), SAYS[name]
    made = method()
    assert {key: getattr(made, key) for key in PLAIN} == {**PLAIN, **says}
    assert {field.name: field.default for field in method.options()} == options
    for field in method.options():
        assert field.metadata["choices"] == CHOICES.get((name, field.name))
        assert getattr(made.config, field.name) == field.default
        assert type(field.default) is type(options[field.name])  # as the command line reads it


@every_estimator
def test_negative_groups_teach_where_the_method_says_so(name):
    wrong = groups_that_differ([0, 0, 0, 0, 0, 0])
    assert any(advantages(name, wrong)) is find(name).learns_from_negative_groups


@every_estimator
def test_rounding_decides_no_groups_kind(name):
    for outcomes, one in ([0.1 + 0.2, 0.3, 0.3], 0.3), ([2**-55, 0, 0], 0), ([1 - 2**-53, 1, 1], 1):
        got, expected = (advantages(name, groups_that_differ(c)) for c in (outcomes, [one] * 3))
        assert got == pytest.approx(expected, abs=1e-9), outcomes


@every_estimator
def test_an_answer_needs_others_where_the_method_says_so(name):
    group = groups_that_differ([1, 0, 0, 0, 0, 1])
    together, apart = advantages(name, group), advantages(name, *[[answer] for answer in group])
    assert (together != pytest.approx(apart)) is find(name).compares_answers


@every_estimator
def test_the_verifier_counts_where_the_method_says_so(name):
    outcomes = [advantages(name, groups_that_differ(c)) for c in ([1, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1])]
    assert (outcomes[0] != outcomes[1]) is find(name).verified
    if not find(name).verified:
        assert advantages(name, groups_that_differ([math.nan] * 6)) == outcomes[0]


@every_estimator
def test_shaped_rewards_count_where_the_method_says_so_and_else_it_warns(name):
    method = find(name)
    group = groups_that_differ([1, 0, 0, 0, 0, 1])
    shaped = [answer._replace(reward=answer.correctness - i / 8) for i, answer in enumerate(group)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert (advantages(name, group) != advantages(name, shaped)) is method.reads_reward
    said = [str(warning.message) for warning in caught]
    expected = f"estimator {name} (…): reads the verifier's outcome; that rewards differ from it has no effect"
    assert [re.sub(r"\(.*\)", "(…)", line) for line in said] == (
        [expected] if method.verified and not method.reads_reward else []
    )


@every_estimator
def test_a_method_reads_the_token_numbers_that_it_needs_and_no_others(name):
    method, groups = find(name), [groups_that_differ([1, 0, 0]), groups_that_differ([0, 0])]
    alone = run(method(), batch_of(groups, needs=tuple(method.needs)))
    assert alone.advantage.tolist() == advantages(name, *groups)
    for need in method.needs:
        with pytest.raises(EstimatorError, match=f"estimator {name} .*needs {need} of every token"):
            run(method(), batch_of(groups, needs=()))


@every_estimator
def test_extremes_give_finite_numbers(name):
    groups = [
        [Answer(0, ())],
        [Answer(1, ())],
        [Answer(0.5)],
        [Answer(0, ()), Answer(0, ())],
        [Answer(1, ()), Answer(0, ())],
        [Answer(0, (0.0,)), Answer(0, (0.0, 0.0)), Answer(0, ())],
        [Answer(1, (11.5, 11.5)), Answer(1, (11.5,))],
        [Answer(1, reward=-9.5), Answer(0, reward=9.5)],
        answers(0.1, 0.1, 0.1),
        answers(0.1, 0.7, 1),
        answers(1, *[0] * 4095),
    ]
    result = run(make(name), batch_of(groups))
    assert result.advantage.isfinite().all() and result.advantage.abs().max() < 100
    everything_empty = run(make(name), batch_of([[Answer(0, ()), Answer(1, ())], [Answer(0, ())]]))
    assert everything_empty.advantage.isfinite().all()


@every_estimator
def test_a_batch_is_left_as_it_was_and_calls_are_independent(name):
    batch = batch_of([groups_that_differ([1, 0, 0]), groups_that_differ([0, 0])])
    tensors = {
        f.name: getattr(batch, f.name) for f in fields(batch) if isinstance(getattr(batch, f.name), torch.Tensor)
    }
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    method = make(name)
    first = run(method, batch).advantage
    kept = first.tolist()
    first += 1  # what was given back is the caller's
    assert run(method, batch).advantage.tolist() == kept
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rl_zvp", {"alpha": -0.1}, r"alpha=-0.1: expected a finite number >= 0"),
        ("rl_zvp", {"alpha": math.nan}, r"alpha=nan: expected a finite number >= 0"),
        ("w_reinforce", {"lambd": math.inf}, r"lambd=inf: expected a finite number >= 0 \(the paper uses 0.1\)"),
        ("asymre", {"delta": "low"}, r"delta='low': expected a finite number \("),
        ("w_reinforce", {"lambd": -1e-9}, r"lambd=-1e-09: expected a finite number >= 0 \("),
        ("asymre", {"delta": math.nan}, r"delta=nan: expected a finite number \(the default is -0.1\)$"),
        ("passk", {"k": 0}, r"k=0: expected a whole number >= 1"),
        ("passk", {"k": 2.5}, r"k=2.5: expected a whole number"),
        ("passk", {"k": True}, r"k=True: expected a whole number"),
    ],
)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        find(name).Config(**options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rl_zvp", {"alpha": 0}),
        ("w_reinforce", {"lambd": 0.0}),
        ("asymre", {"delta": 0}),
        ("asymre", {"delta": 2.5}),
        ("passk", {"k": 1}),
        ("spectral", {"beta": 0, "gamma": 0}),
        ("reinforce_ada", {"rounds": 1, "oversample": 1}),
        ("spo", {"rho_min": 0.0, "rho_max": 0.0, "prior_value": 0.0}),
        ("spo", {"rho_min": 1.0, "rho_max": 1.0, "prior_value": 1.0, "bonus": 1e-9}),
    ],
)
def test_options_at_their_limits_are_taken(name, options):
    config = find(name).Config(**options)
    assert {key: getattr(config, key) for key in options} == options


def test_passk_needs_one_answer_more_than_k():
    assert [make("passk", k=k).least_answers for k in (1, 2, 7)] == [2, 3, 8]
