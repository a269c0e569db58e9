"""The numbers of the page against the run folders they come from, computed another way."""

from __future__ import annotations

import json
import math
import statistics

import numpy as np
import pandas as pd
import pytest
import torch

from lens_openrlhf.advantages import LensConfig
from lens_openrlhf.advantages.reference import group_advantages
from lens_openrlhf.evaluation.statistics import paired_difference
from lens_openrlhf.reporting import curves
from lens_openrlhf.reporting.arms import Arm, group
from lens_openrlhf.reporting.confidence import weight, windows
from lens_openrlhf.reporting.evaluations import evaluation_data, last_step
from lens_openrlhf.reporting.page import report_data
from lens_openrlhf.reporting.runs import find_runs, read_run
from lens_openrlhf.reporting.samples import read_samples
from lens_openrlhf.reporting.series import short, spread

from .conftest import EVERY, SEEDS, STEPS
from .generate import write_run


def records(folder, name) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def data(comparison) -> dict:
    return report_data(find_runs([comparison]), sample_steps=4)


def standard_error(values) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


@pytest.mark.parametrize("split", ["all", "level=2", "datasource=long"])
@pytest.mark.parametrize("k", ["1", "4", "16"])
def test_pass_at_k_is_the_runs_own(comparison, data, split, k):
    for number, arm in enumerate(("grpo", "lens")):
        curve = data["evaluation"]["curves"][split][k][number]
        assert curve["x"] == list(range(0, STEPS + 1, EVERY)) and curve["n"] == [SEEDS] * len(curve["x"])
        for i, _ in enumerate(curve["x"]):
            values = [
                records(comparison / f"runs/{arm}/seed-{seed}", "eval.jsonl")[i]["pass_at_k"][split][k][0]
                for seed in range(1, SEEDS + 1)
            ]
            assert curve["y"][i] == pytest.approx(statistics.mean(values), rel=1e-4)
            assert curve["e"][i] == pytest.approx(standard_error(values), rel=1e-4)
        cell = data["evaluation"]["table"][split][k][number]
        assert (cell["mean"], cell["error"], cell["n"]) == (curve["y"][-1], curve["e"][-1], SEEDS)


def test_differences_are_paired_by_seed(comparison, data):
    finals = {
        arm: [records(comparison / f"runs/{arm}/seed-{s}", "eval.jsonl")[-1] for s in range(1, SEEDS + 1)]
        for arm in ("grpo", "lens")
    }
    a, b = ([r["pass_at_k"]["level=3"]["2"][0] for r in finals[arm]] for arm in ("lens", "grpo"))
    found = data["evaluation"]["difference"]["level=3"]["2"]
    expected = paired_difference(a, b)
    assert found[0] is None
    assert [found[1][key] for key in ("mean", "error", "low", "high")] == pytest.approx(expected, rel=1e-4)
    assert (found[1]["over"], found[1]["pairs"]) == ("seeds", SEEDS)
    assert found[1]["won"] == sum(x > y for x, y in zip(a, b, strict=True))


def test_one_run_an_arm_is_compared_over_prompts(tmp_path):
    folders = [write_run(tmp_path / name, 4, 4, seed=s, prompts=2) for name, s in (("a", 1), ("b", 1))]
    arms = [Arm(folder.name, [read_run(folder)]) for folder in folders]
    evaluation = evaluation_data(arms)
    difference = evaluation["difference"]["all"]["1"][1]
    scores = [np.array(records(folder, "eval.jsonl")[-1]["scores"]).mean(axis=1) for folder in folders]
    assert (difference["over"], difference["pairs"]) == ("prompts", 64)
    assert difference["mean"] == pytest.approx((scores[1] - scores[0]).mean(), abs=1e-5)
    cell = evaluation["table"]["all"]["1"][0]
    assert cell["error"] == pytest.approx(standard_error(scores[0].tolist()), rel=1e-4)


def test_an_unfinished_run_is_compared_at_the_last_step_all_arms_share(comparison, tmp_path):
    arms = group(find_runs([comparison]))
    late = arms[1].runs[0]
    late.evaluations = [e for e in late.evaluations if e.step < STEPS]
    evaluation = evaluation_data(arms)
    assert evaluation["step"] == STEPS and evaluation["left_out"] == ["lens/seed-1"]
    assert evaluation["difference"]["all"]["1"][1]["pairs"] == SEEDS - 1
    for run in arms[1].runs:
        run.evaluations = [e for e in run.evaluations if e.step <= EVERY]
    assert last_step(arms) == EVERY
    for run in arms[1].runs:
        run.evaluations = []
    assert last_step(arms) == STEPS and evaluation_data(arms)["table"]["all"]["1"][1] is None


