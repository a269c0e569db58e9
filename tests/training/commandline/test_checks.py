"""What cannot work is refused with its option, and what lies just beside it is not."""

from __future__ import annotations

import re

import pytest

from lens_openrlhf.inputs import OptionError
from lens_openrlhf.training.commandline import checks, records
from lens_openrlhf.training.commandline.checks import NeedsCuda


@pytest.fixture
def sound(parsed) -> dict:
    """Options that can work with and without CUDA, by dotted name: a step of 1,024 x 4 samples, 128 an update."""
    values = records.flatten(parsed) | {"ds.attn_implementation": "sdpa", "vllm.sync_backend": "gloo"}
    assert (values["rollout.batch_size"], values["train.batch_size"]) == (1024, 128)
    return values


def dotted(changes: str, sound: dict) -> dict:
    """`sound` with "a.b=1 c.d=None …" in it."""
    pairs = (change.split("=") for change in changes.split())
    new = {name: eval(value, {"nan": float("nan"), "inf": float("inf")}) for name, value in pairs}
    assert new.keys() <= sound.keys()
    return sound | new


def refusal(check, *arguments) -> OptionError | None:
    try:
        check(*arguments)
    except OptionError as error:
        return error
    return None


COUNTS = """
train.batch_size train.micro_batch_size train.num_episodes rollout.batch_size rollout.micro_batch_size
rollout.n_samples_per_prompt rollout.max_new_tokens rollout.vllm_generate_batch_size data.max_len data.max_samples
eval.n_samples_per_prompt eval.max_samples ds.ring_attn_size ds.tensor_parallel_size vllm.tensor_parallel_size
""".split()


@pytest.mark.parametrize("name", COUNTS)
def test_of_these_there_must_be_one(sound, name):
    assert sorted(checks.COUNTS) == sorted(COUNTS)
    for number in (0, -3):
        with pytest.raises(OptionError, match=f"^--{name} {number}: use at least 1$"):
            checks.check_values(sound | {name: number}, False)
    for number in (1, None):
        checks.check_values(sound | {name: number}, False)


MOST = 2**63 - 1


@pytest.mark.parametrize(
    ("fine", "refused", "told"),
    [
        (f"data.max_samples={MOST}", f"data.max_samples={MOST + 1}", f"data.max_samples {MOST + 1}: is too large"),
        (f"train.seed=-{MOST}", f"train.seed=-{MOST + 1}", f"train.seed -{MOST + 1}: is too large"),
        (f"eval.k=[1,{MOST}]", f"eval.k=[1,{MOST + 1}]", f"eval.k {MOST + 1}: is too large; use at most {MOST}"),
        ("reward.clip_range=(0,inf)", "reward.clip_range=(0,nan)", "reward.clip_range nan: is no number"),
        ("actor.adam.lr=inf", "actor.adam.lr=nan", "actor.adam.lr nan: is no number; give one, or leave the option"),
        ("actor.model_name_or_path='m'", "actor.model_name_or_path=None", "actor.model_name_or_path is missing: a H"),
        ("data.prompt_dataset='p'", "data.prompt_dataset=''", "data.prompt_dataset is missing: a dataset name, or"),
        ("data.input_template='{}!'", "data.input_template='{x'", "data.input_template '{x': must hold {}, the"),
        ("data.input_template=''", "data.input_template='x'", "data.input_template 'x': must hold {}, the prompt's"),
        ("data.input_template='x' data.apply_chat_template=True", "data.input_template='x'", "data.input_template"),
        # Adapters are merged into weights that must be whole.
        ("ds.lora.rank=0 ds.zero_stage=3", "ds.lora.rank=1 ds.zero_stage=3", "ds.lora.rank 1: adapters are merged"),
        ("ds.lora.rank=8 ds.zero_stage=2", "ds.lora.rank=8 ds.zero_stage=3", "ds.lora.rank 8: .* --ds.zero_stage 3 sp"),
        ("ds.load_in_4bit=True", "ds.lora.rank=8 ds.load_in_4bit=True", "ds.lora.rank 8: .* --ds.load_in_4bit packs"),
        (
            "ds.lora.rank=8 ds.tensor_parallel_size=1",
            "ds.lora.rank=8 ds.tensor_parallel_size=2",
            "ds.lora.rank 8: .* --ds.tensor_parallel_size splits them; use 1",
        ),
        ("train.enable_ema=True", "ds.lora.rank=8 train.enable_ema=True", "ds.lora.rank 8: .* --train.enable_ema wou"),
    ],
)
def test_values(sound, fine, refused, told):
    checks.check_values(dotted(fine, sound), False)
    error = refusal(checks.check_values, dotted(refused, sound), False)
    assert type(error) is OptionError and re.match(f"--{told.replace('{}', '[{]}')}", str(error)), error


