"""What runs a spec means: their order, and the words of their commands."""

from __future__ import annotations

from lens_openrlhf.experiments import checks, spec
from lens_openrlhf.experiments.runs import arm_options, runs_of
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
    flat = {run.key: flatten(checks.parse(run, tmp_path, "")) for run in runs_of(wanted, checks.check(wanted))}
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
