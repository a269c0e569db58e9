"""What is sampled: rounds of answers, prompts by weight, and scores of an answer's steps."""

from __future__ import annotations

import asyncio
import hashlib
import re
import statistics
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from openrlhf.datasets import PromptDataset
from openrlhf.trainer.ppo_utils import samples_generator
from openrlhf.trainer.ppo_utils.experience import split_experience_batch
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator, _collect_prompt_batch
from openrlhf.utils.deepspeed.deepspeed import DeepspeedStrategy

from lens_openrlhf.advantages.estimators.reinforce_ada import ReinforceAdaConfig
from lens_openrlhf.inputs import OptionError
from lens_openrlhf.training.checkpoints import writing
from lens_openrlhf.training.commandline.step_scorer import StepScorer, load_scorer
from lens_openrlhf.training.hooks import prompt_weights
from lens_openrlhf.training.hooks.prompt_weights import PromptsByWeight, by_weight
from lens_openrlhf.training.hooks.rounds import RolloutInRounds, UntilPositive, enough, kept
from lens_openrlhf.training.hooks.step_scores import score_steps
from lens_openrlhf.training.hooks.tags import EXTRA, prompt_id

from ..conftest import make_experiences, make_samples


def test_a_prompt_has_one_number_everywhere():
    assert prompt_id("1 + 1 =") == int(hashlib.sha256(b"1 + 1 =").hexdigest()[:13], 16)
    assert prompt_id("1 + 1 = ") != prompt_id("1 + 1 =") and prompt_id("\ud800") >= 0
    assert all(prompt_id(str(i)) == int(float(prompt_id(str(i)))) for i in range(100))


# Rounds of answers


@pytest.mark.parametrize(
    ("scores", "positive", "balance", "indices"),
    [
        ([0, 0, 0, 0, 0, 0], False, False, [0, 1, 2, 3]),
        ([0, 0, 0, 0, 0, 1], True, False, [0, 1, 2, 5]),
        ([0, 1, 0, 0, 0, 1], True, True, [0, 1, 2, 5]),
        ([1, 1, 0, 1, 1, 1], True, False, [0, 1, 2, 3]),
        ([1, 1, 1, 1, 1, 1], True, False, [0, 1, 2, 3]),
        ([0.7, 0.71, 0, 1, 1, 0], True, True, [0, 1, 2, 3]),
    ],
)
def test_when_it_is_enough_and_what_is_kept(scores, positive, balance, indices):
    assert enough(scores, 4, "positive") == positive and enough(scores, 4, "balance") == balance
    assert kept(scores, 4) == indices


@pytest.mark.parametrize(
    ("keep", "right", "wrong"), [(1, 0, 1), (2, 1, 1), (3, 1, 2), (4, 2, 2), (5, 2, 3), (8, 4, 4), (9, 4, 5)]
)
def test_half_of_each_kind_is_enough(keep, right, wrong):
    assert enough([1] * right + [0] * wrong, keep, "balance")
    assert enough([0] * (wrong + 3) + [1] * (right + 2), keep, "balance")
    assert not enough([1] * right + [0] * (wrong - 1), keep, "balance")
    assert right == 0 or not enough([1] * (right - 1) + [0] * (wrong + 9), keep, "balance")
    assert enough([0] * 9 + [1], keep, "positive") and not enough([0] * 9 + [0.7], keep, "positive")


