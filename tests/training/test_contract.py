"""What is relied on in OpenRLHF, DeepSpeed, Ray and vLLM. A failure says which touch point a new version changed."""

from __future__ import annotations

import argparse
import ast
import inspect
import pathlib
import subprocess
import sys
import textwrap
import types
from importlib import metadata

import pytest
import torch

from lens_openrlhf import cpu_runtime
from lens_openrlhf.advantages import estimators
from lens_openrlhf.cpu_runtime.weight_sync import CpuWorkerWrap
from lens_openrlhf.training.checkpoints import layout
from lens_openrlhf.training.commandline import estimator, openrlhf_command, options, records
from lens_openrlhf.training.hooks import remote_code


def plain(actor_class):
    return actor_class.__ray_metadata__.modified_class


def parameters(function) -> list[str]:
    # Ray adds a parameter of its own to the methods of actor classes.
    return [name for name in inspect.signature(function).parameters if name != "_ray_trace_ctx"]


def openrlhf_sources():
    import openrlhf

    folder = pathlib.Path(openrlhf.__file__).parent
    return {path.relative_to(folder): path.read_text() for path in folder.rglob("*.py")}


def test_openrlhf_is_the_pinned_version():
    assert metadata.version("openrlhf") == "0.11.2", "another OpenRLHF: read its changes at every touch point below"


def test_the_command_ends_in_train_and_parses_with_argparse():
    block = ast.unparse(openrlhf_command.main_block())
    assert block.count("argparse.ArgumentParser()") == 1, "options.LensArgumentParser stands in for this call"
    assert block.count("parser.parse_args()") == 1, "options.LensArgumentParser.parse_args is called here, without args"
    assert "args = hierarchize(args)" in block, "options.parse expects nested arguments in `args`"


def test_the_command_is_parsed_without_what_it_trains_with():
    """What its block needs is quick to import; with anything else a misspelt option would wait for it."""
    import openrlhf.cli.train_ppo_ray as command

    imported = modules_of(*ast.walk(openrlhf_command.main_block())) - sys.stdlib_module_names
    only_with_use_ms = "modelscope.utils.hf_util"
    assert imported == {openrlhf_command.HELPER, only_with_use_ms}, "every refusal waits for what else there is"
    files = openrlhf_sources()
    helper = files[pathlib.Path(*openrlhf_command.HELPER.split(".")[1:]).with_suffix(".py")]
    assert modules_of(*ast.walk(ast.parse(helper))) <= sys.stdlib_module_names, "openrlhf_command loads it alone"
    for package in ("__init__.py", "cli/__init__.py"):
        assert not modules_of(*ast.walk(ast.parse(files[pathlib.Path(package)]))), "imported to find the command"
    assert openrlhf_command.source() == pathlib.Path(command.__file__)


def modules_of(*nodes: ast.AST) -> set[str]:
    """The modules that these statements import."""
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom)}


