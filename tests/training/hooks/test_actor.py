"""The PPO actor's own steps: what it sets up, an update and what it reports, checkpoints and weights."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from openrlhf.models.loss import PolicyLoss

from lens_openrlhf import cpu_runtime
from lens_openrlhf.advantages.estimators import Estimator
from lens_openrlhf.run_folder.log import EVENTS, read
from lens_openrlhf.training.checkpoints import layout
from lens_openrlhf.training.commandline import records
from lens_openrlhf.training.hooks import actor as actor_module
from lens_openrlhf.training.hooks.actor import LensPolicyModel, _entropy_replaced, _WithStatistics
from lens_openrlhf.training.hooks.columns import Needs
from lens_openrlhf.training.hooks.experience import LensExperienceMaker, WithStatistics
from lens_openrlhf.training.hooks.policy_loss import PolicyGradientLoss

from ..conftest import make_experiences, make_samples

OPENRLHFS = LensPolicyModel.__bases__[0]


@pytest.fixture
def start(monkeypatch, parse, tmp_path, one_rank_mesh):
    """start(*options, states=…) -> the actor as OpenRLHF would have made it, with one rank and no model."""

    def make(*more, estimator="lens", states=None, rank=0, on_cpu=True):
        places = ("--logger.run_dir", str(tmp_path), "--actor.model_name_or_path", str(tmp_path / "model"))
        args, given = parse(*places, *more, estimator=estimator), []
        monkeypatch.setattr(cpu_runtime, "required", lambda: on_cpu)

        def init(self, strategy, *args, **kwargs):
            assert self.columns is None  # OpenRLHF may ask for what ours has
            given.append((args, kwargs))
            self.strategy, self.checkpoint_states = strategy, states or {}
            buffer = SimpleNamespace(items=[], target_device="cuda:0", clear=lambda: None)
            self.trainer = SimpleNamespace(replay_buffer=buffer, actor_loss_fn=PolicyLoss())

        monkeypatch.setattr(OPENRLHFS, "init_model_from_pretrained", init)
        made = object.__new__(LensPolicyModel)
        strategy = SimpleNamespace(args=args, is_rank_0=lambda: rank == 0, ds_device_mesh=one_rank_mesh)
        made.init_model_from_pretrained(strategy, "model", max_steps=7)
        assert given == [(("model",), {"max_steps": 7})]
        return made

    return make


def test_it_is_ready_with_its_estimator(start, tmp_path):
    actor = start()
    assert actor.estimator.name == "lens" and actor.step == 0 and actor.take_columns() is None
    assert actor.needs == Needs(option="--algo.lens.confidence_from actor")
    assert actor.trainer.replay_buffer.target_device == torch.device("cpu")
    assert type(actor.trainer.actor_loss_fn) is PolicyLoss
    (event,) = read(tmp_path / EVENTS)
    assert (event["event"], event["where"], event["pid"]) == ("ready", "LensPolicyModel 0", os.getpid())


def test_with_cuda_the_buffer_stays_where_it_is(start):
    assert start(on_cpu=False).trainer.replay_buffer.target_device == "cuda:0"


def test_an_estimator_of_openrlhfs_is_none_of_ours(start):
    actor = start(estimator="rloo", states={"global_step": 3})
    assert actor.estimator is None and not hasattr(actor, "needs") and actor.take_columns() is None
    assert type(actor.trainer.actor_loss_fn) is PolicyLoss


@pytest.mark.parametrize(
    ("estimator", "more", "kind", "by_token"),
    [
        ("asymre", ["--actor.loss_agg_mode", "token-mean"], "reinforce", True),
        ("asymre", ["--actor.loss_agg_mode", "seq-mean-token-mean"], "reinforce", False),
        ("topr", ["--actor.loss_agg_mode", "token-mean"], "topr", True),
        ("topr", ["--actor.loss_agg_mode", "seq-mean-token-mean"], "topr", False),
    ],
)
def test_a_loss_of_its_own_is_added_up_as_the_option_says(start, estimator, more, kind, by_token):
    loss = start(*more, estimator=estimator).trainer.actor_loss_fn
    assert type(loss) is PolicyGradientLoss and (loss.kind, loss.token_level_loss) == (kind, by_token)


def fill(actor, scores=(1.0, 0.0, 0.0, 0.0), lengths=(3, 2, 4, 1)):
    from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer

    actor.trainer.replay_buffer = buffer = NaiveReplayBuffer(sample_batch_size=4)
    buffer.target_device = torch.device("cpu")
    for experience in make_experiences(actor.strategy.args, make_samples(scores, lengths), LensExperienceMaker):
        buffer.append(experience)


class Watches(Estimator):
    """Of batches, what it was told of them."""

    name = "watches"

    def __init__(self):
        super().__init__()
        self.steps, self.reported = [], []

    def advantages(self, batch):
        self.steps.append(batch.step)
        return batch.rewards

    def updated(self, status):
        self.reported.append(status)

    def prompt_weights(self, prompts):
        return prompts.double() / 2

    def state_dict(self):
        return {"steps": list(self.steps)}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def watched(start, monkeypatch, **given):
    estimator = Watches()
    monkeypatch.setattr(actor_module, "make_estimator", lambda args: estimator)
    return start(**given), estimator


@pytest.mark.parametrize("before", [0, 41])
def test_steps_are_counted_on_from_the_checkpoint(start, monkeypatch, tmp_path, before):
    states = {"global_step": before} if before else {}
    if before:
        checkpoint = tmp_path / "checkpoints" / layout.ACTOR / "global_step41"
        checkpoint.mkdir(parents=True)
        (checkpoint.parent / layout.LATEST).write_text("global_step41")
        torch.save({"steps": [41]}, checkpoint / layout.ESTIMATOR)
    actor, estimator = watched(start, monkeypatch, states=states)
    for _ in range(2):
        fill(actor)
        actor.compute_advantages()
    assert estimator.steps == ([41, 42, 43] if before else [1, 2])


def test_an_update_has_its_advantages_first_and_reports_both(start, monkeypatch):
    actor, estimator = watched(start, monkeypatch)
    fill(actor)
    seen = []

    def fit(self, kl_ctl):
        seen.append((kl_ctl, [float(item.info["return"]) for item in self.trainer.replay_buffer.items]))
        return {"policy_loss": 0.5, "actor_grad_norm": 1.0, "lens/dropped_samples": -1.0}

    monkeypatch.setattr(OPENRLHFS, "fit", fit)
    status = actor.fit(0.25)
    assert seen == [(0.25, [1.0, 0.0, 0.0, 0.0])]
    assert estimator.reported == [{"policy_loss": 0.5, "actor_grad_norm": 1.0, "lens/dropped_samples": -1.0}]
    assert (status["policy_loss"], status["lens/dropped_samples"], status["lens/mixed_groups"]) == (0.5, 0.0, 1.0)
    assert 0 <= status["lens/seconds"] < 60
    columns = actor.take_columns()
    assert columns["advantage"] == [1.0, 0.0, 0.0, 0.0] and actor.take_columns() is None


@pytest.mark.parametrize(("dtype", "ends"), [("bf16", True), ("fp16", False)])
def test_a_spoiled_update_ends_the_run_and_teaches_nothing(start, monkeypatch, dtype, ends):
    actor, estimator = watched(start, monkeypatch)
    actor.strategy.args.ds.param_dtype = dtype
    fill(actor)
    monkeypatch.setattr(OPENRLHFS, "fit", lambda self, kl_ctl: {"policy_loss": 0.5, "actor_grad_norm": -1.0})
    if ends:
        with pytest.raises(FloatingPointError, match=r"policy_loss 0.5 and actor_grad_norm -1 \(none\); the weights"):
            actor.fit()
        assert estimator.reported == []
    else:
        assert actor.fit()["actor_grad_norm"] == -1.0 and len(estimator.reported) == 1


def test_an_infinite_metric_of_the_estimators_does_not_end_the_run(start, monkeypatch):
    from lens_openrlhf.advantages.estimators import Result

    actor, estimator = watched(start, monkeypatch)
    fill(actor)
    estimator.advantages = lambda batch: Result(advantage=batch.rewards, metrics={"mine": math.inf, "none": None})
    monkeypatch.setattr(OPENRLHFS, "fit", lambda self, kl_ctl: {"policy_loss": 0.5, "ppo_kl": math.inf})
    status = actor.fit()
    assert status["mine"] == math.inf and status["none"] is None and status["ppo_kl"] == math.inf


def test_openrlhfs_own_estimators_report_what_it_reports(start, monkeypatch):
    actor = start(estimator="rloo")
    monkeypatch.setattr(OPENRLHFS, "fit", lambda self, kl_ctl: {"policy_loss": 0.5, "kl_ctl": kl_ctl})
    assert actor.fit() == {"policy_loss": 0.5, "kl_ctl": 0} and actor.take_columns() is None
    monkeypatch.setattr(OPENRLHFS, "fit", lambda self, kl_ctl: {"policy_loss": math.nan})
    with pytest.raises(FloatingPointError):
        actor.fit()


@pytest.mark.parametrize(("micro", "dropped"), [(1, 0), (5, 4), (7, 3)])
def test_samples_that_fill_no_batch_are_counted(start, micro, dropped):
    actor = start("--rollout.micro_batch_size", "4")
    fill(actor, [1.0, 0.0, 0.0, 0.0] * 6, [3, 2, 4, 1] * 6)
    actor.strategy.args.train.micro_batch_size = micro
    assert actor.compute_advantages()["lens/dropped_samples"] == dropped


def test_weights_of_prompts_are_its_own(start, monkeypatch):
    actor, _ = watched(start, monkeypatch)
    assert actor.prompt_weights(torch.tensor([3, 5])).tolist() == [1.5, 2.5]
    with pytest.raises(ValueError, match="prompt_weights raised ValueError: prompt 1 has weight 0.0"):
        actor.prompt_weights(torch.tensor([3, 0]))


def test_vllm_gets_weights_under_its_names(start, monkeypatch):
    from peft import LoraConfig, get_peft_model

    actor, sent = start(), []
    model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    actor.actor = SimpleNamespace(model=SimpleNamespace(module=get_peft_model(model, LoraConfig(target_modules=["0"]))))
    monkeypatch.setattr(
        OPENRLHFS,
        "broadcast_to_vllm",
        lambda self: sent.extend(name for name, _ in self.actor.model.module.named_parameters()),
    )
    actor.broadcast_to_vllm()
    assert sent == ["0.weight", "0.bias"]


# The forward pass


class Model:
    """OpenRLHF's model: log-probabilities that are the sequences, and two numbers of every position for an entropy."""

    def __init__(self, **more):
        self.calls = []
        vars(self).update(more)

    def eval(self):
        self.calls.append("eval")

    def train(self):
        self.calls.append("train")

    def __call__(self, sequences, action_mask, attention_mask, return_output=False, return_entropy=False, **kwargs):
        self.calls.append(kwargs)
        logprobs = -sequences[:, 1:].float()
        if not return_output:
            return logprobs
        assert return_entropy
        import openrlhf.models.actor as module

        logits = sequences[..., None].float() * torch.tensor([1.0, 0.0, 0.5])
        return logprobs, SimpleNamespace(entropy=module.compute_entropy(logits)[:, :-1].reshape(len(sequences), -1))


