"""What is refused of a comparison before anything is made or started: options, unfair arms, missing files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lens_openrlhf import cpu_runtime
from lens_openrlhf.experiments import checks, spec
from lens_openrlhf.experiments.compare import main
from lens_openrlhf.experiments.runs import runs_of
from lens_openrlhf.experiments.spec import SpecError
from lens_openrlhf.process import cache_folder
from lens_openrlhf.training.commandline import preflight

from ..e2e.conftest import ROOT

EXAMPLES = sorted((ROOT / "examples" / "compare").glob("*.yaml"))


def test_checking_makes_nothing_of_a_profile(monkeypatch, tmp_path):
    """The tiny profile trains its model on first use; a spec that is refused must not wait for that."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arms = checks.check(spec.read(EXAMPLES[0]))
    assert all(options["actor.model_name_or_path"] == ["${demo}/model"] for options in arms.values())
    assert not cache_folder().exists()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_sound(path):
    wanted = spec.read(path)
    assert wanted.name == path.stem
    checks.check(wanted)


OPTIONS = [
    ({"options": {"algo.lens.alhpa": 1}}, ["options: unknown option algo.lens.alhpa", "did you mean algo.lens.alpha?"]),
    ({"arms": {"A": {"algo.lens.scop": "none"}}}, ["arm 'A'", "algo.lens.scop", "algo.lens.scope?"]),
    ({"options": {"--eval.at_end": True}}, ["unknown option --eval.at_end", "eval.at_end?"]),
    ({"options": {"algo.lens": 1}}, ["unknown option algo.lens"]),
    ({"options": {"train.seed": 1}}, ["options: train.seed cannot be set", "seeds"]),
    ({"arms": {"A": {"logger.run_dir": "x"}}}, ["arm 'A': logger.run_dir cannot be set"]),
    ({"options": {"ckpt.path": "x"}}, ["ckpt.path cannot be set: every run writes into its own folder; leave it out"]),
    ({"options": {"algo.lens.enabled": True}}, ["options: unknown option algo.lens.enabled"]),
    ({"options": {"algo.lens.estimator": "lens"}}, ["options: unknown option algo.lens.estimator;"]),
    ({"options": {"nothing_like_it_at_all": 1}}, ["options: unknown option nothing_like_it_at_all\n"]),
    ({"arms": {"A": {}, "B": {"eval.steps": 3, "eval.stepz": 3}}}, ["arm 'B': unknown option eval.stepz"]),
    (
        {"allow_unfair": ["rollout.top_p", "eval.stps"]},
        ["allow_unfair: unknown option eval.stps; did you mean eval.steps?"],
    ),
    ({"allow_unfair": ["eval.temprature"]}, ["allow_unfair: unknown option", "eval.temperature?"]),
    ({"arms": {"A": {"algo.lens.scope": "all"}}}, ["arm 'A', seed 1", "--algo.lens.scope", "invalid choice: 'all'"]),
    ({"arms": {"A": {"actor.adam.lr": "fast"}}}, ["arm 'A', seed 1", "--actor.adam.lr", "'fast'"]),
    ({"arms": {"A": {"eval.at_start": 3}}}, ["arm 'A', seed 1", "3"]),
    ({"options": {"train.batch_size": 7}}, ["arm 'GRPO', seed 1: --train.batch_size 7", "does not divide"]),
    ({"arms": {"A": {}, "B": {"algo.lens.alpha": -1}}}, ["arm 'B', seed 1: --algo.lens.alpha=-1"]),
    ({"options": {"eval.at_end": None}}, ["arm 'GRPO', seed 1: --eval.at_end is missing", "eval.at_end: true"]),
    ({"options": {"eval.dataset": None}}, ["arm 'GRPO', seed 1: ", "--eval.dataset"]),
    ({"options": {"eval.dataset": None, "eval.at_end": None}}, ["--eval.dataset is missing", "eval.dataset: FILE"]),
    ({"k": [1, 8]}, ["k: 8 is more than the 4 answers", "eval.n_samples_per_prompt: 8"]),
    (
        {"split_by": ["level", "hardness"]},
        [
            "split_by: the runs do not record 'hardness' (arm 'GRPO', seed 1: level, source, datasource, type); add "
            "eval.split_by: [hardness] to options"
        ],
    ),
    (
        {"split_by": ["level"], "options": {"eval.split_by": ["topic", "year"]}},
        ["split_by: the runs do not record 'level' (arm 'GRPO', seed 1: topic, year); add "],
    ),
    ({"profile": "tinny"}, ["profile: tinny", "tiny"]),
]


