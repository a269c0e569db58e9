"""Estimators inside the PPO actor: options, numbers of every token, policy losses, state in checkpoints."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import pytest
import torch

from lens_openrlhf import cpu_runtime
from lens_openrlhf.advantages import estimators
from lens_openrlhf.advantages.across_ranks import gather
from lens_openrlhf.advantages.token_statistics import entropy, self_certainty
from lens_openrlhf.inputs import OptionError
from lens_openrlhf.training.checkpoints import estimator_state, layout, writing
from lens_openrlhf.training.commandline import records
from lens_openrlhf.training.commandline.estimator import make_estimator, step_scorer
from lens_openrlhf.training.hooks.actor import LensPolicyModel, _WithStatistics, check_update
from lens_openrlhf.training.hooks.advantages import compute, set_advantages
from lens_openrlhf.training.hooks.columns import needs_of, pack
from lens_openrlhf.training.hooks.experience import LensExperienceMaker, WithStatistics
from lens_openrlhf.training.hooks.policy_loss import PolicyGradientLoss
from lens_openrlhf.training.hooks.tags import prompt_id

from ..conftest import make_experiences, make_samples

SCORES = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
LENGTHS = [3, 5, 4, 2, 6, 1, 3, 4]

PLUGINS = """
from dataclasses import dataclass

from lens_openrlhf.advantages.estimators import Estimator, option


def token_level(batch):
    return -batch.logprobs.double()

token_level.needs = {"logprobs"}


def raises(batch):
    raise RuntimeError("no luck")


def either(batch):
    return batch.rewards

either.needs = {"logprobs"}


def counts(batch):
    return batch.prompts[batch.group_of] * 0.0 + batch.step


class Fails(Estimator):
    def updated(self, status):
        raise RuntimeError("no luck")

    def prompt_weights(self, prompts):
        raise RuntimeError("no luck")


class Misspelt(Estimator):
    defaults = {"actor.eps_clips": 0.2}


class Unmade(Estimator):
    def __init__(self, config=None):
        raise KeyError("no luck")


class Certain(Estimator):
    verified = False


class Forgets(Estimator):
    forgets = False

    def state_dict(self):
        if self.forgets:
            raise RuntimeError("no luck")
        return {"seen": 1}


@dataclass(frozen=True, kw_only=True)
class Judged:
    scorer: str = ""


class Judges(Estimator):
    Config = Judged
    sampling = "scored"


class Weighs(Estimator):
    def prompt_weights(self, prompts):
        return prompts


@dataclass(frozen=True, kw_only=True)
class Config:
    size: float = option(2.0, "size of everything, 100% by default")
    whole: bool = True

    def __post_init__(self):
        if self.size <= 0:
            raise ValueError(f"size={self.size!r}: use more than 0")


class Sized(Estimator):
    Config = Config
    compares_answers = False
    defaults = {"actor.eps_clip_low_high": [0.1, 0.3]}
    requires = {"actor.loss_agg_mode": ("token-mean", "Sized is made for it")}

    def __init__(self, config=None):
        super().__init__(config)
        self.seen = 0

    def advantages(self, batch):
        self.seen += len(batch.lengths)
        return batch.rewards * self.config.size

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]
"""


@pytest.fixture
def plugins(tmp_path):
    (tmp_path / "plugins.py").write_text(PLUGINS)
    return lambda name: f"{tmp_path / 'plugins.py'}:{name}"


@pytest.fixture
def parse_plugin(parse, plugins):
    return lambda name, *more: parse("--algo.lens.estimator_path", plugins(name), *more, estimator=estimators.CUSTOM)


def single_samples(args, samples):
    """The replay buffer's items, in an order of its own."""
    from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer

    buffer = NaiveReplayBuffer(sample_batch_size=4)
    for experience in make_experiences(args, samples, LensExperienceMaker):
        buffer.append(experience)
    random.Random(0).shuffle(buffer.items)
    return buffer.items


def advantages_in_buffer(args, items, step=1):
    estimator = make_estimator(args)
    needs = needs_of(estimator)
    result = compute(gather(*pack(items, needs, "cpu"), None, None), estimator, needs, 4, step, args.reward.clip_range)
    set_advantages(items, result.values, result.per_token)
    return result


