"""Values of the options that cannot work, alone or together, refused before anything is looked up or started."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ...inputs import OptionError
from .sizes import data_parallel_ranks, micro_batch, sequence_gpus

LARGEST = 2**63 - 1  # what tensors and Ray can count with
# Of which there must be one at least.
COUNTS = (
    *("train.batch_size", "train.micro_batch_size", "train.num_episodes", "rollout.batch_size"),
    *("rollout.micro_batch_size", "rollout.n_samples_per_prompt", "rollout.max_new_tokens"),
    *("rollout.vllm_generate_batch_size", "data.max_len", "data.max_samples"),
    *("eval.n_samples_per_prompt", "eval.max_samples"),
    *("ds.ring_attn_size", "ds.tensor_parallel_size", "vllm.tensor_parallel_size"),
)


class NeedsCuda(OptionError):
    """Options that can work, but not on a machine without CUDA."""


def check_values(values: Mapping[str, Any], on_cpu: bool) -> None:
    """Values that cannot work whatever the sizes are.

    Args:
        values: all options by dotted name.

    Raises:
        OptionError: naming the option and the remedy; NeedsCuda for what works elsewhere.
    """
    _check_numbers(values)
    _check_lora(values.get)
    if on_cpu:
        _check_cpu(values.get)
    if not values["actor.model_name_or_path"]:
        raise OptionError("--actor.model_name_or_path is missing: a Hugging Face model name or a folder")
    if not values["data.prompt_dataset"]:
        raise OptionError("--data.prompt_dataset is missing: a dataset name, or a .jsonl or .parquet file of prompts")
    template = values["data.input_template"]
    if template and "{}" not in template and not values["data.apply_chat_template"]:  # OpenRLHF would leave it out
        raise OptionError(f"--data.input_template {template!r}: must hold {{}}, the prompt's place")


def check_sizes(values: Mapping[str, Any], given: set[str]) -> None:
    """Sizes that do not fit each other, once all are known.

    Args:
        values: all options by dotted name.
        given: those that the user gave.

    Raises:
        OptionError: naming the option and the remedy.
    """
    if not values["vllm.num_engines"] > 0:
        raise OptionError(
            f"--vllm.num_engines {values['vllm.num_engines']}: answers are sampled by vLLM; use at least 1, or leave "
            "it out"
        )
    if not values["reward.timeout"] > 0:
        raise OptionError(f"--reward.timeout {values['reward.timeout']:g}: use a number of seconds above 0")
    _check_devices(values)
    _check_batches(values, given)
    _check_evaluation(values)


def _check_lora(get: Callable[[str], Any]) -> None:
    """Adapters are merged into the weights that vLLM gets, which must be whole and unpacked for that."""
    if get("ds.lora.rank") <= 0:
        return
    for spoiled, what in (
        (get("ds.zero_stage") == 3, "--ds.zero_stage 3 splits every weight over the ranks; use 2"),
        (get("ds.load_in_4bit"), "--ds.load_in_4bit packs them; leave it out"),
        (get("ds.tensor_parallel_size") > 1, "--ds.tensor_parallel_size splits them; use 1"),
        (get("train.enable_ema"), "--train.enable_ema would average the weights without them; leave it out"),
    ):
        if spoiled:
            raise OptionError(
                f"--ds.lora.rank {get('ds.lora.rank')}: adapters are merged into the weights that vLLM gets, but {what}"
            )


def _check_cpu(get: Callable[..., Any]) -> None:
    """Refuse what cannot work without CUDA."""
    refusals = {
        "vllm.enable_sleep": "vLLM's sleep mode needs CUDA",
        "ds.use_liger_kernel": "the Liger kernels need CUDA",
        "ds.load_in_4bit": "4-bit loading needs CUDA",
        "ds.deepcompile": "DeepCompile needs CUDA",
        "vllm.sync_with_ray": "Ray's gloo collectives fail beside DeepSpeed's process group",
    }
    for name, reason in refusals.items():
        if get(name):
            raise NeedsCuda(f"--{name}: {reason}, and this machine has none; leave the option out")
    if "flash" in get("ds.attn_implementation"):
        raise NeedsCuda(
            f"--ds.attn_implementation {get('ds.attn_implementation')}: flash attention needs CUDA; leave it out (sdpa)"
        )
    if get("vllm.sync_backend") != "gloo":
        raise NeedsCuda(f"--vllm.sync_backend {get('vllm.sync_backend')}: needs CUDA; leave the option out (gloo)")
    if get("ds.enable_sleep") and get("ds.zero_stage") == 3:
        raise NeedsCuda(
            "--ds.enable_sleep with --ds.zero_stage 3: needs DeepSpeed's fused Adam, and that needs CUDA; leave one out"
        )
    for name in ("ds.ring_attn_size", "ds.tensor_parallel_size", "vllm.tensor_parallel_size"):
        if get(name) > 1:
            raise NeedsCuda(f"--{name} {get(name)}: splitting a model over devices needs CUDA; use 1")
    for name in ("actor.num_nodes", "ref.num_nodes", "reward.num_nodes", "critic.num_nodes"):
        if get(name, 1) > 1:
            raise NeedsCuda(f"--{name} {get(name)}: the CPU runtime uses one machine; use 1")


def _check_numbers(values: Mapping[str, Any]) -> None:
    """Numbers that can be of nothing; OpenRLHF divides by some of these."""
    for name, value in values.items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and math.isnan(number):
                raise OptionError(f"--{name} nan: is no number; give one, or leave the option out")
            if isinstance(number, int) and abs(number) > LARGEST:
                raise OptionError(f"--{name} {number}: is too large; use at most {LARGEST}")
    for name in COUNTS:
        if values.get(name) is not None and values[name] < 1:
            raise OptionError(f"--{name} {values[name]}: use at least 1")


def _check_devices(values: Mapping[str, Any]) -> None:
    """What OpenRLHF finds only when Ray runs and vLLM loads, or not at all."""
    size = {part: values[f"{part}.num_nodes"] * values[f"{part}.num_gpus_per_node"] for part in ("actor", "ref")}
    copies = sequence_gpus(values)
    actor = (
        f"--actor.num_nodes {values['actor.num_nodes']} x --actor.num_gpus_per_node {values['actor.num_gpus_per_node']}"
    )
    if size["actor"] < 1:
        raise OptionError(f"{actor}: the actor needs a GPU; use at least 1 of each")
    if size["actor"] % copies:
        raise OptionError(
            f"--ds.ring_attn_size {values['ds.ring_attn_size']} x --ds.tensor_parallel_size "
            f"{values['ds.tensor_parallel_size']}: the actor's {size['actor']} GPUs are no multiple of the "
            f"{copies} that share a sequence ({actor}); use smaller ones, or other GPUs"
        )
    engines, parallel = values["vllm.num_engines"], values["vllm.tensor_parallel_size"]
    if values["train.colocate_all"] and not values["train.async_enable"] and engines * parallel != size["actor"]:
        if size["actor"] % parallel:
            raise OptionError(
                f"--vllm.tensor_parallel_size {parallel}: does not divide the {size['actor']} GPUs that vLLM and "
                "the actor share (--actor.num_nodes x --actor.num_gpus_per_node); use a divisor of that, or other "
                "GPUs"
            )
        raise OptionError(
            f"--vllm.num_engines {engines} x --vllm.tensor_parallel_size {parallel}: with --train.colocate_all "
            f"vLLM uses the actor's GPUs, all {size['actor']} of them (--actor.num_nodes x "
            "--actor.num_gpus_per_node)"
        )
    shared = values["train.colocate_all"] or values["train.colocate_actor_ref"]
    if values["algo.kl.init_coef"] > 0 and shared:
        for name in ("num_nodes", "num_gpus_per_node"):
            if values[f"ref.{name}"] != values[f"actor.{name}"]:
                raise OptionError(
                    f"--ref.{name} {values[f'ref.{name}']}: the reference model shares the actor's GPUs; use "
                    f"--actor.{name}'s {values[f'actor.{name}']}, or --algo.kl.init_coef 0 for none"
                )
    if not 0 < values["vllm.gpu_memory_utilization"] <= 1:
        raise OptionError(
            f"--vllm.gpu_memory_utilization {values['vllm.gpu_memory_utilization']:g}: is a share of a GPU's "
            "memory; use more than 0 and at most 1"
        )
    new, both = values["rollout.max_new_tokens"], values["data.max_len"]
    if new is not None and new >= both:
        raise OptionError(
            f"--rollout.max_new_tokens {new}: leaves no room for a prompt in --data.max_len {both}, which counts "
            f"prompt and answer; use a larger --data.max_len, such as {new + 1024}"
        )


def _check_batches(values: Mapping[str, Any], given: set[str]) -> None:
    ranks = data_parallel_ranks(values)
    prompts, samples = values["rollout.batch_size"], values["rollout.n_samples_per_prompt"]
    batch, micro = values["train.batch_size"], values["train.micro_batch_size"]
    at_once = values["rollout.vllm_generate_batch_size"]
    if at_once and at_once < prompts:  # OpenRLHF draws once a step: batches and the plan would be of too many prompts
        raise OptionError(
            f"--rollout.vllm_generate_batch_size {at_once}: is less than --rollout.batch_size {prompts}, and a step "
            f"would have {at_once} prompts; use --rollout.batch_size {at_once}, or leave it out"
        )
    if prompts * samples % batch:
        raise OptionError(
            f"--train.batch_size {batch}: does not divide the {prompts * samples} samples of a step "
            f"(--rollout.batch_size {prompts} x --rollout.n_samples_per_prompt {samples})"
        )
    if "train.batch_size" not in given and batch % (micro_batch(values) * ranks):
        raise OptionError(
            f"--rollout.batch_size {prompts} x --rollout.n_samples_per_prompt {samples}: the {prompts * samples} "
            f"samples of a step are no multiple of {ranks} data-parallel ranks x {micro_batch(values)} "
            "(--train.micro_batch_size); use another --rollout.batch_size, or other GPUs"
        )
    if not values["train.dynamic_batch_enable"]:
        if batch % (micro * ranks):
            raise OptionError(
                f"--train.batch_size {batch}: is not a multiple of --train.micro_batch_size {micro} x {ranks} "
                "data-parallel ranks"
            )
        return
    if batch % ranks:
        raise OptionError(
            f"--train.batch_size {batch}: is not a multiple of the {ranks} data-parallel ranks, so that samples "
            "would be left out; use another --train.batch_size, or other GPUs"
        )
    if values["ds.zero_stage"] < 3:
        raise OptionError(
            f"--train.dynamic_batch_enable with --ds.zero_stage {values['ds.zero_stage']}: DeepSpeed would keep "
            "the gradient of an update's last micro-batch alone; use --ds.zero_stage 3"
        )


def _check_evaluation(values: Mapping[str, Any]) -> None:
    samples = values["eval.n_samples_per_prompt"]
    for k in values["eval.k"] or ():
        if not 1 <= k <= samples:
            raise OptionError(
                f"--eval.k {k}: is not between 1 and the {samples} answers of --eval.n_samples_per_prompt; sample "
                "more, or leave it out"
            )
    if not values["eval.dataset"]:
        for name in ("eval.at_start", "eval.at_end", "eval.k", "eval.split_by", "eval.max_samples"):
            if values[name]:
                raise OptionError(f"--{name}: has no effect without --eval.dataset; name the held-out prompts")
