"""Specs: what runs they mean, and what is refused before anything is made or started."""

from __future__ import annotations

import pytest

from lens_openrlhf import cpu_runtime
from lens_openrlhf.experiments import spec
from lens_openrlhf.experiments.compare import main
from lens_openrlhf.experiments.spec import SpecError
from lens_openrlhf.training.commandline import profiles
from lens_openrlhf.training.commandline.options import flatten

from ..e2e.conftest import ROOT

EXAMPLES = sorted((ROOT / "examples" / "compare").glob("*.yaml"))


def commands(wanted: spec.Spec, folder) -> dict[str, list[str]]:
    return {run.key: run.command(folder) for run in spec.runs_of(wanted, spec.arm_options(wanted))}


def test_runs_go_seed_by_seed(sound):
    wanted = sound(seeds=[5, 3])
    assert [run.key for run in spec.runs_of(wanted, spec.check(wanted))] == [
        *("GRPO/seed-5", "LENS/seed-5", "GRPO/seed-3", "LENS/seed-3")
    ]


def test_arms_of_a_seed_differ_in_their_own_options_alone(sound, tmp_path):
    wanted = sound(arms={"GRPO": {"algo.lens.scope": "none"}, "LENS": {"algo.lens.alpha": 1}})
    flat = {run.key: flatten(spec.parse(run, tmp_path, "")) for run in spec.runs_of(wanted, spec.check(wanted))}
    for seed in wanted.seeds:
        one, other = flat[f"GRPO/seed-{seed}"], flat[f"LENS/seed-{seed}"]
        assert {name for name in one if one[name] != other[name]} == {"algo.lens.scope", "algo.lens.alpha"}
        assert one["train.seed"] == seed
    between = {name for name in one if flat["GRPO/seed-1"][name] != flat["GRPO/seed-2"][name]}
    assert between == {"train.seed"}


def test_values_become_words(sound, tmp_path):
    given = {
        "algo.kl.use_loss": True,
        "actor.adam.betas": [0.9, 0.99],
        "actor.adam.lr": "1e-5",
        "data.label_key": None,
        "data.input_template": "seed {seed}: {}",
    }
    words = commands(sound(given), tmp_path)["LENS/seed-2"]
    at = words.index("--algo.kl.use_loss")
    assert words[at + 1].startswith("--")
    for expected in (
        ["--actor.adam.betas", "0.9", "0.99"],
        ["--actor.adam.lr", "1e-5"],
        ["--data.input_template", "seed 2: {}"],
        ["--train.seed", "2", "--logger.run_dir", str(tmp_path)],
    ):
        at = words.index(expected[0])
        assert words[at : at + len(expected)] == expected
    assert "--data.label_key" not in words


def test_a_profile_comes_first_and_its_options_can_be_removed(sound, tmp_path):
    profile = tmp_path / "mine.args"
    profile.write_text("--algo.lens.alpha 2  # twice\n--eval.at_start --actor.adam.betas 0.8 0.9\n--train.seed 77\n")
    wanted = sound(profile=str(profile), arms={"removed": {"algo.lens.alpha": None, "eval.at_start": None}, "kept": {}})
    removed, kept = (commands(wanted, tmp_path)[f"{arm}/seed-1"] for arm in ("removed", "kept"))
    assert kept[:6] == ["--algo.lens.alpha", "2", "--eval.at_start", "--actor.adam.betas", "0.8", "0.9"]
    assert "--algo.lens.alpha" not in removed and "--eval.at_start" not in removed
    assert removed.count("--train.seed") == kept.count("--train.seed") == 1 and "77" not in kept


def test_what_a_method_brings_wins_over_a_profile_made_for_another(content, write):
    del content["options"]["algo.advantage.estimator"]
    content |= {"profile": "tiny", "options": {"eval.max_samples": 8}}
    dapo = {"algo.advantage.estimator": "dapo"}
    mine = dapo | {"actor.loss_agg_mode": "seq-mean-token-mean"}
    content["arms"] = {"LENS": {}, "DAPO": dapo, "mine": mine, "none": {"algo.advantage.estimator": None}}
    arms = spec.arm_options(spec.read(write(content)))
    modes = [options.get("actor.loss_agg_mode") for options in arms.values()]
    assert modes == [["seq-mean-token-mean"], None, ["seq-mean-token-mean"], ["seq-mean-token-mean"]]


