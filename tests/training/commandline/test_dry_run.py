"""Profiles of any size, what a dry run says of them, and what is refused before anything is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from lens_openrlhf import cpu_runtime
from lens_openrlhf.evaluation.sampling import Sampler
from lens_openrlhf.inputs import MATH_VERIFY_FILE, READABLE, OptionError
from lens_openrlhf.training import command
from lens_openrlhf.training.commandline import dry_run, model_shape, options, plan, profiles
from lens_openrlhf.training.commandline.estimator import make_estimator
from lens_openrlhf.training.commandline.gpus import gpus_needed
from lens_openrlhf.training.commandline.profiles import ProfileError
from lens_openrlhf.training.launch import cluster

PROFILES = sorted(path.stem for path in profiles.FOLDER.glob("*.args"))
PAPER = ["llama3.1-8b", "llama3.1-8b-numina", "qwen2.5-3b", "qwen2.5-3b-numina"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder without models and data, and an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(command, "interrupt_once", lambda: None)  # the test runner's own handlers stay


def args_of(*words: str):
    """The arguments of a profile, for a machine with CUDA."""
    return options.parse([w for w in profiles.expand(["--profile", *words, "--dry_run"]) if w != "--dry_run"], True)


def planned(capsys, *words: str) -> str:
    """What a dry run prints, on one line."""
    assert command.main(profiles.expand(["--profile", *words, "--dry_run"])) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_planned_without_model_data_or_gpus(profile, tmp_path, capsys):
    assert command.main(profiles.expand(["--profile", profile, "--dry_run"])) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("plan (nothing is started)") and not shown.err
    # A path is not broken.
    assert all(len(line) <= dry_run.WIDTH or str(tmp_path) in line for line in shown.out.splitlines())
    assert "--data.prompt_dataset" in shown.out and "before it can run on this machine" in shown.out
    assert not list(tmp_path.iterdir()), "a dry run writes nothing"


def test_no_package_has_a_word_of_its_own_above_a_plan():
    words = ["train", "--profile", "qwen2.5-3b", "--gpus", "4", "--dry_run"]
    done = subprocess.run([sys.executable, "-m", "lens_openrlhf.cli", *words], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("plan (nothing is started)") and not done.stderr


@pytest.mark.parametrize("profile", PAPER)
def test_a_recipe_is_the_papers(profile):
    args = args_of(profile)
    llama = profile.startswith("llama")
    assert args.actor.model_name_or_path == ("meta-llama/Llama-3.1-8B-Instruct" if llama else "Qwen/Qwen2.5-3B")
    assert args.actor.adam.lr == (3e-7 if llama else 1e-6)
    assert (args.rollout.batch_size, args.rollout.n_samples_per_prompt, args.train.batch_size) == (128, 16, 512)
    assert plan.updates_a_step(args) == 4
    assert (args.rollout.max_new_tokens, args.rollout.temperature, args.rollout.top_p) == (4096, 1, 1)
    assert tuple(args.actor.eps_clip_low_high) == (0.2, 0.2) and args.algo.kl.init_coef == 0
    assert args.actor.loss_agg_mode == "seq-mean-token-mean"
    config = make_estimator(args).config
    assert (config.alpha, config.scope, config.confidence, config.difficulty) == (
        0.25,
        "both",
        "geometric",
        "importance",
    )
    assert args.reward.remote_url == [str(MATH_VERIFY_FILE)]
    assert (args.eval.n_samples_per_prompt, args.eval.temperature, args.eval.k) == (16, 1, [1, 2, 4, 8, 16])
    assert plan.planned_steps(args, args.data.max_samples) > 1000
    assert args.train.colocate_all and args.vllm.enable_sleep and args.ds.enable_sleep
    recipe = "math+numina" if profile.endswith("numina") else "math+dapo"
    assert (args.data.prompt_dataset, args.eval.dataset) == (
        f"data/{recipe}/train.parquet",
        f"data/{recipe}/test.parquet",
    )


@pytest.mark.parametrize(("gpus", "nodes", "each"), [(None, 1, 8), ("1", 1, 1), ("4", 1, 4), ("8", 1, 8), ("16", 2, 8)])
def test_one_number_sizes_a_recipe(gpus, nodes, each):
    args = args_of("qwen2.5-3b", *([] if gpus is None else ["--gpus", gpus]))
    assert (args.actor.num_nodes, args.actor.num_gpus_per_node, args.vllm.num_engines) == (nodes, each, nodes * each)
    assert gpus_needed(args) == plan.data_parallel_ranks(args) == nodes * each


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--profile", "qwen2.5-3b", "--gpus", "12"], "--gpus 12: expected 1 to 8, or a multiple of 8"),
        (["--profile", "qwen2.5-3b", "--gpus", "0"], "--gpus 0: expected"),
        (["--profile", "qwen2.5-3b", "--gpus", "many"], "--gpus many: expected"),
        (["--profile", "qwen2.5-3b", "--gpus"], "--gpus: the value is missing"),
        (["--profile", "tiny", "--gpus", "2", "--dry_run"], "the profile tiny has a fixed size; set --actor.num_gpus"),
        (["--gpus", "2"], "no profile is named"),
    ],
)
def test_sizes_that_no_profile_can_take(words, message):
    with pytest.raises(ProfileError, match=message):
        profiles.expand(words)


def test_a_profile_goes_on_from_another(tmp_path):
    (tmp_path / "base.args").write_text(
        "--train.seed 1 --actor.adam.lr 1e-5 --actor.num_gpus_per_node ${gpus_per_node}\n"
    )
    (tmp_path / "mine.args").write_text("--profile base.args\n--train.seed 2\n")
    argv = profiles.expand(["--profile", "mine.args", "--gpus", "4", "--logger.run_dir", "here", "--train.seed", "3"])
    base = ["--train.seed", "1", "--actor.adam.lr", "1e-5", "--actor.num_gpus_per_node", "4"]
    assert argv == [*base, "--train.seed", "2", "--logger.run_dir", "here", "--train.seed", "3"]
    (tmp_path / "base.args").write_text("--profile mine.args\n")
    with pytest.raises(ProfileError, match="mine.args names base.args names mine.args, which has no end"):
        profiles.expand(["--profile", "mine.args"])


@pytest.mark.parametrize(
    ("method", "mode", "clips", "kl", "left_out"),
    [
        ("rl_zvp", "seq-mean-token-mean", (0.2, 0.2), 0, ""),
        ("nsr", "token-mean", (0.2, 0.2), 0, " --actor.loss_agg_mode seq-mean-token-mean"),
        ("dapo", "token-mean", [0.2, 0.28], 0, " --actor.eps_clip 0.2 --actor.loss_agg_mode seq-mean-token-mean"),
        ("topr", "token-mean", (0.2, 0.2), 0, " --actor.eps_clip 0.2 --actor.loss_agg_mode seq-mean-token-mean"),
        ("intuitor", "seq-mean-token-mean", (0.2, 0.2), 0.005, " --algo.kl.init_coef 0"),
    ],
)
def test_what_a_method_brings_wins_over_a_profile_made_for_another(method, mode, clips, kl, left_out):
    chosen = ["--profile", "llama3.1-8b", "--algo.advantage.estimator", method, "--ref.num_gpus_per_node", "8"]
    said = []
    args = options.parse(profiles.expand(chosen, say=said.append), anywhere=True)
    assert (args.actor.loss_agg_mode, args.actor.eps_clip_low_high, args.algo.kl.init_coef) == (mode, clips, kl)
    assert said == [f"with {method} the profile's --algo.lens.alpha 0.25{left_out} has no say"]

    given = ["--actor.loss_agg_mode", "seq-mean-token-mean"]
    args = options.parse(profiles.expand([*chosen, *given]), anywhere=True)
    assert args.actor.loss_agg_mode == given[1], "options on the command line win over all"


@pytest.mark.parametrize(
    ("method", "left_out"), [("nsr", "--reward.overlong_buffer_len 16"), ("spo", "--train.async_enable")]
)
def test_what_a_method_refuses_is_left_out_of_a_profile_made_for_another(tmp_path, method, left_out):
    (tmp_path / "mine.args").write_text("--reward.overlong_buffer_len 16\n--train.async_enable\n--train.seed 2\n")
    said = []
    words = profiles.expand(
        ["--profile", str(tmp_path / "mine.args"), "--algo.advantage.estimator", method], say=said.append
    )
    assert said == [f"with {method} the profile's {left_out} has no say"]
    assert left_out.split()[0] not in words and "--train.seed" in words


def test_a_profile_that_chooses_the_method_itself_has_the_say(tmp_path):
    own = "--profile tiny --algo.advantage.estimator dapo --actor.eps_clip_low_high 0.1 0.3"
    (tmp_path / "mine.args").write_text(own)
    args = args_of(str(tmp_path / "mine.args"))
    assert (args.actor.loss_agg_mode, args.actor.eps_clip_low_high) == ("token-mean", [0.1, 0.3])


def test_what_is_there_is_counted_and_what_is_missing_is_named(tmp_path, capsys):
    shown = planned(capsys, "qwen2.5-3b", "--gpus", "16")
    assert "3.09 billion parameters" in shown and "16 GPUs: the actor on 16 on 2 machines" in shown
    assert "at most 24576 prompts: 192 steps x 6 episodes = 1152 steps, with 4 updates each" in shown
    assert "train.parquet: no such file; make it with `lens-openrlhf data math+dapo`" in shown
    assert "Qwen/Qwen2.5-3B: is fetched from the hub" in shown and "- CUDA: " in shown
    rows = tmp_path / "data" / "math+dapo"
    rows.mkdir(parents=True)
    import pandas

    table = pandas.DataFrame({"prompt": ["1 + 1?"] * 300, "label": ["2"] * 300, "level": [1] * 300})
    (rows / "train.parquet").write_text("no parquet")
    shown = planned(capsys, "qwen2.5-3b")
    assert "train.parquet: cannot be read as parquet" in shown and "at most 24576 prompts" in shown
    for name in ("train", "test"):
        table.to_parquet(rows / f"{name}.parquet")
    shown = planned(capsys, "qwen2.5-3b")
    assert " 300 prompts: 3 steps x 6 episodes = 18 steps" in shown and "no such file" not in shown
    # 44 prompts are left for the third step: 704 samples, of which 512 fill an update.
    # OpenRLHF goes on adding up gradients where the episode ended.
    assert "192 samples of an episode's last step fill no update and are mixed into the next step's first" in shown
    assert "update; --data.max_samples 256 avoids it" in shown
    assert "and are left out; --data.max_samples 256" in planned(capsys, "qwen2.5-3b", "--train.dynamic_batch_enable")
    (tmp_path / "short.args").write_text(
        "--profile tiny\n--data.max_samples 24\n--data.prompt_dataset data/math+dapo/train.parquet\n"
    )
    assert "128 samples of an episode's last step" in (shown := planned(capsys, "short.args"))
    assert "use a --data.max_samples of at least 32" in shown


@pytest.fixture
def wide(monkeypatch):
    """A terminal in which no line of a plan is broken."""
    monkeypatch.setenv("COLUMNS", "1000000")
    monkeypatch.setattr(dry_run, "WIDTH", 1000000)


STEP = (
    "128 prompts x 16 answers = 2048 samples of at most 4096 new tokens, together 8,388,608; 4 updates of 512 samples; "
)
PLAN_OF_TWO_MACHINES = f"""\
plan (nothing is started)
model       Qwen/Qwen2.5-3B: 3.09 billion parameters, 36 layers, context 32768 (known by its name; it is not on this \
machine)
devices     16 GPUs: the actor on 16 on 2 machines (16 data-parallel ranks, ZeRO 3), 16 vLLM engines on the same, in \
turns
a step      {STEP}at most 16192 tokens in one pass of a rank
the run     at most 24576 prompts: 192 steps x 6 episodes = 1152 steps, with 4 updates each; at most 2,359,296 \
answers, together at most 9,663,676,416 new tokens
evaluation  data/math+dapo/test.parquet: 16 answers a prompt, temperature 1; at the start, every 100 steps, at the end
run folder  HERE/run
memory      of a GPU at its peak, estimated, in GiB
training    about 37 of 79 GiB, assumed: weights 0.4, gradients 0.4, Adam 2.2, activations 4.0, logits 22.9, \
collectives 2.8, CUDA and others 4.0; the optimizer's step 0.7 instead of the pass
sampling    about 60 of 79 GiB, assumed: vLLM 55.3 (46.6 for keys and values of 1355925 tokens), actor 0.4, CUDA, \
NCCL 4.0
host        about 66 of a machine's memory, pinned: sleeping actor 20.1, sleeping vLLM 46.0

