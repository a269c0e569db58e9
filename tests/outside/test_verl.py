"""verl's side of the estimators: the real package where it is installed, else a stand-in with the same signatures.

The stand-in follows verl 0.9.1: the registry of core_algos, and the part of compute_advantage that calls an estimator
which is not verl's own.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import tomllib
import torch

from lens_openrlhf.advantages import LensConfig
from lens_openrlhf.advantages.estimators import Estimator, EstimatorError, names
from lens_openrlhf.advantages.reference import lens_advantages

REAL = importlib.util.find_spec("verl") is not None


def stand_in() -> dict[str, ModuleType]:
    modules = {name: ModuleType(name) for name in ("verl", "verl.trainer", "verl.trainer.ppo")}
    core = modules["verl.trainer.ppo.core_algos"] = ModuleType("verl.trainer.ppo.core_algos")
    trainer = modules["verl.trainer.ppo.ray_trainer"] = ModuleType("verl.trainer.ppo.ray_trainer")
    elsewhere = modules["verl.elsewhere"] = ModuleType("verl.elsewhere")
    core.ADV_ESTIMATOR_REGISTRY = {"grpo": lambda **_: None}
    core.get_adv_estimator_fn = core.ADV_ESTIMATOR_REGISTRY.__getitem__

    def register_adv_est(name):
        def decorator(function):
            assert name not in core.ADV_ESTIMATOR_REGISTRY
            core.ADV_ESTIMATOR_REGISTRY[name] = function
            return function

        return decorator

    def compute_advantage(
        data, adv_estimator, gamma=1.0, lam=1.0, num_repeat=1, norm_adv_by_std_in_grpo=True, config=None
    ):
        kwargs = {
            "token_level_rewards": data.batch["token_level_rewards"],
            "response_mask": data.batch["response_mask"],
            "config": config,
        }
        if "uid" in data.non_tensor_batch:
            kwargs["index"] = data.non_tensor_batch["uid"]
        data.batch["advantages"], data.batch["returns"] = core.get_adv_estimator_fn(adv_estimator)(**kwargs)
        return data

    core.register_adv_est = register_adv_est
    trainer.compute_advantage = elsewhere.compute_advantage = compute_advantage
    modules["verl.trainer.ppo"].core_algos, modules["verl.trainer.ppo"].ray_trainer = core, trainer
    return modules


@pytest.fixture
def verl(monkeypatch):
    """compute_advantage's module, and ours, freshly imported."""
    if not REAL:
        for name, module in stand_in().items():
            monkeypatch.setitem(sys.modules, name, module)
    core = importlib.import_module("verl.trainer.ppo.core_algos")
    trainer = importlib.import_module("verl.trainer.ppo.ray_trainer")
    # What verl has loaded by the entry point is forgotten, so that each test begins with verl alone.
    for name, function in list(core.ADV_ESTIMATOR_REGISTRY.items()):
        if function.__module__.startswith("lens_openrlhf"):
            del core.ADV_ESTIMATOR_REGISTRY[name]
    theirs = trainer.compute_advantage
    monkeypatch.setattr(trainer, "compute_advantage", getattr(theirs, "__wrapped__", theirs))
    sys.modules.pop("lens_openrlhf.outside.verl", None)
    sys.modules.pop("lens_openrlhf.outside.verl_logprobs", None)
    ours = importlib.import_module("lens_openrlhf.outside.verl")
    yield SimpleNamespace(
        core=core, trainer=trainer, ours=ours, compute=lambda *a, **k: trainer.compute_advantage(*a, **k)
    )
    sys.modules.pop("lens_openrlhf.outside.verl", None)
    sys.modules.pop("lens_openrlhf.outside.verl_logprobs", None)


