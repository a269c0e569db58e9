"""LENS's options in OpenRLHF's command line, and what is refused before anything expensive starts."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lens_openrlhf import cpu_runtime
from lens_openrlhf.advantages.estimators import find
from lens_openrlhf.inputs import OptionError
from lens_openrlhf.training.commandline import options, profiles, records
from lens_openrlhf.training.commandline.estimator import make_estimator
from lens_openrlhf.training.commandline.gpus import check_gpus, gpus_needed

README = Path(__file__).parents[3] / "README.md"


def test_lens_is_hidden_from_openrlhf_and_kept_for_the_actor(parse):
    args = parse("--algo.lens.alpha", "0.5", "--algo.lens.scope", "negative")
    assert args.algo.advantage.estimator == "group_norm"
    config = make_estimator(args).config
    assert (config.alpha, config.scope, config.confidence) == (0.5, "negative", "geometric")


def test_a_preference_reaches_the_actor(parse):
    config = make_estimator(parse("--algo.lens.preference", "length", "--algo.lens.gamma", "1.9")).config
    assert (config.preference, config.gamma) == ("length", 1.9)


def test_kl_defaults_to_zero_with_lens_only(parse):
    assert parse().algo.kl.init_coef == 0
    assert parse(estimator="group_norm").algo.kl.init_coef == 0.01


@pytest.mark.parametrize("estimator", ["gae", "rloo", "group_norm", "dr_grpo", "reinforce_baseline"])
def test_openrlhfs_estimators_stay(parse, estimator):
    args = parse(estimator=estimator)
    assert args.algo.advantage.estimator == estimator
    assert make_estimator(args) is None


def test_the_run_folder_holds_everything_unless_told_otherwise(parse, tmp_path):
    args = parse("--logger.run_dir", str(tmp_path / "r"), "--ckpt.path", "elsewhere")
    assert args.ckpt.output_dir == str(tmp_path / "r" / "model")
    assert args.logger.tensorboard_dir == str(tmp_path / "r" / "tensorboard")
    assert args.ckpt.path == "elsewhere"


@pytest.mark.parametrize(
    ("more", "names"),
    [
        (["--rollout.n_samples_per_prompt", "1"], ["n_samples_per_prompt 1", "at least 2"]),
        (["--algo.kl.init_coef", "0.01"], ["--algo.kl.init_coef 0.01", "use_loss"]),
        (["--algo.dynamic_filtering_enable"], ["dynamic_filtering_range 0 1", "below 0"]),
        (["--critic.freezing_steps", "3"], ["--critic.freezing_steps 3", "leave"]),
        (["--algo.lens.alpha", "-1"], ["--algo.lens.alpha=-1", ">= 0"]),
        (["--algo.lens.alpha", "nan"], ["--algo.lens.alpha=nan"]),
        (["--algo.lens.gamma", "1.9"], ["--algo.lens.gamma=1.9", "no effect without preference='length'"]),
        (
            ["--algo.lens.preference", "length", "--algo.lens.confidence", "sequence"],
            ["--algo.lens.confidence='sequence'", "preference='length'", "'geometric'"],
        ),
        (["--algo.advantage.no_std_norm"], ["--algo.advantage.no_std_norm", "leave"]),
        (["--algo.advantage.gamma", "0.9"], ["--algo.advantage.gamma 0.9", "use 1"]),
        (["--reward.remote_url", ""], ["correctness", "--reward.remote_url"]),
        (["--rollout.batch_size", "8", "--train.batch_size", "100"], ["--train.batch_size 100", "does not divide"]),
        (["--train.batch_size", "64", "--train.micro_batch_size", "3"], ["--train.micro_batch_size 3"]),
        (["--vllm.num_engines", "0"], ["--vllm.num_engines"]),
        (["--actor.model_name_or_path", ""], ["--actor.model_name_or_path"]),
        (["--data.prompt_dataset", ""], ["--data.prompt_dataset"]),
        (["--ds.lora.rank", "4", "--ds.zero_stage", "3"], ["--ds.lora.rank 4", "--ds.zero_stage 3", "use 2"]),
        (["--eval.at_end"], ["--eval.at_end", "--eval.dataset"]),
        (["--eval.dataset", "e.jsonl", "--eval.k", "1", "8"], ["--eval.k 8", "4 answers", "n_samples_per_prompt"]),
        (["--eval.dataset", "e.jsonl", "--eval.max_samples", "0"], ["--eval.max_samples 0", "at least 1"]),
    ],
)
def test_refusals_name_the_option_and_the_remedy(parse, more, names):
    with pytest.raises(OptionError) as caught:
        parse(*more)
    for name in names:
        assert name in str(caught.value)


def test_what_lens_can_live_with_is_not_refused(parse):
    parse("--algo.dynamic_filtering_enable", "--algo.dynamic_filtering_range", "-1", "1")
    args = parse("--algo.kl.init_coef", "0.01", "--algo.kl.use_loss", "--algo.kl.estimator", "k3")
    assert args.algo.kl.init_coef == 0.01
    parse("--algo.advantage.gamma", "1")


def test_lens_options_without_lens_are_refused(parse):
    with pytest.raises(OptionError, match="--algo.lens.alpha has no effect"):
        parse("--algo.lens.alpha", "1", estimator="group_norm")


def test_openrlhfs_own_assertions_become_messages(parse):
    with pytest.raises(OptionError, match="partial_rollout_enable requires"):
        parse("--train.partial_rollout_enable")


@pytest.mark.skipif(not cpu_runtime.required(), reason="this machine has CUDA")
@pytest.mark.parametrize(
    ("more", "name"),
    [
        (["--train.colocate_all", "--vllm.enable_sleep"], "--vllm.enable_sleep"),
        (["--ds.attn_implementation", "flash_attention_2"], "--ds.attn_implementation flash_attention_2"),
        (["--vllm.sync_backend", "nccl"], "--vllm.sync_backend nccl"),
        (["--vllm.tensor_parallel_size", "2"], "--vllm.tensor_parallel_size 2"),
        (["--ds.enable_sleep", "--ds.zero_stage", "3"], "--ds.enable_sleep with --ds.zero_stage 3"),
        (["--actor.num_nodes", "2"], "--actor.num_nodes 2"),
    ],
)
def test_what_needs_cuda_is_refused_on_cpu(parse, more, name):
    with pytest.raises(OptionError, match="CUDA|one machine") as caught:
        parse(*more)
    assert name in str(caught.value)


def test_packed_samples_keep_sdpa_on_cpu(parse):
    if cpu_runtime.required():
        assert parse("--ds.packing_samples").ds.attn_implementation == "sdpa"


def test_math_verify_is_a_name_for_its_file(parse):
    (url,) = parse("--reward.remote_url", "math-verify").reward.remote_url
    assert url.endswith("math_verify_reward.py")


def test_readme_has_every_option_that_is_ours():
    """Those of estimators are in docs/estimators.md, which tests/advantages/estimators/test_document.py reads."""

    class Bare(argparse.ArgumentParser):
        def __init__(self):
            super().__init__()
            self.add_argument("--algo.advantage.estimator", choices=[])
            self.add_argument("--reward.remote_url", help="")
            for action in self._actions:
                action.help = action.help or ""

    parser = Bare()
    before = {action.dest for action in parser._actions}
    options._add_options(parser, {"lens": find("lens")})
    ours = sorted({action.dest for action in parser._actions} - before)
    text = README.read_text() + (README.parent / "docs" / "estimators.md").read_text()
    assert len(ours) > 10 and [name for name in ours if f"`--{name}" not in text and f" --{name}" not in text] == []


def test_help_shows_lens_beside_openrlhf():
    shown = subprocess.run(
        [sys.executable, "-m", "lens_openrlhf.cli", "train", "--help"], capture_output=True, text=True, check=True
    ).stdout
    ours = ("alpha", "scope", "confidence_from", "preference", "gamma")
    for option in (*(f"--algo.lens.{name}" for name in ours), "--actor.adam.lr"):
        assert option in shown
    names = re.search(r"--algo.advantage.estimator \{([^}]*)\}", shown)[1].replace("\n", "").replace(" ", "").split(",")
    assert names[:2] == ["lens", "grpo"] and {"gae", "group_norm"} < set(names)


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, 6 + 10),
        ({"algo.kl.init_coef": 1e-9}, 6 + 7 + 10),
        ({"algo.kl.init_coef": 0.1, "train.colocate_actor_ref": True}, 6 + 10),
        ({"reward.remote_url": None}, 6 + 22 + 10),
        ({"critic.model_name_or_path": "m"}, 6 + 26 + 10),
        ({"reward.remote_url": None, "critic.model_name_or_path": "m", "algo.kl.init_coef": 0.1}, 6 + 7 + 22 + 26 + 10),
        (
            {"reward.remote_url": None, "critic.model_name_or_path": "m", "train.colocate_critic_reward": True},
            6 + 26 + 10,
        ),
        ({"reward.remote_url": None, "train.colocate_critic_reward": True}, 6 + 22 + 10),
        ({"train.colocate_all": True, "algo.kl.init_coef": 0.1, "reward.remote_url": None}, 6),
        ({"train.colocate_all": True, "train.async_enable": True}, 6 + 10),
    ],
)
def test_gpus_needed(args, changes, needed):
    sizes = {"actor.num_nodes": 2, "actor.num_gpus_per_node": 3, "vllm.num_engines": 5, "vllm.tensor_parallel_size": 2}
    sizes |= {"ref.num_gpus_per_node": 7, "reward.num_nodes": 2, "reward.num_gpus_per_node": 11}
    sizes |= {"critic.num_nodes": 2, "critic.num_gpus_per_node": 13}
    assert gpus_needed(args({**sizes, **changes})) == needed


BARE = [
    *("--actor.model_name_or_path", "model", "--data.prompt_dataset", "prompts.jsonl"),
    *(
        "--reward.remote_url",
        "math-verify",
        "--algo.advantage.estimator",
        "lens",
        "--rollout.n_samples_per_prompt",
        "8",
    ),
]


def sized(*more: str, gpus: int = 0) -> tuple[dict, list[str]]:
    """All options of a command that names no sizes but `more`, on a machine with so many GPUs, and what was said."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_runtime, "required", lambda: gpus == 0)
        patch.setattr(torch.cuda, "device_count", lambda: gpus)
        patch.delenv("RAY_ADDRESS", raising=False)
        return records.flatten(options.parse([*BARE, *more], say=said.append)), said