def test_builds_are_told_apart_without_importing_them():
    """By torch's version file and by vLLM's version, as they tell them apart themselves."""
    import vllm.platforms

    code = (
        "import sys; from lens_openrlhf import cpu_runtime; "
        "print(cpu_runtime._torch_without_cuda(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(torch.version.cuda is None and torch.version.hip is None), "False"]
    assert cpu_runtime.vllm_for_cpu() == vllm.platforms.vllm_version_matches_substr("cpu")
    if cpu_runtime.vllm_for_cpu():
        assert vllm.platforms.current_platform.is_cpu()


def test_no_option_is_lost():
    """Against the block as Python runs it, in the module with everything that it imports."""
    import openrlhf.cli.train_ppo_ray as command

    class Asked(Exception):
        pass

    class Parser(argparse.ArgumentParser):
        def parse_args(self, *args, **kwargs):
            raise Asked([{**vars(action), "container": None} for action in self._actions])

    with pytest.raises(Asked) as whole:
        code = compile(openrlhf_command.main_block(), command.__file__, "exec")
        exec(code, vars(command) | {"argparse": types.SimpleNamespace(ArgumentParser=Parser)})
    with pytest.raises(Asked) as alone:
        openrlhf_command.parse(Parser)
    (theirs,), (ours,) = whole.value.args, alone.value.args
    for action in (*theirs, *ours):
        if action["dest"] == "logger.wandb.run_name":
            action["default"] = None  # the time of day
    assert ours == theirs


def test_the_names_that_openrlhf_has_are_reserved(parse, monkeypatch):
    taken = {estimators.CUSTOM}

    class Looks(options.LensArgumentParser):
        def parse_args(self, *args, **kwargs):  # our options are not there yet
            taken.update(next(action.choices for action in self._actions if action.dest == records.ESTIMATOR))
            names = [action.dest.split(".") for action in self._actions]
            taken.update(name[1] for name in names if name[0] == "algo" and len(name) > 2)
            return super().parse_args(*args, **kwargs)

    monkeypatch.setattr(options, "LensArgumentParser", Looks)
    parse()
    assert taken == estimators.RESERVED, "estimators.RESERVED has what OpenRLHF calls its own"


@pytest.mark.parametrize(
    "expected",
    [
        "if not ray.is_initialized():",  # cluster.start_ray comes first
        "create_vllm_engines(",
        "PolicyModelActor,",
        "from openrlhf.trainer.ppo_trainer import PPOTrainer",
        "from openrlhf.trainer.ppo_trainer_async import PPOTrainerAsync as PPOTrainer",
        "PPOTrainer.remote(",
    ],
)
def test_train_looks_its_classes_up_where_launch_puts_ours(expected):
    import openrlhf.cli.train_ppo_ray as command

    assert expected in inspect.getsource(command.train), f"install_hooks relies on `{expected}` in train()"


def test_train_sets_the_environment_that_start_ray_repeats():
    import openrlhf.cli.train_ppo_ray as command

    source = inspect.getsource(command.train)
    for name in ("TOKENIZERS_PARALLELISM", "NCCL_DEBUG", "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS"):
        assert name in source, f"cluster.start_ray passes {name} on because train() does"
    env_vars = next(n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Dict) and "NCCL_DEBUG" in ast.dump(n))
    assert len(env_vars.values) == 1 and len(env_vars.values[0].values) == 3, "train() sets variables we do not pass on"


def test_openrlhf_trusts_the_code_of_every_model_it_loads():
    from openrlhf.trainer.ray.vllm_engine import create_vllm_engines

    trusting = {str(path) for path, text in openrlhf_sources().items() if "trust_remote_code" in text}
    models = {"models/actor.py", "models/model.py", "trainer/ray/vllm_engine.py", "utils/utils.py"}
    assert trusting == {*models, "datasets/utils.py"}, "inputs.check_model must see every model that is loaded there"
    assert '"trust_remote_code": True' in inspect.getsource(create_vllm_engines), "LensRollout replaces this argument"


def test_code_of_a_model_goes_through_the_folder_that_is_closed():
    import transformers.utils.hub

    expected = f'HF_MODULES_CACHE = os.getenv("{remote_code.VARIABLE}"'
    assert expected in inspect.getsource(transformers.utils.hub), (
        "remote_code.forbid closes this folder in other processes"
    )


def test_the_actor_fits_from_its_replay_buffer():
    from openrlhf.trainer.ray.ppo_actor import PolicyModelActor

    actor = plain(PolicyModelActor)
    assert parameters(actor.fit) == ["self", "kl_ctl"], "LensPolicyModel.fit overrides this"
    source = inspect.getsource(actor.fit)
    assert "self.trainer.ppo_train(kl_ctl)" in source and "self.trainer.replay_buffer.clear()" in source
    assert parameters(actor.init_model_from_pretrained)[:3] == ["self", "strategy", "pretrain"]


def test_weights_are_marked_by_their_last_parameter():
    from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer

    source = inspect.getsource(ActorPPOTrainer.broadcast_to_vllm)
    assert "empty_cache=count == num_params" in source, "CpuWorkerWrap loads the whole update at this mark"
    assert "stateless_init_process_group(" in inspect.getsource(ActorPPOTrainer._init_vllm_sync_group)


