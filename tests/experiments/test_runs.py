"""What runs a spec means: their order, and the words of their commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lens_openrlhf.experiments import checks, spec
from lens_openrlhf.experiments.runs import RESERVED, Run, arm_options, join_words, runs_of, split_words
from lens_openrlhf.experiments.spec import SpecError
from lens_openrlhf.training.commandline import profiles
from lens_openrlhf.training.commandline.records import flatten


def commands(wanted: spec.Spec, folder) -> dict[str, list[str]]:
    return {run.key: run.command(folder) for run in runs_of(wanted, arm_options(wanted))}


def test_runs_go_seed_by_seed(sound):
    wanted = sound(seeds=[5, 3])
    assert [run.key for run in runs_of(wanted, checks.check(wanted))] == [
        *("GRPO/seed-5", "LENS/seed-5", "GRPO/seed-3", "LENS/seed-3")
    ]


def test_arms_of_a_seed_differ_in_their_own_options_alone(sound, tmp_path):
    wanted = sound(arms={"GRPO": {"algo.lens.scope": "none"}, "LENS": {"algo.lens.alpha": 1}})
    flat = {run.key: flatten(checks.parse(run, "", tmp_path)) for run in runs_of(wanted, checks.check(wanted))}
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
    arms = arm_options(spec.read(write(content)))
    modes = [options.get("actor.loss_agg_mode") for options in arms.values()]
    assert modes == [["seq-mean-token-mean"], None, ["seq-mean-token-mean"], ["seq-mean-token-mean"]]


def test_a_command_line_in_its_parts():
    words = ["--a.b", "1", "-2", "--flag", "--c=d=e", "--empty=", "--list=3", "4", "--a.b", "5"]
    options = {"a.b": ["5"], "flag": [], "c": ["d=e"], "empty": [""], "list": ["3", "4"]}
    assert split_words(words) == options and list(options) == list(split_words(words))
    assert join_words(options) == ["--a.b", "5", "--flag", "--c", "d=e", "--empty", "", "--list", "3", "4"]
    assert split_words([]) == {} and join_words({}) == []


def test_a_profile_that_begins_with_a_value(tmp_path, sound):
    (tmp_path / "mine.args").write_text("tiny --eval.at_end\n")
    with pytest.raises(SpecError, match="the profile begins with 'tiny': expected an option"):
        arm_options(sound(profile=str(tmp_path / "mine.args")))


def test_a_run_has_a_folder_and_words_of_its_own():
    run = Run("LENS, more", 12, {"a": ["1"], "flag": []})
    assert run.key == "LENS, more/seed-12"
    assert run.command(Path("c/runs")) == [
        *("--a", "1", "--flag", "--train.seed", "12", "--logger.run_dir", "c/runs"),
    ]


def test_the_seed_stands_wherever_it_is_asked_for(sound):
    given = {"actor.adam.betas": ["{seed}", "0.{seed}{seed}"], "data.input_template": "{seed}: {}"}
    wanted = sound(given, seeds=[3, 10], arms={"A": {}})
    runs = runs_of(wanted, arm_options(wanted))
    assert [[run.arm, run.seed, *(run.options[name] for name in given)] for run in runs] == [
        ["A", 3, ["3", "0.33"], ["3: {}"]],
        ["A", 10, ["10", "0.1010"], ["10: {}"]],
    ]


def test_an_arms_options_win_over_those_of_all_and_these_over_the_profiles(sound, tmp_path):
    profile = tmp_path / "mine.args"
    profile.write_text("--eval.top_p 1 --eval.temperature 1 --eval.max_samples 1 --eval.steps 1\n")
    own = {"eval.max_samples": 3, "eval.steps": None}
    common = {"eval.temperature": 2, "eval.max_samples": 2, "eval.steps": 2}
    wanted = replace(sound(common, profile=str(profile), arms={"A": own, "B": {}}))
    arms = arm_options(wanted)
    names = ("eval.top_p", "eval.temperature", "eval.max_samples", "eval.steps")
    assert [arms["A"].get(name) for name in names] == [["1"], ["2"], ["3"], None]
    assert [arms["B"].get(name) for name in names] == [["1"], ["2"], ["2"], ["2"]]


def test_a_profile_says_nothing_of_where_runs_write_and_of_their_seed(sound, tmp_path):
    assert RESERVED.keys() == {
        *("train.seed", "logger.run_dir", "logger.tensorboard_dir", "ckpt.path", "ckpt.output_dir"),
    }
    profile = tmp_path / "mine.args"
    profile.write_text(" ".join(f"--{name} 5" for name in RESERVED) + " --eval.at_start\n")
    (options,) = arm_options(sound(profile=str(profile), arms={"A": {}})).values()
    assert "eval.at_start" in options and not options.keys() & RESERVED.keys()


def test_what_a_profile_makes_is_made_where_it_is_asked_for_alone(sound, monkeypatch, tmp_path):
    """Until then its place holds on any machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []
    monkeypatch.setitem(profiles.FOLDERS, "demo", made.append)
    place = tmp_path / "lens_openrlhf" / "demo"
    wanted = sound(profile="tiny", arms={"A": {"actor.model_name_or_path": "m"}})
    wanted = replace(wanted, options={})
    portable, here = arm_options(wanted), arm_options(wanted, make=True)
    assert portable["A"]["data.prompt_dataset"] == ["${demo}/train.jsonl"]
    assert here["A"]["data.prompt_dataset"] == [f"{place}/train.jsonl"] and made == [place]
    assert portable["A"]["actor.model_name_or_path"] == here["A"]["actor.model_name_or_path"] == ["m"]
    assert not any(f"{place}" in word for words in portable["A"].values() for word in words)