@pytest.mark.parametrize(("change", "words"), OPTIONS, ids=lambda value: str(value)[:50])
def test_options_that_cannot_work(content, write, change, words, tmp_path, capsys):
    change = dict(change)
    options = content["options"] | change.pop("options", {})
    path = write(content | change | {"options": options})
    assert main([str(path), "-o", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert len([line for line in message.splitlines() if line.startswith("error: ")]) == 1
    for word in words:
        assert word in message
    assert not (tmp_path / "out").exists()


def test_as_much_as_may_be_asked_for(sound):
    wanted = sound(
        {"actor.muon.no_nesterov": True, "eval.split_by": ["topic", "year"]},
        **dict(k=[1, 4], split_by=["year"], allow_unfair=["critic.muon.no_nesterov"]),
    )
    arms = checks.check(wanted)
    assert list(arms) == ["GRPO", "LENS"] and arms["GRPO"]["algo.lens.scope"] == ["none"]
    checks.check(sound(split_by=["type", "level"]))


def test_checking_says_nothing_of_its_own(sound, capfd):
    """What the training command would remark is said when a run is trained."""
    checks.check(sound({"actor.adam.lr": 1.0, "eval.steps": 5}))
    with pytest.raises(SpecError):
        checks.check(sound({"actor.adam.lr": "fast"}))
    assert capfd.readouterr() == ("", "")


UNFAIR = {
    "data.prompt_dataset": "other.jsonl",
    "data.max_samples": 8,
    "eval.dataset": "other.jsonl",
    "eval.temperature": 1.0,
    "eval.n_samples_per_prompt": 8,
    "actor.model_name_or_path": "other",
    "reward.remote_url": "other.py",
    "rollout.batch_size": 16,
    "rollout.n_samples_per_prompt": 8,
    "rollout.max_new_tokens": 7,
    "train.batch_size": 32,
    "rollout.micro_batch_size": 2,
    "rollout.top_p": 0.9,
    "train.micro_batch_size": 2,
    "train.num_episodes": 2,
}


@pytest.mark.parametrize("option", UNFAIR)
def test_an_arm_may_not_change_what_it_is_judged_by(sound, option):
    wanted = {"arms": {"GRPO": {}, "LENS": {option: UNFAIR[option]}}}
    with pytest.raises(SpecError) as caught:
        checks.check(sound(**wanted))
    message = str(caught.value)
    assert message.startswith(f"arm 'LENS': {option} is ") and f"allow_unfair: [{option}]" in message
    # Where it is not set, vLLM's batch is the rollout's.
    checks.check(sound(**wanted, allow_unfair=[option, "rollout.vllm_generate_batch_size"]))


@pytest.mark.parametrize(
    ("option", "value", "shared", "allowed"),
    [
        ("train.agent_func_path", "agent.py", {}, ["reward.remote_url"]),  # the agent gives the rewards
        ("rollout.vllm_generate_batch_size", 16, {"train.async_enable": True}, []),
        ("reward.model_name_or_path", "judge", {"algo.advantage.estimator": "reinforce"}, []),
    ],
)
def test_nor_where_other_options_go_with_it(sound, option, value, shared, allowed):
    arms = {"GRPO": {}, "LENS": {option: value}}
    with pytest.raises(SpecError, match=f"arm 'LENS': {option} is "):
        checks.check(sound(shared, arms=arms, allow_unfair=allowed))
    checks.check(sound(shared, arms=arms, allow_unfair=[*allowed, option]))


@pytest.mark.parametrize("allowed", ["eval.temperature", "rollout.top_p"])
def test_allowing_one_option_allows_no_other(sound, allowed):
    own = {"eval.temperature": 1.0, "rollout.top_p": 0.9}
    (other,) = own.keys() - {allowed}
    with pytest.raises(SpecError, match=f"arm 'LENS': {other} is "):
        checks.check(sound(arms={"GRPO": {}, "LENS": own}, allow_unfair=[allowed]))
    checks.check(sound(arms={"GRPO": {}, "LENS": own}, allow_unfair=list(own)))


def test_every_arm_is_judged_by_the_first(sound):
    with pytest.raises(SpecError, match="arm 'C': rollout.top_p is 0.9 and 1.0 in the first arm"):
        checks.check(sound(arms={"A": {}, "B": {"algo.lens.alpha": 1}, "C": {"rollout.top_p": 0.9}}))


def test_an_arm_may_change_how_it_learns(sound):
    own = {"actor.adam.lr": 1e-4, "actor.eps_clip": 0.3, "algo.advantage.estimator": "rloo", "algo.kl.init_coef": 0.0}
    checks.check(sound(arms={"LENS": {}, "RLOO": own}))


def test_seeds_may_have_models_and_data_of_their_own(sound):
    checks.check(sound({"actor.model_name_or_path": "models/{seed}", "data.prompt_dataset": "train-{seed}.jsonl"}))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"actor.model_name_or_path": "./absent-{seed}"}, ["--actor.model_name_or_path ./absent-1", "no such folder"]),
        ({"data.prompt_dataset": "./absent.jsonl"}, ["--data.prompt_dataset ./absent.jsonl", "no such file"]),
        ({"eval.dataset": "./absent.jsonl"}, ["--eval.dataset ./absent.jsonl", "no such file"]),
        ({"data.label_key": "answer"}, ["line 1", "'answer'"]),
        ({"reward.remote_url": "./absent.py"}, ["--reward.remote_url ./absent.py", "no such file"]),
    ],
)
def test_what_a_run_needs_must_be_there(content, write, options, words, tmp_path, capsys):
    path = write(content | {"options": content["options"] | options})
    for more in (["--dry_run"], []):
        assert main([str(path), "-o", str(tmp_path / "out"), *more]) == 2
        message = capsys.readouterr().err
        assert "error: arm 'GRPO', seed 1: " in message
        for word in words:
            assert word in message
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize("change", [{"split_by": ["level"]}, {"options": {"eval.split_by": ["level"]}}])
def test_the_data_must_have_the_columns_to_split_by(sound, tmp_path, change):
    wanted = sound(**change)
    with pytest.raises(SpecError, match="heldout.jsonl: line 1 has no 'level'"):
        checks.check_inputs(wanted, runs_of(wanted, checks.check(wanted)), tmp_path)


