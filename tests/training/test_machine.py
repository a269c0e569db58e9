"""What is beyond a machine without CUDA: refused, or warned of with the remedy."""

from __future__ import annotations

import json

import pytest

from lens_openrlhf.inputs import OptionError
from lens_openrlhf.training import cpu, dry_run, launch, machine, model_shape, options, plan
from lens_openrlhf.training.plan import GIB

# SmolLM2-135M's dimensions.
SIZES = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
SIZES |= {"intermediate_size": 1536, "vocab_size": 49152, "max_position_embeddings": 8192}
WORDS = [
    *("--actor.model_name_or_path", "model", "--data.prompt_dataset", "prompts.jsonl", "--data.input_key", "prompt"),
    *("--reward.remote_url", "math-verify", "--algo.advantage.estimator", "lens"),
    *("--rollout.n_samples_per_prompt", "8", "--logger.run_dir", "run"),
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with a model's config and 2,000 prompts; a machine of two cores and 18 GiB without CUDA."""
    (tmp_path / "model").mkdir()
    config = {"model_type": "llama", "tie_word_embeddings": True, **SIZES}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "1 + 1 =", "label": "2"}\n' * 2000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cpu, "required", lambda: True)
    monkeypatch.setattr(machine, "free_memory", lambda: 18 * GIB)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: {0, 1})
    monkeypatch.setattr(launch, "interrupt_once", lambda: None)


def checked(*more: str, prompts: int | None = 2000) -> list[str]:
    args = options.parse([*WORDS, *more])
    return machine.check(args, model_shape.find("model")[0], prompts)


def test_the_defaults_are_within_reach():
    assert checked() == []


def test_a_number_of_ranks_that_memory_cannot_hold():
    with pytest.raises(OptionError) as caught:
        checked("--actor.num_gpus_per_node", "16", "--vllm.num_engines", "1")
    message = str(caught.value)
    assert "16 actor and 1 vLLM processes take at least" in message and "18.0 are free" in message
    assert "--actor.num_gpus_per_node" in message and "\n" not in message


def test_one_rank_that_memory_cannot_hold(monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 3 * GIB)
    with pytest.raises(OptionError, match="use a machine with more, or a smaller model"):
        checked()


def test_what_memory_may_not_hold_is_warned_of():
    (line,) = checked("--actor.num_gpus_per_node", "8", "--vllm.num_engines", "1")
    assert line.startswith("memory may run out") and "--actor.num_gpus_per_node" in line and "18.0 are free" in line
    (line,) = checked("--train.micro_batch_size", "16")
    assert line.startswith("memory may run out") and "--train.micro_batch_size" in line


def test_a_step_of_hours_is_warned_of():
    long = ["--rollout.batch_size", "1024", "--rollout.max_new_tokens", "2000"]
    (line,) = checked(*long)
    # 1,024 x 8 answers of 2,000 tokens, 10 operations for each of 134.5 million parameters, 2 x 2e11 a second.
    assert line.startswith("a step of 16,384,000 tokens takes 15 h 18 min at best on 2 cores")
    assert all(option in line for option in ("--rollout.batch_size", "--rollout.max_new_tokens"))
    assert checked(*long, prompts=8) == [], "no more than there are"


def test_memory_by_hand():
    args = options.parse(WORDS)
    shape = model_shape.find("model")[0]
    found = plan.host_memory(args, shape)
    count, tokens = shape.parameters, args.train.micro_batch_size * args.data.max_len
    state = (plan.WEIGHT + plan.GRADIENT + plan.ADAM) * count
    assert found.least == state + plan.PROCESS + (plan.PROCESS + plan.CPU_CACHE + plan.WEIGHT * count)
    layers = 30 * 2 * tokens * (8 * 576 + 4 * 1536)
    assert found.peak - found.least == layers + 10 * tokens * 49152


def test_the_plan_says_so_before_a_run(capsys):
    many = ["--actor.num_gpus_per_node", "16", "--vllm.num_engines", "1"]
    shown = " ".join(dry_run.plan([*WORDS]).split())
    assert "GiB at its peak, estimated; 18.0 are free" in shown and "before it can run" not in shown
    assert "16 actor and 1 vLLM processes" in " ".join(dry_run.plan([*WORDS, *many]).split())
    assert launch.main([*WORDS, "--rollout.batch_size", "16", *many]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and shown.err.startswith("error: --actor.model_name_or_path") and not shown.out