def test_a_function_of_ones_own_gives_every_token_its_advantage(parse_plugin):
    args = parse_plugin("token_level")
    items = single_samples(args, make_samples(SCORES, LENGTHS))
    result = advantages_in_buffer(args, items)
    for item in items:
        mask = item.action_mask.bool()
        assert torch.equal(item.advantages[mask], -item.action_log_probs[mask]) and not item.advantages[~mask].any()
        torch.testing.assert_close(item.info["return"], -item.action_log_probs[mask].mean())
        assert not [name for name in item.info if name.startswith("lens_")]
    assert result.columns["index"] == list(range(8))
    by_position = [-s.action_log_probs[0][s.action_mask[0].bool()].mean() for s in make_samples(SCORES, LENGTHS)]
    assert result.columns["advantage"] == pytest.approx([float(mean) for mean in by_position])
    assert result.metrics["lens/abs_advantage_negative"] == pytest.approx(float(sum(by_position[4:]) / 4))


def test_it_knows_the_step_and_the_prompts(parse_plugin):
    args = parse_plugin("counts")
    items = single_samples(args, make_samples(SCORES, LENGTHS))
    assert set(advantages_in_buffer(args, items, step=7).values.tolist()) == {7.0}
    assert prompt_id("prompt 0") == prompt_id("prompt 0") != prompt_id("prompt 1")
    assert float(prompt_id("prompt 0")) == prompt_id("prompt 0") < 2**52


def test_one_that_raises_is_named_with_its_file(parse_plugin):
    args = parse_plugin("raises")
    items = single_samples(args, make_samples(SCORES, LENGTHS))
    with pytest.raises(ValueError, match=r"estimator raises \(.*plugins.py\): advantages raised RuntimeError: no luck"):
        advantages_in_buffer(args, items)


@pytest.mark.parametrize(
    ("method", "ask"),
    [
        ("updated", lambda actor: actor.fit()),
        ("prompt_weights", lambda actor: actor.prompt_weights(torch.arange(3))),
    ],
)
def test_its_other_methods_are_named_with_the_file_too(parse_plugin, monkeypatch, method, ask):
    actor = LensPolicyModel.__new__(LensPolicyModel)
    actor.strategy = SimpleNamespace(args=parse_plugin("Fails"))
    actor.estimator = make_estimator(actor.strategy.args)
    monkeypatch.setattr(LensPolicyModel, "compute_advantages", lambda self: {})
    monkeypatch.setattr(LensPolicyModel.__bases__[0], "fit", lambda self, kl: {"policy_loss": 0.5})
    with pytest.raises(ValueError, match=rf"estimator Fails \(.*plugins.py\): {method} raised .*no luck"):
        ask(actor)


def test_weights_that_are_none_are_named_with_the_file(parse_plugin):
    actor = LensPolicyModel.__new__(LensPolicyModel)
    actor.estimator = make_estimator(parse_plugin("Weighs"))
    assert actor.prompt_weights(torch.arange(1, 4)).tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"plugins.py\): prompt_weights raised ValueError: prompt 0 has weight 0"):
        actor.prompt_weights(torch.arange(3))


def test_one_number_for_as_many_answers_as_tokens_must_say_what_it_is(parse_plugin):
    args = parse_plugin("either")
    advantages_in_buffer(args, single_samples(args, make_samples(SCORES, [1] * 8)))
    with pytest.raises(ValueError, match="one a response or one a token, as there are 8 of both; give back Result"):
        advantages_in_buffer(args, single_samples(args, make_samples(SCORES, [2, 0, *[1] * 6])))