def test_runs_without_a_common_step_are_compared_at_their_ends(one_run):
    early, late = read_run(one_run), read_run(one_run)
    early.evaluations, late.evaluations = early.evaluations[:1], late.evaluations[-1:]
    evaluation = evaluation_data([Arm("early", [early]), Arm("late", [late])])
    assert evaluation["step"] is None and None not in evaluation["table"]["all"]["1"]


@pytest.mark.parametrize("name", ["lens/negative_groups", "lens/confidence_wrong", "policy_loss"])
def test_curves_are_means_over_seeds(comparison, data, name):
    for number, arm in enumerate(("grpo", "lens")):
        runs = [records(comparison / f"runs/{arm}/seed-{seed}", "metrics.jsonl") for seed in range(1, SEEDS + 1)]
        values = [[run[i][name] for run in runs] for i in range(STEPS)]
        curve = data["curves"][name][number]
        assert curve["x"] == list(range(1, STEPS + 1))
        assert curve["y"] == pytest.approx([statistics.mean(v) for v in values], rel=1e-4)
        assert curve["e"] == pytest.approx([standard_error(v) for v in values], rel=1e-4)


def answers(run: str, step: int) -> pd.DataFrame:
    return pd.read_parquet(f"{run}/samples/step-{step:06d}.parquet")


def test_advantage_mass_is_that_of_the_samples(comparison, data):
    frames = [answers(comparison / f"runs/lens/seed-{s}", 7) for s in range(1, SEEDS + 1)]
    shares = [f.advantage.abs()[f.kind == "negative"].sum() / f.advantage.abs().sum() for f in frames]
    assert data["curves"]["mass/negative"][1]["y"][6] == pytest.approx(statistics.mean(shares), rel=1e-4)
    assert set(data["curves"]["mass/negative"][0]["y"]) == {0.0}, "GRPO learns nothing from negative groups"


def test_a_run_of_another_estimator_is_told_by_its_samples(run):
    import pyarrow.parquet as pq

    expected = report_data([read_run(run)], sample_steps=0)["curves"]
    kept = [{k: v for k, v in r.items() if not k.startswith("lens/")} for r in records(run, "metrics.jsonl")]
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in kept))
    found = report_data([read_run(run)], sample_steps=0)["curves"]
    for name in ("lens/negative_groups", "lens/confidence_right", "lens/rescued_samples", "mass/negative"):
        assert found[name][0]["y"] == pytest.approx(expected[name][0]["y"], rel=1e-4), name
    for path in (run / "samples").iterdir():
        table = pq.read_table(path)
        for column in ("confidence", "advantage"):
            table = table.set_column(table.column_names.index(column), column, [[None] * len(table)])
        pq.write_table(table, path)
    found = report_data([read_run(run)], sample_steps=2)
    assert found["curves"]["lens/negative_groups"][0]["y"] == expected["lens/negative_groups"][0]["y"]
    assert "lens/confidence_right" not in found["curves"] and "mass/negative" not in found["curves"]
    assert found["reliability"]["windows"] == {} and found["penalty"]["histograms"]["all"] == [None]
    assert found["samples"][0]["texts"]["12"][0]["answers"][0]["confidence"] is None


def test_long_runs_are_averaged_over_neighbouring_steps(one_run, monkeypatch):
    monkeypatch.setattr(curves, "POINTS", 5)
    data = report_data([read_run(one_run)], sample_steps=0)
    rewards = [r["rollout/reward_mean"] for r in records(one_run, "metrics.jsonl")]
    curve = data["curves"]["rollout/reward_mean"][0]
    assert data["width"] == 3 and curve["x"] == [2, 5, 8, 11]
    assert curve["y"] == pytest.approx(np.reshape(rewards, (4, 3)).mean(axis=1), rel=1e-4)


def test_ends_are_first_and_last_tenth(comparison, data):
    shares = [
        [r["lens/negative_groups"] for r in records(comparison / f"runs/lens/seed-{s}", "metrics.jsonl")]
        for s in range(1, SEEDS + 1)
    ]
    first, last = (statistics.mean(run[i] for run in shares) for i in (0, -1))
    assert data["ends"]["lens/negative_groups"][1] == pytest.approx([first, last], rel=1e-4)


