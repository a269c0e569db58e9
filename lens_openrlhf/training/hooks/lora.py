"""LoRA weights as vLLM knows them.

OpenRLHF sends parameters to vLLM under PEFT's names, which vLLM does not have. Here the adapters are added to the
weights below them, one weight at a time, and the names are the base model's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

PREFIX, BASE = "base_model.model.", ".base_layer"


class MergedWeight:
    """A weight with its adapter added; `data` is computed when it is asked for, so that one copy exists at a time."""

    requires_grad = True

    def __init__(self, layer: LoraLayer, weight: nn.Parameter):
        self._layer, self._weight = layer, weight
        self.shape, self.dtype = weight.shape, weight.dtype

    @property
    def data(self) -> Tensor:
        with torch.no_grad():
            merged = self._weight.float()
            for adapter in self._layer.active_adapters:
                merged = merged + self._layer.get_delta_weight(adapter).float()
            return merged.to(self.dtype)


def merged_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter | MergedWeight]]:
    """(name, weight) of a PEFT model under its base model's names; adapters are in the weights and have no name."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    for name, parameter in nn.Module.named_parameters(model):
        owner, found, rest = name.rpartition(BASE)
        if found and owner in layers:
            weight = MergedWeight(layers[owner], parameter) if rest == ".weight" else parameter
            yield (owner + rest).removeprefix(PREFIX), weight
        elif not any(part.startswith("lora_") for part in name.split(".")):
            yield name.removeprefix(PREFIX), parameter


@contextlib.contextmanager
def under_vllm_names(model: nn.Module) -> Iterator[None]:
    """Inside, a PEFT model's `named_parameters` are what vLLM knows; other models are left as they are."""
    if not any(isinstance(module, LoraLayer) for module in model.modules()):
        yield
        return
    patched: Any = model
    patched.named_parameters = lambda: merged_parameters(model)
    try:
        yield
    finally:
        del patched.named_parameters