def batch(seed: int = 0):
    """A batch of verl: 6 answers to 2 prompts in any order, padded, a gap (tool output) in one; the rewards at ends."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[1] * n + [0] * (5 - n) for n in (3, 5, 2, 4, 5, 1)])
    mask[1, 2] = 0
    rewards = torch.zeros(6, 5)
    rewards[torch.arange(6), mask.cumsum(1).argmax(1)] = torch.tensor([0.0, 0, 0, 1, 0, 0])
    logprobs = -torch.rand(6, 5, generator=generator)
    tensors = {"token_level_rewards": rewards, "response_mask": mask, "old_log_probs": logprobs}
    uid = np.array(["a", "b", "a", "b", "b", "a"], dtype=object)
    if not REAL:
        return SimpleNamespace(batch=tensors, non_tensor_batch={"uid": uid})
    from verl import DataProto

    return DataProto.from_dict(tensors, non_tensors={"uid": uid})


def expected(data, **options):
    order = torch.tensor([0, 2, 5, 1, 3, 4])  # the answers to a, then those to b
    mask = data.batch["response_mask"][order].bool()
    found = torch.empty(6, dtype=torch.float64)
    found[order] = lens_advantages(
        data.batch["old_log_probs"][order][mask].double(),
        torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)]),
        data.batch["token_level_rewards"][order].sum(1).double(),
        torch.tensor([0, 3, 6]),
        LensConfig(**options),
    ).advantage
    return found[:, None] * data.batch["response_mask"]


def test_with_log_probabilities_handed_on_the_advantages_are_the_references(verl):
    importlib.import_module("lens_openrlhf.outside.verl_logprobs")
    data = verl.compute(batch(), "lens", config={"adv_estimator": "lens"})
    torch.testing.assert_close(data.batch["advantages"].double(), expected(data), rtol=1e-5, atol=1e-7)
    assert (data.batch["advantages"][0] != 0).any(), "an all-wrong group"
    assert torch.equal(data.batch["returns"], data.batch["advantages"])
    options = {"lens": {"alpha": 1.0}}
    data = verl.compute(batch(1), "lens", num_repeat=3, config=options)
    torch.testing.assert_close(data.batch["advantages"].double(), expected(data, alpha=1.0), rtol=1e-5, atol=1e-7)
    with pytest.raises(EstimatorError, match="lens: has no option beta; known: scope, alpha"):
        verl.compute(batch(), "lens", config={"lens": {"beta": 1}})


def test_modules_that_had_imported_the_function_hand_them_on_too(verl, monkeypatch):
    elsewhere = sys.modules.get("verl.elsewhere") or ModuleType("verl.elsewhere")
    monkeypatch.setitem(sys.modules, "verl.elsewhere", elsewhere)
    elsewhere.compute_advantage = verl.trainer.compute_advantage
    verl.ours.hand_on_logprobs()
    patched = verl.trainer.compute_advantage
    verl.ours.hand_on_logprobs()
    assert verl.trainer.compute_advantage is patched is elsewhere.compute_advantage
    assert elsewhere.compute_advantage(batch(), "lens").batch["advantages"].shape == (6, 5)


def test_where_they_are_an_argument_nothing_has_to_be_patched(verl):
    data = batch()
    advantages, _ = verl.core.get_adv_estimator_fn("lens")(
        **{name: data.batch[name] for name in ("token_level_rewards", "response_mask", "old_log_probs")},
        index=data.non_tensor_batch["uid"],
        config=None,
        something_of_a_later_verl=1,
    )
    torch.testing.assert_close(advantages.double(), expected(data), rtol=1e-5, atol=1e-7)


def test_without_them_the_error_says_how_to_get_them(verl):
    with pytest.raises(EstimatorError, match="VERL_USE_EXTERNAL_MODULES=lens_openrlhf.outside.verl_logprobs"):
        verl.compute(batch(), "lens")
    verl.ours.hand_on_logprobs()
    data = batch()
    del data.batch["old_log_probs"]
    with pytest.raises(EstimatorError, match="adv_estimator=lens: the batch has no old_log_probs"):
        verl.compute(data, "lens")


class Seen(Estimator):
    """Keeps what it gets; its options are none."""

    name = "seen"
    needs = frozenset({"logprobs"})

    def __init__(self, config=None):
        super().__init__(config)
        self.batches = []

    def advantages(self, batch):
        self.batches.append(batch)
        return batch.logprobs


def test_what_the_estimator_gets_and_one_number_a_token(verl, monkeypatch):
    made = []

    def make(kind, *args, **kwargs):
        made.append((kind, args, kwargs))
        return real(Seen, *args, **kwargs)

    real = verl.ours.make
    monkeypatch.setattr(verl.ours, "make", make)
    data = batch()
    tensors = ("token_level_rewards", "response_mask", "old_log_probs")
    given = {name: data.batch[name] for name in tensors} | {"index": data.non_tensor_batch["uid"]}
    given["token_level_rewards"][1, 0] = 0.25
    for _ in range(2):
        advantages, returns = verl.ours.compute("lens", **given)
    verl.ours.compute("rent", **given)
    assert made == [(name, ("verl", ("logprobs",), {}), {"keeps_state": False}) for name in ("lens", "rent")]
    first, second = verl.ours._made["lens"][1].batches
    assert (first.step, second.step) == (1, 2) and verl.ours._made["rent"][1].batches[0].step == 1
    order, mask = [0, 2, 5, 1, 3, 4], data.batch["response_mask"].bool()
    assert first.cu_groups.tolist() == [0, 3, 6] and first.prompts is None
    assert first.lengths.tolist() == [3, 2, 1, 4, 4, 5]
    assert first.correctness.tolist() == first.rewards.tolist() == [0, 0, 0, 0.25, 1, 0]
    logprobs = data.batch["old_log_probs"]
    assert torch.equal(first.logprobs, torch.cat([logprobs[row][mask[row]] for row in order]))
    assert torch.equal(advantages, torch.where(mask, logprobs, 0.0)) and returns is advantages


def test_an_estimator_is_made_once_for_its_options(verl):
    data = batch()
    tensors = ("token_level_rewards", "response_mask", "old_log_probs")
    given = {name: data.batch[name] for name in tensors} | {"index": data.non_tensor_batch["uid"]}

    def used(options) -> object:
        verl.ours.compute("lens", **given, config=None if options is None else {"lens": options})
        return verl.ours._made["lens"][1]

    first = used({"alpha": 0.5})
    assert used({"alpha": 0.5}) is first and first.config == LensConfig(alpha=0.5)
    other = used(None)
    assert other is not first and other.config == LensConfig() and used({}) is other
    verl.ours.compute("lens", **given, config={"lens": None, "use_kl_in_reward": False})
    assert verl.ours._made["lens"][1] is other
    assert verl.ours._steps == {"lens": 5}


def test_log_probabilities_are_handed_on_for_one_call(verl):
    """Those that are an argument go before, and nothing is left over, whatever was raised."""
    verl.ours.hand_on_logprobs()
    data = batch()
    given = {name: data.batch[name] for name in ("token_level_rewards", "response_mask")}
    given["index"] = data.non_tensor_batch["uid"]
    seen = []

    def adv_estimator(**kwargs):
        seen.append(verl.ours._handed.get())
        advantages, _ = verl.ours.compute("lens", **given, old_log_probs=batch(1).batch["old_log_probs"])
        seen.append(advantages)
        raise RuntimeError("no more")

    verl.core.ADV_ESTIMATOR_REGISTRY["lens"] = adv_estimator
    with pytest.raises(RuntimeError, match="no more"):
        verl.compute(data, "lens")
    assert seen[0] is data.batch["old_log_probs"] and verl.ours._handed.get() is None
    torch.testing.assert_close(seen[1].double(), expected(batch(1)), rtol=1e-5, atol=1e-7)
    del verl.core.ADV_ESTIMATOR_REGISTRY["lens"]


def test_an_estimator_of_verls_own_is_called_as_before(verl):
    calls = []
    verl.core.ADV_ESTIMATOR_REGISTRY["theirs"] = lambda **given: calls.append(given) or ("advantages", "returns")
    verl.ours.hand_on_logprobs()
    data = batch() if not REAL else None
    if data is None:
        pytest.skip("the real verl's own estimators are given more")
    del data.batch["old_log_probs"]
    verl.compute(data, "theirs", 1.0, config={"a": 1})
    (call,) = calls
    assert call["config"] == {"a": 1} and verl.ours._handed.get() is None
    assert (data.batch["advantages"], data.batch["returns"]) == ("advantages", "returns")


def test_only_verls_modules_are_changed(verl, monkeypatch):
    """Whoever else has the function by name keeps it, as a module of verl's that has another under that name."""
    theirs, another = verl.trainer.compute_advantage, object()
    mine, verls, nameless = ModuleType("verlike.mine"), ModuleType("verl.other"), ModuleType("verl.nameless")
    mine.compute_advantage, verls.compute_advantage = theirs, another
    del nameless.__name__
    for module in (mine, verls, nameless):
        monkeypatch.setitem(sys.modules, f"tests.{id(module)}", module)
    verl.ours.hand_on_logprobs()
    assert mine.compute_advantage is theirs and verls.compute_advantage is another
    assert verl.trainer.compute_advantage.__wrapped__ is theirs
    assert verl.trainer.compute_advantage.__name__ == "compute_advantage"