before it can run on this machine:
- CUDA: the options are for machines that have it, and so is this plan
- --actor.model_name_or_path Qwen/Qwen2.5-3B: is fetched from the hub when the run starts, or name the folder of a \
downloaded model
- --data.prompt_dataset data/math+dapo/train.parquet: no such file; make it with `lens-openrlhf data math+dapo`, or \
name another
- --eval.dataset data/math+dapo/test.parquet: no such file; make it with `lens-openrlhf data math+dapo`, or \
name another"""


@pytest.mark.skipif(not cpu_runtime.required(), reason="this machine has CUDA")
def test_a_whole_plan(tmp_path, wide):
    words = profiles.expand(["--profile", "qwen2.5-3b", "--gpus", "16", "--logger.run_dir", "run"])
    shown = dry_run.main([*words, "--train.dynamic_batch_enable", "--dry_run"])
    assert shown == PLAN_OF_TWO_MACHINES.replace("HERE", str(tmp_path))


@pytest.mark.skipif(not cpu_runtime.required(), reason="this machine has CUDA")
def test_a_plan_for_a_gpu_of_a_size(wide):
    """What may not fit is told with its numbers; nothing is assumed of the GPU."""
    words = profiles.expand(["--profile", "qwen2.5-3b", "--logger.run_dir", "run"])
    lines = dry_run.main([*words, "--gpu_memory_gib", "15.5", "--dry_run"]).splitlines()
    rows = {line[:12].strip(): line[12:] for line in lines[: lines.index("")]}
    assert rows["training"].startswith("about 30 of 16 GiB: weights 0.7, gradients 0.7, Adam 4.3, activations 2.6, ")
    assert rows["sampling"] == (
        "about 16 of 16 GiB: vLLM 10.8 (2.1 for keys and values of 61224 tokens), actor 0.7, CUDA, NCCL 4.0"
    )
    remarks = lines[lines.index("remarks:") + 1 : lines.index("before it can run on this machine:") - 1]
    assert remarks == [
        "- training may not fit: about 30 of 16 GiB; use more GPUs, --ds.zero_stage 3, "
        "--actor.gradient_checkpointing_enable, fewer tokens at once (--train.max_tokens_per_gpu or "
        "--train.micro_batch_size), or --ds.adam_offload",
        "- sampling may not fit: about 16 of 16 GiB; use a smaller --vllm.gpu_memory_utilization, or "
        "--vllm.enable_sleep and --ds.enable_sleep",
    ]
    lora = dry_run.main([*words, "--ds.lora.rank", "4", "--ds.zero_stage", "2", "--dry_run"])
    assert "\nmemory      not estimated for this architecture, LoRA, 4-bit weights or Muon\n" in lora
    assert "\ntraining " not in lora and "remarks" not in lora
    # Of a model whose size nobody knows there is nothing to say.
    assert "\nmemory " not in dry_run.main([*words, "--actor.model_name_or_path", "some/model", "--dry_run"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        *(([f"--gpu_memory_gib={size}"], f"--gpu_memory_gib {size}: expected") for size in ("0", "-1", "nan", "inf")),
        (
            ["--gpu_memory_gib", "much"],
            "argument --gpu_memory_gib: invalid float value: 'much'; see lens-openrlhf train",
        ),
        (["--gpu_memory_gib"], "argument --gpu_memory_gib: expected one argument; see lens-openrlhf train --help"),
        (["--gpu_mem", "3"], "unrecognized arguments: --gpu_mem 3"),
        (["--dry"], "unrecognized arguments: --dry"),
    ],
)
def test_a_size_that_no_gpu_has(words, told, capsys):
    assert command.main([*profiles.expand(["--profile", "qwen2.5-3b", *words]), "--dry_run"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {told}") and shown.err.count("\n") == 1 and not shown.out


def test_a_gpu_may_be_smaller_than_a_gibibyte(capsys):
    with pytest.raises(OptionError, match="^weights, gradients and Adam's state take 6 GiB on each GPU, which has 1: "):
        dry_run.main([*profiles.expand(["--profile", "qwen2.5-3b"]), "--gpu_memory_gib", "0.75"])


def test_what_is_missing_is_broken_between_words_alone(capsys):
    name = "some-where/" + "a-" * 60 + "b"
    words = profiles.expand(["--profile", "qwen2.5-3b", "--actor.model_name_or_path", name])
    lines = dry_run.plan(words).splitlines()
    at = lines.index("- --actor.model_name_or_path")
    assert lines[at + 1] == f"  {name}:" and lines[at + 2].startswith("  is fetched from the hub when the run starts, ")
    assert len(lines[at + 2]) <= 100


def test_help_is_the_commands_own(capsys):
    with pytest.raises(SystemExit):
        dry_run.main(["--dry_run", "--help"])
    assert "--algo.lens.alpha" in capsys.readouterr().out


def test_a_plan_is_for_the_gpus_that_are_here(tmp_path, monkeypatch, wide):
    from types import SimpleNamespace

    monkeypatch.setattr(cpu_runtime, "required", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda place: SimpleNamespace(total_memory=(40 + place) * plan.GIB)
    )
    words = profiles.expand(["--profile", "qwen2.5-3b", "--logger.run_dir", "run"])
    shown = dry_run.main([*words, "--dry_run"])
    assert "\nsampling    about 33 of 40 GiB: vLLM 28.0 (" in shown and "CUDA: " not in shown
    assert "- the options ask for 8 GPUs and 4 are visible: use fewer" in shown
    assert "\nsampling    about 47 of 60 GiB: vLLM 42.0 (" in dry_run.plan(words, 60)


@pytest.mark.parametrize("columns", [0, 60, 100, 200])
def test_a_plan_is_broken_between_words(columns, monkeypatch, args):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(cpu_runtime, "required", lambda: False)
    lines = dry_run.announcement(args({"actor.model_name_or_path": "a-" * 60 + "b"}))
    most = 60 if columns == 60 else 100
    assert lines[0] == "model" and lines[1] == " " * 12 + "a-" * 60 + "b:", "a path stays whole"
    assert max(map(len, lines[2:])) <= most
    labels = [line[:12].strip() for line in lines]
    assert [label for label in labels if label] == ["model", "devices", "a step", "the run", "evaluation"]
    step = [line for line in lines[labels.index("a step") :]][:2]
    assert len(step[0]) + 1 + len(step[1].split()[0]) > most, "as much as there is room for"


ALONE = {"actor.num_gpus_per_node": 1, "vllm.num_engines": 1, "rollout.batch_size": 2, "train.batch_size": 8}
ALONE |= {"data.max_len": 100, "rollout.n_samples_per_prompt": 4}
MANY = {"actor.num_nodes": 2, "actor.num_gpus_per_node": 4, "vllm.num_engines": 3, "vllm.tensor_parallel_size": 2}
MANY |= {"rollout.batch_size": 3, "rollout.n_samples_per_prompt": 8, "train.batch_size": 8, "train.num_episodes": 2}
MANY |= {"data.max_len": 2000, "rollout.max_new_tokens": 500, "train.micro_batch_size": 4, "train.max_epochs": 2}
MANY |= {"ds.zero_stage": 3, "ds.ring_attn_size": 2}


@pytest.mark.parametrize(
    ("changes", "label", "text"),
    [
        (ALONE, "devices", "2 GPUs: the actor on 1 (1 data-parallel rank, ZeRO 2), 1 vLLM engine on GPUs of their own"),
        (
            MANY,
            "devices",
            "14 GPUs: the actor on 8 on 2 machines (4 data-parallel ranks, ZeRO 3), 3 vLLM engines of 2 GPUs on GPUs "
            "of their own",
        ),
        (
            {**ALONE, "train.colocate_all": True},
            "devices",
            "1 GPU: the actor on 1 (1 data-parallel rank, ZeRO 2), 1 vLLM engine on the same",
        ),
        (
            {**ALONE, "train.colocate_all": True, "vllm.enable_sleep": True},
            "devices",
            "1 GPU: the actor on 1 (1 data-parallel rank, ZeRO 2), 1 vLLM engine on the same, in turns",
        ),
        (
            ALONE,
            "a step",
            "2 prompts x 4 answers = 8 samples of at most 100 new tokens, together 800; 1 update of 8 samples; at most "
            "100 tokens in one pass of a rank",
        ),
        (
            MANY,
            "a step",
            "3 prompts x 8 answers = 24 samples of at most 500 new tokens, together 12,000; 6 updates of 8 samples; at "
            "most 4000 tokens in one pass of a rank",
        ),
        (ALONE, "the run", "as many steps as the prompts fill, which are not here to be counted"),
        (
            {**ALONE, "data.max_samples": 1},
            "the run",
            "at most 1 prompts: 1 step x 1 episode = 1 step, with 1 update each; at most 4 answers, together at most "
            "400 new tokens",
        ),
        (
            {**MANY, "data.prompt_dataset": "seven.jsonl"},
            "the run",
            "7 prompts: 3 steps x 2 episodes = 6 steps, with 6 updates each; 112 answers, together at most 56,000 new "
            "tokens",
        ),
        (
            {**MANY, "data.prompt_dataset": "seven.jsonl", "data.max_samples": 6},
            "the run",
            "6 prompts: 2 steps x 2 episodes = 4 steps, with 6 updates each; 96 answers, together at most 48,000 new "
            "tokens",
        ),
        ({}, "evaluation", "none"),
        (
            {"eval.dataset": "e.jsonl", "eval.n_samples_per_prompt": 3, "eval.temperature": 0.25},
            "evaluation",
            "e.jsonl: 3 answers a prompt, temperature 0.25; never",
        ),
        (
            {"eval.dataset": "e.jsonl", "eval.steps": 1, "eval.temperature": 1.0},
            "evaluation",
            "e.jsonl: 4 answers a prompt, temperature 1; every 1 steps",
        ),
        (
            {"eval.dataset": "e.jsonl", "eval.steps": 0, "eval.at_end": True, "eval.at_start": True},
            "evaluation",
            "e.jsonl: 4 answers a prompt, temperature 0.6; at the start, at the end",
        ),
    ],
)
def test_a_line_of_the_plan(changes, label, text, args, monkeypatch, tmp_path, wide):
    (tmp_path / "seven.jsonl").write_text('{"prompt": "1 + 1"}\n\n' * 7)
    monkeypatch.setattr(cpu_runtime, "required", lambda: False)
    rows = {line[:12].strip(): line[12:] for line in dry_run.announcement(args(changes))}
    assert list(rows) == ["model", "devices", "a step", "the run", "evaluation"]
    assert rows[label] == text


@pytest.mark.parametrize(
    ("name", "config", "text"),
    [
        ("some/model", None, "its size is not known, as it is not on this machine"),
        ("./mine", {"model_type": "none of these"}, "its size is not known"),
        ("./mine", {}, "1.5 million parameters, 8 layers, context 4096"),
        ("./mine", {"vocab_size": 9_993_183}, "1.00 billion parameters, 8 layers, context 4096"),
        ("./mine", {"vocab_size": 9_993_182}, "1000.0 million parameters, 8 layers, context 4096"),
        ("./mine", {"model_type": "gpt_neox"}, "gpt_neox, whose parameters are not counted, 8 layers, context 4096"),
        (
            "Qwen/Qwen2.5-3B",
            None,
            "3.09 billion parameters, 36 layers, context 32768 (known by its name; it is not on this machine)",
        ),
    ],
)
def test_the_line_of_the_model(name, config, text, args, monkeypatch, tmp_path, wide):
    if config is not None:
        sizes = {"hidden_size": 100, "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 4}
        sizes |= {"intermediate_size": 150, "vocab_size": 8000, "max_position_embeddings": 4096}
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "config.json").write_text(
            json.dumps({"model_type": "llama", "tie_word_embeddings": True, **sizes, **config})
        )
    monkeypatch.setattr(cpu_runtime, "required", lambda: False)
    assert dry_run.announcement(args({"actor.model_name_or_path": name}))[0] == f"model       {name}: {text}"


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (
            plan.Memory(
                **dict(state={"weights": 3, "reference": 0}, a_pass={"logits": 5}, step=7, vllm=20, cache=2, host={}),
                beside_vllm={"actor": 3, "CUDA, NCCL": 4},
            ),
            {
                "training": "about 14 of 20 GiB: weights 3.0, logits 5.0, CUDA and others 4.0; the optimizer's step "
                "7.0 instead of the pass",
                "sampling": "about 27 of 20 GiB: vLLM 20.0 (2.0 for keys and values of 58254 tokens), actor 3.0, CUDA, "
                "NCCL 4.0",
            },
        ),
        (
            plan.Memory(
                **dict(state={"weights": 3}, a_pass={"logits": 5}, step=0, vllm=20, cache=-2, beside_vllm={}),
                host={"sleeping actor": 11, "sleeping vLLM": 0, "more": 13},
            ),
            {
                "training": "about 12 of 20 GiB, assumed: weights 3.0, logits 5.0, CUDA and others 4.0",
                "sampling": "about 20 of 20 GiB, assumed: vLLM 20.0",
                "host": "about 24 of a machine's memory, pinned: sleeping actor 11.0, more 13.0",
            },
        ),
    ],
)
def test_the_lines_of_memory(args, memory, expected):
    in_bytes = plan.Memory(
        **{
            name: {part: size * plan.GIB for part, size in value.items()} if type(value) is dict else value * plan.GIB
            for name, value in vars(memory).items()
        }
    )
    shape, assumed = model_shape.KNOWN["qwen2.5-3b"], ", assumed" in expected["training"]
    rows = dry_run._memory(args({}), shape, in_bytes, 20 * plan.GIB, assumed)
    assert list(dict(rows).items()) == list(expected.items()) and len(rows) == len(expected)


def test_what_a_plan_remarks_on_both_sides_of_a_gpu(args):
    memory = plan.Memory({"weights": 3}, {"logits": 5}, 0, 20, {"actor": 3}, 2, {})
    most = 8 + 4 * plan.GIB
    given = args({"data.max_samples": 5})
    assert dry_run._remarks(given, None, 0) == dry_run._remarks(given, memory, most) == []
    (line,) = dry_run._remarks(given, memory, most - 1)
    assert line.startswith("training may not fit: about 4 of 4 GiB; use more GPUs")
    both = dry_run._remarks(given, memory, 22)
    assert [line[:20] for line in both] == ["training may not fit", "sampling may not fit"]
    (line,) = dry_run._remarks(given, memory, 23)
    assert line.startswith("training")


@pytest.mark.parametrize(
    ("rows", "changes", "remark"),
    [
        # Of 4 prompts a step with 4 answers each, 8 samples an update.
        (7, {}, "4 samples of an episode's last step fill no update and are mixed into the next step's first update; "),
        (
            7,
            {"train.dynamic_batch_enable": True},
            "4 samples of an episode's last step fill no update and are left out",
        ),
        (8, {}, None),
        (6, {}, None),
        (0, {}, None),
        (None, {"data.max_samples": 7}, None),
        (9, {}, "--data.max_samples 8 avoids it"),
        (3, {}, "use a --data.max_samples of at least 4"),
        (9, {"data.max_samples": 3}, "use a --data.max_samples of at least 4"),
    ],
)
def test_samples_that_fill_no_update(args, tmp_path, rows, changes, remark):
    if rows is not None:
        (tmp_path / "prompts.jsonl").write_text('{"prompt": "1 + 1"}\n' * rows)
    sizes = {"rollout.batch_size": 4, "rollout.n_samples_per_prompt": 4, "train.batch_size": 8}
    remarks = dry_run._remarks(args({**sizes, **changes}), None, 0)
    assert [remark in line for line in remarks] == ([] if remark is None else [True])


def written(path, rows: int) -> str:
    """A file of prompts in the format of its name."""
    import pandas
    from datasets import Dataset

    table = pandas.DataFrame({"prompt": [f"{n} +\n1?" for n in range(rows)], "label": ["2"] * rows})
    write = {
        ".json": lambda: table.to_json(path, orient="records"),
        ".jsonl": lambda: table.to_json(path, orient="records", lines=True),
        ".csv": lambda: table.to_csv(path, index=False),
        ".parquet": lambda: table.to_parquet(path),
        ".arrow": lambda: Dataset.from_pandas(table).save_to_disk(path.parent / "saved"),
    }
    write[path.suffix]()
    if path.suffix == ".arrow":
        next((path.parent / "saved").glob("*.arrow")).rename(path)
    return str(path)


def test_prompts_of_every_format_are_counted(tmp_path, parse):
    places = [written(tmp_path / f"my{ending}", 3 + n) for n, ending in enumerate(READABLE)]
    counts = {place: dry_run.count_prompts(parse("--data.prompt_dataset", place)) for place in places}
    assert counts == {place: (3 + n, True) for n, place in enumerate(places)}
    together = "--data.prompt_dataset", ", ".join([*places[:2], f"{places[2]}@train"])
    assert dry_run.count_prompts(parse(*together)) == (3 + 4 + 5, True)
    comma = written(tmp_path / "one, two.csv", 9)
    assert dry_run.count_prompts(parse("--data.prompt_dataset", comma)) == (9, True)


@pytest.mark.parametrize(
    ("names", "changes", "counted"),
    [
        ("three.jsonl", {}, (3, True)),
        ("three.jsonl", {"data.max_samples": 2}, (2, True)),
        ("three.jsonl", {"data.max_samples": 4}, (3, True)),
        ("three.jsonl,three.jsonl", {"data.max_samples": 5}, (5, True)),
        # Where shares of several are drawn, or one is not here, nobody knows.
        ("three.jsonl", {"data.prompt_probs": "1.0"}, (None, False)),
        ("three.jsonl,absent.jsonl", {}, (None, False)),
        ("absent.jsonl,three.jsonl", {"data.max_samples": 2}, (2, False)),
        ("folder", {"data.max_samples": 10**8 - 1}, (10**8 - 1, False)),
        ("folder", {"data.max_samples": 10**8}, (None, False)),
    ],
)
def test_how_many_prompts_there_are_or_can_be(tmp_path, args, names, changes, counted):
    (tmp_path / "three.jsonl").write_text('{"prompt": "1 + 1"}\n' * 3)
    (tmp_path / "folder").mkdir()
    assert dry_run.count_prompts(args({"data.prompt_dataset": names, **changes})) == counted


@pytest.mark.parametrize("ending", [".json", ".csv", ".arrow", ".parquet"])
def test_what_cannot_be_read_is_not_counted(ending, tmp_path, parse):
    (tmp_path / f"my{ending}").write_bytes(b"{\xff\x00" if ending == ".csv" else b"{")
    assert dry_run.count_prompts(parse("--data.prompt_dataset", str(tmp_path / f"my{ending}"))) == (None, False)


def test_parameters_are_those_of_the_real_models():
    """Against transformers' own modules, which take no memory on the meta device."""
    from transformers import AutoConfig, AutoModelForCausalLM

    for name, size in (("llama-3.1-8b", "8.03"), ("qwen2.5-3b", "3.09")):
        shape = model_shape.KNOWN[name]
        config = AutoConfig.for_model(
            shape.kind,
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            intermediate_size=shape.intermediate,
            vocab_size=shape.vocabulary,
            max_position_embeddings=shape.context,
            tie_word_embeddings=shape.tied,
        )
        assert model_shape.of_config(config) == shape
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        assert sum(p.numel() for p in model.parameters()) == shape.parameters
        assert f"{shape.parameters / 1e9:.2f}" == size


