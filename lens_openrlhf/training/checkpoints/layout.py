"""What lies where in `--ckpt.path`, and what a checkpoint says of its model."""

from __future__ import annotations

from typing import Any

ACTOR, LATEST, METRIC = "_actor", "latest", "metric.json"
UNFINISHED = "unfinished-"
REPLACED = f"{UNFINISHED}old-"
FACTS = "run.json"  # in a checkpoint: its step, and the run's options
ESTIMATOR = "estimator.pt"  # in a checkpoint: the estimator's state
ARCHITECTURE = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    "num_key_value_heads",
)


def architecture(model: str) -> dict[str, Any]:
    """What a model's config.json says of its shape; nothing for a model that cannot be reached."""
    from transformers import PretrainedConfig

    try:
        config, _ = PretrainedConfig.get_config_dict(model)
    except (OSError, ValueError):
        return {}
    return {key: config[key] for key in ARCHITECTURE if key in config}