@pytest.mark.parametrize(
    ("needs", "asked"), [({"logprobs"}, None), ({"logprobs", "self_certainty"}, ["self_certainty"])]
)
def test_log_probabilities_come_without_asking(start, monkeypatch, needs, asked):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: "cpu")
    monkeypatch.setattr(Watches, "needs", frozenset(needs))
    actor, _ = watched(start, monkeypatch)
    actor.strategy.ring_attn_group, actor.actor = None, Model()
    sequences = torch.arange(12).reshape(2, 6)
    result = actor.forward(sequences, torch.ones(2, 5), torch.ones(2, 6))
    assert (list(result.statistics) if asked else result.shape) == (asked or (2, 5))


@pytest.mark.parametrize("estimator", ["rent", "intuitor", "lens", "rloo"])
def test_the_forward_pass_brings_what_the_estimator_needs(start, monkeypatch, estimator):
    from lens_openrlhf.advantages.token_statistics import statistics

    monkeypatch.setattr(torch.cuda, "current_device", lambda: "cpu")
    actor = start("--rollout.n_samples_per_prompt", "4", estimator=estimator)
    actor.strategy.ring_attn_group = "ring"
    actor.actor = model = Model()
    sequences, mask = torch.arange(12).reshape(2, 6), torch.ones(2, 5, dtype=torch.long)
    result = actor.forward(sequences, mask, torch.ones(2, 6, dtype=torch.long))
    assert actor.actor is model and model.calls == ["eval", {"ring_attn_group": "ring"}, "train"]
    needed = {"rent": "entropies", "intuitor": "self_certainty"}.get(estimator)
    if not needed:
        assert torch.equal(result, -sequences[:, 1:].float())
        return
    assert type(result) is WithStatistics and torch.equal(result.logprobs, -sequences[:, 1:].float())
    logits = sequences[..., None].float() * torch.tensor([1.0, 0.0, 0.5])
    expected = statistics(logits, (needed,)).reshape(2, 6)[:, :-1]
    assert list(result.statistics) == [needed] and torch.equal(result.statistics[needed], expected)