SMALL = {
    "actor.num_gpus_per_node": 1,
    "vllm.num_engines": 1,
    "train.colocate_all": True,
    "rollout.batch_size": 8,
    "train.batch_size": 64,
    "rollout.micro_batch_size": 4,
    "train.micro_batch_size": 4,
    "data.max_len": 1024,
    "rollout.max_new_tokens": 256,
}


def test_without_cuda_sizes_are_a_cpus_and_said():
    values, (line,) = sized()
    assert {name: values[name] for name in SMALL} == SMALL and values["ref.num_gpus_per_node"] == 1
    words = " ".join(f"--{name}" if value is True else f"--{name} {value}" for name, value in SMALL.items())
    assert line.startswith("without CUDA") and line.endswith(words)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        # 20 x 8 samples are no multiple of OpenRLHF's 128; 32 x 8 are.
        (["--rollout.batch_size", "20"], {"rollout.batch_size": 20, "train.batch_size": 160}),
        (["--rollout.batch_size", "32"], {"rollout.batch_size": 32, "train.batch_size": 128}),
        (["--train.batch_size", "24"], {"rollout.batch_size": 9, "train.batch_size": 24}),
        (["--train.batch_size", "512"], {"rollout.batch_size": 64, "train.batch_size": 512}),
        (["--train.batch_size", "24", "--actor.num_gpus_per_node", "4"], {"train.micro_batch_size": 2}),
        (["--train.batch_size", "8"], {"train.micro_batch_size": 4}),
        (["--train.micro_batch_size", "1"], {"train.micro_batch_size": 1, "rollout.micro_batch_size": 4}),
        (["--data.max_len", "96"], {"rollout.max_new_tokens": 48}),
        (["--rollout.max_new_tokens", "1024"], {"rollout.max_new_tokens": 1024, "data.max_len": 2048}),
        (["--actor.num_gpus_per_node", "2"], {"vllm.num_engines": 2, "ref.num_gpus_per_node": 2}),
        (["--vllm.num_engines", "1"], {"actor.num_gpus_per_node": 1, "train.colocate_all": False}),
        (["--vllm.num_engines", "2", "--train.colocate_all"], {"actor.num_gpus_per_node": 2}),
        (["--train.async_enable"], {"vllm.num_engines": 1, "train.colocate_all": False}),
    ],
)
def test_a_size_that_was_given_stays_and_the_others_fit_it(more, expected):
    values, (line,) = sized(*more)
    assert {name: values[name] for name in expected} == expected
    assert not any(f"{word} " in f"{line} " for word in more if word.startswith("--"))


