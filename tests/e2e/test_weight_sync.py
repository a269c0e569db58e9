"""After an update vLLM answers with the actor's new weights."""

from __future__ import annotations

import pytest
import torch

from lens_openrlhf import cpu_runtime
from lens_openrlhf.training.commandline import options
from lens_openrlhf.training.hooks.install import install_hooks
from lens_openrlhf.training.launch.cluster import start_ray, stop_everything

from .conftest import command_line, no_strays

# bfloat16 keeps 8 bits of every logit, and the two engines sum in different orders.
BF16_TOLERANCE = 0.05
BF16_RELATIVE = 0.02


@pytest.fixture(scope="module")
def cluster(tiny, tmp_path_factory):
    """(args, policy actor group, vLLM engine) of a running cluster, built by OpenRLHF's own functions."""
    if cpu_runtime.required():
        cpu_runtime.install()
    import ray

    folder = tmp_path_factory.mktemp("sync")
    argv = command_line(folder, tiny, "math-verify", "--algo.advantage.estimator", "lens", "--actor.adam.lr", "1e-3")
    args = options.parse([*argv[4:], "--actor.lr_scheduler", "constant", "--actor.lr_warmup_ratio", "0"])
    import openrlhf.cli.train_ppo_ray as command
    import openrlhf.trainer.ppo_trainer as ppo_trainer
    import openrlhf.trainer.ppo_trainer_async as ppo_trainer_async
    import openrlhf.trainer.ray.vllm_engine as vllm_engine

    exchanged = [
        (command, "PolicyModelActor"),
        (vllm_engine, "RolloutRayActor"),
        (ppo_trainer, "PPOTrainer"),
        (ppo_trainer_async, "PPOTrainerAsync"),
    ]
    with no_strays(), pytest.MonkeyPatch.context() as patch:
        for module, name in exchanged:  # put back afterwards: other tests look at OpenRLHF as it is
            patch.setattr(module, name, getattr(module, name))
        install_hooks(args)
        start_ray(args, log_to_driver=False)
        from openrlhf.utils import get_strategy

        engines = command.create_vllm_engines(
            1, 1, str(tiny.model), 0, False, False, True, args.data.max_len, None, 0.1, False
        )
        group = command.RayActorGroup(1, 1, command.PolicyModelActor, pg=None, num_gpus_per_actor=1)
        strategy = get_strategy(args)
        ray.get(group.async_init_model_from_pretrained(strategy, str(tiny.model), 100, engines))
        yield args, group, engines[0]
        stop_everything()


def actor_logprobs(group, tokens):
    import ray

    mask = torch.ones(1, len(tokens) - 1, dtype=torch.long)
    forward = group._actor_handlers[0].forward
    return ray.get(forward.remote(torch.tensor([tokens]), mask, torch.ones(1, len(tokens), dtype=torch.long)))[0]


def vllm_logprobs(engine, tokens):
    import ray
    from vllm import SamplingParams

    output = ray.get(engine.generate.remote(tokens, SamplingParams(max_tokens=1, prompt_logprobs=0)))
    chosen = zip(tokens[1:], output.prompt_logprobs[1:], strict=True)
    return torch.tensor([logprobs[token].logprob for token, logprobs in chosen])


def test_vllm_follows_the_actor(cluster):
    import ray

    from tests.training.conftest import make_experiences, make_samples

    args, group, engine = cluster
    from lens_openrlhf.training.hooks.experience import LensExperienceMaker

    tokens = [5, 17, 33, 20, 8, 60, 41, 12, 9, 70, 31, 25]
    before = actor_logprobs(group, tokens)
    torch.testing.assert_close(vllm_logprobs(engine, tokens), before, atol=BF16_TOLERANCE, rtol=BF16_RELATIVE)

    samples = make_samples([1.0, 0.0, 0.0, 0.0] * 4, [12] * 16)
    ray.get(
        [
            group._actor_handlers[0].append.remote(experience)
            for experience in make_experiences(args, samples, LensExperienceMaker)
        ]
    )
    (status,) = ray.get(group.async_run_method("fit", kl_ctl=0.0))
    assert status["lens/mixed_groups"] == 1.0
    after = actor_logprobs(group, tokens)
    assert (after - before).abs().max() > 4 * BF16_TOLERANCE, "the update must be visible"

    torch.testing.assert_close(vllm_logprobs(engine, tokens), before, atol=BF16_TOLERANCE, rtol=BF16_RELATIVE)
    ray.get(group.async_run_method("broadcast_to_vllm"))
    torch.testing.assert_close(vllm_logprobs(engine, tokens), after, atol=BF16_TOLERANCE, rtol=BF16_RELATIVE)