def test_a_models_own_config_goes_before_its_name(tmp_path):
    from transformers import AutoConfig

    folder = tmp_path / "qwen2.5-3b"
    AutoConfig.for_model("llama", hidden_size=64, num_hidden_layers=2, num_attention_heads=4).save_pretrained(folder)
    shape, here = model_shape.find(str(folder))
    assert here and (shape.kind, shape.hidden, shape.heads) == ("llama", 64, 4)
    assert model_shape.find("somebody/Some-Model") == (None, False)
    assert model_shape.find("meta-llama/Meta-Llama-3.1-8B") == (model_shape.KNOWN["llama-3.1-8b"], False)


@pytest.mark.parametrize("kind", model_shape.COUNTED)
@pytest.mark.parametrize("without", [None, "tie_word_embeddings", "num_key_value_heads", "vocab_size"])
def test_a_config_is_read_as_transformers_reads_it(tmp_path, kind, without):
    """Where it says all sizes they are taken as they are written; what it leaves out is transformers' to say."""
    from transformers import AutoConfig

    written = {name: 8 * (i + 2) for i, name in enumerate(model_shape.SIZES.values())}
    written |= {"model_type": kind, "hidden_size": 192, "num_attention_heads": 6, "num_key_value_heads": 3}
    written |= {"tie_word_embeddings": True, "architectures": ["Some"]}
    written.pop(without, None)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(written))
    assert model_shape.find(str(tmp_path)) == (model_shape.of_config(AutoConfig.from_pretrained(tmp_path)), True)
    assert (model_shape.as_written(str(tmp_path)) is None) == (without is not None)


