"""What makes a command line quick to answer: nothing is imported for it but what it needs. No time is measured."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from lens_openrlhf.cli import COMMANDS

# Each takes from half a second to many to import.
HEAVY = {
    *("torch", "vllm", "ray", "deepspeed", "transformers", "datasets", "huggingface_hub", "accelerate", "peft", "trl"),
    *("pandas", "scipy", "sympy", "math_verify", "pyarrow", "plotly", "lens_openrlhf.advantages.ops"),
}
# One process for many command lines: what each has imported stays, so what comes first is what the later ones have.
PROGRAM = """
import contextlib, io, json, sys
from lens_openrlhf.cli import main

heavy, lines = json.loads(sys.argv[1])
for argv in lines:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = main(argv)
        except SystemExit as end:
            status = end.code
    print(json.dumps([status, said.getvalue(), sorted(set(heavy) & sys.modules.keys())]))
"""
RIGHT = [
    *("train", "--algo.advantage.estimator", "lens", "--reward.remote_url", "math-verify"),
    *("--vllm.num_engines", "1", "--actor.num_gpus_per_node", "1", "--rollout.n_samples_per_prompt", "16"),
    *("--actor.model_name_or_path", "model", "--data.prompt_dataset", "prompts.jsonl", "--data.input_key", "prompt"),
    *("--data.label_key", "label", "--data.max_len", "128"),
]


def answers(lines, folder) -> list[tuple[int, str, list[str]]]:
    """For each command line, in one new process: exit status, what was said, and what heavy there is then."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([sorted(HEAVY), lines])],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(lines)
    return found


def test_help_comes_without_imports(tmp_path):
    """That of all commands, the version, and what `lens-openrlhf` alone shows."""
    lines = [[], ["--version"], ["--help"], *([name, "--help"] for name in COMMANDS)]
    for argv, (status, said, imported) in zip(lines, answers(lines, tmp_path), strict=True):
        assert status == 0 and not imported, (argv, said)
        assert "usage: lens-openrlhf" in said or (argv == ["--version"] and said.startswith("lens-openrlhf 0."))


def test_a_misspelt_option_is_refused_without_imports(tmp_path):
    lines = [["train", "--profile", name, "--algo.lens.alhpa", "1"] for name in ("tiny", "smollm2", "qwen2.5-3b")]
    lines += [[*RIGHT, "--algo.lens.alhpa", "1"], ["train", "--profile", "absent"]]
    for argv, (status, said, imported) in zip(lines, answers(lines, tmp_path), strict=True):
        assert status == 2 and not imported, (argv, said)
        assert said.startswith("error: ") and said.count("\n") == 1
        near = "unrecognized arguments: --algo.lens.alhpa 1; did you mean --algo.lens.alpha?"
        assert near in said or "--profile absent: no such profile" in said


def refused() -> list[tuple[str, list[str]]]:
    """Options with values that cannot work, for the parser and for the preflight, and what is said of them."""
    return [
        ("invalid float value: 'x'", [*RIGHT, "--algo.lens.alpha", "x"]),
        ("--algo.advantage.estimator: expected one argument", [*RIGHT, "--algo.advantage.estimator"]),
        ("--algo.lens.alpha: expected one argument", [*RIGHT, "--algo.lens.alpha"]),
        ("invalid choice: 'lense'", [*RIGHT, "--algo.advantage.estimator", "lense"]),
        ("--algo.lens.alpha=-1.0: expected", [*RIGHT, "--algo.lens.alpha", "-1"]),
        ("--algo.spo.half_life", [*RIGHT, "--algo.advantage.estimator", "spo", "--algo.spo.half_life", "-1"]),
        ("--rollout.n_samples_per_prompt 1:", [*RIGHT, "--rollout.n_samples_per_prompt", "1"]),
        ("--train.batch_size 7:", [*RIGHT, "--rollout.batch_size", "8", "--train.batch_size", "7"]),
        ("--eval.k 9: ", [*RIGHT, "--eval.dataset", "prompts.jsonl", "--eval.k", "9"]),
        ("--actor.model_name_or_path ./absent: no such", [*RIGHT, "--actor.model_name_or_path", "./absent"]),
        ("takes 64 tokens", RIGHT),
        ("absent.jsonl: no such file", [*RIGHT, "--data.max_len", "64", "--data.prompt_dataset", "absent.jsonl"]),
    ]


@pytest.mark.skipif(torch.version.cuda is not None, reason="a torch for CUDA is asked whether there is a GPU")
def test_a_refused_value_and_a_dry_run_need_no_imports(tmp_path):
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"intermediate_size": 128, "vocab_size": 98, "max_position_embeddings": 64}
    (tmp_path / "model").mkdir()
    config = {"model_type": "qwen2", "tie_word_embeddings": True, **sizes}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "1 + 1 =", "label": "2"}\n')
    cases = refused()
    dry = [*RIGHT, "--data.max_len", "64", "--rollout.batch_size", "8", "--train.batch_size", "128", "--dry_run"]
    *found, (status, said, imported) = answers([*(argv for _, argv in cases), dry], tmp_path)
    for (words, argv), (status_of, message, before) in zip(cases, found, strict=True):
        assert status_of == 2 and words in message and not before, (argv, message, before)
        assert message.startswith("error: ") and message.count("\n") == 1
    assert status == 0 and "2 layers, context 64" in said
    slow = {"torch", "vllm", "ray", "deepspeed", "transformers", "datasets"}
    assert not slow & set(imported), "a dry run needs none of these where the model's config says its sizes"