def test_worker_extension_has_openrlhfs_methods():
    from openrlhf.trainer.ray.vllm_worker_wrap import WorkerWrap

    for name in ("init_process_group", "update_weight"):
        assert parameters(getattr(WorkerWrap, name)) == parameters(getattr(CpuWorkerWrap, name)), (
            f"CpuWorkerWrap.{name} stands in for WorkerWrap.{name}"
        )
    # CUDA IPC is the one method that means nothing on CPU; options.py keeps it from being chosen.
    others = {n for n in vars(WorkerWrap) if not n.startswith("_")} - {n for n in vars(CpuWorkerWrap)}
    assert others == {"update_weight_cuda_ipc"}


def test_vllm_reloads_whole_updates():
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    assert "weights_iterator" in parameters(GPUModelRunner.reload_weights), "CpuWorkerWrap.update_weight calls this"


def test_rollout_actor_takes_the_worker_extension_as_a_keyword():
    import openrlhf.trainer.ray.vllm_engine as engine

    source = inspect.getsource(engine.create_vllm_engines)
    assert '"worker_extension_cls"' in source and "RolloutRayActor.options(" in source
    assert '"logprobs_mode"' in source, "LensRolloutWithLogprobs sets this"
    rollout = plain(engine.RolloutRayActor)
    assert inspect.iscoroutinefunction(rollout.__init__), "LensRollout.__init__ awaits it"
    assert "sampling_params" in parameters(rollout.generate_responses)


def test_vllm_takes_the_name_of_an_executor():
    import openrlhf.trainer.ray.vllm_engine as engine
    from vllm.platforms import cpu as platform
    from vllm.v1.executor.abstract import Executor

    assert 'distributed_executor_backend = "uni" if' in inspect.getsource(engine.create_vllm_engines), (
        "LensRollout puts cpu.UNI_EXECUTOR in place of this word"
    )
    parallel = types.SimpleNamespace(distributed_executor_backend=cpu_runtime.UNI_EXECUTOR)
    executor = Executor.get_class(types.SimpleNamespace(parallel_config=parallel))
    assert f"{executor.__module__}.{executor.__qualname__}" == cpu_runtime.UNI_EXECUTOR
    assert 'distributed_executor_backend == "uni"' in inspect.getsource(platform.CpuPlatform.check_and_update_config), (
        "the CPU platform no longer makes mp of uni: cpu.UNI_EXECUTOR may go"
    )


def test_of_an_answers_outputs_the_last_is_taken():
    import openrlhf.trainer.ray.vllm_engine as engine

    generate = plain(engine.RolloutRayActor).generate
    assert parameters(generate)[:3] == ["self", "prompt_token_ids", "sampling_params"], "LensRollout.generate calls it"
    source = inspect.getsource(generate)
    assert "final_output = request_output" in source and source.count("request_output") == 2, (
        "LensRollout.generate asks for an answer's last output alone"
    )


def test_sampling_parameters_are_passed_by_keyword():
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

    source = inspect.getsource(SamplesGenerator._dispatch_prompts_to_vllm)
    assert "sampling_params=sampling_params" in source, "LensRolloutWithLogprobs.generate_responses takes it by name"
    expected = ["self", "strategy", "prompts_dataloader", "eval_dataloader", "tokenizer", "vllm_engines"]
    assert parameters(SamplesGenerator.__init__) == expected


def test_experience_keeps_what_the_actor_needs():
    from openrlhf.trainer.ppo_utils.experience import Experience

    for name in ("rewards", "scores"):
        assert Experience.is_episode_tensor_field(name), f"actor.pack reads {name} from the replay buffer"
    for name in ("action_log_probs", "rollout_log_probs", "action_mask", "advantages", "returns"):
        assert Experience.is_step_tensor_field(name), f"actor.py reads or replaces {name}"