@pytest.mark.parametrize(
    "written", ["{", "[1]", '{"model_type": "qwen2", "num_attention_heads": "4"}', '{"model_type": "gpt2"}', ""]
)
def test_a_config_that_says_no_sizes_is_left_to_transformers(tmp_path, written):
    file = tmp_path / "config.json"
    file.write_text(written)
    assert model_shape.as_written(str(tmp_path)) is None


@pytest.mark.parametrize("ending", ["", "/"])
@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3.1-8B", "llama-3.1-8b"),
        ("Qwen/Qwen2.5-3B", "qwen2.5-3b"),
        ("/models/qwen2.5-3b-mine", "qwen2.5-3b"),
        ("Qwen/Qwen2.5-32B", None),
        ("qwen2.5-3b/other", None),
    ],
)
def test_a_model_that_is_not_here_is_known_by_its_last_name(name, known, ending):
    assert model_shape.find(name + ending) == (model_shape.KNOWN.get(known), False)


def test_a_config_that_transformers_does_not_take_has_no_shape(tmp_path):
    folder = tmp_path / "qwen2.5-3b"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "none of these"}')
    assert model_shape.find(str(folder)) == (None, True), "its folder's name says nothing of it"


def cached(hub, name: str, config: dict | str) -> None:
    """A model's config in the hub's cache."""
    folder = hub / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "config.json").write_text(config if type(config) is str else json.dumps(config))


