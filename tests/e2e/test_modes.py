"""OpenRLHF's modes with LENS, each trained for real for a few steps.

test_resume.py has the colocated one, with dynamic batches, test_agent.py the asynchronous one.
"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lens_openrlhf.advantages import LensConfig, group_advantages

from .conftest import command_line, explained, finish

LENS = ["--algo.advantage.estimator", "lens"]


def check_samples(run, steps: int, prompts: int = 8, with_text: int = 4) -> None:
    """samples/ agrees with metrics.jsonl, and its advantages with the operator, whatever ranks and batches did."""
    count = 4 * prompts
    for record in run.records("metrics"):
        kept = pd.read_parquet(run.folder / "samples" / f"step-{record['step']:06}.parquet")
        assert kept["index"].tolist() == list(range(count))
        assert kept["prompt_id"].tolist() == [i // 4 for i in range(count)]
        assert math.isclose((kept["kind"] == "negative").mean(), record["lens/negative_groups"])
        assert kept["response"].notna().tolist() == [i < 4 * with_text for i in range(count)]
        expected = group_advantages(
            torch.tensor(kept["confidence"].to_numpy()).log(),
            torch.tensor(kept["tokens"].to_numpy()),
            torch.tensor(kept["correctness"].to_numpy()),
            torch.arange(0, count + 1, 4),
            LensConfig(),
            rewards=torch.tensor(kept["reward"].to_numpy()),
        )
        assert kept["advantage"].tolist() == pytest.approx(expected.advantage.tolist(), rel=1e-6, abs=1e-9)
    assert len(list((run.folder / "samples").iterdir())) == steps


def check_lens_metrics(run, steps: int, **shape: int) -> None:
    metrics = run.records("metrics")
    assert [record["step"] for record in metrics] == list(range(1, steps + 1))
    for record in metrics:
        shares = [record[f"lens/{kind}_groups"] for kind in ("negative", "mixed", "positive")]
        assert math.isclose(sum(shares), 1)
        # Where all answers of a group are the same, LENS has nothing to tell apart either.
        assert record["lens/rescued_samples"] <= record["lens/negative_groups"] + 1e-9
        assert record["policy_loss"] is not None and record["actor_grad_norm"] > 0
        assert record["lens/dropped_samples"] == 0
        assert "answer_chars" in record  # the reward function's own metric
        assert "lens_rollout_index" not in record
    check_samples(run, steps, **shape)
    assert any(record["lens/rescued_samples"] > 0 for record in metrics)


def check_confidences(samples: pd.DataFrame, folder: Path) -> None:
    """Those of a first step are what a forward pass of our own finds, answer by answer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    compared = 0
    for row in samples.itertuples():
        ids, before = tokenizer(row.prompt + row.response).input_ids, len(tokenizer(row.prompt).input_ids)
        if row.tokens < 24:  # ended by itself
            ids.append(tokenizer.eos_token_id)
        if len(ids) - before != row.tokens:
            continue  # a special token in the middle, which the text does not show
        compared += 1
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0, before - 1 : -1].log_softmax(-1)
        expected = logprobs.gather(1, torch.tensor(ids[before:])[:, None]).mean().exp().item()
        assert row.confidence == pytest.approx(expected, rel=0.02)  # the run computes in bfloat16
    assert compared > 0.8 * len(samples)


def test_two_ranks_with_zero_3_and_groups_on_both(tiny, reward_file, tmp_path):
    # 36 answers in six micro-batches, three a rank: the fifth prompt's answers are the last two of one, the first two
    # of the other.
    more = ["--actor.num_gpus_per_node", "2", "--ds.zero_stage", "3", "--data.max_samples", "18"]
    more += ["--rollout.batch_size", "9", "--rollout.micro_batch_size", "6", "--logger.sample_prompts", "9"]
    more += ["--train.batch_size", "36", "--train.micro_batch_size", "6"]
    run = finish(command_line(tmp_path / "run", tiny, reward_file, *LENS, *more), tmp_path / "run")
    assert run.status == 0, explained(run)
    check_lens_metrics(run, steps=2, prompts=9, with_text=9)
    check_confidences(pd.read_parquet(run.folder / "samples" / "step-000001.parquet"), tiny.model)
    assert {event["where"] for event in run.records("events") if event["event"] == "ready"} == {
        "LensPPO",
        "LensPolicyModel 0",
        "LensPolicyModel 1",
        "LensRollout",
    }
    assert run.config["options"]["algo.advantage.estimator"] == "lens"