def test_trainers_build_what_ours_replace():
    from openrlhf.trainer.ppo_trainer import BasePPOTrainer, PPOTrainer
    from openrlhf.trainer.ppo_trainer_async import GenerateSamplesActor, PPOTrainerAsync, TrainingActor
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

    assert "self.experience_maker = RemoteExperienceMaker(" in inspect.getsource(BasePPOTrainer.__init__)
    groups = ["actor_model_group", "critic_model_group", "reward_model_group"]
    expected = ["self", *groups, "initial_model_group", "kl_controller", "strategy", "tokenizer", "kwargs"]
    assert parameters(RemoteExperienceMaker.__init__) == expected
    logs = ["self", "global_step", "logs_dict", "client_states"]
    assert parameters(BasePPOTrainer.save_logs_and_checkpoints) == logs, "_Recorded overrides this"
    assert parameters(plain(PPOTrainer).evaluate) == ["self", "global_step", "generate_kwargs"]
    assert parameters(plain(GenerateSamplesActor)._run_eval) == ["self"]
    source = inspect.getsource(plain(PPOTrainerAsync).__init__)
    assert "GenerateSamplesActor.remote(" in source and "TrainingActor.remote(" in source
    assert issubclass(plain(TrainingActor), BasePPOTrainer)


def test_a_step_ends_in_its_status_and_number():
    from openrlhf.trainer.ppo_trainer import BasePPOTrainer
    from openrlhf.trainer.ray.launcher import RayActorGroup

    assert parameters(BasePPOTrainer.train_step) == ["self", "rollout_samples", "global_step"]
    assert "return status, global_step + 1" in inspect.getsource(BasePPOTrainer.train_step), "_Recorded overrides this"
    group = inspect.getsource(RayActorGroup)
    assert "self._actor_handlers = [master_actor]" in group and "self._actor_handlers.append(worker_actor)" in group, (
        "trainer._ask_first asks the first of them, which is rank 0"
    )


def test_evaluation_prompts_are_made_as_ours_are():
    from openrlhf.datasets import PromptDataset
    from openrlhf.datasets.utils import blending_datasets
    from openrlhf.trainer.ppo_trainer import prepare_datasets

    source = inspect.getsource(prepare_datasets)
    assert "args.eval.dataset" in source and "dataset_split=args.eval.split" in source
    assert "min(args.data.max_samples, len(eval_data))" in source, "evaluation.evaluation_set exists to undo this cut"
    assert parameters(PromptDataset.__init__)[:5] == ["self", "dataset", "tokenizer", "strategy", "input_template"]
    assert "self.prompts.append(prompt)" in inspect.getsource(PromptDataset.__init__)
    assert parameters(blending_datasets)[:3] == ["datasets", "probabilities", "strategy"]


def test_nobody_seeds_the_trainers_process():
    seeding = {str(path) for path, text in openrlhf_sources().items() if "set_seed(" in text or "manual_seed(" in text}
    expected = {"utils/deepspeed/deepspeed.py", "utils/distributed_sampler.py"}
    assert seeding == expected, "trainer.seed_data_order seeds it because OpenRLHF does not"


def test_mesh_and_moving_average_are_where_the_cpu_runtime_patches_them():
    import openrlhf.utils.deepspeed.deepspeed as strategy

    assert 'init_device_mesh(\n            "cuda"' in inspect.getsource(strategy.DeepspeedStrategy.setup_distributed)
    expected = ["self", "model", "model_ema", "beta", "device"]
    assert parameters(strategy.DeepspeedStrategy.moving_average) == expected


def test_deepspeed_compiles_nothing_on_cpu():
    """Its Adam and its shared-memory collectives would be compiled when a run first starts."""
    import openrlhf.utils.deepspeed.deepspeed as strategy
    from deepspeed.comm.torch import TorchBackend
    from deepspeed.runtime.engine import DeepSpeedEngine

    assert "self.shm_comm_op = build_shm_op()" in inspect.getsource(TorchBackend.__init__)
    assert "ds_config = get_train_ds_config(" in inspect.getsource(strategy.DeepspeedStrategy.get_ds_train_config)
    assert "torch_adam = optimizer_parameters.pop(TORCH_ADAM_PARAM, False)" in inspect.getsource(
        DeepSpeedEngine.get_optimizer_configuration
    )