def test_a_model_in_the_hubs_cache_is_here(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    config = {field: 8 for field in model_shape.SIZES.values()} | {"num_attention_heads": 2, "head_dim": 6}
    config |= {"model_type": "llama", "tie_word_embeddings": False, "max_position_embeddings": 99}
    cached(tmp_path / "hub", "some/Qwen2.5-3B", config)
    shape = model_shape.ModelShape(
        **dict(kind="llama", hidden=8, layers=8, heads=2, kv_heads=8, head_size=6, intermediate=8, vocabulary=8),
        **dict(context=99, tied=False),
    )
    assert model_shape.find("some/Qwen2.5-3B") == (shape, True)
    cached(tmp_path / "hub", "other/Qwen2.5-3B", "{")
    assert model_shape.find("other/Qwen2.5-3B") == (model_shape.KNOWN["qwen2.5-3b"], False)


def test_what_a_config_leaves_to_its_heads_is_worked_out():
    """As transformers' classes have it: as many heads of keys, each a share of the width."""
    from types import SimpleNamespace

    class Config(SimpleNamespace):
        def get_text_config(self):
            return self.text

    text = SimpleNamespace(
        **dict(model_type="gpt_neox", hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=5),
        **dict(vocab_size=7, max_position_embeddings=11, tie_word_embeddings=True),
    )
    shape = model_shape.of_config(Config(text=text))
    sizes = dict(hidden=24, layers=2, heads=3, kv_heads=3, head_size=8, intermediate=5, vocabulary=7, context=11)
    assert shape == model_shape.ModelShape(kind="gpt_neox", tied=True, **sizes)
    text.num_key_value_heads, text.head_dim = 1, 16
    assert model_shape.of_config(Config(text=text)) == model_shape.ModelShape(
        **{**sizes, "kv_heads": 1, "head_size": 16}, kind="gpt_neox", tied=True
    )
    del text.vocab_size
    assert model_shape.of_config(Config(text=text)) is None


@pytest.mark.parametrize(
    ("change", "head_size"),
    [
        ({}, 32),
        ({"head_dim": 7}, 7),
        ({"head_dim": None}, 32),
        ({"model_type": "gpt2"}, None),
        ({"tie_word_embeddings": 1}, None),
        ({"vocab_size": 8.5}, None),
        ({"num_hidden_layers": True}, None),
        ({"head_dim": "7"}, None),
        ({"num_attention_heads": 0}, None),
        ({"hidden_size": None}, None),
    ],
)
def test_sizes_are_taken_as_written_where_all_are_whole_numbers(tmp_path, change, head_size):
    written = {name: 8 * (i + 2) for i, name in enumerate(model_shape.SIZES.values())}
    written |= {"model_type": "llama", "tie_word_embeddings": False, "hidden_size": 192, "num_attention_heads": 6}
    (tmp_path / "config.json").write_text(json.dumps(written | change))
    shape = head_size and model_shape.ModelShape(
        **dict(kind="llama", hidden=192, layers=24, heads=6, kv_heads=40, head_size=head_size, intermediate=48),
        **dict(vocabulary=56, context=64, tied=False),
    )
    assert model_shape.as_written(str(tmp_path)) == shape


def test_memory_by_hand():
    """ZeRO's stages and offloading for 8 GPUs, and the keys and values that vLLM's share leaves."""
    shape, gpu = model_shape.KNOWN["llama-3.1-8b"], 80 * plan.GIB
    parameters = shape.parameters
    args = args_of("llama3.1-8b")
    found = plan.memory(args, shape, gpu)
    eighth = parameters // 8
    assert found.state == {"weights": 2 * eighth, "gradients": 2 * eighth, "Adam": 12 * eighth}
    # Two answers of 5,120 tokens: inputs of 32 layers, a layer again, and logits over 128,256 words.
    activations = 2 * 10240 * 4096 * 32 + 2 * 10240 * (8 * 4096 + 4 * 14336)
    assert found.a_pass["activations"] == activations and found.a_pass["logits"] == 10 * 10240 * 128256
    assert found.vllm == int(0.7 * gpu) and found.cache == found.vllm - 2 * parameters - plan.VLLM_BUFFERS
    assert plan.cached_tokens(args, shape, 131072 * 1000) == 1000  # 128 KiB a token
    assert found.beside_vllm["actor"] == 2 * eighth, "a sleeping actor keeps its weights"
    assert found.host["sleeping vLLM"] == 8 * 2 * parameters

    args.ds.zero_stage = 2
    assert plan.memory(args, shape, gpu).state == {
        "weights": 2 * parameters,
        "gradients": 2 * eighth,
        "Adam": 12 * eighth,
    }
    args.ds.adam_offload = True
    offloaded = plan.memory(args, shape, gpu)
    assert offloaded.state == {"weights": 2 * parameters}
    assert offloaded.host["Adam and gradients"] == 16 * parameters
    args.vllm.tensor_parallel_size, args.vllm.num_engines = 4, 2
    split = plan.memory(args, shape, gpu)
    assert split.cache == split.vllm - 2 * parameters // 4 - plan.VLLM_BUFFERS
    assert plan.cached_tokens(args, shape, 131072 * 1000) == 4000  # 2 of 8 heads on each GPU
    args.vllm.enable_sleep = False
    assert plan.memory(args, shape, gpu).training_peak > split.training_peak + 0.69 * gpu


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--gpus", "3"], ["--train.batch_size 512", "3 data-parallel ranks"]),
        (["--gpus", "3", "--train.dynamic_batch_enable"], ["--train.batch_size 512", "would be left out"]),
        (
            ["--ds.zero_stage", "2", "--train.dynamic_batch_enable"],
            ["--train.dynamic_batch_enable", "--ds.zero_stage 2", "use --ds.zero_stage 3"],
        ),
        (["--vllm.num_engines", "4"], ["--vllm.num_engines 4", "--train.colocate_all", "all 8"]),
        (["--ds.ring_attn_size", "3"], ["8 GPUs are no multiple of the 3", "--ds.ring_attn_size"]),
        (["--rollout.max_new_tokens", "5120"], ["--rollout.max_new_tokens 5120", "--data.max_len 5120", "6144"]),
        (["--vllm.gpu_memory_utilization", "1.5"], ["--vllm.gpu_memory_utilization 1.5", "at most 1"]),
        (["--data.max_len", "40000"], ["--data.max_len 40000", "32768"]),
        (
            ["--vllm.tensor_parallel_size", "3", "--vllm.num_engines", "8", "--actor.num_gpus_per_node", "24"]
            + ["--train.batch_size", "384", "--rollout.batch_size", "120"],
            ["--vllm.tensor_parallel_size 3", "16 attention heads"],
        ),
        (["--vllm.gpu_memory_utilization", "0.1"], ["--vllm.gpu_memory_utilization 0.1", "keys and values"]),
        (["--gpu_memory_gib", "5"], ["6 GiB on each GPU, which has 5", "--ds.adam_offload"]),
        (["--gpu_memory_gib", "0"], ["--gpu_memory_gib 0"]),
        (
            ["--algo.kl.init_coef", "0.01", "--algo.kl.use_loss", "--ref.num_gpus_per_node", "4"],
            ["--ref.num_gpus_per_node 4", "--actor.num_gpus_per_node's 8"],
        ),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_what_cannot_work_is_refused(words, names, capsys):
    assert command.main(profiles.expand(["--profile", "qwen2.5-3b", *words, "--dry_run"])) == 2
    shown = capsys.readouterr()
    assert not shown.out and shown.err.startswith("error: ")
    for name in names:
        assert name in shown.err


def test_training_refuses_what_a_dry_run_refuses(tmp_path, capsys):
    """Before Ray starts, where the model is on the machine."""
    from transformers import AutoConfig

    AutoConfig.for_model("qwen2", max_position_embeddings=64).save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "1 + 1 =", "label": "2"}) + "\n")
    words = [
        *("--actor.model_name_or_path", "model", "--data.prompt_dataset", "prompts.jsonl", "--data.max_len", "128"),
        *("--data.input_key", "prompt", "--data.label_key", "label", "--reward.remote_url", "math-verify"),
        *("--algo.advantage.estimator", "lens", "--rollout.n_samples_per_prompt", "4", "--vllm.num_engines", "1"),
        *("--actor.num_gpus_per_node", "1"),
    ]
    for more in ([], ["--dry_run"]):
        assert command.main([*words, *more]) == 2
        message = capsys.readouterr().err
        assert "--data.max_len 128" in message and "takes 64 tokens" in message
    assert not (tmp_path / "runs").exists()
    args = options.parse(words)
    assert args.actor.model_name_or_path == str(tmp_path / "model"), "Ray's workers may stand in another folder"
    assert args.data.prompt_dataset == str(tmp_path / "prompts.jsonl")


