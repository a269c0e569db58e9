"""What is beyond a machine without CUDA: refused, or warned of with the remedy."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import psutil
import pytest

from lens_openrlhf import cpu_runtime
from lens_openrlhf.inputs import OptionError
from lens_openrlhf.training import command
from lens_openrlhf.training.commandline import dry_run, machine, model_shape, options, plan
from lens_openrlhf.training.commandline.plan import GIB

FREE_MEMORY = machine.free_memory
# SmolLM2-135M's dimensions.
SIZES = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
SIZES |= {"intermediate_size": 1536, "vocab_size": 49152, "max_position_embeddings": 8192}
WORDS = [
    *("--actor.model_name_or_path", "model", "--data.prompt_dataset", "prompts.jsonl", "--data.input_key", "prompt"),
    *("--data.label_key", "label"),
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
    monkeypatch.setattr(cpu_runtime, "required", lambda: True)
    monkeypatch.setattr(machine, "free_memory", lambda: 18 * GIB)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: {0, 1})
    monkeypatch.setattr(command, "interrupt_once", lambda: None)


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


@pytest.mark.parametrize("more", [["--ds.lora.rank", "8"], ["--actor.optim", "muon"]], ids=" ".join)
def test_hours_are_warned_of_where_memory_is_not_estimated(more):
    assert checked(*more) == []
    (line,) = checked(*more, "--rollout.batch_size", "1024", "--rollout.max_new_tokens", "2000")
    assert f"takes {'12 h 14' if '--ds.lora.rank' in more else '15 h 18'} min at best" in line


def test_memory_is_refused_and_warned_of_on_both_sides_of_its_limits(args, monkeypatch):
    shape = model_shape.find("model")[0]
    two = args({"actor.num_gpus_per_node": 2, "vllm.num_engines": 3, "data.max_len": 8, "rollout.batch_size": 4})
    found = plan.host_memory(two, shape)
    assert found.least < found.peak
    for free, refused, warned in (
        (found.least - 1, True, False),
        (found.least, False, True),
        (found.peak - 1, False, True),
        (found.peak, False, False),
    ):
        monkeypatch.setattr(machine, "free_memory", lambda free=free: free)
        sizes = [f"{size / GIB:.1f} GiB" for size in (found.least, found.peak)]
        if refused:
            with pytest.raises(OptionError) as caught:
                machine.check(two, shape, 2000)
            assert str(caught.value) == (
                f"--actor.model_name_or_path model: 2 actor and 3 vLLM processes take at least {sizes[0]}, and "
                f"{free / GIB:.1f} are free; use fewer than 2 actor processes (--actor.num_gpus_per_node), or a "
                "smaller model"
            )
        else:
            warning = (
                f"memory may run out: about {sizes[1]} at the peak, and {free / GIB:.1f} are free; use fewer than 2 "
                "actor processes (--actor.num_gpus_per_node), or smaller passes (--train.micro_batch_size, "
                "--rollout.micro_batch_size, --data.max_len)"
            )
            assert machine.check(two, shape, 2000) == ([warning] if warned else [])
    assert machine.memory_line(found) == f"about {sizes[1]} at its peak, estimated; {found.peak / GIB:.1f} are free"
    assert machine.memory_line(None).startswith("not estimated for this architecture, LoRA, 4-bit weights or Muon, or")


@pytest.mark.parametrize(
    ("changes", "prompts", "cores", "line"),
    [
        # 2,000 x 4 answers of 3,072 tokens, 10 operations for each of 1e9 parameters, 2e11 a second and core.
        ({}, 2000, 1, "a step of 24,576,000 tokens takes 341 h 20 min at best on 1 cores; use a smaller"),
        ({}, 2000, 3, "a step of 24,576,000 tokens takes 113 h 46 min at best on 3 cores"),
        ({"ds.lora.rank": 1}, 2000, 1, "a step of 24,576,000 tokens takes 273 h 04 min at best on 1 cores"),
        ({}, None, 1, "a step of 24,576,000 tokens takes 341 h 20 min"),
        ({}, 3000, 1, "a step of 24,576,000 tokens takes 341 h 20 min"),
        ({}, 500, 1, "a step of 6,144,000 tokens takes 85 h 20 min"),
        ({"rollout.max_new_tokens": 9}, 2000, 1, None),  # 72,000 tokens, exactly an hour
        ({"rollout.max_new_tokens": 9, "rollout.batch_size": 2001}, None, 1, "a step of 72,036 tokens takes 1 h 00"),
        ({"rollout.max_new_tokens": 18}, 2000, 2, None),
    ],
)
def test_a_step_of_hours_by_hand(args, monkeypatch, changes, prompts, cores, line):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(cores)) if process == 0 else set())
    monkeypatch.setattr(model_shape.ModelShape, "parameters", 10**9)
    monkeypatch.setattr(machine, "free_memory", lambda: 10**15)
    run = args({"rollout.batch_size": 2000, "rollout.n_samples_per_prompt": 4, "data.max_len": 3072, **changes})
    lines = machine.check(run, model_shape.find("model")[0], prompts)
    assert [told[: len(line or "")] for told in lines] == ([] if line is None else [line])


def test_nothing_is_said_of_a_model_whose_size_nobody_knows(args, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 0)
    run = args({"rollout.batch_size": 10**9})
    assert machine.check(run, None, None) == []
    shape = dataclasses.replace(model_shape.find("model")[0], kind="gpt_neox")
    assert shape.parameters is None and machine.check(run, shape, None) == []


def write_group(folder, names, most, used, cached):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (most, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    version = "total_" if names is V1 else ""
    (folder / "memory.stat").write_text(f"anon {used}\ninactive_file 1\n{version}inactive_file {cached}\n")


V2, V1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")


@pytest.mark.parametrize(
    ("names", "own", "groups", "free"),
    [
        (V2, "0::/a/b", {"a/b": ("max", 3, 1), "a": (10, 6, 2)}, 6),
        (V2, "0::/a/b", {"a/b": (8, 6, 1), "a": (10, 6, 2)}, 3),
        (V2, "0::/", {".": (9, 5, 0)}, 4),
        (V2, "0::/host/name", {".": (9, 5, 0)}, 4),
        (V2, "0::/", {}, 50),
        (V2, "0::/", {".": (100, 5, 0)}, 50),
        (V2, "0::/", {".": (9, 12, 1)}, 0),
        (V1, "9:name=systemd:/\n4:cpu,memory:/a\n0::/", {"memory/a": (10, 6, 2), "memory": (2**63 - 4096, 6, 2)}, 6),
        (V1, "4:memory:/docker/name\n1:cpu:/", {"memory": (10, 6, 3)}, 7),
        (V1, "1:cpu:/", {"memory": (10, 6, 3)}, 50),
        (V1, None, {"memory": (10, 6, 3)}, 50),
    ],
)
def test_what_is_free_is_the_machines_and_the_containers(names, own, groups, free, tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=50))
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    if own is not None:
        (tmp_path / "own").write_text(f"{own}\n")
    for folder, values in groups.items():
        write_group(tmp_path / "cgroup" / folder, names, *values)
    assert FREE_MEMORY() == free


def test_this_machine_has_free_memory(monkeypatch):
    assert 0 < FREE_MEMORY() <= psutil.virtual_memory().total


def test_memory_by_hand():
    args = options.parse(WORDS)
    shape = model_shape.find("model")[0]
    found = plan.host_memory(args, shape)
    count, tokens = shape.parameters, args.train.micro_batch_size * args.data.max_len
    state = (plan.WEIGHT + plan.GRADIENT + plan.ADAM) * count
    assert found.least == state + plan.PROCESS + (plan.PROCESS + plan.CPU_CACHE + plan.WEIGHT * count)
    layers = 30 * 2 * tokens * (8 * 576 + 4 * 1536)
    assert found.peak - found.least == layers + 10 * tokens * 49152


def test_the_plan_says_so_before_a_run(capsys, monkeypatch):
    monkeypatch.setattr(cpu_runtime, "without_sampler", lambda: None)  # where vLLM is a build for CUDA
    many = ["--actor.num_gpus_per_node", "16", "--vllm.num_engines", "1"]
    shown = " ".join(dry_run.plan([*WORDS]).split())
    assert "GiB at its peak, estimated; 18.0 are free" in shown and "before it can run" not in shown
    assert "16 actor and 1 vLLM processes" in " ".join(dry_run.plan([*WORDS, *many]).split())
    assert command.main([*WORDS, "--rollout.batch_size", "16", *many]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and shown.err.startswith("error: --actor.model_name_or_path") and not shown.out


def test_a_whole_plan_without_cuda(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_runtime, "without_sampler", lambda: None)
    monkeypatch.setattr(machine, "free_memory", lambda: 60 * GIB)
    monkeypatch.setattr(dry_run, "WIDTH", 10000)
    monkeypatch.setenv("COLUMNS", "10000")
    sizes = ["--rollout.batch_size", "1024", "--rollout.max_new_tokens", "2000", "--actor.num_gpus_per_node", "8"]
    lines = dry_run.plan([*WORDS, *sizes]).splitlines()
    head, remarks = lines[: lines.index("")], lines[lines.index("") + 1 :]
    assert [line[12:] for line in head[1:6]] == [
        f"{tmp_path}/model: 134.5 million parameters, 30 layers, context 8192",
        "8 logical GPUs of the CPU: the actor on 8 (8 data-parallel ranks, ZeRO 2), 8 vLLM engines on the same",
        "1024 prompts x 8 answers = 8192 samples of at most 2000 new tokens, together 16,384,000; 64 updates of 128 "
        "samples; at most 8192 tokens in one pass of a rank",
        "2000 prompts: 2 steps x 1 episode = 2 steps, with 64 updates each; 16,000 answers, together at most "
        "32,000,000 new tokens",
        "none",
    ]
    assert head[0] == "plan (nothing is started)" and head[6:] == [
        f"run folder  {tmp_path}/run",
        "memory      about 99.1 GiB at its peak, estimated; 60.0 are free",
    ]
    assert [line[:24] for line in remarks] == [
        *("remarks:", "- without CUDA, what you", "- memory may run out: ab", "- a step of 16,384,000 t")
    ]
    monkeypatch.setattr(machine, "free_memory", lambda: 18 * GIB)
    refused = dry_run.plan([*WORDS, *sizes]).splitlines()
    assert refused[-2] == "before it can run on this machine:"
    assert refused[-1].startswith("- --actor.model_name_or_path") and "take at least 29.8 GiB, and 18.0" in refused[-1]


def test_a_run_is_warned_by_the_prompts_that_there_are(monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 10**15)
    long = ["--rollout.batch_size", "4096", "--rollout.max_new_tokens", "2000", "--data.max_samples", "1500"]
    args = options.parse([*WORDS, *long])
    warnings = [line for line in dry_run.announcement(args) if line.startswith("warning: ")]
    assert [line.partition(" tokens")[0] for line in warnings] == ["warning: a step of 24,000,000"]
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # on other machines
    assert not [line for line in dry_run.announcement(args) if line.startswith(("warning: ", "memory"))]