def test_what_is_told_is_what_is_chosen():
    place = ["--logger.run_dir", "run"]
    values, (line,) = sized(*place)
    assert sized(*place, *line.partition(": ")[2].split()) == (values, [])


@pytest.mark.parametrize(("there", "used"), [(1, 1), (4, 4), (16, 8)])
def test_with_cuda_a_run_takes_the_gpus_there_are(there, used):
    values, (line,) = sized(gpus=there)
    assert (values["actor.num_gpus_per_node"], values["vllm.num_engines"]) == (used, used)
    assert values["train.colocate_all"] and values["vllm.enable_sleep"] and values["ds.enable_sleep"]
    assert values["vllm.gpu_memory_utilization"] == 0.6 and "with the GPUs of this machine" in line
    assert (values["rollout.batch_size"], values["train.batch_size"]) == (1024, 128), "OpenRLHF's own"
    values, (line,) = sized("--actor.num_gpus_per_node", "2", "--vllm.tensor_parallel_size", "2", gpus=there)
    assert values["vllm.num_engines"] == 1 and "--actor.num_gpus" not in line


def asked(values: dict) -> int:
    """GPUs that a command which trains the actor alone asks Ray for."""
    actor, engines = values["actor.num_gpus_per_node"], values["vllm.num_engines"] * values["vllm.tensor_parallel_size"]
    return actor if values["train.colocate_all"] and not values["train.async_enable"] else actor + engines


