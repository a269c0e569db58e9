"""More of OpenRLHF's modes with LENS, several in one run; each takes about a minute (make test-long)."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from .conftest import command_line, explained, finish
from .test_modes import LENS, check_lens_metrics, check_samples

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def llama(tiny, tmp_path_factory):
    """A Llama model that has learned nothing, with the tiny profile's tokenizer."""
    folder = tmp_path_factory.mktemp("llama") / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,  # of 32 dimensions: vLLM has no attention for fewer on CPU
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny.model / name, folder)
    return folder


def trained(folder, tiny, reward, *more: str, model=None, steps: int = 2):
    command = command_line(folder, tiny, reward, *LENS, "--data.max_samples", str(8 * steps), *more)
    if model:
        command[command.index("--actor.model_name_or_path") + 1] = str(model)
    run = finish(command, folder)
    assert run.status == 0, explained(run)
    assert [record["step"] for record in run.records("metrics")] == list(range(1, steps + 1))
    return run


def test_three_ranks_zero_2_two_engines_ema_and_gspo(tiny, reward_file, tmp_path):
    more = ["--actor.num_gpus_per_node", "3", "--ds.zero_stage", "2", "--vllm.num_engines", "2"]
    batches = ["--rollout.batch_size", "12", "--train.batch_size", "48", "--rollout.micro_batch_size", "4"]
    more += ["--train.enable_ema", "--actor.policy_loss_type", "gspo"]
    command = command_line(tmp_path / "run", tiny, reward_file, *LENS, *more, *batches, "--data.max_samples", "24")
    run = finish(command, tmp_path / "run")
    assert run.status == 0, explained(run)
    metrics = run.records("metrics")
    assert [record["step"] for record in metrics] == [1, 2]
    assert all(record["actor_grad_norm"] > 0 for record in metrics)
    check_samples(run, steps=2, prompts=12)
    assert {event["where"] for event in run.records("events") if event["event"] == "ready"} == {
        *("LensPPO", "LensPolicyModel 0", "LensPolicyModel 1", "LensPolicyModel 2", "LensRollout")
    }


def test_two_ranks_zero_2_with_overlong_penalties(tiny, reward_file, tmp_path):
    """Shaped rewards enter the advantages; raw correctness decides which groups are negative."""
    more = ["--actor.num_gpus_per_node", "2", "--ds.zero_stage", "2", "--train.micro_batch_size", "2"]
    more += ["--reward.overlong_buffer_len", "16", "--reward.overlong_penalty_factor", "0.5"]
    run = trained(tmp_path / "run", tiny, reward_file, *more)
    check_samples(run, steps=2)
    kept = pd.concat(pd.read_parquet(path) for path in sorted((run.folder / "samples").iterdir()))
    assert (kept["reward"] < kept["correctness"]).any(), "no answer was long enough for the penalty"
    wrong = kept.groupby(["step", "prompt_id"])["correctness"].transform("max") == 0
    assert ((kept["kind"] == "negative") == wrong).all()
    assert kept.loc[wrong & (kept["reward"] < 0), "advantage"].abs().max() > 0


def test_the_hybrid_engine_with_deepspeed_asleep_while_vllm_samples(tiny, reward_file, tmp_path):
    more = ["--train.colocate_all", "--ds.enable_sleep"]
    check_lens_metrics(trained(tmp_path / "run", tiny, reward_file, *more), steps=2)


def test_llama_with_lora(tiny, llama, reward_file, tmp_path):
    """vLLM follows the adapters: the actor's log-probabilities and vLLM's agree after they were trained."""
    more = ["--ds.lora.rank", "4", "--actor.adam.lr", "1e-2", "--algo.advantage.is_correction_level", "token"]
    run = trained(tmp_path / "run", tiny, reward_file, *more, model=llama, steps=3)
    check_lens_metrics(run, steps=3)
    for record in run.records("metrics"):
        assert abs(record["logprobs_diff"]) < 0.05, record
    adapters = load_file(run.folder / "model" / "adapter_model.safetensors")
    assert any(weight.abs().max() > 0 for name, weight in adapters.items() if "lora_B" in name)


def test_llama_with_dynamic_batches_on_two_ranks(tiny, llama, reward_file, tmp_path):
    more = ["--actor.num_gpus_per_node", "2", "--ds.zero_stage", "3"]
    more += ["--train.dynamic_batch_enable", "--train.max_tokens_per_gpu", "256"]
    check_samples(trained(tmp_path / "run", tiny, reward_file, *more, model=llama), steps=2)


def test_async_with_partial_rollouts_and_importance_correction(tiny, reward_file, tmp_path):
    more = ["--train.async_enable", "--train.partial_rollout_enable"]
    more += ["--algo.advantage.is_correction_level", "token", "--vllm.num_engines", "2"]
    run = trained(tmp_path / "run", tiny, reward_file, *more, steps=3)
    check_lens_metrics(run, steps=3)
