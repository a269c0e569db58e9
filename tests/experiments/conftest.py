"""A spec whose model and data exist, for what is checked before anything is trained."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml

from lens_openrlhf.experiments import spec


@pytest.fixture
def content(tmp_path):
    """A sound spec as YAML has it; tests spoil a copy."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "qwen2"}')
    for name in ("train", "heldout"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"prompt": "1 + 1 =", "label": "2"}) + "\n")
    return {
        "name": "sound",
        "options": {
            "actor.model_name_or_path": str(model),
            "actor.num_gpus_per_node": 1,
            "data.prompt_dataset": str(tmp_path / "train.jsonl"),
            "data.input_key": "prompt",
            "data.label_key": "label",
            "reward.remote_url": "math-verify",
            "algo.advantage.estimator": "lens",
            "rollout.batch_size": 8,
            "rollout.n_samples_per_prompt": 4,
            "train.batch_size": 16,
            "vllm.num_engines": 1,
            "eval.dataset": str(tmp_path / "heldout.jsonl"),
            "eval.at_end": True,
            "eval.n_samples_per_prompt": 4,
        },
        "arms": {"GRPO": {"algo.lens.scope": "none"}, "LENS": {}},
        "seeds": [1, 2],
    }


@pytest.fixture
def write(tmp_path):
    """write(content) -> the path of a spec file with it; text is written as it stands."""

    def run(content: dict | str) -> Path:
        path = tmp_path / "comparison.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return path

    return run


@pytest.fixture
def sound(content, write):
    """sound(options={...}, arms={...}, other keys) -> the Spec with these changes; options are added to the others."""

    def run(options: dict | None = None, **keys) -> spec.Spec:
        changed = copy.deepcopy(content) | keys
        changed["options"] |= options or {}
        return spec.read(write(changed))

    return run