@pytest.mark.parametrize("keep", [2, 3, 5, 8])
def test_what_is_kept_is_as_balanced_as_can_be(keep):
    for number in range(2**9):
        scores = [number >> i & 1 for i in range(9)]
        chosen = [scores[i] for i in kept(scores, keep)]
        right = min(sum(scores), max(keep // 2, keep - scores.count(0)))
        assert len(chosen) == keep and sum(chosen) == right


def shaped(label, i):
    return None if label[i] == "?" else float(label[i]) / 2 - i / 8


class Engine:
    """Stands where OpenRLHF's vLLM actor is: answers a prompt with the scores that its label spells out, in turn.

    A shaped reward is half the score, less 1/8 for each answer. As an agent of several turns does, it takes what it has
    used from the limit of new tokens.
    """

    busy = 0

    def __init__(self):
        self.calls, self.limits = [], []

    async def generate_responses(self, prompt, label, sampling_params, max_length, hf_tokenizer, num_samples, images):
        begin = sum(count for text, count in self.calls if text == prompt)
        self.calls.append((prompt, num_samples))
        self.limits.append(sampling_params.max_tokens)
        sampling_params.max_tokens -= 10
        return [
            {
                "prompt": prompt,
                "label": label,
                "observation_tokens": [3, 4, 5, 6 + begin + i],
                "action_ranges": [(2, 4)],
                "rollout_log_probs": None,
                "reward": shaped(label, begin + i),
                "scores": None if label[begin + i] == "?" else float(label[begin + i]),
                "extra_logs": {"seconds": 0.5},
            }
            for i in range(num_samples)
        ]

    def get_num_unfinished_requests(self):
        return self.busy


class EngineInRounds(RolloutInRounds, Engine):
    """As RolloutInRounds is used."""


class Generator(UntilPositive, SamplesGenerator):
    """As UntilPositive is used."""


class Remote:
    """An actor's handle."""

    def __init__(self, actor):
        self.actor = actor

    def __getattr__(self, name):
        method = getattr(self.actor, name)

        def remote(**kwargs):
            result = method(**kwargs)
            return SimpleNamespace(value=asyncio.run(result) if asyncio.iscoroutine(result) else result)

        return SimpleNamespace(remote=remote)


@pytest.fixture
def generator(parse, monkeypatch):
    """generator(labels, rounds) -> a Generator of prompts "0", "1" … and its engine."""

    def last_first(refs, num_returns, timeout):
        return refs[-1:], refs[:-1]

    def get(refs):
        return [ref.value for ref in refs] if isinstance(refs, list) else refs.value

    monkeypatch.setattr(samples_generator, "ray", SimpleNamespace(get=get, wait=last_first))

    def make(labels, rounds, *more):
        args = parse("--rollout.batch_size", str(len(labels)), "--train.batch_size", str(4 * len(labels)), *more)
        rows = [([""], [str(i)], [label], [None]) for i, label in enumerate(labels)]
        engine = EngineInRounds()
        made = Generator(SimpleNamespace(args=args), rows, rows, None, [Remote(engine)])
        made.rounds = rounds
        return made, engine

    return make


def scores_of(samples, prompt):
    return [sample.scores.item() for sample in samples if sample.prompts == [prompt]]


def test_prompts_are_answered_until_there_is_a_right_one(generator):
    rounds = ReinforceAdaConfig(rounds=3, oversample=1, stop="positive")
    labels = ["0100", "0000" + "0000" + "0011", "0" * 12]
    generate, engine = generator(labels, rounds)
    samples, _, consumed, _ = generate.generate_samples(max_len=64, max_new_tokens=50)
    assert engine.limits == [50] * 7  # an answer's turns take nothing from those of the next round
    assert consumed == 3 and [sample.prompts[0] for sample in samples] == ["2"] * 4 + ["1"] * 4 + ["0"] * 4
    assert Counter(engine.calls) == {("0", 4): 1, ("1", 4): 3, ("2", 4): 3}
    assert scores_of(samples, "0") == [0, 1, 0, 0] and sum(scores_of(samples, "1")) == 2
    assert scores_of(samples, "2") == [0] * 4
    for prompt, label in enumerate(labels):
        rewards = [shaped(label, i) for i in range(len(label))]  # not the outcomes
        for sample in samples:
            if sample.prompts == [str(prompt)]:
                assert sample.info[EXTRA + "drawn_mean"].item() == pytest.approx(statistics.fmean(rewards))
                assert sample.info[EXTRA + "drawn_std"].item() == pytest.approx(statistics.stdev(rewards))
                assert sample.info[EXTRA + "drawn"].tolist() == [len(rewards)]
                assert sample.info["seconds"].tolist() == [0.5]


@pytest.mark.parametrize(("labels", "drawn"), [("1", 1), ("01", 2)])
def test_of_one_answer_there_is_no_spread(labels, drawn):
    """One answer is kept; the spread of a single one is 0."""
    engine = EngineInRounds()
    call = {"prompt": "0", "label": labels, "max_length": 64, "hf_tokenizer": None, "images": None}
    rounds = ReinforceAdaConfig(rounds=2, oversample=1, stop="positive")
    params = SimpleNamespace(max_tokens=50)
    (kept_one,) = asyncio.run(engine.generate_in_rounds(rounds=rounds, num_samples=1, sampling_params=params, **call))
    rewards = [shaped(labels, i) for i in range(drawn)]
    assert kept_one["extra_logs"] == {
        "seconds": 0.5,
        EXTRA + "drawn_mean": pytest.approx(statistics.fmean(rewards)),
        EXTRA + "drawn_std": pytest.approx(statistics.stdev(rewards), rel=1e-12) if drawn > 1 else 0.0,
        EXTRA + "drawn": float(drawn),
    }
    assert params.max_tokens == 50 and engine.limits == [50] * drawn


def test_rounds_end_with_the_last_one_that_may_be_drawn():
    for rounds in (1, 2, 3):
        engine = EngineInRounds()
        call = {"prompt": "0", "label": "0" * 12, "max_length": 64, "hf_tokenizer": None, "images": None}
        config, params = ReinforceAdaConfig(rounds=rounds, oversample=2), SimpleNamespace(max_tokens=50)
        found = asyncio.run(engine.generate_in_rounds(rounds=config, num_samples=2, sampling_params=params, **call))
        assert engine.calls == [("0", 4)] * rounds and len(found) == 2


def test_a_failure_while_sampling_leaves_the_generator_as_it_was(generator, monkeypatch):
    generate, _ = generator(["0" * 8], ReinforceAdaConfig())
    handles = list(generate.vllm_engines)

    def broken(*args, **kwargs):
        assert generate.vllm_engines != handles
        raise RuntimeError("no engine")

    monkeypatch.setattr(SamplesGenerator, "_dispatch_prompts_to_vllm", broken)
    with pytest.raises(RuntimeError, match="no engine"):
        generate.generate_samples(max_len=64, max_new_tokens=50)
    assert generate.vllm_engines == handles and generate._training is False


def test_engines_are_asked_by_how_much_they_have_to_do(generator):
    generate, engine = generator(["0" * 32] * 4, ReinforceAdaConfig(rounds=1))
    busy = EngineInRounds()
    busy.busy = 100
    generate.vllm_engines = [Remote(busy), Remote(engine)]
    generate.generate_samples(max_len=64, max_new_tokens=50)
    assert not busy.calls and len(engine.calls) == 4


def test_a_round_draws_more_than_are_kept_and_balances(generator):
    generate, engine = generator(["1" * 8 + "1" * 7 + "0", "10100000"], ReinforceAdaConfig(rounds=2))
    samples = generate.generate_samples(max_len=64, max_new_tokens=50)[0]
    assert Counter(engine.calls) == {("0", 8): 2, ("1", 8): 1}
    assert scores_of(samples, "0") == [1, 1, 1, 0] and scores_of(samples, "1") == [1, 0, 1, 0]
    tokens = [sample.sequences[0, -1].item() - 6 for sample in samples if sample.prompts == ["0"]]
    assert tokens == [0, 1, 2, 15]  # each kept answer is one that was drawn


def test_without_rounds_and_in_evaluation_answers_are_drawn_as_ever(generator):
    plain, engine = generator(["0" * 8] * 2, None)
    assert len(plain.generate_samples(max_len=64, max_new_tokens=50)[0]) == 8 and set(engine.calls) == {
        ("0", 4),
        ("1", 4),
    }
    generate, engine = generator(["10100000" * 2] * 2, ReinforceAdaConfig())
    generate.generate_samples(max_len=64, max_new_tokens=50)
    evaluated = generate.generate_eval_samples(max_len=64, max_new_tokens=50, n_samples_per_prompt=2)
    assert len(evaluated) == 4 and Counter(engine.calls) == {(prompt, n): 1 for prompt in "01" for n in (8, 2)}
    assert not any(name.startswith(EXTRA) for sample in evaluated for name in sample.info)
    assert all(isinstance(handle, Remote) for handle in generate.vllm_engines)


def test_filtering_sees_the_answers_that_are_kept(generator):
    more = ("--algo.dynamic_filtering_enable", "--algo.dynamic_filtering_range", "-1", "0.9")
    generate, _ = generator(["1" * 16, "10" * 4], ReinforceAdaConfig(rounds=2), *more)
    samples = generate.generate_samples(max_len=64, max_new_tokens=50)[0]
    assert {sample.prompts[0] for sample in samples} == {"1"}


def test_an_answer_without_score_is_left_to_the_check_of_scores(generator):
    generate, engine = generator(["000?" + "0" * 4], ReinforceAdaConfig(oversample=1))
    samples = generate.generate_samples(max_len=64, max_new_tokens=50)[0]
    assert len(engine.calls) == 1 and [sample.scores is None for sample in samples] == [False, False, False, True]


# Prompts by weight


def dataloader(count):
    """OpenRLHF's, of prompts "prompt 0", "prompt 1" …"""
    settings = SimpleNamespace(input_key="text", label_key=None, apply_chat_template=False)
    strategy = SimpleNamespace(args=SimpleNamespace(data=settings), is_rank_0=lambda: False, seed=1)
    dataset = PromptDataset([{"text": f"prompt {i}"} for i in range(count)], None, strategy)
    return DeepspeedStrategy.setup_dataloader(strategy, dataset, 1, False, True, dataset.collate_fn)


def drawn_of(iterator):
    return [int(prompts[0].split()[1]) for _, prompts, _, _ in iterator]


def test_prompts_come_as_often_as_they_weigh():
    loader = by_weight(dataloader(4), 1, seed=2)
    assert loader.sampler.ids.tolist() == [prompt_id(f"prompt {i}") for i in range(4)] and len(loader) == 4
    loader.sampler.weights = torch.tensor([1.0, 2.0, 7.0, 1e-12])
    counts = Counter(index for _ in range(500) for index in drawn_of(loader))
    for index, share in enumerate([0.1, 0.2, 0.7, 0]):
        assert counts[index] / 2000 == pytest.approx(share, abs=5 * (share * (1 - share) / 2000) ** 0.5)


def test_the_dataloader_is_openrlhfs_but_for_its_sampler():
    of_one = dataloader(4)
    before = SimpleNamespace(dataset=of_one.dataset, batch_size=3, collate_fn=of_one.collate_fn)
    after = by_weight(before, 2, seed=3)
    assert after.dataset is before.dataset and after.batch_size == 3
    assert after.collate_fn == before.collate_fn and after.num_workers == 0
    state = iter(PromptsByWeight(["a", "b", "c"], 2, 3))
    next(state), next(state)
    kept = state.state_dict()
    assert kept["drawn"] == 2 and len(kept["block"]) == 2 and set(kept) == {"drawn", "block", "generator"}
    last = next(state)
    again = iter(PromptsByWeight(["a", "b", "c"], 2, 99))
    again.load_state_dict(kept)
    again.block.append(7)  # the state is a copy
    assert kept["block"] != again.block and len(kept["block"]) == 2
    again.load_state_dict(kept)
    assert next(again) == last
    with pytest.raises(StopIteration):
        next(again)


def test_no_prompt_comes_twice_in_a_block():
    loader = by_weight(dataloader(7), 3, seed=2)
    loader.sampler.weights = torch.tensor([100.0, 1, 1, 1, 1, 1, 100])
    drawn = [drawn_of(loader) for _ in range(50)]
    assert all(len(set(episode[i : i + 3])) == len(episode[i : i + 3]) for episode in drawn for i in (0, 3, 6))
    assert any(len(set(episode)) < 7 for episode in drawn)
    everything = by_weight(dataloader(7), 100, seed=2)
    assert sorted(drawn_of(everything)) == list(range(7))


def test_a_draw_sees_the_newest_weights():
    loader = by_weight(dataloader(5), 1, seed=2)
    iterator = iter(loader)
    for index in (3, 1, 3):
        loader.sampler.weights = torch.full((5,), 1e-12).index_fill(0, torch.tensor(index), 1.0)
        assert drawn_of([next(iterator)]) == [index]


def test_a_draw_has_the_whole_range_of_weights(monkeypatch):
    """Also where the number drawn is 0, or as large as the sum: nothing of weight 0 comes, and nothing beyond."""
    at, asked = [0.0], []

    def rand(size, dtype, generator):
        asked.append((size, dtype, generator))
        return torch.tensor(at[0], dtype=dtype)

    monkeypatch.setattr(prompt_weights.torch, "rand", rand)
    sampler = PromptsByWeight(["a", "b", "c", "d"], 3, 5)
    sampler.weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert list(sampler) == [0, 1, 2, 0]
    at[0] = 1.0
    assert list(sampler)[0] == 3
    at[0] = 0.3  # of 10, and of what is left: 3, 7 - of 1 and 3 and 4 -, 8 - of 1 and 4
    assert list(sampler)[:3] == [2, 1, 3]
    at[0] = 0.2999
    assert list(sampler)[0] == 1
    assert set(asked) == {((), torch.float64, sampler.generator)} and len(asked) == 16


def test_weights_are_kept_as_they_are(monkeypatch):
    sampler = PromptsByWeight(["a", "b"], 5, 7)
    assert (sampler.block, len(sampler), sampler.generator.initial_seed()) == (2, 2, 7)
    sampler.weights = given = torch.tensor([1.0, 3.0])
    assert sampler.weights.dtype == torch.float64
    drawn = list(sampler)
    assert sorted(drawn) == [0, 1] and sampler.weights.tolist() == given.tolist() == [1, 3]


@pytest.mark.parametrize("stop", range(1, 9))
def test_draws_go_on_where_a_checkpoint_left_them(stop):
    """Three episodes of 7 draws in batches of 3, stopped after any step, also an episode's last or within a block.

    What a step teaches decides the weights of the next, and is known again when the run goes on.
    """

    def teach(loader, drawn):
        weights = loader.sampler.weights.clone()
        for prompt in drawn:
            weights[int(prompt.split()[1])] *= 0.3
        loader.sampler.weights = weights

    def steps(loader, episode=0):
        for now in range(episode, 3):
            iterator, exhausted = iter(loader), False
            while not exhausted:
                drawn, _, _, exhausted = _collect_prompt_batch(iterator, 3)
                if drawn:
                    states = {"episode": now, "data_loader_state_dict": loader.state_dict()}
                    teach(loader, drawn)
                    yield drawn, writing.resumable(states), loader.sampler.weights

    everything = [drawn for drawn, *_ in steps(by_weight(dataloader(7), 4, seed=5))]
    _, states, weights = next(islice(steps(by_weight(dataloader(7), 4, seed=5)), stop - 1, None))
    again = by_weight(dataloader(7), 4, seed=999)
    again.load_state_dict(states["data_loader_state_dict"])
    again.sampler.weights = weights
    assert [drawn for drawn, *_ in steps(again, states["episode"])] == everything[stop:]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (torch.ones(3), r"weights of shape \[3\], expected one for each of 2 prompts"),
        (torch.tensor([1.0, 0.0]), "prompt 1 has weight 0.0, expected a number above 0"),
        (torch.tensor([torch.nan, 1.0]), "prompt 0 has weight nan"),
        (torch.tensor([1.0, torch.inf]), "prompt 1 has weight inf, expected a number above 0"),
        (torch.tensor([1.0, -1.0]), "prompt 1 has weight -1.0"),
        (torch.ones(1, 2), r"weights of shape \[1, 2\]"),
    ],
)
def test_weights_that_are_none(weights, words):
    with pytest.raises(ValueError, match=words):
        PromptsByWeight(["a", "b"], 1, 0).weights = weights