def test_statistics_are_those_of_the_last_positions(monkeypatch):
    from lens_openrlhf.advantages.token_statistics import statistics

    names = ("entropies", "self_certainty")
    wrapped = _WithStatistics(Model(), names)
    sequences, mask = torch.arange(12).reshape(2, 6), torch.ones(2, 3, dtype=torch.long)
    wrapped(sequences, mask, None)
    logits = sequences[..., None].float() * torch.tensor([1.0, 0.0, 0.5])
    expected = statistics(logits, names).reshape(2, 6, 2)[:, 2:5]
    for i, name in enumerate(names):
        assert torch.equal(wrapped.kept[name], expected[..., i])


def test_a_model_of_images_stays_one():
    assert _WithStatistics(Model(is_vlm=True), ()).is_vlm is True and _WithStatistics(Model(), ()).is_vlm is False
    wrapped = _WithStatistics(model := Model(), ("entropies",))
    wrapped(torch.arange(6).reshape(1, 6), torch.ones(1, 5), None, pixel_values="pixels")
    assert model.calls == [{"pixel_values": "pixels"}]


def test_a_forward_pass_that_fails_leaves_all_as_it_was(start, monkeypatch):
    import openrlhf.models.actor as module

    before = module.compute_entropy
    monkeypatch.setattr(torch.cuda, "current_device", lambda: "cpu")
    actor = start(estimator="rent")
    actor.actor = model = Model()  # and no strategy.ring_attn_group
    with pytest.raises(AttributeError):
        actor.forward(torch.ones(1, 2), torch.ones(1, 1), torch.ones(1, 2))
    assert actor.actor is model
    with pytest.raises(KeyError), _entropy_replaced(len):
        assert module.compute_entropy is len
        raise KeyError
    assert module.compute_entropy is before