@pytest.mark.parametrize("there", [1, 2, 3, 5, 6, 7])
@pytest.mark.parametrize(
    "more",
    [[], ["--rollout.batch_size", "8"], ["--train.batch_size", "96"], ["--rollout.n_samples_per_prompt", "5"]]
    + [["--train.micro_batch_size", "3"], ["--vllm.num_engines", "1"], ["--train.dynamic_batch_enable"]],
    ids=" ".join,
)
def test_any_number_of_gpus_works(there, more):
    values, (line,) = sized("--ds.zero_stage", "3", *more, gpus=there)
    assert asked(values) <= there and "with the GPUs of this machine" in line
    if "--rollout.batch_size" in more:  # of 64 samples
        assert values["train.batch_size"] == 64 and asked(values) == {3: 2}.get(there, there if there < 5 else 4)
    elif "--train.batch_size" in more:
        assert asked(values) == {5: 4, 7: 6}.get(there, there), "the most that divide 96"
    else:
        assert asked(values) == there
        answers = values["rollout.n_samples_per_prompt"]
        prompts, batch = values["rollout.batch_size"], values["train.batch_size"]
        assert 1024 <= prompts < 1024 + 60 and abs(batch - 128) <= 64 and prompts * answers % batch == 0


def test_batches_of_three_gpus():
    # 1,026 x 8 is 72 x 114, and no multiple of 3 nearer to 128 divides it.
    values, (line,) = sized(gpus=3)
    assert (values["actor.num_gpus_per_node"], values["vllm.num_engines"]) == (3, 3)
    assert "--rollout.batch_size 1026 --train.batch_size 114" in line


