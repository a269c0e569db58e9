"""What vLLM gets of a LoRA model is the base model's names and the merged weights."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from lens_openrlhf.training.hooks.lora import MergedWeight, under_vllm_names


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
        # Merged weights count as trained; of images' models OpenRLHF sends no others.
        kept = [(weight, type(weight) is MergedWeight) for _, weight in model.named_parameters()]
        assert sum(trained for _, trained in kept) == 14  # seven linear layers in two blocks
        shapes = {name: weight.shape for name, weight in model.named_parameters()}
    assert sorted(sent) == sorted(names)
    assert all(getattr(weight, "requires_grad", False) is trained for weight, trained in kept)
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


def test_all_active_adapters_are_added():
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False))
    weight = layer[0].weight.detach().clone()
    model = get_peft_model(layer, LoraConfig(r=2, lora_alpha=4, target_modules=["0"]))
    model.add_adapter("other", LoraConfig(r=2, lora_alpha=8, target_modules=["0"]))
    expected = weight
    for name, scale in (("default", 2), ("other", 4)):
        down, up = (getattr(model.base_model.model[0], part)[name].weight for part in ("lora_A", "lora_B"))
        torch.nn.init.normal_(up)
        expected = expected + scale * up.detach() @ down.detach()
    model.base_model.set_adapter(["default", "other"])
    with under_vllm_names(model):
        ((name, sent),) = model.named_parameters()
        assert name == "0.weight" and not sent.data.requires_grad
        torch.testing.assert_close(sent.data, expected)


def test_names_are_put_back_after_an_error(base):
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    before = [name for name, _ in model.named_parameters()]
    with pytest.raises(KeyError), under_vllm_names(model):
        assert [name for name, _ in model.named_parameters()] != before
        raise KeyError
    assert [name for name, _ in model.named_parameters()] == before and "named_parameters" not in vars(model)


def test_a_module_that_is_called_like_pefts_keeps_its_name():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.base_layer, self.head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    model = get_peft_model(Model(), LoraConfig(target_modules=["head"]))
    with under_vllm_names(model):
        names = [name for name, _ in model.named_parameters()]
    assert names == ["base_layer.weight", "base_layer.bias", "head.weight", "head.bias"]
