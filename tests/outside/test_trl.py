"""LensGRPOTrainer: real training steps of TRL with a tiny random model, and its advantages computed a second time."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig

from lens_openrlhf.advantages import LensConfig
from lens_openrlhf.advantages.estimators import Estimator, EstimatorError, find
from lens_openrlhf.advantages.reference import lens_advantages
from lens_openrlhf.advantages.responses import Responses, estimate, on_tokens, packed
from lens_openrlhf.outside.trl import STATE, LensGRPOTrainer, _prompt_number

TOKENS = ["<pad>", "<eos>", *"0123456789+= "]
SAMPLES, PROMPTS = 4, 2


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({token: i for i, token in enumerate(TOKENS)}, unk_token=" "))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def short(completion_ids, **_) -> list[float]:
    return [float(len(ids) < 6) for ids in completion_ids]


def wrong(completions, **_) -> list[float]:
    return [0.0] * len(completions)


class Recording(LensGRPOTrainer):
    """Keeps each step's batch before it is shuffled, with the policy's log-probabilities from a forward of its own."""

    def _generate_and_score_completions(self, inputs):
        self.batch = super()._generate_and_score_completions(inputs)
        ids = torch.cat([self.batch["prompt_ids"], self.batch["completion_ids"]], dim=1)
        attention = torch.cat([self.batch["prompt_mask"], self.batch["completion_mask"]], dim=1)
        with torch.no_grad():
            logits = self.model(input_ids=ids, attention_mask=attention).logits
        width = self.batch["completion_ids"].shape[1]
        every = logits[:, -width - 1 : -1].double().log_softmax(-1)
        self.logprobs = every.gather(2, self.batch["completion_ids"][:, :, None])[:, :, 0]
        self.entropies = -(every.exp() * every).sum(-1)
        self.rewards = self._rewards_per_func.clone()
        self.numbers = [_prompt_number(row["prompt"]) for row in inputs]
        return self.batch

    def _token_values(self, output):
        self.values = super()._token_values(output)
        return self.values


def make(folder, reward, kind=Recording, answers=PROMPTS * SAMPLES, **kwargs) -> Recording:
    """A trainer that takes steps of so many answers in each process."""
    settings = {"max_steps": 1, "save_strategy": "no", **kwargs.pop("settings", {})}
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    return kind(
        model=LlamaForCausalLM(config),
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=answers,
            num_generations=SAMPLES,
            max_completion_length=6,
            learning_rate=1e-2,
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
            logging_steps=1,
            seed=3,
            **settings,
        ),
        train_dataset=Dataset.from_dict({"prompt": [f"{i}+{i}=" for i in range(8)]}),
        processing_class=tokenizer(),
        **kwargs,
    )


@pytest.fixture
def trainer(tmp_path):
    return partial(make, tmp_path)


def expected(trainer: Recording, **options) -> torch.Tensor:
    mask = trainer.batch["completion_mask"].bool()
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
    groups = torch.arange(0, len(mask) + 1, SAMPLES)
    outcome = trainer.rewards[:, 0].double()
    return lens_advantages(trainer.logprobs[mask], offsets, outcome, groups, LensConfig(**options)).advantage


def weights(trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])


def test_all_wrong_answers_teach_with_lens_and_nothing_with_grpo(trainer):
    for estimator, moves in (("lens", True), ("grpo", False)):
        it = trainer(wrong, estimator=estimator)
        before = weights(it)
        it.train()
        assert bool((weights(it) != before).any()) == moves
        log = it.state.log_history[0]
        assert log["lens/rescued_samples"] == float(moves) and log["frac_reward_zero_std"] == 1
        if moves:
            assert it.batch["advantages"].tolist() == pytest.approx(expected(it).tolist(), rel=1e-4)
            assert it.batch["advantages"].abs().min() > 0


def test_mixed_groups_are_the_references_and_grpo_is_trls_own(trainer):
    it = trainer(short, estimator_options={"alpha": 1.0}, settings={"max_steps": 2, "num_iterations": 2})
    it.train()
    assert 0 < it.rewards.mean() < 1 and "old_per_token_logps" in it.batch
    assert it.batch["advantages"].tolist() == pytest.approx(expected(it, alpha=1.0).tolist(), rel=1e-4, abs=1e-7)
    # With the grpo estimator, what TRL has put there before; it adds 1e-4 to the standard deviation.
    grpo = trainer(short, estimator="grpo")
    theirs = []
    grpo._of_trl = lambda output: theirs.extend(output["advantages"].tolist())
    own = type(grpo)._token_values

    def token_values(self, output):
        theirs.extend(output["advantages"].tolist())
        return own(self, output)

    grpo._token_values = token_values.__get__(grpo)
    grpo.train()
    assert max(theirs) > 0.5
    assert grpo.batch["advantages"].tolist() == pytest.approx(theirs, rel=1e-3, abs=1e-6)
    assert list(grpo._logs["advantages"]) == pytest.approx(grpo.batch["advantages"].tolist())


class Tokens(Estimator):
    """One number a token, and a count of its calls."""

    name = "tokens"
    needs = frozenset({"logprobs", "entropies"})

    def __init__(self, config=None):
        super().__init__(config)
        self.calls, self.prompts = 0, []

    def advantages(self, batch):
        self.calls += 1
        self.prompts.append(batch.prompts.tolist())
        return batch.logprobs * batch.entropies * batch.step

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


def test_numbers_of_tokens_and_a_state_that_survives(trainer, tmp_path):
    saving = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    it = trainer(short, estimator=Tokens, settings=saving)
    it.train()
    assert it.estimator.calls == 1 and len(set(it.estimator.prompts[0])) == PROMPTS
    mask = it.batch["completion_mask"].bool()
    product = torch.where(mask, it.logprobs * it.entropies, 0.0)
    torch.testing.assert_close(it.batch["advantages"].double(), product, rtol=1e-4, atol=1e-6)
    again = trainer(short, estimator=Tokens, settings={"max_steps": 2})
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert again.estimator.calls == 2
    again.model.eval()
    again._generate_and_score_completions([{"prompt": "1+1="}] * SAMPLES)
    assert again.estimator.calls == 2, "an evaluation teaches it nothing"
    (tmp_path / "checkpoint-1" / STATE).unlink()
    with pytest.raises(EstimatorError, match=f"has no {STATE}, the state of tokens"):
        trainer(short, estimator=Tokens, settings={"max_steps": 2}).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-1")
        )


def test_an_answer_without_an_outcome_is_no_part_of_its_group(trainer):
    def unknown_first(completions, **_):
        return [None if i == 0 else float(i % 2) for i in range(len(completions))]

    def penalty(completions, **_):
        return [-0.25 * (i == 1) for i in range(len(completions))]

    it = trainer([unknown_first, penalty], correctness="unknown_first", estimator="grpo")
    it.train()
    # Outcome and penalty: none, 3/4, 0, 1. The mean of three is 7/12, their std 0.52042.
    assert it.batch["advantages"].tolist()[:SAMPLES] == pytest.approx(
        [0, (0.75 - 7 / 12) / 0.52042, -7 / 12 / 0.52042, 5 / 12 / 0.52042], rel=1e-4
    )


def some_unknown(completion_ids, **_) -> list[float | None]:
    return [None if sum(ids) % 5 == 0 else float(len(ids) < 6) for ids in completion_ids]


def _process(rank: int, folder: str) -> None:
    """One of two: what its trainers had of a step, and what it raises where the other's log-probabilities are none."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}  # asked for, but not used
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {}
    for name, estimator in TWICE.items():
        it = make(f"{folder}/{rank}", some_unknown, estimator=estimator, answers=PROMPTS * SAMPLES - 2)
        it.train()
        keys = ("values", "numbers", "rewards")
        found[name] = {key: getattr(it, key) for key in keys} | {
            "mask": it.batch["completion_mask"].bool(),
            "advantages": it.batch["advantages"],
            "logged": list(it._logs["advantages"]),
            "rescued": it.state.log_history[0]["lens/rescued_samples"],
            "prompts": getattr(it.estimator, "prompts", None),
        }
    if rank == 1:
        it._token_values = lambda output: {n: torch.full_like(v, torch.nan) for n, v in it.values.items()}
    try:
        it._advantages(it._token_values(it.batch), it.batch["completion_mask"].bool(), it.numbers)
    except ValueError as error:
        found["error"] = str(error)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def _two_processes(_: int, folder: str) -> None:
    """Forked where nothing was computed yet, as importing TRL twice takes longer than all the rest."""
    mp.start_processes(_process, args=(folder,), nprocs=2, start_method="fork")