@pytest.mark.parametrize(
    ("status", "dtype", "ends"),
    [
        ({"policy_loss": -0.1, "actor_grad_norm": 0.3}, "bf16", False),
        ({}, "bf16", False),  # no update in a step without samples
        ({"policy_loss": math.nan, "actor_grad_norm": 0.3}, "bf16", True),
        ({"policy_loss": -math.inf, "actor_grad_norm": 0.3}, "fp16", True),
        ({"policy_loss": 0.1, "actor_grad_norm": math.inf}, "bf16", True),
        ({"policy_loss": 0.1, "actor_grad_norm": math.nan}, "fp16", True),
        ({"policy_loss": 0.1, "actor_grad_norm": 0.0, "ppo_kl": math.inf, "lens/difficulty": None}, "bf16", False),
        ({"policy_loss": 0.1, "actor_grad_norm": -1.0}, "bf16", True),
        ({"policy_loss": 0.1, "actor_grad_norm": -1.0}, "fp16", False),
    ],
)
def test_an_update_that_is_no_number_ends_the_run(status, dtype, ends):
    if ends:
        with pytest.raises(FloatingPointError, match="the update has policy_loss .*--ckpt.load_enable"):
            check_update(status, dtype)
    else:
        check_update(status, dtype)


def test_its_config_its_defaults_and_its_demands_are_options(parse_plugin):
    args = parse_plugin("Sized", "--algo.custom.size", "3", "--rollout.n_samples_per_prompt", "1")
    assert make_estimator(args).config.size == 3.0
    assert args.actor.eps_clip_low_high == [0.1, 0.3]
    recorded = records.chosen(args)
    assert recorded["algo.advantage.estimator"] == "custom" and recorded["algo.custom.size"] == 3.0
    assert recorded["algo.lens.estimator_path"].endswith("plugins.py:Sized")
    assert not [name for name in recorded if name.startswith("algo.lens.") and name != "algo.lens.estimator_path"]
    assert make_estimator(args).config.whole is True
    given = parse_plugin("Sized", "--algo.custom.whole", "false", "--actor.eps_clip_low_high", "0.2", "0.2")
    assert make_estimator(given).config.whole is False
    assert given.actor.eps_clip_low_high == [0.2, 0.2]


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("Sized", ["--algo.custom.size", "0"], "--algo.custom.size=0.0: use more than 0"),
        ("Sized", ["--actor.loss_agg_mode", "seq-mean-token-mean"], "Sized is made for it; use token-mean"),
        ("Sized", ["--algo.lens.alpha", "1"], "--algo.lens.alpha has no effect with .* custom"),
        ("Sized", ["--algo.custom.size", "-1"], r"use more than 0 \(.*plugins.py\)"),
        ("Misspelt", [], r"estimator Misspelt \(.*plugins.py\): OpenRLHF has no option actor.eps_clips, which it dec"),
        (
            "Certain",
            ["--reward.overlong_buffer_len", "9"],
            "custom: shapes the reward, which the estimator does not re",
        ),
        ("Unmade", [], r"estimator Unmade \(.*plugins.py\): __init__ raised KeyError: 'no luck'"),
        ("nothing", [], "plugins.py: has no nothing; it has token_level, raises, either, counts"),
    ],
)
def test_what_does_not_go_with_it_is_refused(parse_plugin, name, more, expected):
    with pytest.raises(OptionError, match=expected):
        parse_plugin(name, *more)


def test_its_option_may_be_abbreviated_as_openrlhfs_may(parse, plugins):
    args = parse("--algo.lens.estimator", plugins("counts"), estimator=estimators.CUSTOM)
    assert make_estimator(args).name == "counts"


def test_it_has_a_scorer_of_its_own(parse_plugin, tmp_path, monkeypatch):
    (tmp_path / "judge.py").write_text("def share(prompt, response, label):\n    return 2\n")
    monkeypatch.chdir(tmp_path)
    args = parse_plugin("Judges", "--algo.custom.scorer", "judge.py:share")
    monkeypatch.chdir("/")
    scorer = step_scorer(args, make_estimator(args))
    with pytest.raises(ValueError, match="^--algo.custom.scorer .*/judge.py:share: gave back 2.0"):
        scorer("", "", "")
    args = parse_plugin("Judges")
    with pytest.raises(OptionError, match="--algo.custom.scorer is missing"):
        step_scorer(args, make_estimator(args))


