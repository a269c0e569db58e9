"""Every method in the real trainer."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from lens_openrlhf.advantages import estimators

from .conftest import command_line, explained, finish
from .every_method import METHODS


def test_every_method_takes_a_real_step(tiny, reward_file, tmp_path):
    place = f"{Path(__file__).with_name('every_method.py')}:EveryMethod"
    more = ["--algo.lens.estimator_path", place, "--data.max_samples", "64", "--train.num_episodes", "2"]
    run = finish(command_line(tmp_path / "run", tiny, reward_file, *more), tmp_path / "run")
    assert run.status == 0, explained(run)
    metrics = run.records("metrics")
    assert len(metrics) == 16 >= len(METHODS)
    for name, record in zip(METHODS, metrics, strict=False):
        assert record["policy_loss"] is not None and record["actor_grad_norm"] is not None, name
        kept = pd.read_parquet(run.folder / "samples" / f"step-{record['step']:06}.parquet")
        kind = estimators.find(name)
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
            expected = estimators.run(kind(), batch).advantage.tolist()
            assert kept["advantage"].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9), name
    # What reads the distributions of the tokens gives something to learn from, too.
    for name in METHODS:
        if estimators.find(name).needs:
            assert metrics[METHODS.index(name)]["actor_grad_norm"] > 0, name
