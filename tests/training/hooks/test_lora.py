"""What vLLM gets of a LoRA model is the base model's names and the merged weights."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from lens_openrlhf.training.hooks.lora import under_vllm_names


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def base(request):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        attention_bias=True,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(request.param)


def test_names_are_the_base_models_and_weights_are_merged(base):
    names = [name for name, _ in base.named_parameters()]
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    with under_vllm_names(model):
        sent = {name: weight.data.clone() for name, weight in model.named_parameters()}
        shapes = {name: weight.shape for name, weight in model.named_parameters()}
    assert sorted(sent) == sorted(names)
    assert shapes == {name: weight.shape for name, weight in sent.items()}
    assert any("lora_" in name for name, _ in model.named_parameters()), "outside, the names are PEFT's again"

    expected = dict(copy.deepcopy(model).merge_and_unload().named_parameters())
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if base.dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-3}
    for name, weight in sent.items():
        assert weight.dtype == base.dtype
        torch.testing.assert_close(weight, expected[name].data, **tolerance)


def test_other_models_are_left_alone(base):
    before = [name for name, _ in base.named_parameters()]
    with under_vllm_names(base):
        assert [name for name, _ in base.named_parameters()] == before
