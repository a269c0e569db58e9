"""Arguments and experiences for tests that use OpenRLHF's classes without Ray."""

from __future__ import annotations

import copy

import pytest
import torch

from lens_openrlhf.training.commandline import options

MINIMAL = [
    *("--actor.model_name_or_path", "model"),
    *("--data.prompt_dataset", "prompts.jsonl"),
    *("--reward.remote_url", "reward.py"),
    *("--vllm.num_engines", "1"),
    *("--actor.num_gpus_per_node", "1"),
    *("--rollout.n_samples_per_prompt", "4"),
    *("--rollout.micro_batch_size", "1", "--train.micro_batch_size", "1"),
]


@pytest.fixture
def parse():
    """parse(*more) -> OpenRLHF's arguments for a minimal command line with the lens estimator, plus `more`."""

    def run(*more: str, estimator: str = "lens"):
        return options.parse([*MINIMAL, "--algo.advantage.estimator", estimator, *more])

    return run


@pytest.fixture(scope="session")
def parsed():
    return options.parse([*MINIMAL, "--algo.advantage.estimator", "lens"], anywhere=True)


@pytest.fixture
def args(parsed):
    """args({dotted name: value}) -> the arguments of a minimal command, for a machine with CUDA, with those changes."""

    def make(changes: dict):
        made = copy.deepcopy(parsed)
        for name, value in changes.items():
            *places, last = name.split(".")
            place = made
            for part in places:
                place = getattr(place, part)
            assert hasattr(place, last), name
            setattr(place, last, value)
        return made

    return make


def make_samples(scores, lengths, seed=0, rewards=None):
    """Single-sample Experiences as OpenRLHF's SamplesGenerator makes them, for one score and length each."""
    from openrlhf.trainer.ppo_utils.experience import Experience

    generator = torch.Generator().manual_seed(seed)
    samples = []
    for i, (score, length) in enumerate(zip(scores, lengths, strict=True)):
        prompt = 3 + i % 2
        total = prompt + length
        mask = torch.zeros(1, total - 1, dtype=torch.long)
        mask[:, prompt - 1 :] = 1
        reward = score if rewards is None else rewards[i]
        samples.append(
            Experience(
                sequences=torch.randint(2, 90, (1, total), generator=generator),
                attention_mask=torch.ones(1, total, dtype=torch.long),
                action_mask=mask,
                action_log_probs=-3 * torch.rand(1, total - 1, generator=generator) * mask,
                kl=torch.zeros(1, total - 1),
                rewards=torch.tensor([reward]),
                scores=torch.tensor([score]),
                response_length=torch.tensor([length]),
                truncated=torch.tensor([i % 3 == 1]),
                total_length=torch.tensor([float(total)]),
                prompts=[f"prompt {i}"],
                labels=[f"label {i}"],
                images=[None],
                mm_train_inputs=[None],
                info={"reward": torch.tensor([reward]), "score": torch.tensor([score])},
            )
        )
    return samples


def make_experiences(args, samples, maker_class=None):
    """`samples` through the experience maker's own steps, without the models' forward passes."""
    from types import SimpleNamespace

    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

    tokenizer = SimpleNamespace(pad_token_id=0)
    strategy = SimpleNamespace(args=args)
    kl_ctl = SimpleNamespace(value=args.algo.kl.init_coef)
    maker = (maker_class or RemoteExperienceMaker)(None, None, None, None, kl_ctl, strategy, tokenizer)
    # The models' forward passes need a cluster; the samples bring their log-probabilities along.
    maker.make_experience = lambda experiences: experiences
    return maker.make_experience_batch(samples)