KL = (
    "verl: algorithm.use_kl_in_reward puts a KL term into the reward, where the verifier's outcome is needed; use "
    "actor_rollout_ref.actor.use_kl_loss"
)
FEW = "verl: actor_rollout_ref.rollout.n={}: so few answers to a prompt teach {} nothing; use at least {}"


def test_what_cannot_work_is_refused(verl):
    verl.ours.hand_on_logprobs()

    def refusal(name="lens", config=None, uid=("a", "b", "a", "b", "b", "a"), **rewards) -> str:
        data = batch()
        for place, value in rewards.items():
            data.batch["token_level_rewards"][int(place[1]), :] = 0
            data.batch["token_level_rewards"][int(place[1]), 0] = value
        data.non_tensor_batch["uid"] = np.array(uid, dtype=object)
        with pytest.raises(EstimatorError) as refused:
            verl.compute(data, name, config=config)
        return str(refused.value)

    outcome = (
        "verl: response {} has the reward {}, but the verifier's outcome is in [0, 1]; let the reward function return "
        "that"
    )
    assert refusal(_2=-0.5, _4=2.0) == outcome.format(2, -0.5)
    assert refusal(_4=1.5) == outcome.format(4, 1.5)
    assert refusal(_0=float("nan")) == outcome.format(0, "nan")
    assert refusal(config={"use_kl_in_reward": True}) == KL
    assert refusal(uid=range(6)) == FEW.format(1, "lens", 2)
    # A group that is larger is enough.
    assert refusal("passk", {"passk": {"k": 3}}) == FEW.format(3, "passk", 4)
    verl.compute(batch(), "passk", config={"passk": {"k": 2}, "use_kl_in_reward": False})
    assert refusal("rent") == (
        "rent: needs entropies, which verl does not hand on; use another estimator, or lens-openrlhf train"
    )
    with pytest.raises(EstimatorError) as refused:
        verl.ours.compute("lens", torch.zeros(2, 1), torch.ones(2, 1), ["a", "a"])
    assert str(refused.value) == (
        "verl: adv_estimator=lens needs old_log_probs, which verl computes but does not hand on; set "
        "VERL_USE_EXTERNAL_MODULES=lens_openrlhf.outside.verl_logprobs in the environment of the trainer and its Ray "
        "workers"
    )
    with pytest.raises(EstimatorError) as refused:
        verl.ours.compute("lens", torch.zeros(2, 1), torch.ones(2, 1), old_log_probs=torch.zeros(2, 1))
    assert str(refused.value) == "verl: the batch has no uid, which tells whose answers are compared"


def test_every_estimator_is_registered_under_its_name(verl):
    theirs = {"grpo"} if not REAL else set(verl.core.ADV_ESTIMATOR_REGISTRY) - verl.ours.OURS
    assert verl.ours.OURS == set(names()) - theirs
    assert set(verl.core.ADV_ESTIMATOR_REGISTRY) >= verl.ours.OURS


def test_verls_own_estimators_stay_verls(verl):
    theirs = verl.core.ADV_ESTIMATOR_REGISTRY["grpo"]
    assert "grpo" not in verl.ours.OURS and "lens" in verl.ours.OURS
    verl.ours.hand_on_logprobs()
    assert verl.core.ADV_ESTIMATOR_REGISTRY["grpo"] is theirs


def test_verl_finds_the_module_by_its_entry_point(verl):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["verl.plugins"] == {"lens_openrlhf": verl.ours.__name__}