# Checkpoints

STATES = {"global_step": 4, "episode": 0}


@pytest.fixture
def saved(start, monkeypatch, tmp_path):
    """saved(actor) -> what OpenRLHF was asked to write, once the actor's checkpoint of step 4 is there."""
    asked = []
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen2", "hidden_size": 8, "rope_theta": 1}')

    def save(self, tag, client_states, metric_value, metric_key):
        limits = self.strategy.args.ckpt
        asked.append((tag, client_states, metric_value, metric_key, limits.max_num, limits.max_mem))
        for place in (folder / layout.ACTOR / tag, folder / f"{tag}_hf"):
            place.mkdir(parents=True)
            (place / "weights").write_text("weights")

    folder = tmp_path / "checkpoints"
    monkeypatch.setattr(OPENRLHFS, "save_checkpoint", save)
    return asked


def test_a_checkpoint_has_all_that_a_run_goes_on_from(start, monkeypatch, saved, tmp_path):
    actor, estimator = watched(start, monkeypatch)
    estimator.steps = [1, 2, 3, 4]
    ckpt = actor.strategy.args.ckpt
    before = ckpt.max_num, ckpt.max_mem
    folder = tmp_path / "checkpoints"
    (folder / layout.ACTOR / "unfinished-global_step2").mkdir(parents=True)
    actor.save_checkpoint("global_step4", STATES, 0.5, "pass1")
    assert saved == [("unfinished-global_step4", STATES, 0.5, "pass1", sys.maxsize, math.inf)]
    assert (ckpt.max_num, ckpt.max_mem) == before
    states = folder / layout.ACTOR
    assert sorted(path.name for path in states.iterdir()) == ["global_step4", "latest"]
    assert (states / "latest").read_text() == "global_step4" and (folder / "global_step4_hf" / "weights").exists()
    assert torch.load(states / "global_step4" / layout.ESTIMATOR) == {"steps": [1, 2, 3, 4]}
    assert json.loads((states / "global_step4" / layout.FACTS).read_text()) == {
        "step": 4,
        "options": json.loads(json.dumps(records.chosen(actor.strategy.args), default=str)),
        "architecture": {"model_type": "qwen2", "hidden_size": 8},
    }