def test_phases_are_means_of_a_step(comparison, data):
    means = [
        statistics.mean(r["timing/generation"] for r in records(comparison / f"runs/grpo/seed-{s}", "metrics.jsonl"))
        for s in range(1, SEEDS + 1)
    ]
    expected = [statistics.mean(means), standard_error(means)]
    assert data["seconds"]["timing/generation"][0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("difficulty", ["importance", "max"])
def test_z_is_confidence_over_the_references_difficulty(tmp_path, difficulty):
    folder = write_run(tmp_path / "run", 2, 2, **{"algo.lens.difficulty": difficulty})
    samples = read_samples(read_run(folder))
    frame = answers(folder, 2)
    sizes = frame.groupby("prompt_id").size()
    reference = group_advantages(
        torch.from_numpy(np.log(frame.confidence.to_numpy())),
        torch.ones(len(frame), dtype=torch.int64),
        torch.from_numpy(frame.correctness.to_numpy(copy=True)),
        torch.tensor([0, *sizes.cumsum()]),
        LensConfig(difficulty=difficulty),
    )
    z = frame.confidence.to_numpy() / reference.difficulty.repeat_interleave(torch.tensor(sizes.to_numpy())).numpy()
    expected = z[frame.correctness.to_numpy() == 0]
    assert samples[2].z == pytest.approx(expected, rel=1e-9) and expected.max() == pytest.approx(0.5)


def test_histogram_of_z_counts_every_wrong_answer(comparison, data):
    wrong = sum((answers(comparison / f"runs/lens/seed-{s}", t).correctness == 0).sum()
                for s in range(1, SEEDS + 1) for t in range(1, STEPS + 1))  # fmt: skip
    histograms = data["penalty"]["histograms"]
    assert sum(histograms["all"][1]["n"]) == wrong
    assert sum(histograms["first"][1]["n"]) + sum(histograms["last"][1]["n"]) < wrong


def test_weight_function():
    z = np.array([0.0, 1e-9, 0.25, 0.5, 0.99])
    assert weight([0, 0]).dtype == float and weight([0, 0]).tolist() == [0, 0]
    assert weight(z)[0] == 0 and weight(0.5) == pytest.approx(2 * math.log(2) - 1)
    # Its series: z/2 + z^2/3 + …
    assert weight(z)[1] == pytest.approx(5e-10, rel=1e-6)
    assert weight(0.25) == pytest.approx(sum(0.25**n / (n + 1) for n in range(1, 60)), rel=1e-12)
    slope = (weight(z[2:] + 1e-6) - weight(z[2:] - 1e-6)) / 2e-6
    assert weight(z[2:]) + z[2:] * slope == pytest.approx(z[2:] / (1 - z[2:]), rel=1e-6), "w + z w' = z / (1 - z)"


def test_reliability_is_that_of_the_samples(comparison, data):
    runs = [(arm, seed) for arm in ("grpo", "lens") for seed in range(1, SEEDS + 1)]
    frames = [
        answers(comparison / f"runs/{arm}/seed-{seed}", step).assign(arm=arm)
        for arm, seed in runs
        for step in range(1, STEPS + 1)
    ]
    frame = pd.concat(frames)
    frame["bin"] = pd.qcut(frame.confidence, 10)
    lens = frame[frame.arm == "lens"]
    bins = lens.groupby("bin", observed=True).agg(
        x=("confidence", "mean"), y=("correctness", "mean"), n=("arm", "size")
    )
    entry = data["reliability"]["windows"]["all"][1]
    assert sum(entry["n"]) == len(lens)
    assert entry["n"] == pytest.approx(bins.n.to_list(), abs=2)  # qcut closes its bins on the other side
    assert entry["x"] == pytest.approx(bins.x.to_list(), rel=1e-3) and entry["y"] == pytest.approx(
        bins.y.to_list(), abs=5e-3
    )
    right, wrong = (lens.confidence[lens.correctness == c].to_numpy() for c in (1, 0))
    ahead = (right[:, None] > wrong).mean() + 0.5 * (right[:, None] == wrong).mean()
    assert entry["auc"] == pytest.approx(ahead, rel=1e-3)


def test_a_confidence_that_tells_right_from_wrong_is_seen_to(tmp_path):
    """Confidence uniform in [0.2, 0.9], an answer right with just this chance: the diagonal."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = write_run(tmp_path / "run", 1, 1)
    table = pq.read_table(folder / "samples/step-000001.parquet")
    generator = np.random.default_rng(5)
    rows = 40_000
    confidence = generator.uniform(0.2, 0.9, rows)
    correct = (generator.uniform(size=rows) < confidence).astype(float)
    new = {name: pa.array([table[name][0].as_py()] * rows, table[name].type) for name in table.column_names}
    new |= {
        "index": pa.array(range(rows), pa.int32()),
        "prompt_id": pa.array([i // 16 for i in range(rows)], pa.int32()),
        "confidence": pa.array(confidence),
        "correctness": pa.array(correct),
        "reward": pa.array(correct),
    }
    pq.write_table(pa.table(new), folder / "samples/step-000001.parquet")
    entry = report_data([read_run(folder)], sample_steps=0)["reliability"]["windows"]["all"][0]
    assert entry["x"] == pytest.approx(np.arange(0.235, 0.9, 0.07), abs=0.01)
    # Five standard errors of a bin of 4,000.
    assert entry["y"] == pytest.approx(entry["x"], abs=5 * 0.5 / math.sqrt(4000))


def test_texts_are_those_of_the_samples(comparison, data):
    entry = data["samples"][-1]
    assert (entry["run"], entry["seed"], entry["arm"], entry["recorded"]) == ("lens/seed-3", "3", 1, STEPS)
    assert list(entry["texts"]) == ["1", "5", "8", "12"]
    frame = answers(comparison / "runs/lens/seed-3", 8)
    assert len(entry["texts"]["8"]) == frame[frame.response.notna()].prompt_id.nunique() == 2
    for number, prompt in enumerate(entry["texts"]["8"]):
        rows = frame[frame.prompt_id == number]
        assert (prompt["prompt"], prompt["label"], prompt["kind"]) == tuple(rows[["prompt", "label", "kind"]].iloc[0])
        assert [a["text"] for a in prompt["answers"]] == rows.response.to_list()
        for key in ("correctness", "reward", "confidence", "advantage", "tokens"):
            assert [a[key] for a in prompt["answers"]] == pytest.approx(rows[key].to_list(), rel=1e-4)


def test_texts_keep_within_their_budget(one_run, monkeypatch):
    from lens_openrlhf.reporting import texts

    monkeypatch.setattr(texts, "TEXT_BYTES", 4000)
    data = report_data([read_run(one_run)], sample_steps=4)
    assert [len(prompts) for prompts in data["samples"][0]["texts"].values()] == [1, 1, 1, 1]
    monkeypatch.setattr(texts, "MAX_CHARACTERS", 10)
    text = report_data([read_run(one_run)], sample_steps=1)["samples"][0]["texts"]["12"][0]["answers"][0]["text"]
    assert text == "I add the  … (46 more characters)"


def test_no_texts_where_none_are_wanted(one_run):
    data = report_data([read_run(one_run)], sample_steps=0)
    assert data["samples"][0]["texts"] == {} and data["samples"][0]["recorded"] == STEPS


def test_what_is_not_recorded_is_told(tmp_path, one_run):
    empty = tmp_path / "empty"
    empty.mkdir()
    told = "\n".join(report_data([read_run(empty)], sample_steps=1)["missing"])
    assert "No metrics.jsonl" in told and "No evaluation" in told and "No samples/" in told
    told = "\n".join(report_data([read_run(one_run), read_run(empty)], sample_steps=1)["missing"])
    assert "No samples/" in told and told.count("Runs: empty.") == 3
    assert report_data([read_run(one_run)], sample_steps=1)["missing"] == []


def test_parts_of_the_training():
    assert windows([]) == {} and windows([4]) == {"all": range(4, 5)}
    assert windows(range(1, 10)) == {"all": range(1, 10), "first": range(1, 4), "last": range(7, 10)}


def test_spread_keeps_both_ends():
    assert spread(range(5), 9) == [0, 1, 2, 3, 4] and spread(range(101), 5) == [0, 25, 50, 75, 100]
    assert spread(range(5), 1) == [4] and spread(range(5), 0) == [] and spread([], 3) == []


def test_numbers_are_short_and_never_nan():
    assert short(0.123456789) == 0.12346 and short(-1234567.0) == -1234600.0
    assert short(math.nan) is None and short(math.inf) is None and short(None) is None


def test_steps_of_runs_at_different_places(comparison):
    runs = find_runs([comparison])
    assert dict(report_data(runs, sample_steps=0)["facts"])["steps"] == str(STEPS)
    runs[0].metrics, runs[0].evaluations = runs[0].metrics[:5], runs[0].evaluations[:2]
    assert dict(report_data(runs, sample_steps=0)["facts"])["steps"] == f"5 to {STEPS} of {STEPS}"