@pytest.mark.parametrize(
    ("there", "more", "actor", "engines", "shared"),
    [
        (8, ["--train.async_enable"], 4, 4, False),
        (7, ["--train.async_enable"], 3, 4, False),
        (2, ["--train.async_enable"], 1, 1, False),
        (16, ["--train.async_enable"], 8, 8, False),
        (8, ["--train.async_enable", "--actor.num_gpus_per_node", "2"], 2, 6, False),
        (8, ["--train.async_enable", "--vllm.num_engines", "2"], 6, 2, False),
        (8, ["--train.async_enable", "--vllm.tensor_parallel_size", "4"], 4, 1, False),
        (1, ["--vllm.num_engines", "1"], 1, 1, True),
        (2, ["--vllm.num_engines", "2"], 2, 2, True),
        (4, ["--vllm.num_engines", "1"], 3, 1, False),
        (4, ["--vllm.num_engines", "2", "--train.colocate_all"], 2, 2, True),
        (6, ["--vllm.tensor_parallel_size", "4"], 4, 1, True),
    ],
)
def test_gpus_are_split_between_actor_and_engines(there, more, actor, engines, shared):
    values, (line,) = sized(*more, gpus=there)
    assert (values["actor.num_gpus_per_node"], values["vllm.num_engines"]) == (actor, engines)
    assert (values["train.colocate_all"], asked(values) <= there) == (shared, True)
    assert values["ref.num_gpus_per_node"] == actor
    assert shared is False or "--train.colocate_all" in more or values["vllm.enable_sleep"]


def test_other_models_get_gpus_as_well():
    both = ["--algo.advantage.estimator", "gae", "--vllm.num_engines", "2"]  # with a reference model and a critic
    assert sized(*both, gpus=8)[0]["actor.num_gpus_per_node"] == 2
    assert sized(*both, "--train.colocate_actor_ref", gpus=8)[0]["actor.num_gpus_per_node"] == 3


def test_openrlhfs_command_stays_what_it_is_where_its_gpus_are_there():
    values, said = sized("--vllm.num_engines", "8", gpus=16)
    assert values["actor.num_gpus_per_node"] == 8 and not values["train.colocate_all"] and not said


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--actor.num_gpus_per_node", "3"], (9, 72, 4)),
        (["--train.micro_batch_size", "3"], (9, 72, 3)),
        (["--actor.num_gpus_per_node", "5", "--train.micro_batch_size", "3"], (15, 120, 3)),
        (["--actor.num_gpus_per_node", "3", "--rollout.batch_size", "9"], (9, 72, 4)),
        (["--actor.num_gpus_per_node", "3", "--rollout.batch_size", "3"], (3, 24, 4)),
        (["--actor.num_gpus_per_node", "6", "--rollout.batch_size", "3"], (3, 24, 4)),
        (["--actor.num_gpus_per_node", "8", "--rollout.batch_size", "1"], (1, 8, 1)),
        (["--actor.num_gpus_per_node", "2", "--train.dynamic_batch_enable", "--ds.zero_stage", "3"], (8, 64, 1)),
    ],
)
def test_on_the_cpu_ranks_and_passes_divide_what_is_chosen(more, expected):
    values, _ = sized(*more)
    names = ("rollout.batch_size", "train.batch_size", "train.micro_batch_size")
    assert tuple(values[name] for name in names) == expected


