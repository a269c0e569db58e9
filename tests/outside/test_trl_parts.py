"""LensGRPOTrainer's own part, step by step: what the estimator gets of given rewards, masks and log-probabilities, and
where what it says goes. Nothing is sampled or trained; test_trl.py does that."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from trl import GRPOTrainer

from lens_openrlhf.advantages.estimators import Estimator, EstimatorError, Result
from lens_openrlhf.outside import trl
from lens_openrlhf.outside.trl import STATE, LensGRPOTrainer, _prompt_number

from .test_trl import SAMPLES, make, short, wrong

NAN = float("nan")
LENGTHS = (3, 1, 2, 4, 2, 3, 4, 1)


class Seen(Estimator):
    """Keeps the batches; says what it is told to."""

    name = "seen"
    needs = frozenset({"logprobs", "entropies"})
    say = staticmethod(lambda batch: batch.rewards)

    def __init__(self, config=None):
        super().__init__(config)
        self.batches = []

    def advantages(self, batch):
        self.batches.append(batch)
        metrics = {"seen/answers": float(len(batch.lengths)), "seen/nothing": None}
        return Result(advantage=self.say(batch), per_token=self.say is not Seen.say, metrics=metrics)

    def state_dict(self):
        return {"batches": len(self.batches)}

    def load_state_dict(self, state):
        self.loaded = state


class Short(Seen):
    """Needs no numbers of tokens, remembers nothing."""

    name = "short"
    needs = frozenset()
    state_dict = Estimator.state_dict


@pytest.fixture
def trainer(tmp_path):
    """trainer(rewards [N, functions], ...) -> one whose reward functions have said these."""

    def made(rewards, kind=LensGRPOTrainer, **changes):
        it = make(tmp_path, [short, wrong], kind=kind, **{"correctness": "short", "estimator": Seen} | changes)
        it._rewards_per_func = torch.tensor(rewards)
        return it

    return made


def given(rows: int = len(LENGTHS)) -> tuple[dict[str, torch.Tensor], torch.Tensor, list[int]]:
    """Numbers of every token, where a gap in one response is no action token, and a number for each one's prompt."""
    mask = torch.zeros(rows, 4, dtype=torch.bool)
    for row, length in enumerate(LENGTHS[:rows]):
        mask[row, :length] = True
    mask[3, 1] = False
    values = -torch.arange(1.0, 4 * rows + 1).reshape(rows, 4) / 8
    return {"logprobs": values, "entropies": values * 10}, mask, [100 + row // SAMPLES for row in range(rows)]


REWARDS = [[0.0, 1.0], [1.0, -1.0], [0.5, NAN], [0.0, 2.0], [1.0, 1.0], [NAN, 3.0], [0.0, 0.0], [1.0, 1.0]]


def test_what_the_estimator_gets_and_where_its_advantages_go(trainer):
    it = trainer(REWARDS, settings={"reward_weights": [2.0, 0.5]})
    it.state.global_step = 6
    values, mask, prompts = given()
    local, of_all = it._advantages(values, mask, prompts)
    (batch,) = it.estimator.batches
    known = [row for row in range(8) if row != 5]
    rewards = [0.5, 1.5, 1.0, 1.0, 2.5, 0.0, 2.5]
    assert batch.rewards.tolist() == rewards and batch.step == 7
    assert batch.correctness.tolist() == [REWARDS[row][0] for row in known]
    assert batch.cu_groups.tolist() == [0, 4, 7] and batch.prompts.tolist() == [100, 101]
    assert batch.lengths.tolist() == [3, 1, 2, 3, 2, 4, 1]
    for name, numbers in values.items():
        expected = torch.cat([numbers[row][mask[row]] for row in known])
        assert torch.equal(getattr(batch, name), expected)
    means = torch.stack([values["logprobs"][row][mask[row]].mean() for row in known])
    torch.testing.assert_close(batch.mean_logprob, means.double())
    assert of_all.tolist() == [*rewards[:5], 0.0, *rewards[5:]] and of_all.dtype == torch.float32
    assert torch.equal(local, of_all)
    # No group has rewards that are all the same.
    assert it._metrics["train"]["lens/rescued_samples"] == [0.0]
    assert it._metrics["train"]["seen/answers"] == [7.0] and "seen/nothing" not in it._metrics["train"]
    assert not it._metrics["eval"]


def test_the_verifier_is_the_function_that_is_named(trainer):
    it = trainer([[NAN, 1.0], [5.0, 0.0], [-3.0, 1.0], [NAN, 0.5]] * 2, correctness="wrong")
    it._advantages(*given())
    (batch,) = it.estimator.batches
    assert batch.correctness.tolist() == [1.0, 0.0, 1.0, 0.5] * 2
    assert batch.rewards.tolist() == [1.0, 5.0, -2.0, 0.5] * 2


def test_numbers_of_tokens_lie_at_their_tokens_and_their_sums_are_logged(trainer):
    rewards = [[1.0, 0.0]] * 4 + [[0.0, 1.0], [NAN, 3.0], [0.0, 1.0], [1.0, 1.0]]
    it = trainer(rewards)
    values, mask, prompts = given()
    say = lambda batch: torch.where(batch.logprobs > -0.6, 0.0, batch.logprobs)  # noqa: E731
    it.estimator.say = say
    local, of_all = it._advantages(values, mask, prompts)
    expected = torch.where(mask & (values["logprobs"] <= -0.6), values["logprobs"], 0.0)
    expected[5] = 0
    assert torch.equal(local, expected) and local.dtype == torch.float32
    assert torch.equal(of_all, expected.sum(1)) and of_all.dtype == torch.float32
    # The first group has one reward, and its second to fourth response an advantage, -0.625, -1.125 …: 3 of 7; the
    # first has none. In the other rewards differ.
    assert (of_all[:4] != 0).tolist() == [False, True, True, True]
    assert it._metrics["train"]["lens/rescued_samples"] == [pytest.approx(3 / 7)]


def test_samples_that_grpo_would_give_nothing_are_counted(trainer):
    it = trainer([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [NAN, 0.0], [0.0, 0.0]])
    it._advantages(*given())  # its reward is the advantage: 2 in the first group, 0 in the other
    it._rewards_per_func = torch.tensor([[0.0, 0.0]] * 7 + [[1.0, 0.0]])
    it._advantages(*given())
    assert it._metrics["train"]["lens/rescued_samples"] == [pytest.approx(4 / 7), 0.0]


def test_an_evaluation_has_its_own_groups_and_metrics_and_teaches_nothing(trainer):
    it = trainer([[1.0, 0.0], [0.0, 0.0]] * 3, settings={"num_generations_eval": 2})
    heard = []
    it.estimator.say = lambda batch: (
        heard.append(batch.cu_groups.tolist()) or batch.rewards.repeat_interleave(batch.lengths)
    )
    it.model.eval()
    it._advantages(*given(6))
    assert heard == [[0, 2, 4, 6]] and not it.estimator.batches
    assert it._metrics["eval"]["seen/answers"] == [6.0] and not it._metrics["train"]
    it.model.train()
    it._rewards_per_func = torch.tensor(REWARDS)
    it._advantages(*given())
    assert heard[1:] == [[0, 4, 7]] and len(it.estimator.batches) == 1


def test_where_no_answer_has_an_outcome_there_are_no_advantages(trainer):
    it = trainer([[NAN, 1.0]] * 8)
    local, of_all = it._advantages(*given())
    assert local.tolist() == of_all.tolist() == [0.0] * 8 and not it.estimator.batches
    assert not it._metrics["train"]


def test_prompts_and_numbers_of_tokens_only_where_they_are_known_and_needed(trainer, monkeypatch):
    """What all processes hand to each other, and what the estimator gets."""
    gathered = []
    gather = trl.gather

    def watched(columns, tokens, error, group):
        gathered.append((list(columns), list(tokens), error, group))
        return gather(columns, tokens, error, group)

    monkeypatch.setattr(trl, "gather", watched)
    it = trainer(REWARDS, estimator=Short)
    values, mask, prompts = given()
    it._advantages({"logprobs": values["logprobs"]}, mask, None)
    it._advantages(values, mask, prompts)
    for batch in it.estimator.batches:
        assert batch.logprobs is batch.entropies is batch.cu_seqlens is None
    assert it.estimator.batches[0].prompts is None and it.estimator.batches[1].prompts.tolist() == [100, 101]
    it.estimator = Seen()
    it._advantages(values, mask, prompts)
    assert gathered == [
        (["lengths", "mean_logprob"], [], None, None),
        (["lengths", "mean_logprob", "prompts"], [], None, None),
        (["lengths", "mean_logprob", "prompts"], ["logprobs", "entropies"], None, None),
    ]


@pytest.mark.parametrize(("row", "value", "shown"), [(0, -0.5, "-0.5"), (6, 1.5, "1.5"), (7, float("inf"), "inf")])
def test_an_outcome_outside_its_range_is_named(trainer, row, value, shown):
    rewards = [[outcome, 7.0] for outcome in (0.0, 1.0, NAN, 0.5) * 2]
    it = trainer(rewards)
    it._advantages(*given())
    rewards[row][0] = rewards[7][0] = value
    it._rewards_per_func = torch.tensor(rewards)
    with pytest.raises(EstimatorError) as refused:
        it._advantages(*given())
    assert str(refused.value) == (
        f"reward function short: completion {row} has {shown}, but the verifier's outcome is in [0, 1]; let it return "
        "that, and shape the reward with another function beside it (correctness= names the verifier)"
    )


def test_log_probabilities_that_are_none_are_refused(trainer):
    it = trainer(REWARDS)
    values, mask, prompts = given()
    values["logprobs"][5] = NAN  # the response without an outcome
    it._advantages(values, mask, prompts)
    values["logprobs"][6, 1] = NAN
    with pytest.raises(ValueError, match="response 5 has a token with log-probability NaN"):
        it._advantages(values, mask, prompts)


def output(**more) -> dict[str, torch.Tensor]:
    """What TRL hands on of 2 completions of 4 tokens."""
    ids = torch.arange(12).reshape(2, 6)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    prompt_mask = torch.tensor([[0, 1], [1, 1]])
    return {
        "prompt_ids": ids[:, :2],
        "prompt_mask": prompt_mask,
        "completion_ids": ids[:, 2:],
        "completion_mask": mask,
        "advantages": torch.tensor([9.0, 9.0]),
    } | more


def forward(calls: list[dict]):
    """In place of TRL's own, with its signature as far as it matters: another for every call, and what it was asked."""

    def recorded(
        model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, pixel_values=None,
        num_images=None,
    ):  # fmt: skip
        calls.append(dict(locals()))
        calls[-1].pop("calls")
        assert not torch.is_grad_enabled()
        entropies = torch.full((2, 4), 2.0) if compute_entropy else None
        return torch.full((2, 4), -1.0), entropies, "loss of the experts"

    return recorded


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_forward_pass_where_trl_has_made_none(trainer, mode):
    calls = []
    it = trainer([], estimator=Short, answers=8, settings={"per_device_eval_batch_size": 4})
    it._get_per_token_logps_and_entropies = forward(calls)
    it.model.train(mode == "train")
    found = it._token_values(output(pixel_values="pixels", num_images=[1, 1], other="unknown"))
    (call,) = calls
    assert list(found) == ["logprobs"] and found["logprobs"].tolist() == [[-1.0] * 4] * 2
    assert call.pop("input_ids").tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert call.pop("attention_mask").tolist() == [[0, 1, 1, 1, 1, 0], [1] * 6]
    assert call == {
        "model": it.model,
        "logits_to_keep": 4,
        "batch_size": 8 if mode == "train" else 4,
        "compute_entropy": False,
        "pixel_values": "pixels",
        "num_images": [1, 1],
    }


def test_what_trl_has_computed_is_not_computed_again(trainer):
    calls, theirs = [], torch.full((2, 4), -3.0)
    for kind, asked in ((Short, 0), (Seen, 1)):
        it = trainer([], estimator=kind)
        it._get_per_token_logps_and_entropies = forward(calls)
        found = it._token_values(output(old_per_token_logps=theirs))
        assert found["logprobs"] is theirs and len(calls) == asked
        assert [name for name in found if name != "logprobs"] == ["entropies"][: len(calls)]
    assert calls[0]["compute_entropy"] and found["entropies"].tolist() == [[2.0] * 4] * 2
    it._get_per_token_logps_and_entropies = forward(calls)
    assert it._token_values(output())["logprobs"].tolist() == [[-1.0] * 4] * 2


def test_what_a_step_hands_on_and_logs(trainer, monkeypatch):
    asked = []
    it = trainer([])
    it._get_per_token_logps_and_entropies = forward([])
    it._advantages = lambda values, mask, prompts: (
        asked.append((values, mask.tolist(), prompts)) or (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0, 3.0]))
    )
    rows = [{"prompt": "a"}, {"prompt": [{"role": "user", "content": "b"}]}]
    numbers = [_prompt_number(row["prompt"]) for row in rows]
    whole = [[True, True, True, False], [True] * 4]
    for theirs, factories, mask, prompts, before, after in (
        (output(), None, whole, numbers, [5.0, 9.0, 9.0, 9.0], [5.0, 1.0, 2.0, 3.0]),
        (output(tool_mask=torch.tensor([[1, 0, 1, 1]] * 2)), {},
         [[True, False, True, False], [True, False, True, True]], None, [9.0, 9.0], [1.0, 2.0, 3.0]),
    ):  # fmt: skip
        monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", lambda self, inputs, theirs=theirs: theirs)
        it.environment_factories = factories
        it._logs["advantages"].clear()
        it._logs["advantages"].extend(before)
        found = it._generate_and_score_completions(rows)
        values, asked_mask, asked_prompts = asked.pop()
        assert (asked_mask, asked_prompts) == (mask, prompts) and values["logprobs"].tolist() == [[-1.0] * 4] * 2
        assert found is theirs and found["advantages"].tolist() == [1.0, 2.0]
        assert list(it._logs["advantages"]) == after