@pytest.mark.parametrize(
    ("fine", "refused", "told"),
    [
        ("vllm.enable_sleep=False", "vllm.enable_sleep=True", "vllm.enable_sleep: vLLM's sleep mode needs CUDA, and"),
        ("ds.use_liger_kernel=False", "ds.use_liger_kernel=True", "ds.use_liger_kernel: the Liger kernels need CUDA"),
        ("ds.load_in_4bit=False", "ds.load_in_4bit=True", "ds.load_in_4bit: 4-bit loading needs CUDA"),
        ("ds.deepcompile=False", "ds.deepcompile=True", "ds.deepcompile: DeepCompile needs CUDA"),
        ("vllm.sync_with_ray=False", "vllm.sync_with_ray=True", "vllm.sync_with_ray: Ray's gloo collectives fail"),
        (
            "ds.attn_implementation='eager'",
            "ds.attn_implementation='flash_attention_2'",
            "ds.attn_implementation flash_attention_2: flash attention needs CUDA; leave it out [(]sdpa[)]",
        ),
        ("vllm.sync_backend='gloo'", "vllm.sync_backend='nccl'", "vllm.sync_backend nccl: needs CUDA; leave the opt"),
        ("ds.enable_sleep=True", "ds.enable_sleep=True ds.zero_stage=3", "ds.enable_sleep with --ds.zero_stage 3: n"),
        ("ds.zero_stage=3", "ds.enable_sleep=True ds.zero_stage=3", "ds.enable_sleep with --ds.zero_stage 3: needs"),
        ("ds.ring_attn_size=1", "ds.ring_attn_size=2", "ds.ring_attn_size 2: splitting a model .* use 1"),
        ("ds.tensor_parallel_size=1", "ds.tensor_parallel_size=2", "ds.tensor_parallel_size 2: splitting a model"),
        ("vllm.tensor_parallel_size=1", "vllm.tensor_parallel_size=2", "vllm.tensor_parallel_size 2: splitting a mod"),
        *(
            (
                f"{part}.num_nodes=1",
                f"{part}.num_nodes=2",
                f"{part}.num_nodes 2: the CPU runtime uses one machine; use 1",
            )
            for part in ("actor", "ref", "reward", "critic")
        ),
    ],
)
def test_values_that_need_cuda(sound, fine, refused, told):
    """They are said to need it, so that a plan can be made for a machine that has it."""
    checks.check_values(dotted(fine, sound), True)
    checks.check_values(dotted(refused, sound), False)
    error = refusal(checks.check_values, dotted(refused, sound), True)
    assert type(error) is NeedsCuda and re.match(f"--{told}", str(error)), error


# Four GPUs for the actor, which vLLM shares.
SHARED = "actor.num_gpus_per_node=4 vllm.num_engines=4 train.colocate_all=True "
DYNAMIC = "train.dynamic_batch_enable=True ds.zero_stage=3 "
REFERENCE = "algo.kl.init_coef=0.1 actor.num_gpus_per_node=2 ref.num_gpus_per_node=2 "