# Scores of an answer's steps

OPTION = "--algo.spectral.scorer"


class Letters:
    def decode(self, tokens, skip_special_tokens):
        return "".join(chr(97 + int(token) % 26) for token in tokens)


def test_answers_of_wrong_groups_are_scored_in_order(parse):
    samples = make_samples([0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0], [1, 2, 3, 4] * 4)
    asked = []

    def share(prompt, response, label):
        asked.append((prompt, response, label))
        return len(response) / 8

    score_steps(samples, Letters(), StepScorer(share, "my.py:share"), 4)
    values = [sample.info[EXTRA + "step_score"].item() for sample in samples]
    assert values == [1 / 8, 2 / 8, 3 / 8, 4 / 8] + [0] * 8 + [1 / 8, 2 / 8, 3 / 8, 4 / 8]
    text = Letters().decode(samples[1].sequences[0, -2:], True)
    assert len(asked) == 8 and ("prompt 1", text, "label 1") in asked
    assert {label for _, _, label in asked} == {f"label {i}" for i in (0, 1, 2, 3, 12, 13, 14, 15)}
    # They reach the replay buffer with their answers.
    args = parse()
    items = [item for batch in make_experiences(args, samples) for item in split_experience_batch(batch)]
    assert [item.info[EXTRA + "step_score"].item() for item in items] == values