TWICE = {"lens": "lens", "tokens": Tokens}


@pytest.mark.slow
def test_two_processes_compute_what_one_computes_of_all_answers(tmp_path):
    mp.spawn(_two_processes, args=(str(tmp_path),))
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, kind in TWICE.items():
        parts = [found[name] for found in both]
        outcome = parts[0]["rewards"][:, 0].double()
        known = ~outcome.isnan()
        assert not known.all() and set(outcome[known].tolist()) == {0, 1}
        here = known.split([len(part["mask"]) for part in parts])
        masks = [part["mask"] & of_part[:, None] for part, of_part in zip(parts, here, strict=True)]
        alone = find(kind)() if isinstance(kind, str) else kind()
        result = estimate(
            alone,
            Responses(
                group=known.nonzero()[:, 0] // SAMPLES,  # the middle one lies on both
                lengths=torch.cat([mask.sum(1) for mask in masks])[known],
                correctness=outcome[known],
                rewards=outcome[known],
                tokens={
                    key: torch.cat([packed(part["values"][key], mask) for part, mask in zip(parts, masks, strict=True)])
                    for key in parts[0]["values"]
                },
                prompts=torch.tensor(parts[0]["numbers"] + parts[1]["numbers"])[known],
            ),
        )
        if result.per_token:
            shares = result.advantage.split([int(mask.sum()) for mask in masks])
            expected = [on_tokens(share, True, mask) for share, mask in zip(shares, masks, strict=True)]
            logged = torch.cat([advantage.sum(1) for advantage in expected])
        else:
            logged = torch.zeros(len(known)).masked_scatter(known, result.advantage.float())
            expected = logged.split([len(mask) for mask in masks])
        for part, advantages in zip(parts, expected, strict=True):
            assert torch.equal(part["advantages"], advantages) and advantages.any()
            assert part["logged"] == pytest.approx(logged.tolist(), rel=1e-5)
            assert part["prompts"] == getattr(alone, "prompts", None), "64 bits of each"
        assert parts[0]["logged"] == parts[1]["logged"] and parts[0]["rescued"] == parts[1]["rescued"]
    for found in both:
        assert found["error"].startswith("data-parallel rank 1: values: ") and "nan" in found["error"].lower()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": [short, wrong]}, "name the verifier, .* with correctness=, one of short, wrong"),
        ({"correctness": "right"}, "correctness='right': expected one of the reward functions short"),
        ({"estimator": "nonesuch"}, "nonesuch: unknown estimator; known: lens, grpo"),
        ({"estimator_options": {"beta": 1}}, "lens: has no option beta; known: scope, alpha"),
        ({"estimator_options": {"alpha": -1}}, "lens: alpha=-1: expected a finite number >= 0"),
        ({"settings": {"scale_rewards": "none"}}, "scale_rewards='none': has no effect"),
        ({"estimator": "intuitor"}, "intuitor: needs self_certainty, which TRL does not hand on"),
        ({"estimator": "topr"}, "topr: computes the loss in its own way, which TRL does not"),
        ({"estimator": "passk", "estimator_options": {"k": 4}}, "num_generations=4: so few answers .* at least 5"),
        (
            {"settings": {"multi_objective_aggregation": "normalize_then_sum"}},
            "multi_objective_aggregation='normalize_then_sum': .* use 'sum_then_normalize'",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_training(trainer, changes, message):
    with pytest.raises(EstimatorError, match=message):
        trainer(changes.pop("reward", short), **changes)


def test_rewards_that_are_no_outcomes_are_named(trainer):
    def signs(completions, **_):
        return [-1.0] * len(completions)

    with pytest.raises(EstimatorError, match=r"reward function signs: completion 0 has -1.0, .* in \[0, 1\]"):
        trainer(signs).train()