@pytest.fixture
def checked(monkeypatch):
    """The options whose surroundings are checked; every model and file is taken for good."""
    seen = []
    monkeypatch.setattr(preflight, "check_surroundings", seen.append)
    return seen


def test_what_runs_need_is_checked_run_by_run(sound, tmp_path, checked):
    """As if they wrote into a new folder: what an interrupted run left in its own is dealt with later."""
    wanted = sound({"eval.split_by": ["topic"]}, split_by=["topic"], seeds=[4, 2])
    checks.check_inputs(wanted, runs_of(wanted, checks.check(wanted)), tmp_path)
    assert [(args.train.seed, args.algo.lens.scope) for args in checked] == [
        *((4, "none"), (4, "both"), (2, "none"), (2, "both")),
    ]
    for args in checked:
        assert Path(args.logger.run_dir) == tmp_path / "runs" and args.eval.split_by == ["topic", "topic"]
    wanted = sound()
    checks.check_inputs(wanted, runs_of(wanted, checks.check(wanted)), tmp_path)
    assert checked[-1].eval.split_by == []


@pytest.mark.parametrize(
    ("parallel", "gpus", "told"),
    [
        (1, 1, None),
        (2, 4, None),
        (2, 3, "parallel is 2, which leaves 1 GPUs a run, and arm 'GRPO', seed 1 needs 2: run fewer at once"),
        (3, 6, None),
        (3, 5, "parallel is 3, which leaves 1 GPUs a run"),
        (4, 3, "parallel is 4, which leaves 0 GPUs a run"),
    ],
)
def test_runs_at_once_share_the_gpus(sound, tmp_path, monkeypatch, checked, parallel, gpus, told):
    """Each needs two, for its model and its sampler. A single run's are counted with its surroundings."""
    wanted = sound(parallel=parallel)
    runs = runs_of(wanted, checks.check(wanted))
    monkeypatch.setattr(cpu_runtime, "required", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if told is None:
        checks.check_inputs(wanted, runs, tmp_path)
        assert len(checked) == 4
        return
    with pytest.raises(SpecError) as caught:
        checks.check_inputs(wanted, runs, tmp_path)
    assert told in str(caught.value) and len(checked) == 1


@pytest.mark.skipif(not cpu_runtime.required(), reason="with CUDA each needs a GPU")
def test_runs_at_once_may_share_cpus(sound, tmp_path):
    wanted = sound(parallel=3)
    checks.check_inputs(wanted, runs_of(wanted, checks.check(wanted)), tmp_path)


@pytest.mark.skipif(cpu_runtime.required(), reason="without CUDA the runs share CPUs")
def test_more_runs_at_once_than_gpus(sound, tmp_path):
    wanted = sound(parallel=1000)
    with pytest.raises(SpecError, match="parallel is 1000"):
        checks.check_inputs(wanted, runs_of(wanted, checks.check(wanted)), tmp_path)