@pytest.mark.parametrize(
    ("fine", "refused", "told"),
    [
        ("vllm.num_engines=1", "vllm.num_engines=0", "vllm.num_engines 0: answers are sampled by vLLM; use at least 1"),
        ("reward.timeout=0.5", "reward.timeout=0", "reward.timeout 0: use a number of seconds above 0"),
        ("reward.timeout=inf", "reward.timeout=-0.5", "reward.timeout -0.5: use a number of seconds above 0"),
        # devices
        (
            "actor.num_nodes=1",
            "actor.num_nodes=0",
            "actor.num_nodes 0 x --actor.num_gpus_per_node 1: the actor needs a GPU; use at least 1 of each",
        ),
        (
            "actor.num_nodes=2 actor.num_gpus_per_node=3 ds.ring_attn_size=3 ds.tensor_parallel_size=2",
            "actor.num_nodes=2 actor.num_gpus_per_node=3 ds.ring_attn_size=2 ds.tensor_parallel_size=2",
            "ds.ring_attn_size 2 x --ds.tensor_parallel_size 2: the actor's 6 GPUs are no multiple of the 4 that share "
            "a sequence [(]--actor.num_nodes 2 x --actor.num_gpus_per_node 3[)]",
        ),
        (
            SHARED,
            SHARED + "vllm.num_engines=2",
            "vllm.num_engines 2 x --vllm.tensor_parallel_size 1: with --train.colocate_all vLLM uses .* all 4 of them",
        ),
        (
            SHARED + "vllm.num_engines=2 vllm.tensor_parallel_size=2",
            SHARED + "vllm.tensor_parallel_size=2",
            "vllm.num_engines 4 x --vllm.tensor_parallel_size 2: with --train.colocate_all vLLM uses",
        ),
        (
            SHARED + "vllm.num_engines=1 vllm.tensor_parallel_size=4",
            SHARED + "vllm.num_engines=1 vllm.tensor_parallel_size=3",
            "vllm.tensor_parallel_size 3: does not divide the 4 GPUs that vLLM and the actor share",
        ),
        (SHARED + "vllm.num_engines=9 train.async_enable=True", SHARED + "vllm.num_engines=9", "vllm.num_engines 9 x"),
        (SHARED + "vllm.num_engines=9 train.colocate_all=False", SHARED + "vllm.num_engines=9", "vllm.num_engines 9 x"),
        (
            REFERENCE + "train.colocate_actor_ref=True",
            REFERENCE + "train.colocate_actor_ref=True ref.num_gpus_per_node=4",
            "ref.num_gpus_per_node 4: the reference model shares the actor's GPUs; use --actor.num_gpus_per_node's 2,",
        ),
        (
            REFERENCE + "train.colocate_all=True vllm.num_engines=2",
            REFERENCE + "train.colocate_all=True vllm.num_engines=2 ref.num_nodes=2",
            "ref.num_nodes 2: the reference model shares the actor's GPUs; use --actor.num_nodes's 1, or",
        ),
        (
            REFERENCE + "ref.num_gpus_per_node=4",
            REFERENCE + "train.colocate_actor_ref=True ref.num_gpus_per_node=4",
            "ref.num_gpus_per_node 4",
        ),
        (
            REFERENCE + "train.colocate_actor_ref=True ref.num_gpus_per_node=4 algo.kl.init_coef=0.0",
            REFERENCE + "train.colocate_actor_ref=True ref.num_gpus_per_node=4 algo.kl.init_coef=1e-9",
            "ref.num_gpus_per_node 4",
        ),
        ("vllm.gpu_memory_utilization=1", "vllm.gpu_memory_utilization=1.001", "vllm.gpu_memory_utilization 1.001: is"),
        ("vllm.gpu_memory_utilization=0.001", "vllm.gpu_memory_utilization=0", "vllm.gpu_memory_utilization 0: is a"),
        (
            "rollout.max_new_tokens=2047",
            "rollout.max_new_tokens=2048",
            "rollout.max_new_tokens 2048: leaves no room .* --data.max_len 2048, .* such as 3072",
        ),
        # batches
        (
            "rollout.vllm_generate_batch_size=96 rollout.batch_size=96",
            "rollout.vllm_generate_batch_size=95 rollout.batch_size=96",
            "rollout.vllm_generate_batch_size 95: is less than --rollout.batch_size 96, and a step would have 95",
        ),
        (
            "rollout.batch_size=96",
            "rollout.batch_size=80",
            "train.batch_size 128: does not divide the 320 samples of a step [(]--rollout.batch_size 80 x "
            "--rollout.n_samples_per_prompt 4[)]",
        ),
        (
            "train.micro_batch_size=32 actor.num_gpus_per_node=4",
            "train.micro_batch_size=64 actor.num_gpus_per_node=4",
            "train.batch_size 128: is not a multiple of --train.micro_batch_size 64 x 4 data-parallel ranks",
        ),
        (
            "train.micro_batch_size=64 actor.num_gpus_per_node=4 ds.ring_attn_size=2",
            "train.micro_batch_size=64 actor.num_gpus_per_node=4 ds.ring_attn_size=1",
            "train.batch_size 128: is not a multiple of --train.micro_batch_size 64 x 4 data-parallel ranks",
        ),
        (
            DYNAMIC + "train.micro_batch_size=3 actor.num_gpus_per_node=4",
            DYNAMIC + "train.micro_batch_size=3 actor.num_gpus_per_node=3",
            "train.batch_size 128: is not a multiple of the 3 data-parallel ranks, so that samples would be left out",
        ),
        (
            DYNAMIC,
            DYNAMIC + "ds.zero_stage=2",
            "train.dynamic_batch_enable with --ds.zero_stage 2: DeepSpeed would keep",
        ),
        # evaluation
        (
            "eval.dataset='e' eval.k=[1,4]",
            "eval.dataset='e' eval.k=[1,5]",
            "eval.k 5: is not between 1 and the 4 answers",
        ),
        ("eval.dataset='e' eval.k=[1]", "eval.dataset='e' eval.k=[0]", "eval.k 0: is not between 1 and the 4 answers"),
        *(
            (f"eval.dataset='e' eval.{name}", f"eval.{name}", f"eval.{name.partition('=')[0]}: has no effect without")
            for name in ("at_start=True", "at_end=True", "k=[1]", "split_by=['level']", "max_samples=3")
        ),
    ],
)
def test_sizes(sound, fine, refused, told):
    checks.check_sizes(dotted(fine, sound), {"train.batch_size"})
    error = refusal(checks.check_sizes, dotted(refused, sound), {"train.batch_size"})
    assert error and re.match(f"--{told}", str(error)), error


def test_a_batch_that_was_not_given_is_not_blamed(sound):
    """It follows from what was given: prompts, answers, ranks and passes."""
    for changes, ranks, micro in (
        ("train.micro_batch_size=64 actor.num_gpus_per_node=4", 4, 64),
        (DYNAMIC + "train.micro_batch_size=64 actor.num_gpus_per_node=3", 3, 1),
    ):
        with pytest.raises(OptionError) as caught:
            checks.check_sizes(dotted(changes, sound), set())
        assert str(caught.value) == (
            "--rollout.batch_size 1024 x --rollout.n_samples_per_prompt 4: the 4096 samples of a step are no multiple "
            f"of {ranks} data-parallel ranks x {micro} (--train.micro_batch_size); use another --rollout.batch_size, "
            "or other GPUs"
        )
    checks.check_sizes(dotted(DYNAMIC + "train.micro_batch_size=64 actor.num_gpus_per_node=4", sound), set())