def test_another_name_beside_a_file_is_refused(parse, plugins):
    with pytest.raises(OptionError, match="--algo.advantage.estimator grpo: .*plugins.py:raises is another"):
        parse("--algo.lens.estimator_path", plugins("raises"), estimator="grpo")


def test_its_state_comes_back_from_a_checkpoint(parse_plugin, tmp_path):
    args = parse_plugin("Sized")
    estimator = make_estimator(args)
    estimator.seen = 12
    (tmp_path / layout.ACTOR / "unfinished-global_step4").mkdir(parents=True)
    estimator_state.save_estimator(tmp_path, "global_step4", estimator)
    limits = SimpleNamespace(max_num=3, max_mem=1)
    writing.finish(tmp_path, "global_step4", {"step": 4, "options": {}, "architecture": {}}, limits)
    again = make_estimator(args)
    estimator_state.load_estimator(tmp_path, again)
    assert again.seen == 12
    (tmp_path / layout.ACTOR / "global_step4" / layout.ESTIMATOR).unlink()
    with pytest.raises(estimators.EstimatorError, match="estimator.pt: is missing, and the Sized estimator goes on"):
        estimator_state.load_estimator(tmp_path, again)
    estimator_state.load_estimator(tmp_path, estimators.find("lens")())  # has no state


def test_a_state_that_raises_is_no_fault_of_the_disk(parse_plugin, tmp_path):
    estimator = make_estimator(parse_plugin("Forgets"))
    estimator.forgets = True
    (tmp_path / layout.ACTOR / "unfinished-global_step4").mkdir(parents=True)
    with pytest.raises(estimators.EstimatorError, match=r"plugins.py\): state_dict raised RuntimeError: no luck"):
        estimator_state.save_estimator(tmp_path, "global_step4", estimator)


def test_a_state_that_no_checkpoint_can_hold_is_refused_at_the_start(parse_plugin):
    estimator = make_estimator(parse_plugin("Sized"))
    estimator_state.check_state(estimator)
    for unfit in (SimpleNamespace(a=1), lambda: 0):
        estimator.seen = unfit
        with pytest.raises(estimators.EstimatorError, match=r"Sized \(.*plugins.py\): its state_dict\(\) cannot be k"):
            estimator_state.check_state(estimator)


def test_a_broken_package_spoils_only_the_run_that_chose_it(parse, monkeypatch, capsys):
    from importlib.metadata import EntryPoint

    broken = EntryPoint("broken", "no_such_package:f", estimators.ENTRY_POINTS)
    monkeypatch.setattr(estimators.registry, "_from_packages", lambda: {broken.name: broken})
    assert make_estimator(parse()).name == "lens"
    assert capsys.readouterr().err.startswith("warning: an installed estimator is left out: broken: entry point no_su")
    with pytest.raises(OptionError, match="--algo.advantage.estimator broken: entry point no_such_package:f cannot"):
        parse(estimator="broken")


def test_a_package_does_not_take_openrlhfs_names(parse, monkeypatch, capsys):
    from importlib.metadata import EntryPoint

    taken = EntryPoint("rloo", "no_such_package:f", estimators.ENTRY_POINTS)
    monkeypatch.setattr(estimators.registry, "_from_packages", lambda: {taken.name: taken})
    args = parse(estimator="rloo")
    assert make_estimator(args) is None and args.algo.advantage.estimator == "rloo"
    expected = "warning: an installed estimator is left out: rloo (no_such_package:f): the name is taken"
    assert expected in capsys.readouterr().err