@pytest.mark.skipif(not cpu_runtime.required(), reason="this machine has CUDA")
def test_a_vllm_for_cuda_is_refused_where_there_is_no_gpu(tmp_path, monkeypatch, capsys):
    """In `make test-gpu-stack` vLLM is that; elsewhere its platforms are told that they found nothing."""
    import vllm.platforms
    from transformers import AutoConfig
    from vllm.platforms.interface import UnspecifiedPlatform

    if vllm.platforms.current_platform.is_cpu():
        monkeypatch.setattr(cpu_runtime, "vllm_for_cpu", lambda: False)
        monkeypatch.setattr(vllm.platforms, "current_platform", UnspecifiedPlatform())
    wanted = "no GPU is visible, and this vLLM is a build for CUDA: see that `nvidia-smi -L` lists one"
    with pytest.raises(ProfileError, match=wanted):
        profiles.make(profiles.expand(["--profile", "tiny"]))
    AutoConfig.for_model("qwen2").save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "1 + 1 =", "label": "2"}) + "\n")
    words = [
        *("--actor.model_name_or_path", "model", "--data.prompt_dataset", "prompts.jsonl", "--data.max_len", "128"),
        *("--data.input_key", "prompt", "--data.label_key", "label", "--reward.remote_url", "math-verify"),
        *("--algo.advantage.estimator", "lens", "--rollout.n_samples_per_prompt", "4", "--vllm.num_engines", "1"),
        *("--actor.num_gpus_per_node", "1"),
    ]
    assert command.main(words) == 2
    assert wanted in (message := capsys.readouterr().err) and message.count("\n") == 1
    assert command.main([*words, "--dry_run"]) == 0
    assert f"- {wanted}" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(OptionError, match=wanted):
        Sampler("model", 128, 1, 0.1, 0)
    assert not (tmp_path / "runs").exists() and not (tmp_path / "cache").exists()