@pytest.mark.parametrize(
    ("more", "gpus", "names"),
    [
        (["--vllm.tensor_parallel_size", "2"], 1, ["--vllm.tensor_parallel_size 2: does not divide the 1 GPUs"]),
        (
            ["--vllm.tensor_parallel_size", "4", "--actor.num_gpus_per_node", "6"],
            8,
            ["--vllm.tensor_parallel_size 4: does not divide the 6 GPUs"],
        ),
        (["--ds.ring_attn_size", "4"], 2, ["--ds.ring_attn_size 4 x", "the actor's 2 GPUs are no multiple of the 4"]),
        (["--actor.num_gpus_per_node", "0"], 2, ["x --actor.num_gpus_per_node 0: ", "at least 1"]),
        (
            ["--rollout.batch_size", "8", "--actor.num_gpus_per_node", "3"],
            0,
            ["--rollout.batch_size 8 x", "the 64 samples of a step are no multiple of 3 data-parallel ranks"],
        ),
        (
            ["--rollout.batch_size", "8", "--train.micro_batch_size", "3"],
            4,
            ["of 4 data-parallel ranks x 3 (--train.micro"],
        ),
    ],
)
def test_a_size_that_cannot_be_suited_is_named_by_what_was_given(more, gpus, names):
    with pytest.raises(OptionError) as caught:
        sized(*more, gpus=gpus)
    message = str(caught.value)
    assert all(name in message for name in names)
    assert not any(option in message for option in ("num_engines", "colocate_all", "--train.batch_size"))


def test_more_than_the_context_of_a_model_is_not_chosen(tmp_path, monkeypatch):
    from lens_openrlhf.training.commandline import model_shape

    monkeypatch.chdir(tmp_path)
    config = dict.fromkeys(model_shape.SIZES.values(), 8) | {"max_position_embeddings": 256}
    (tmp_path / "model").mkdir()
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(config | {"model_type": "llama", "tie_word_embeddings": True}))
    values, (line,) = sized()
    assert (values["data.max_len"], values["rollout.max_new_tokens"]) == (256, 128) and "--data.max_len 256" in line
    assert sized("--rollout.max_new_tokens", "200")[0]["data.max_len"] == 256
    assert sized("--data.max_len", "512")[0]["data.max_len"] == 512, "given, so that the preflight refuses it"
    assert sized(gpus=1)[0]["data.max_len"] == 256
    file.write_text(file.read_text().replace("256", "4096"))
    assert sized()[0]["data.max_len"] == 1024 and sized(gpus=1)[0]["data.max_len"] == 2048