def test_a_step_without_wrong_groups_asks_nobody():
    samples = make_samples([1.0, 0.0], [2, 2])
    score_steps(samples, Letters(), StepScorer(lambda *_: pytest.fail("asked"), "my.py:share"), 2)
    assert [sample.info[EXTRA + "step_score"].tolist() for sample in samples] == [[0], [0]]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 1.5", r"gave back 1.5, expected \[0, 1\] \(prompt 'prompt 0'\)"),
        ("return float('nan')", "gave back nan"),
        ("return None", "raised TypeError: .*NoneType"),
        ("raise KeyError(label)", "raised KeyError: 'label 0'"),
    ],
)
def test_a_scorer_that_fails_is_named(tmp_path, body, words):
    file = tmp_path / "judge.py"
    file.write_text(f"def share(prompt, response, label):\n    {body}\n")
    scorer = load_scorer(f"{file}:share", OPTION)
    with pytest.raises(ValueError, match=f"{OPTION} {re.escape(str(file))}:share: {words}"):
        score_steps(make_samples([0.0, 0.0], [2, 2]), Letters(), scorer, 2)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("", "--algo.spectral.scorer is missing: FILE.py:NAME, a function"),
        ("judge.txt:share", "expected FILE.py:NAME, a function"),
        ("nowhere.py:share", "there is no file nowhere.py"),
        ("{file}:other", "has no other; it has share"),
        ("{file}:LIMIT", "LIMIT: is a int, expected a function"),
    ],
)
def test_a_scorer_that_is_none(tmp_path, place, words):
    file = tmp_path / "judge.py"
    file.write_text("LIMIT = 3\n\ndef share(prompt, response, label):\n    return 0.5\n")
    with pytest.raises(OptionError, match=words):
        load_scorer(place.format(file=file), OPTION)