def test_rewards_of_every_function_are_kept_as_trl_computes_them(trainer, monkeypatch):
    it = trainer([])
    monkeypatch.setattr(GRPOTrainer, "_calculate_rewards", lambda self, *args, **kwargs: (args, kwargs))
    assert it._calculate_rewards(1, b=2) == it._rewards_per_func == ((1,), {"b": 2})


def test_a_prompt_has_one_number_in_every_run():
    """In checkpoints an estimator's state goes by it."""
    chat = [{"role": "user", "content": "1+1="}]
    assert _prompt_number("1+1=") == PINNED[0] and _prompt_number(chat) == PINNED[1]
    assert _prompt_number([dict(reversed(chat[0].items()))]) == PINNED[1]
    assert _prompt_number([{"role": "user", "content": object}]) != PINNED[1]
    numbers = torch.tensor([_prompt_number(str(n)) for n in range(100)])
    assert len(set(numbers.tolist())) == 100 and 30 < (numbers < 0).sum() < 70, "64 bits, one of them the sign"


PINNED = (-6917944471448154088, 5203918647776420758)


@pytest.mark.parametrize(("kind", "saves", "there"), [(Seen, True, True), (Seen, False, False), (Short, True, False)])
def test_a_state_is_kept_where_there_is_one_by_the_process_that_saves(
    trainer, monkeypatch, tmp_path, kind, saves, there
):
    it = trainer([], estimator=kind)
    it.state.global_step = 12
    saved = []
    monkeypatch.setattr(GRPOTrainer, "_save_checkpoint", lambda self, *args: saved.append(args))
    monkeypatch.setattr(type(it.args), "should_save", saves)
    folder = tmp_path / "checkpoint-12"
    folder.mkdir()
    it.estimator.batches += [None] * 3
    it._save_checkpoint("model", None)
    assert saved == [("model", None)] and (folder / STATE).exists() == there
    if there:
        assert torch.load(folder / STATE) == {"batches": 3}