@pytest.fixture
def ray_init(monkeypatch, parse):
    """start(**cluster resources) -> how cluster.start_ray called ray.init."""
    import ray

    def start(**resources):
        calls = []
        monkeypatch.setattr(ray, "init", lambda *args, **kwargs: calls.append((args, kwargs)))
        monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
        monkeypatch.setattr(cluster, "CLUSTER_SECONDS", 0)
        cluster.start_ray(parse())
        ((args, kwargs),) = calls
        return args, kwargs

    return start


def test_only_a_named_cluster_is_joined(ray_init, monkeypatch):
    for nothing in (None, "", "local"):
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        if nothing is not None:
            monkeypatch.setenv("RAY_ADDRESS", nothing)
        args, kwargs = ray_init()
        assert args == ("local",)
        assert kwargs.get("num_gpus") == (2 if cpu_runtime.required() else None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    args, kwargs = ray_init(GPU=2.0)
    assert args == ("10.0.0.1:6379",)
    assert os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] == "1", "a submitted job may have set some of our variables"
    assert not {"num_gpus", "num_cpus"} & set(kwargs), "Ray refuses them when it joins a cluster"
    with pytest.raises(OptionError, match="ask for 2 GPUs and the Ray cluster at 10.0.0.1:6379 has 1"):
        ray_init(GPU=1.0)