def test_deepspeed_has_the_collectives_that_are_waited_for():
    from deepspeed.comm.torch import TorchBackend

    # From the source: decorators hide the methods' parameters.
    (backend,) = ast.parse(textwrap.dedent(inspect.getsource(TorchBackend))).body
    methods = [node for node in backend.body if isinstance(node, ast.FunctionDef)]
    unfinished = [node.name for node in methods if "async_op" in [argument.arg for argument in node.args.args]]
    assert sorted(unfinished) == list(cpu_runtime.COLLECTIVES), (
        "a collective that can return unfinished work is not waited for on gloo, or one is gone"
    )


def test_every_cuda_call_of_openrlhf_has_a_meaning_on_cpu():
    patched = {"current_device", "set_device", "current_stream", "synchronize"}
    harmless = {"empty_cache", "is_available", "manual_seed_all"}  # do nothing, or tell the truth, without CUDA
    # The CUDA IPC path and device names, which options.py keeps from being reached on CPU.
    unreachable = {"get_device_properties", "ipc_collect"}
    used = set()
    for path, text in openrlhf_sources().items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "torch.cuda":
                used.add((node.attr, str(path)))
    unknown = sorted(use for use in used if use[0] not in patched | harmless | unreachable)
    assert not unknown, f"torch.cuda calls that the CPU runtime does not know: {unknown}"


def test_flash_attention_names_imported_at_module_level():
    """The stand-ins of cpu/padding.py are exactly what OpenRLHF imports at module level."""
    imported = set()
    for text in openrlhf_sources().values():
        for node in ast.parse(text).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flash_attn"):
                imported |= {(node.module, alias.name) for alias in node.names}
    helpers = {"index_first_axis", "pad_input", "rearrange", "unpad_input"}
    assert imported == {("flash_attn.bert_padding", name) for name in helpers} | {
        ("flash_attn.utils.distributed", "all_gather")
    }


def test_group_norm_is_the_grpo_that_scope_none_equals():
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

    source = inspect.getsource(RemoteExperienceMaker.compute_advantages_and_returns)
    expected = "rewards = (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-9)"
    assert expected in source, "lens.h's kStdEps and GRPO fallback repeat this formula"


def test_train_asserts_what_options_refuse_earlier():
    import openrlhf.cli.train_ppo_ray as command

    source = " ".join(inspect.getsource(command.train).split())
    colocated = "args.actor.num_nodes * args.actor.num_gpus_per_node == args.vllm.num_engines * "
    assert colocated + "args.vllm.tensor_parallel_size" in source, "_check_devices says this before Ray starts"
    assert "args.actor.num_gpus_per_node == args.ref.num_gpus_per_node" in source, "_check_devices likewise"


def test_dynamic_batches_lose_gradients_before_zero_3():
    """Why options.py refuses them: OpenRLHF takes every micro-batch for a whole update, and DeepSpeed then adds up with
    ZeRO-3 only. Three backward passes before a step with gradients of norm 4, 40 and 400 gave 400, 400 and 444 with the
    stages 1, 2 and 3."""
    import openrlhf.utils.deepspeed.deepspeed as strategy
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    source = inspect.getsource(strategy.DeepspeedStrategy.get_ds_train_config)
    assert 'ds_config["gradient_accumulation_steps"] = 1' in source
    epilogue = inspect.getsource(DeepSpeedZeroOptimizer.independent_gradient_partition_epilogue)
    assert "self.all_grad_tensors[i] = None" in epilogue, "ZeRO 1 and 2 may add up now: allow them in options.py"
    three = inspect.getsource(DeepSpeedZeroOptimizer_Stage3)
    assert "if self.micro_step_id == 0:  # don't accumulate" in three and "self.micro_step_id += 1" in three


def test_sleep_with_zero_3_needs_the_fused_adam():
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

    source = inspect.getsource(DeepSpeedZeroOptimizer_Stage3.offload_states)
    assert "Offloading is supported only for DeepSpeed FusedAdam." in source, "options.py refuses it on CPU for this"