def test_checking_makes_nothing_of_a_profile(monkeypatch, tmp_path):
    """The tiny profile trains its model on first use; a spec that is refused must not wait for that."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arms = spec.check(spec.read(EXAMPLES[0]))
    assert all(options["actor.model_name_or_path"] == ["${demo}/model"] for options in arms.values())
    assert not profiles.cache_folder().exists()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_sound(path):
    wanted = spec.read(path)
    assert wanted.name == path.stem
    spec.check(wanted)


STRUCTURE = [
    ({"arm": {}}, ["unknown key 'arm'", "did you mean arms?"]),
    ({"name": None}, ["name is missing"]),
    ({"seeds": None}, ["seeds is missing"]),
    ({"arms": None}, ["arms is missing"]),
    ({"name": 3}, ["name is 3", "text"]),
    ({"profile": ["tiny"]}, ["profile is ['tiny']"]),
    ({"keep_models": "yes"}, ["keep_models is 'yes'", "true or false"]),
    ({"seeds": [1, 2, 1]}, ["seeds: 1 stands there twice"]),
    ({"seeds": []}, ["seeds is empty"]),
    ({"seeds": 3}, ["seeds is 3", "list of whole numbers"]),
    ({"seeds": [1, "2"]}, ["seeds is", "whole numbers"]),
    ({"seeds": [True]}, ["seeds is [True]"]),
    ({"seeds": [-1]}, ["seeds: -1 is too small"]),
    ({"k": [0]}, ["k: 0 is too small"]),
    ({"k": [1.5]}, ["k is [1.5]"]),
    ({"split_by": "level"}, ["split_by is 'level'", "list of columns"]),
    ({"parallel": 0}, ["parallel is 0"]),
    ({"parallel": True}, ["parallel is True"]),
    ({"arms": {}}, ["arms is {}"]),
    ({"arms": ["GRPO"]}, ["arms is ['GRPO']"]),
    ({"arms": {1: {}}}, ["label 1 is no text", "quotes"]),
    ({"arms": {False: {}}}, ["label False is no text"]),
    ({"arms": {"GRPO": {}, "grpo": {}}}, ["'GRPO' and 'grpo'", "case"]),
    ({"arms": {"GRPO": 3}}, ["arm 'GRPO' is 3"]),
    ({"arms": {"GRPO": {"algo.lens.alpha": False}}}, ["arm 'GRPO': algo.lens.alpha", "null"]),
    ({"arms": {"GRPO": {"algo": {"lens.alpha": 1}}}}, ["arm 'GRPO': algo", "dotted names"]),
    ({"arms": {"GRPO": {"actor.adam.betas": []}}}, ["arm 'GRPO': actor.adam.betas"]),
    *(
        ({"arms": {"GRPO": {"actor.adam.betas": [0.9, wrong]}}}, ["arm 'GRPO': actor.adam.betas is [0.9, "])
        for wrong in (None, True, [0.9], {"a": 1})
    ),
    ({"options": ["eval.at_end"]}, ["options is ['eval.at_end']"]),
    *(
        ({"arms": {label: {}}}, [f"arm {label!r}", "folder name"])
        for label in ("", ".", "..", "a/b", ".hidden", "end.", "end ", " a", "a\\b", "a:b", "a*", "a\nb", "x" * 31)
    ),
    ({"name": "../up"}, ["name: '../up'", "folder name"]),
]


@pytest.mark.parametrize(("change", "words"), STRUCTURE, ids=lambda value: str(value)[:40])
def test_a_spec_of_the_wrong_shape(content, write, change, words, tmp_path, capsys):
    path = write(content | change)
    assert main([str(path), "-o", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {path}: ") and not (tmp_path / "out").exists()
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name: [", "is not YAML"),
        ("- a list", "expected keys"),
        ("", "expected keys"),
        ("name: x\nseeds: [1]\nseeds: [2]\narms: {a: }", "line 3: 'seeds' stands there twice"),
        ("name: x\nseeds: [1]\narms:\n  a: {}\n  b: {}\n  a: {}", "line 6: 'a' stands there twice"),
    ],
)
def test_text_that_is_no_spec(write, text, word, capsys):
    assert main([str(write(text))]) == 2
    assert word in capsys.readouterr().err


def test_a_spec_that_is_not_there(tmp_path, capsys):
    assert main([str(tmp_path / "absent.yaml")]) == 2
    assert "absent.yaml: cannot be read (No such file" in capsys.readouterr().err


def test_labels_with_words_numbers_and_signs_are_good(content, write):
    spec.read(write(content | {"arms": {label: {} for label in ("α=0.25", "LENS (mixed)", "a, b", "_x", "0.25")}}))


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
    "rollout.micro_batch_size": 2,
    "rollout.top_p": 0.9,
    "train.batch_size": 32,
    "train.micro_batch_size": 2,
    "train.num_episodes": 2,
}


@pytest.mark.parametrize("option", UNFAIR)
def test_an_arm_may_not_change_what_it_is_judged_by(sound, option):
    wanted = {"arms": {"GRPO": {}, "LENS": {option: UNFAIR[option]}}}
    with pytest.raises(SpecError) as caught:
        spec.check(sound(**wanted))
    message = str(caught.value)
    assert message.startswith(f"arm 'LENS': {option} is ") and f"allow_unfair: [{option}]" in message
    # Where it is not set, vLLM's batch is the rollout's.
    spec.check(sound(**wanted, allow_unfair=[option, "rollout.vllm_generate_batch_size"]))


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
        spec.check(sound(shared, arms=arms, allow_unfair=allowed))
    spec.check(sound(shared, arms=arms, allow_unfair=[*allowed, option]))


@pytest.mark.parametrize("allowed", ["eval.temperature", "rollout.top_p"])
def test_allowing_one_option_allows_no_other(sound, allowed):
    own = {"eval.temperature": 1.0, "rollout.top_p": 0.9}
    (other,) = own.keys() - {allowed}
    with pytest.raises(SpecError, match=f"arm 'LENS': {other} is "):
        spec.check(sound(arms={"GRPO": {}, "LENS": own}, allow_unfair=[allowed]))
    spec.check(sound(arms={"GRPO": {}, "LENS": own}, allow_unfair=list(own)))


def test_every_arm_is_judged_by_the_first(sound):
    with pytest.raises(SpecError, match="arm 'C': rollout.top_p is 0.9 and 1.0 in the first arm"):
        spec.check(sound(arms={"A": {}, "B": {"algo.lens.alpha": 1}, "C": {"rollout.top_p": 0.9}}))


def test_an_arm_may_change_how_it_learns(sound):
    own = {"actor.adam.lr": 1e-4, "actor.eps_clip": 0.3, "algo.advantage.estimator": "rloo", "algo.kl.init_coef": 0.0}
    spec.check(sound(arms={"LENS": {}, "RLOO": own}))


def test_seeds_may_have_models_and_data_of_their_own(sound):
    spec.check(sound({"actor.model_name_or_path": "models/{seed}", "data.prompt_dataset": "train-{seed}.jsonl"}))


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
        spec.check_inputs(wanted, spec.runs_of(wanted, spec.check(wanted)), tmp_path)


@pytest.mark.skipif(not cpu_runtime.required(), reason="with CUDA each needs a GPU")
def test_runs_at_once_may_share_cpus(sound, tmp_path):
    wanted = sound(parallel=3)
    spec.check_inputs(wanted, spec.runs_of(wanted, spec.check(wanted)), tmp_path)


@pytest.mark.skipif(cpu_runtime.required(), reason="without CUDA the runs share CPUs")
def test_more_runs_at_once_than_gpus(sound, tmp_path):
    wanted = sound(parallel=1000)
    with pytest.raises(SpecError, match="parallel is 1000"):
        spec.check_inputs(wanted, spec.runs_of(wanted, spec.check(wanted)), tmp_path)


def test_a_dry_run_says_what_would_be_run_and_writes_nothing(content, write, tmp_path, capsys):
    path = write(content)
    assert main([str(path), "-o", str(tmp_path / "out"), "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert "2 arms on 2 seeds, 4 runs" in shown and "GRPO: algo.lens.scope none" in shown
    assert "[4/4] LENS/seed-2: not started" in shown and "lens-openrlhf train --actor.model_name_or_path" in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [[], ["a.yaml", "--archive", "b", "c"], ["a.yaml", "--table", "--dry_run"]])
def test_words_that_make_no_command(words):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 20))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "more than 100,000 values"),
        ("arms: &a [*a]", "more than 100,000 values"),
        ("? [[1, 2], {3: 4}]\n: 5", "unhashable"),
        ("[" * 10_000, "is not YAML"),
        ("seeds: [" + "1" * 5000 + "]", "is not YAML"),
        ("!!python/object/apply:os.system [touch ran]", "python/object/apply"),
        ("a: 2020-99-99", "is not YAML"),
    ],
)
def test_a_hostile_spec_is_refused_as_quickly_as_another(tmp_path, monkeypatch, text, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        spec.read(tmp_path / "s.yaml")
    assert told in str(caught.value) and len(str(caught.value)) < 1000
    assert not (tmp_path / "ran").exists()
