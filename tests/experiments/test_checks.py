"""What is refused of a comparison before anything is made or started: options, unfair arms, missing files."""

from __future__ import annotations

import pytest

from lens_openrlhf import cpu_runtime
from lens_openrlhf.experiments import checks, spec
from lens_openrlhf.experiments.compare import main
from lens_openrlhf.experiments.runs import runs_of
from lens_openrlhf.experiments.spec import SpecError
from lens_openrlhf.process import cache_folder

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
    ({"options": {"ckpt.path": "x"}}, ["ckpt.path cannot be set"]),
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
    ({"split_by": ["hardness"]}, ["split_by: the runs do not record 'hardness'", "eval.split_by: [hardness]"]),
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


@pytest.mark.skipif(not cpu_runtime.required(), reason="with CUDA each needs a GPU")
def test_runs_at_once_may_share_cpus(sound, tmp_path):
    wanted = sound(parallel=3)
    checks.check_inputs(wanted, runs_of(wanted, checks.check(wanted)), tmp_path)


@pytest.mark.skipif(cpu_runtime.required(), reason="without CUDA the runs share CPUs")
def test_more_runs_at_once_than_gpus(sound, tmp_path):
    wanted = sound(parallel=1000)
    with pytest.raises(SpecError, match="parallel is 1000"):
        checks.check_inputs(wanted, runs_of(wanted, checks.check(wanted)), tmp_path)