@pytest.fixture(scope="module")
def tiny_actor(tmp_path_factory):
    """tiny_actor(packed) -> OpenRLHF's model around a small Qwen2, with temperature 0.7."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    if cpu_runtime.required():
        cpu_runtime.install()
    from openrlhf.models import Actor

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    folder = tmp_path_factory.mktemp("model")
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return lambda packed: Actor(
        str(folder), attn_implementation="sdpa", param_dtype="bf16", packing_samples=packed, temperature=0.7
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("names", [("entropies",), ("entropies", "self_certainty")])
def test_statistics_are_those_of_the_distribution_that_was_sampled_from(tiny_actor, packed, names):
    model = tiny_actor(packed).float().eval()
    generator = torch.Generator().manual_seed(1)
    sequences = torch.randint(2, 40, (3, 9), generator=generator)
    attention_mask = torch.ones_like(sequences)
    attention_mask[0, 6:] = attention_mask[2, 8:] = 0
    action_mask = attention_mask[:, 1:].clone()
    action_mask[:, :3] = 0
    wrapped = _WithStatistics(model, names)
    with torch.no_grad():
        logprobs = wrapped(sequences, action_mask, attention_mask)
        plain = model(sequences, action_mask, attention_mask)
        for row in range(3):
            length = int(attention_mask[row].sum())
            logits = model.model(sequences[row : row + 1, :length]).logits[0, :-1] / 0.7
            kept = action_mask[row, : length - 1].bool()
            for name, function in (("entropies", entropy), ("self_certainty", self_certainty)):
                if name in names:
                    torch.testing.assert_close(
                        wrapped.kept[name][row, : length - 1][kept], function(logits)[kept], rtol=1e-4, atol=1e-5
                    )
    torch.testing.assert_close(logprobs, plain)


def test_statistics_travel_to_the_estimator_with_their_tokens(parse, monkeypatch):
    """Through the experience maker's own steps; the actor's answer is given."""
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

    args = parse()
    samples = make_samples(SCORES, LENGTHS)
    marks = [torch.arange(s.action_mask.numel()).reshape(1, -1) + 100.0 * i for i, s in enumerate(samples)]

    class Maker(LensExperienceMaker):
        def make_experience(self, experiences):
            results = [
                WithStatistics(e.action_log_probs, {"entropies": self.padded(e), "self_certainty": -self.padded(e)})
                for e in experiences
            ]
            self._statistics = []
            self._flatten_results(results, 1)
            return experiences

        def padded(self, experience):
            width = experience.action_mask.shape[1]
            return torch.cat(
                [torch.nn.functional.pad(marks[i], (0, width - marks[i].shape[1])) for i in experience.index]
            )

    monkeypatch.setattr(RemoteExperienceMaker, "_flatten_results", lambda self, refs, factor: refs)
    experiences = make_experiences_with(args, samples, Maker)
    from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer

    buffer = NaiveReplayBuffer(sample_batch_size=4)
    for experience in experiences:
        buffer.append(experience)
    random.Random(3).shuffle(buffer.items)
    estimator = type("Marked", (estimators.Estimator,), {"needs": frozenset({"entropies", "self_certainty"})})()
    seen = []
    estimator.advantages = lambda batch: seen.append(batch) or batch.rewards
    needs = needs_of(estimator)
    compute(gather(*pack(buffer.items, needs, "cpu"), None, None), estimator, needs, 4, 1, (-10, 10))
    expected = torch.cat([m[s.action_mask.bool()] for m, s in zip(marks, samples, strict=True)])
    assert torch.equal(seen[0].entropies, expected) and torch.equal(seen[0].self_certainty, -expected)
    assert seen[0].cu_seqlens.diff().tolist() == LENGTHS


def make_experiences_with(args, samples, maker_class):
    tokenizer, strategy = SimpleNamespace(pad_token_id=0), SimpleNamespace(args=args)
    maker = maker_class(None, None, None, None, SimpleNamespace(value=0.0), strategy, tokenizer)
    return maker.make_experience_batch(samples)


def policy_loss(kind, log_probs, old, advantages, mask):
    loss, tapered, kl, *_ = PolicyGradientLoss(kind, token_level_loss=True)(log_probs, old, advantages, mask)
    (gradient,) = torch.autograd.grad(loss, log_probs)
    return float(loss), gradient, float(tapered), float(kl)


def test_policy_losses_by_hand():
    # Two answers of two tokens, the second token of the second is padding.
    old = torch.log(torch.tensor([[0.5, 0.5], [0.8, 1.0]]))
    log_probs = torch.log(torch.tensor([[0.25, 0.5], [0.4, 0.9]])).requires_grad_()
    advantages = torch.tensor([[1.0, 1.0], [-2.0, 0.0]])
    mask = torch.tensor([[1, 1], [1, 0]])
    # d/dlogpi of the mean over 3 tokens: -A / 3, whatever the ratio.
    _, gradient, tapered, kl = policy_loss("reinforce", log_probs, old, advantages, mask)
    torch.testing.assert_close(gradient, torch.tensor([[-1 / 3, -1 / 3], [2 / 3, 0.0]]))
    assert tapered == 0 and kl == pytest.approx(2 * 0.6931472 / 3)
    # The wrong answer has become half as likely, so it weighs half; the right one keeps its weight.
    _, gradient, tapered, _ = policy_loss("topr", log_probs, old, advantages, mask)
    torch.testing.assert_close(gradient, torch.tensor([[-1 / 3, -1 / 3], [1 / 3, 0.0]]))
    assert tapered == pytest.approx(1 / 3)
    # Without a mask all are tokens of the answer.
    whole, without = (policy_loss("topr", log_probs, old, advantages, m) for m in (torch.ones_like(mask), None))
    assert torch.equal(whole[1], without[1]) and (whole[0], *whole[2:]) == pytest.approx((without[0], *without[2:]))
    # More likely than before: the weight stays 1.
    _, gradient, _, _ = policy_loss("topr", old.clone().requires_grad_(), log_probs.detach(), advantages, mask)
    torch.testing.assert_close(gradient, torch.tensor([[-1 / 3, -1 / 3], [2 / 3, 0.0]]))


@pytest.mark.parametrize("kind", ["reinforce", "topr"])
@pytest.mark.parametrize("by_token", [True, False])
@pytest.mark.parametrize("ranks", [None, 1, 2])
def test_policy_losses_are_added_up_as_openrlhf_does(kind, by_token, ranks):
    """Answers of 3, 1 and no tokens, by hand; the share of a batch counts by all of its tokens, or answers."""
    log_probs = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, 9.0, 9.0], [9.0, 9.0, 9.0]], dtype=torch.float64)
    advantages = torch.tensor([[2.0], [-1.0], [5.0]]).expand(3, 3)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]])
    # Where only wrong answers are weighed, the second has become e^-0.5 times as likely.
    old = log_probs.masked_fill(mask == 0, 0.0) + torch.tensor([[0.25], [0.5], [0.0]])
    weight = math.exp(-0.5) if kind == "topr" else 1.0
    tokens = [[2.0, 4.0, 1.0], [-3.0 * weight]]
    added = sum(map(sum, tokens)) if by_token else sum(sum(answer) / len(answer) for answer in tokens)
    totals = {"batch_num_tokens": 8.0, "global_batch_size": 5.0} if ranks else {}
    totals |= {"dp_size": 2} if ranks == 2 else {}
    count = (8.0 if by_token else 5.0) / ranks if ranks else (4 if by_token else 2)
    loss = PolicyGradientLoss(kind, token_level_loss=by_token)
    found, tapered, kl, *rest = loss(log_probs, old, advantages, mask, None, **totals)
    assert float(found) == pytest.approx(added / count)
    assert float(tapered) == pytest.approx(0.25 if kind == "topr" else 0)
    assert float(kl) == pytest.approx((3 * 0.25 + 0.5) / 4) and rest == [None, None]


def test_a_weight_of_an_answer_is_that_of_all_its_tokens_and_at_most_1():
    # Two tokens become more likely by 0.5 and less by 0.75: as a whole e^-0.25. The other answer is more likely.
    old = torch.full((2, 2), -1.0)
    log_probs = (old + torch.tensor([[0.5, -0.75], [0.5, 0.25]])).requires_grad_()
    mask = torch.ones(2, 2, dtype=torch.long)
    _, gradient, tapered, _ = policy_loss("topr", log_probs, old, torch.full((2, 2), -1.0), mask)
    torch.testing.assert_close(gradient, torch.tensor([[math.exp(-0.25) / 4] * 2, [0.25] * 2]))
    assert tapered == 0.5
    # An advantage of 0 is no wrong answer's.
    _, _, tapered, _ = policy_loss("topr", log_probs, old, torch.zeros(2, 2), mask)
    assert tapered == 0
