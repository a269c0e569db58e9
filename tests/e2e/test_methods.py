"""Every method in the real trainer."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from lens_openrlhf.advantages import estimators

from ..training.test_readme import typed
from .conftest import ROOT, command_line, explained, finish
from .every_method import METHODS, made


def test_every_method_takes_a_real_step(tiny, reward_file, tmp_path):
    """With README's command for a model of one's own, whose sizes are the defaults without CUDA."""
    place = f"{Path(__file__).with_name('every_method.py')}:EveryMethod"
    words = [word for word in typed()[1] if word != "--data.apply_chat_template"]  # which the tiny model has none of
    words += ["--actor.model_name_or_path", tiny.model, "--data.prompt_dataset", tiny.train, "--data.max_len", "96"]
    words += ["--reward.remote_url", reward_file, "--rollout.n_samples_per_prompt", "4", "--actor.adam.lr", "1e-4"]
    words += ["--algo.lens.estimator_path", place, "--data.max_samples", "64", "--train.num_episodes", "2"]
    words += ["--logger.run_dir", tmp_path / "run"]
    run = finish([sys.executable, "-m", "lens_openrlhf.cli", *map(str, words)], tmp_path / "run")
    assert run.status == 0, explained(run)
    assert "--rollout.batch_size 8 --train.batch_size 32" in run.output, "what nobody gave is told"
    assert "16 steps" in run.output and "for 15 more steps" in run.output, "the plan, and how long it will take"
    sampling = [event for event in run.records("events") if event["event"] == "sampling"]
    assert [event["answers"] for event in sampling] == [32] * 16
    metrics = run.records("metrics")
    assert len(metrics) == 16 >= len(METHODS)
    for name, record in zip(METHODS, metrics, strict=False):
        assert record["policy_loss"] is not None and record["actor_grad_norm"] is not None, name
        kept = pd.read_parquet(run.folder / "samples" / f"step-{record['step']:06}.parquet")
        kind = estimators.find(name)
        groups = kept["kind"].value_counts() / len(kept)
        for group in ("negative", "mixed", "positive"):
            assert record[f"lens/{group}_groups"] == pytest.approx(groups.get(group, 0)), (name, group)
        negative = kept[kept["kind"] == "negative"]
        if not kind.learns_from_negative_groups:
            assert not negative["advantage"].any(), name
        if not kind.needs:
            batch = estimators.Batch(
                mean_logprob=torch.tensor(kept["confidence"].to_numpy()).log(),
                lengths=torch.tensor(kept["tokens"].to_numpy(), dtype=torch.int64),
                correctness=torch.tensor(kept["correctness"].to_numpy()),
                rewards=torch.tensor(kept["reward"].to_numpy()),
                cu_groups=torch.arange(0, 33, 4),
            )
            expected = estimators.run(made(name), batch).advantage.tolist()
            assert kept["advantage"].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9), name
    # What reads the distributions of the tokens gives something to learn from, too.
    for name in METHODS:
        if estimators.find(name).needs:
            assert metrics[METHODS.index(name)]["actor_grad_norm"] > 0, name


def trained(folder, tiny, reward, method: str, *more: str):
    run = finish(command_line(folder, tiny, reward, "--algo.advantage.estimator", method, *more), folder)
    assert run.status == 0, explained(run)
    return run


def answers_of(run) -> pd.DataFrame:
    return pd.concat(pd.read_parquet(path) for path in sorted((run.folder / "samples").iterdir()))


@pytest.mark.long
def test_spo_remembers_its_prompts_through_a_checkpoint(tiny, reward_file, tmp_path):
    options = ["--rollout.n_samples_per_prompt", "1", "--rollout.batch_size", "16", "--data.max_samples", "32"]
    options += ["--ckpt.save_steps", "1", "--ckpt.load_enable"]
    first = trained(tmp_path / "run", tiny, reward_file, "spo", *options)
    assert len(first.records("metrics")) == 2
    # What no prompt has come before has the value 1/2: the advantages are the rewards, whitened.
    new = pd.read_parquet(first.folder / "samples" / "step-000001.parquet")
    whitened = (new["reward"] - new["reward"].mean()) / (new["reward"].std() + 1e-8)
    assert first.records("metrics")[0]["spo/new_prompts"] == 1
    assert new["advantage"].tolist() == pytest.approx(whitened.tolist(), abs=1e-6)

    run = trained(tmp_path / "run", tiny, reward_file, "spo", *options, "--train.num_episodes", "3")
    metrics = run.records("metrics")
    assert [record["step"] for record in metrics] == [1, 2, 3, 4, 5, 6]
    assert "goes on after step 2" in run.output
    known = [record["spo/tracked_prompts"] for record in metrics]
    # Drawn by weight and with replacement, 96 draws of 32 prompts: those of before are still known.
    assert known == sorted(known) and known[1] <= known[2] <= 32
    assert metrics[2]["spo/new_prompts"] < 1 and metrics[-1]["spo/rho"] is not None


@pytest.mark.parametrize("method", ["topr", pytest.param("asymre", marks=pytest.mark.long)])
def test_a_policy_loss_of_its_own(tiny, reward_file, tmp_path, method):
    run = trained(tmp_path / "run", tiny, reward_file, method, "--data.max_samples", "16")
    kept = answers_of(run)
    expected = 2 * kept["correctness"] - 1
    if method == "asymre":
        expected = kept["reward"] - kept.groupby(["step", "prompt_id"])["reward"].transform("mean") + 0.1
    assert run.config["options"]["actor.loss_agg_mode"] == "token-mean"
    assert kept["advantage"].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    # Two updates of 16 answers a step. PPO's loss would be minus the mean advantage before the first; these weigh it by
    # log-probabilities, which lie far from 1.
    for record in run.records("metrics"):
        assert record["actor_grad_norm"] > 0 and math.isfinite(record["policy_loss"])
        of_step = kept[kept["step"] == record["step"]]
        assert abs(record["policy_loss"] + of_step["advantage"].mean()) > 1e-3


@pytest.mark.long
def test_dapo_samples_until_its_groups_are_mixed(tiny, reward_file, tmp_path):
    run = trained(tmp_path / "run", tiny, reward_file, "dapo", "--data.max_samples", "64")
    kept = answers_of(run)
    assert len(run.records("metrics")) < 8 and set(kept["kind"]) == {"mixed"}
    options = run.config["options"]
    assert options["actor.eps_clip_low_high"] == [0.2, 0.28] and options["actor.loss_agg_mode"] == "token-mean"


@pytest.mark.long
def test_ngrpo_pushes_wrong_answers_down_within_its_clip(tiny, reward_file, tmp_path):
    run = trained(tmp_path / "run", tiny, reward_file, "ngrpo", "--data.max_samples", "16")
    kept = answers_of(run)
    # Four wrong answers and the virtual right one: mean 1/5, unbiased variance 1/5.
    negative = kept[kept["kind"] == "negative"]["advantage"]
    assert (negative + 0.2**0.5).abs().max() < 1e-5
    assert not kept[kept["kind"] == "positive"]["advantage"].any()
    assert run.config["options"]["actor.eps_clip_low_high"] == [0.16, 0.24]


@pytest.mark.long
@pytest.mark.parametrize("method", ["intuitor", "rent"])
def test_certainty_is_held_in_check_by_a_reference_model(tiny, reward_file, tmp_path, method):
    more = ["--ref.num_gpus_per_node", "1", "--data.max_samples", "16"]
    run = trained(tmp_path / "run", tiny, reward_file, method, *more)
    first, second = run.records("metrics")
    assert 0 <= first["kl"] < second["kl"], "of each update, in the loss"
    groups = answers_of(run).groupby(["step", "prompt_id"])["advantage"]
    assert groups.mean().abs().max() < 1e-5 and groups.std().max() > 0.9


def test_reinforce_ada_draws_in_rounds(tiny, reward_file, tmp_path):
    run = trained(tmp_path / "run", tiny, reward_file, "reinforce_ada", "--data.max_samples", "24")
    metrics = run.records("metrics")
    assert len(metrics) == 3
    # Rounds of twice the 4 that are kept, 4 at most; some prompts of the tiny model need more than one.
    assert all(8 <= record["reinforce_ada/drawn"] <= 32 for record in metrics)
    assert max(record["reinforce_ada/drawn"] for record in metrics) > 8
    kept = answers_of(run)
    mean = (kept["reward"] - kept["advantage"]).groupby([kept["step"], kept["prompt_id"]])
    assert len(kept) == 3 * 8 * 4 and (mean.max() - mean.min()).max() < 1e-9, "one mean of all that were drawn"
    assert mean.first().between(0, 1).all()


@pytest.mark.long
def test_spectral_grades_wrong_answers(tiny, reward_file, tmp_path):
    scorer = f"{ROOT / 'examples' / 'compare' / 'step_scorer.py'}:digits"
    more = ["--algo.spectral.scorer", scorer, "--data.max_samples", "24"]
    run = trained(tmp_path / "run", tiny, reward_file, "spectral", *more)
    assert all(0 <= record["spectral/step_score"] <= 1 for record in run.records("metrics"))
    kept = answers_of(run)
    negative = kept[kept["kind"] == "negative"]
    assert negative["advantage"].abs().max() > 0, "wrong answers are told apart by their right digits"
    mixed = kept[kept["kind"] == "mixed"].groupby(["step", "prompt_id"])
    assert all(abs(group["advantage"].mean()) < 1e-6 for _, group in mixed)