def test_a_checkpoint_without_a_state_is_of_step_0(start, saved, tmp_path):
    actor = start(estimator="rloo")
    actor.save_checkpoint("global_step4")
    assert saved[0][1:4] == (None, None, None)
    written = tmp_path / "checkpoints" / layout.ACTOR / "global_step4"
    assert json.loads((written / layout.FACTS).read_text())["step"] == 0 and not (written / layout.ESTIMATOR).exists()


def test_the_other_ranks_leave_the_checkpoint_to_the_first(start, saved, tmp_path):
    actor = start(rank=1)
    left = tmp_path / "checkpoints" / "unfinished-global_step2_hf"
    left.mkdir(parents=True)
    actor.save_checkpoint("global_step4", STATES)
    folder = tmp_path / "checkpoints"
    assert left.is_dir() and [path.name for path in (folder / layout.ACTOR).iterdir()] == ["unfinished-global_step4"]
    assert not (folder / layout.ACTOR / "unfinished-global_step4" / layout.ESTIMATOR).exists()


@pytest.mark.parametrize("error", [OSError("No space left"), RuntimeError("[enforce fail at inline_container.cc]\nat")])
def test_a_checkpoint_that_cannot_be_written_names_its_place(start, monkeypatch, tmp_path, error):
    def fails(self, *args):
        raise error

    monkeypatch.setattr(OPENRLHFS, "save_checkpoint", fails)
    actor = start()
    first = str(error).splitlines()[0].replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(OSError, match=rf"^--ckpt.path {tmp_path}/checkpoints: checkpoint global_step4 .*\({first}\)"):
        actor.save_checkpoint("global_step4", STATES)


def test_ranks_wait_for_the_checkpoint(start, monkeypatch, saved):
    waited = []
    actor = start()
    monkeypatch.setattr(actor_module.dist, "barrier", lambda: waited.append(Path(actor.strategy.args.ckpt.path)))
    actor.save_checkpoint("global_step4", STATES)
    assert waited == [Path(actor.strategy.args.ckpt.path)]