def test_a_state_is_taken_up_where_training_goes_on(trainer, monkeypatch, tmp_path):
    theirs = []
    monkeypatch.setattr(
        GRPOTrainer, "_load_optimizer_and_scheduler", lambda self, checkpoint: theirs.append(checkpoint)
    )
    folder = str(tmp_path)
    remembering, forgetting = trainer([]), trainer([], estimator=Short)
    for it, checkpoint in ((remembering, None), (forgetting, None), (forgetting, folder)):
        it._load_optimizer_and_scheduler(checkpoint)
    with pytest.raises(EstimatorError) as refused:
        remembering._load_optimizer_and_scheduler(folder)
    assert str(refused.value) == (
        f"{folder}: has no {STATE}, the state of seen; begin a new training with this model, or go on with the "
        "estimator that the checkpoint was made with"
    )
    torch.save({"batches": 4}, tmp_path / STATE)
    remembering._load_optimizer_and_scheduler(folder)
    assert remembering.estimator.loaded == {"batches": 4}
    assert theirs == [None, None, folder, folder, folder]


def test_a_reward_function_that_is_no_verifier_or_is_there_twice(trainer):
    make_with = partial(trainer, [])
    for functions, correctness, message in (
        ([short, wrong], "right", "correctness='right': expected one of the reward functions short, wrong"),
        ([short, short], "short", "correctness='short': expected one of the reward functions short, short"),
        (
            [short, wrong],
            None,
            "reward_funcs: 2 functions; name the verifier, whose outcome is in [0, 1], with correctness=, one of "
            "short, wrong",
        ),
    ):
        with pytest.raises(EstimatorError) as refused:
            make_with(kind=partial(replaced, functions), correctness=correctness)
        assert str(refused.value) == message
    assert make_with(kind=partial(replaced, [wrong]), correctness=None)._verifier == 0
    assert make_with(kind=partial(replaced, [short, wrong]), correctness="wrong")._verifier == 1


def replaced(functions, reward_funcs, **kwargs) -> LensGRPOTrainer:
    return LensGRPOTrainer(reward_funcs=functions, **kwargs)


def test_options_go_to_the_estimator_and_the_default_is_lens(trainer):
    it = trainer([], estimator="lens", estimator_options={"alpha": 0.5, "scope": "negative"})
    assert (it.estimator.name, it.estimator.config.alpha, it.estimator.config.scope) == ("lens", 0.5, "negative")