def test_ray_takes_no_resources_where_it_joins_and_merges_a_jobs_variables():
    from ray._private import worker

    source = inspect.getsource(worker.init)
    assert "num_cpus is not None or num_gpus is not None" in source, "start_ray passes them to a Ray of its own alone"
    assert "RAY_OVERRIDE_JOB_RUNTIME_ENV" in source, "start_ray sets it"


def test_checkpoints_are_written_where_ours_are_finished():
    import openrlhf.utils.deepspeed.deepspeed as strategy
    from deepspeed.runtime.engine import DeepSpeedEngine
    from openrlhf.trainer.ppo_trainer import BasePPOTrainer
    from openrlhf.trainer.ray.ppo_actor import PolicyModelActor

    save = plain(PolicyModelActor).save_checkpoint
    assert parameters(save) == ["self", "tag", "client_states", "metric_value", "metric_key"]
    source = inspect.getsource(save)
    for expected in ('os.path.join(args.ckpt.path, "_actor")', "args.ckpt.max_num", "args.ckpt.max_mem", "{tag}_hf"):
        assert expected in source, f"checkpoints.py relies on {expected}"
    assert 'startswith("best")' in inspect.getsource(strategy.DeepspeedStrategy.save_ckpt), "writing.make_room too"
    assert strategy.DeepspeedStrategy.CKPT_METRIC_FILENAME == layout.METRIC
    assert "'latest'" in inspect.getsource(DeepSpeedEngine.save_checkpoint), "layout.LATEST"
    states = inspect.getsource(BasePPOTrainer.init_checkpoint_states)
    assert '"data_loader_state_dict"' in states and '"episode"' in states, "writing.resumable changes these"
    expected = ["self", "eval_metrics", "global_step", "client_states"]
    assert parameters(BasePPOTrainer.save_best_checkpoint) == expected, "_Recorded overrides this"


def test_weights_for_vllm_are_named_by_the_module():
    from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer

    source = inspect.getsource(ActorPPOTrainer.broadcast_to_vllm)
    assert "model = self.actor.model.module" in source and "model.named_parameters()" in source, (
        "lora.under_vllm_names exchanges the module's named_parameters"
    )


def test_rewards_are_fetched_where_they_are_watched():
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    source = inspect.getsource(SingleTurnAgentExecutor.execute)
    for kind in ("func", "http"):
        call = f"self._fetch_rewards_via_{kind}([query], [prompt], [label])"
        assert call in source, "rewards_watched.WatchedRewards stands in for this"
    assert 'rewards_info.get("rewards")' in source, "rewards_watched.checked expects this"


def test_entropies_are_computed_where_ours_takes_their_place():
    import openrlhf.models.actor as module
    from openrlhf.trainer.ray.ppo_actor import PolicyModelActor

    source = inspect.getsource(module.Actor.forward)
    assert 'entropy = compute_entropy(output["logits"])' in source, "actor._WithStatistics exchanges this function"
    assert 'setattr(output, "entropy", entropy[:, :-1])' in source
    source = inspect.getsource(plain(PolicyModelActor).forward)
    calls = ["self.actor.eval()", "action_log_probs = self.actor(", "self.actor.train()"]
    assert [call for call in calls if call in source] == calls and source.count("self.actor") == 4, (
        "actor._WithStatistics stands in for self.actor here"
    )


def test_statistics_of_tokens_find_their_fields():
    from openrlhf.trainer.ppo_utils.experience import Experience
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

    from lens_openrlhf.training.hooks.tags import CARRIERS

    for field in CARRIERS.values():
        assert Experience.is_step_tensor_field(field), "it must be unpadded and batched as the tokens are"
    source = inspect.getsource(RemoteExperienceMaker.make_experience)
    assert "action_log_probs_list = self._flatten_results(action_log_probs_ref, duplicate_factor)" in source, (
        "LensExperienceMaker takes the statistics out of this result"
    )
    assert inspect.getsource(RemoteExperienceMaker.compute_advantages_and_returns).count(".values,") == 1, (
        "only gae reads the values that carry entropies"
    )