def test_cuda_without_a_gpu_is_told_first(monkeypatch):
    monkeypatch.setattr(cpu_runtime, "required", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(OptionError, match="^no GPU is visible: .*nvidia-smi -L.*CUDA_VISIBLE_DEVICES"):
        options.parse(BARE)


def test_the_line_says_whose_sizes_they_are(monkeypatch):
    said: list[str] = []
    options.parse(BARE, anywhere=True, say=said.append)
    monkeypatch.setattr(cpu_runtime, "required", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    options.parse(BARE, say=said.append)
    assert [line.partition(",")[0] for line in said] == ["for machines with CUDA", "on the Ray cluster"]


@pytest.mark.parametrize(
    ("changes", "share"),
    [({}, "share them (--train.colocate_all)"), ({"train.async_enable": True}, "leave out --train.async_enable")],
)
def test_too_few_gpus_are_told_with_what_helps(args, changes, share, monkeypatch):
    monkeypatch.setattr(cpu_runtime, "required", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_gpus(args(changes))
    many = args({**changes, "vllm.num_engines": 2})
    with pytest.raises(OptionError) as caught:
        check_gpus(many)
    assert str(caught.value) == (
        "the options ask for 3 GPUs and 2 are visible: use fewer (--gpus with a profile, else "
        f"--actor.num_gpus_per_node, --vllm.num_engines), {share}, or join a cluster with RAY_ADDRESS"
    )
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_gpus(many)
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr(cpu_runtime, "required", lambda: True)
    check_gpus(many)


@pytest.mark.parametrize("profile", ["tiny", "smollm2"])
def test_profiles_for_the_cpu_name_all_their_sizes(profile, monkeypatch):
    monkeypatch.setattr(cpu_runtime, "required", lambda: True)
    said: list[str] = []
    options.parse(profiles.expand(["--profile", profile]), say=said.append)
    assert not said


def test_every_option_of_ours_and_what_it_is_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = records.flatten(options.parse(BARE, anywhere=True))
    ours = {
        **{"model.allow_remote_code": False, "logger.console": "progress", "logger.sample_prompts": 4},
        **{"reward.timeout": 60, "eval.at_start": False, "eval.at_end": False, "eval.k": None},
        **{"eval.max_samples": None, "eval.split_by": None, "algo.lens.estimator_path": None, "local_rank": -1},
    }
    assert {name: values[name] for name in ours} == ours
    given = "--model.allow_remote_code --logger.console full --logger.sample_prompts -1 --reward.timeout 2.5 "
    given += "--eval.at_start --eval.at_end --eval.k 1 2 --eval.max_samples 3 --eval.split_by level type "
    given += "--eval.dataset e.jsonl --local_rank 3"
    values = records.flatten(options.parse([*BARE, *given.split()], anywhere=True))
    assert {name: values[name] for name in ours} == {
        **{"model.allow_remote_code": True, "logger.console": "full", "logger.sample_prompts": -1},
        **{"reward.timeout": 2.5, "eval.at_start": True, "eval.at_end": True, "eval.k": [1, 2]},
        **{"eval.max_samples": 3, "eval.split_by": ["level", "type"], "algo.lens.estimator_path": None},
        "local_rank": -1,
    }
    with pytest.raises(OptionError, match="--logger.console: invalid choice: 'half'"):
        options.parse([*BARE, "--logger.console", "half"], anywhere=True)


def test_a_misspelt_option_is_told_with_the_commands_name(monkeypatch):
    """Before a torch for CUDA, whose import takes seconds, is asked for a GPU."""
    monkeypatch.setattr(cpu_runtime, "required", lambda: pytest.fail("torch is asked"))
    with pytest.raises(OptionError) as caught:
        options.parse([*BARE, "--train.sed", "1"])
    assert str(caught.value) == (
        "unrecognized arguments: --train.sed 1; did you mean --train.seed? Else see lens-openrlhf train --help"
    )


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("--train.seed 1", {"train.seed"}),
        ("--train.see 1 --train.max_epo=2", {"train.seed", "train.max_epochs"}),
        ("--eval.at_st --train.colocate_all", {"eval.at_start", "train.colocate_all"}),
        ("--eval.k 1 2 3 --actor.adam.betas 0.9 0.95", {"eval.k", "actor.adam.betas"}),
        ("--actor.muon.no_nesterov", {"actor.muon.nesterov"}),
        ("", set()),
    ],
)
def test_what_was_given_is_known_however_it_is_abbreviated(words, given, monkeypatch):
    seen = []
    monkeypatch.setattr(options, "choose", lambda values, given, offered: seen.append(given))
    monkeypatch.setattr(options.checks, "check_values", lambda values, on_cpu: None)
    monkeypatch.setattr(options, "choose_sizes", lambda values, given, on_cpu, there: seen.append(given) or {})
    monkeypatch.setattr(options.checks, "check_sizes", lambda values, given: seen.append(given))

    class Seen(Exception):
        pass

    def stop(values):
        raise Seen

    monkeypatch.setattr(options, "_name_places", stop)
    with pytest.raises(Seen):
        options.parse(words.split(), anywhere=True)
    assert seen == [given] * 3


def test_what_lies_here_gets_its_absolute_path(tmp_path, monkeypatch):
    """Ray's workers may stand in another folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "model").mkdir(parents=True)
    for name in ("a.jsonl", "b.jsonl", "one, two.csv", "my@data.jsonl", "reward.py", "agent.py"):
        (tmp_path / name).touch()
    (tmp_path / "own.py").write_text("def own(batch):\n    return batch.rewards\n")

    def places(*words: str) -> dict:
        return records.flatten(options.parse([*BARE, *words], anywhere=True))

    values = places(
        *("--actor.model_name_or_path", "~/model", "--data.prompt_dataset", "a.jsonl@test, some/body@train,b.jsonl"),
        *("--eval.dataset", "one, two.csv", "--reward.remote_url", "reward.py"),
        *("--algo.lens.estimator_path", "own.py:own"),
    )
    expected = {
        "actor.model_name_or_path": f"{tmp_path}/home/model",
        "data.prompt_dataset": f"{tmp_path}/a.jsonl@test,some/body@train,{tmp_path}/b.jsonl",
        "eval.dataset": f"{tmp_path}/one, two.csv",
        "reward.remote_url": [f"{tmp_path}/reward.py"],
        "train.agent_func_path": None,
        "algo.lens.estimator_path": f"{tmp_path}/own.py:own",
    }
    assert {name: values[name] for name in expected} == expected
    values = places("--data.prompt_dataset", "my@data.jsonl", "--reward.remote_url", "http://a:1/b")
    assert values["data.prompt_dataset"] == f"{tmp_path}/my@data.jsonl"
    assert values["actor.model_name_or_path"] == "model" and values["eval.dataset"] is None
    assert values["reward.remote_url"] == ["http://a:1/b"] and values["train.agent_func_path"] is None
    assert places("--train.agent_func_path", "agent.py")["train.agent_func_path"] == f"{tmp_path}/agent.py"
    spectral = ["--algo.advantage.estimator", "spectral", "--algo.spectral.scorer", "own.py:own"]
    assert places(*spectral)["algo.spectral.scorer"] == f"{tmp_path}/own.py:own"


def test_a_run_has_a_name_and_its_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("logger.run_dir", "ckpt.output_dir", "ckpt.path", "logger.tensorboard_dir", "logger.wandb.run_name")

    def named(*words: str) -> list[str]:
        values = records.flatten(options.parse([*BARE, *words], anywhere=True))
        return [values[name] for name in names]

    found = named("--actor.model_name_or_path", "some/My-Model/")
    run = found[0]
    assert re.fullmatch(rf"{tmp_path}/runs/\d{{8}}-\d{{6}}-My-Model", run)
    assert found[1:] == [f"{run}/model", f"{run}/checkpoints", f"{run}/tensorboard", run.rpartition("/")[2]]
    run = f"{tmp_path}/r"
    assert named("--logger.run_dir", "r") == [run, f"{run}/model", f"{run}/checkpoints", f"{run}/tensorboard", "r"]
    given = ["o", "c", "t", "w"]
    words = [word for name, value in zip(names[1:], given, strict=True) for word in (f"--{name}", value)]
    assert named("--logger.run_dir", "r/", *words) == [run, *given]


def test_packed_samples_keep_what_is_told_of_attention(monkeypatch):
    """OpenRLHF asks for flash attention, which needs CUDA."""
    packed = [*BARE, "--ds.packing_samples"]
    for on_cpu, anywhere, attention in (
        (True, False, "sdpa"),
        (True, True, "flash_attention_2"),
        (False, False, "flash_attention_2"),
    ):
        monkeypatch.setattr(cpu_runtime, "required", lambda on_cpu=on_cpu: on_cpu)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        assert options.parse(packed, anywhere=anywhere).ds.attn_implementation == attention
    monkeypatch.setattr(cpu_runtime, "required", lambda: True)
    assert options.parse([*BARE, "--ds.attn_implementation", "eager"]).ds.attn_implementation == "eager"


def test_without_cuda_the_defaults_are_a_cpus(monkeypatch):
    names = ("ds.attn_implementation", "vllm.sync_backend", "vllm.enforce_eager", "vllm.gpu_memory_utilization")
    values, _ = sized()
    assert [values[name] for name in names] == ["sdpa", "gloo", True, 0.1]
    values, _ = sized(gpus=1)
    assert [values[name] for name in names] == ["flash_attention_2", "nccl", False, 0.6]
