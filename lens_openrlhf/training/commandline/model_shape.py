"""How large a model is: from its config where that is on this machine, or from a few that are known by name."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Architectures whose parameters the formula below counts: attention and a gated MLP in every layer.
COUNTED = ("llama", "mistral", "qwen2")
# Fields of ModelShape, and what a COUNTED architecture's config.json calls them.
SIZES = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "intermediate": "intermediate_size",
    "vocabulary": "vocab_size",
    "context": "max_position_embeddings",
}


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Dimensions of a decoder as its config.json has them.

    context: tokens of prompt and answer together; head_size: of one attention head; tied: whether the output layer is
    the embedding.
    """

    kind: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    context: int
    tied: bool

    @property
    def parameters(self) -> int | None:
        """Number of parameters; None for an architecture that is not COUNTED.

        Embedding (twice where not tied) and last norm, and in each layer the projections of queries, keys, values and
        output, the three matrices of the MLP and two norms. Qwen2's queries, keys and values have biases.
        """
        if self.kind not in COUNTED:
            return None
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        attention = 2 * self.hidden * (queries + keys)
        if self.kind == "qwen2":
            attention += queries + 2 * keys
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        embeddings = (1 if self.tied else 2) * self.vocabulary * self.hidden
        return embeddings + self.layers * layer + self.hidden

    @property
    def kv_cache_bytes(self) -> int:
        """Keys and values of one token in all layers, in 16 bits."""
        return 2 * self.layers * self.kv_heads * self.head_size * 2


# By the beginning of the name: what the paper trains.
KNOWN = {
    "llama-3.1-8b": ModelShape(
        kind="llama", hidden=4096, layers=32, heads=32, kv_heads=8, head_size=128, intermediate=14336,
        vocabulary=128256, context=131072, tied=False,
    ),
    "qwen2.5-3b": ModelShape(
        kind="qwen2", hidden=2048, layers=36, heads=16, kv_heads=2, head_size=128, intermediate=11008,
        vocabulary=151936, context=32768, tied=True,
    ),
}  # fmt: skip


def of_config(config: Any) -> ModelShape | None:
    """The shape in a transformers config; None for one that is no decoder with attention heads."""
    config = config.get_text_config()
    try:
        heads = config.num_attention_heads
        return ModelShape(
            kind=config.model_type,
            hidden=config.hidden_size,
            layers=config.num_hidden_layers,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
            intermediate=config.intermediate_size,
            vocabulary=config.vocab_size,
            context=config.max_position_embeddings,
            tied=config.tie_word_embeddings,
        )
    except AttributeError:
        return None


def _config_file(name: str) -> Path | None:
    """config.json of a model on this machine: in its folder, or in the hub's cache."""
    file = Path(name) / "config.json"
    if os.path.isfile(file):
        return file
    from huggingface_hub import try_to_load_from_cache

    with contextlib.suppress(ValueError):  # no name that the hub could have
        file = try_to_load_from_cache(name, "config.json")
        return Path(file) if isinstance(file, str) else None
    return None


def as_written(name: str) -> ModelShape | None:
    """The shape in the config.json of a model that is here, where a COUNTED architecture's says all of it: what it
    leaves to defaults only transformers knows, which takes seconds to import."""
    file = _config_file(name)
    if file is None:
        return None
    try:
        config = json.loads(file.read_bytes())
        kind, tied = config["model_type"], config["tie_word_embeddings"]
        sizes = {field: config[key] for field, key in SIZES.items()}
        head_size = config.get("head_dim") or sizes["hidden"] // sizes["heads"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError, ArithmeticError):
        return None
    if kind not in COUNTED or type(tied) is not bool or any(type(n) is not int for n in (*sizes.values(), head_size)):
        return None
    return ModelShape(kind=kind, tied=tied, head_size=head_size, **sizes)


def find(name: str) -> tuple[ModelShape | None, bool]:
    """The shape of a model, and whether its config is on this machine (a folder, or the hub's cache).

    Nothing is fetched. A model that is not here is looked up in KNOWN; the shape is None where that fails, too.
    """
    if shape := as_written(name):
        return shape, True
    if _config_file(name):
        from transformers import AutoConfig

        try:
            return of_config(AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)), True
        except Exception:  # a damaged config can make transformers raise nearly anything; check_model tells of it
            if os.path.isdir(name):
                return None, True
    base = name.rstrip("/").rpartition("/")[2].lower().removeprefix("meta-")
    known = (shape for beginning, shape in KNOWN.items() if base.startswith(beginning))
    return next(known, None), False