def test_policy_losses_have_openrlhfs_signature():
    from openrlhf.models.loss import PolicyLoss
    from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer

    from lens_openrlhf.training.hooks.policy_loss import PolicyGradientLoss

    assert parameters(PolicyLoss.forward) == parameters(PolicyGradientLoss.forward)
    source = inspect.getsource(ActorPPOTrainer)
    assert "actor_loss, clip_ratio, ppo_kl, vllm_kl, is_filter_ratio = self.actor_loss_fn(" in source


def test_one_answer_a_prompt_needs_another_placeholder():
    assert options.parse(
        [
            *("--actor.model_name_or_path", "m", "--data.prompt_dataset", "p", "--reward.remote_url", "r.py"),
            *("--vllm.num_engines", "1", "--actor.num_gpus_per_node", "1", "--rollout.n_samples_per_prompt", "1"),
            *("--algo.advantage.estimator", estimator.PLACEHOLDER_FOR_SINGLES, "--algo.kl.init_coef", "0"),
        ]
    )


def test_answers_of_a_prompt_are_drawn_where_rounds_replace_them():
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
    from openrlhf.trainer.ray.vllm_engine import RolloutRayActor
    from openrlhf.utils.agent import MultiTurnAgentExecutor, SingleTurnAgentExecutor

    tree = ast.parse(inspect.getsource(SamplesGenerator))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr != "remote"}
    assert {"get_num_unfinished_requests", "generate_responses"} <= used, "sampling.UntilPositive stands in for these"
    call = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "llm_engine.generate_responses.remote"
    )
    given = [keyword.arg for keyword in call.keywords]
    assert not call.args and {"num_samples", "sampling_params"} <= set(given), "RolloutInRounds takes these by name"
    assert set(given) == set(parameters(plain(RolloutRayActor).generate_responses)) - {"self"}
    # Evaluation goes past generate_samples, where UntilPositive begins its rounds.
    assert "self.generate_samples(" not in inspect.getsource(SamplesGenerator.generate_eval_samples)
    assert "self._dispatch_prompts_to_vllm(" in inspect.getsource(SamplesGenerator._generate_vllm)
    for executor in (SingleTurnAgentExecutor, MultiTurnAgentExecutor):
        source = inspect.getsource(executor.execute)
        for key in ("reward", "scores", "extra_logs"):
            assert f'"{key}":' in source, "RolloutInRounds reads this of every answer"
    source = inspect.getsource(SamplesGenerator._process_response_into_experience)
    assert 'response.get("extra_logs", {})' in source and "info[key] = torch.tensor([value])" in source, (
        "what RolloutInRounds knows of the drawn answers reaches the estimator this way"
    )


def test_prompts_are_drawn_through_a_dataloader_that_can_be_replaced():
    from openrlhf.datasets import PromptDataset
    from openrlhf.trainer.ppo_trainer import PPOTrainer
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
    from openrlhf.utils.deepspeed.deepspeed import DeepspeedStrategy

    assert "return self.datasources[idx], self.prompts[idx]," in inspect.getsource(PromptDataset.__getitem__), (
        "sampling.by_weight takes the texts of dataset.prompts for the prompts that come"
    )
    assert "return StatefulDataLoader(" in inspect.getsource(DeepspeedStrategy.setup_dataloader)
    fit = inspect.getsource(plain(PPOTrainer).fit)
    used = ("len(self.prompts_dataloader)", ".load_state_dict(state_dict)", '": self.prompts_dataloader.state_dict()')
    assert all(name in fit for name in used), "sampling.by_weight gives back a dataloader for these"
    assert "iter(self.prompts_dataloader)" in inspect.getsource(SamplesGenerator.generate_samples)


def test_an_update_reports_how_far_it_moved_the_policy():
    from openrlhf.models.loss import PolicyLoss
    from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer

    assert "ppo_kl = masked_mean(-raw_policy_log_ratio" in inspect.getsource(PolicyLoss.forward), "spo adds it up"
    assert 'experience.info["ppo_kl"] = ppo_kl' in inspect.getsource(ActorPPOTrainer.training_step)
    assert "self.strategy.all_reduce(reduced_status)" in inspect.getsource(ActorPPOTrainer.ppo_train), (
        "spo's tracker must be the same on every rank"
    )
