"""OpenRLHF's PPO actor with LENS, in this one process: `fit` on prepared experiences, with DeepSpeed, without vLLM."""

from __future__ import annotations

import math
import random
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch

from lens_openrlhf.advantages.reference import lens_advantages

from .device import Cpu, Cuda
from .rows import Rows, need

PROMPTS, SAMPLES, LONGEST = 4, 4, 24
TOLERANCE = 1e-5  # the actor hands on float32


def run(device: Cuda | Cpu, rows: Rows) -> None:
    need("openrlhf", "deepspeed", "ray", "transformers")
    from lens_openrlhf import cpu_runtime

    if cpu_runtime.required():
        cpu_runtime.install()
    from openrlhf.utils import get_strategy

    from lens_openrlhf.training.commandline import options
    from lens_openrlhf.training.hooks.actor import LensPolicyModel

    with tempfile.TemporaryDirectory() as folder:
        model = save_model(Path(folder) / "model", device)
        args = options.parse(
            [
                *("--actor.model_name_or_path", str(model), "--data.prompt_dataset", "none.jsonl"),
                *("--reward.remote_url", "math-verify", "--logger.run_dir", f"{folder}/run"),
                *("--actor.num_gpus_per_node", "1", "--vllm.num_engines", "1", "--vllm.sync_backend", "gloo"),
                *("--rollout.batch_size", str(PROMPTS), "--rollout.n_samples_per_prompt", str(SAMPLES)),
                *("--train.batch_size", str(PROMPTS * SAMPLES), "--train.micro_batch_size", "4"),
                *("--algo.advantage.estimator", "lens", "--actor.adam.lr", "1e-3", "--actor.lr_scheduler", "constant"),
                *("--ds.attn_implementation", "sdpa"),
            ]
        )
        actor = LensPolicyModel(world_size=1, rank=0, master_addr="127.0.0.1", master_port=None)
        strategy = get_strategy(args)
        actor.init_model_from_pretrained(strategy, str(model), max_steps=10, vllm_engines=None)
        samples = rollouts(actor, device)
        for experience in experiences(args, samples):
            actor.append(experience)
        seen: list[tuple[int, torch.Tensor]] = []
        train = actor.trainer.ppo_train

        def recording(kl_ctl: float):
            """What the update sees; then the update."""
            seen.extend((item.sequences.tolist(), item.advantages[item.action_mask.bool()]) for item in items())
            return train(kl_ctl)

        def items():
            return actor.trainer.replay_buffer.items

        actor.trainer.ppo_train = recording
        before = [parameter.detach().clone() for parameter in actor.actor.model.parameters()]
        status = actor.fit()
        moved = any((a != b).any() for a, b in zip(actor.actor.model.parameters(), before, strict=True))
        on = {parameter.device.type for parameter in actor.actor.model.parameters()}
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    loss, norm = status["policy_loss"], status["actor_grad_norm"]
    rows.check("fit changes the weights", moved and math.isfinite(loss) and norm > 0, loss=loss, grad_norm=norm)
    rows.check("on the device", on == {device.kind}, found=", ".join(sorted(on)))
    error = worst_error(samples, seen)
    rows.check("advantages are the reference's", error < TOLERANCE, relative_error=error, samples=len(seen))
    negative, rescued = status["lens/negative_groups"], status["lens/rescued_samples"]
    good = negative == 1 / PROMPTS and rescued > 0
    rows.check("metrics", good, negative_groups=negative, rescued_samples=rescued, seconds=status["lens/seconds"])


def save_model(folder: Path, device: Cuda | Cpu) -> Path:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from lens_openrlhf.demo.tokenizer import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer(256)
    width = device.pick(512, 32)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rollouts(actor, device: Cuda | Cpu) -> list:
    """A step's answers as OpenRLHF's sample generator gives them, with the actor's own log-probabilities. The first
    prompt's are all wrong."""
    from openrlhf.trainer.ppo_utils.experience import Experience

    chance, samples = random.Random(7), []
    vocabulary = actor.actor.model.module.config.vocab_size
    for i in range(PROMPTS * SAMPLES):
        prompt, length = 5, chance.randrange(1, LONGEST)
        sequences = torch.tensor([[chance.randrange(2, vocabulary) for _ in range(prompt + length)]])
        mask = torch.zeros(1, prompt + length - 1, dtype=torch.long)
        mask[:, prompt - 1 :] = 1
        attention = torch.ones_like(sequences)
        score = torch.tensor([float(i >= SAMPLES and i % SAMPLES == 0)])
        samples.append(
            Experience(
                sequences=sequences,
                attention_mask=attention,
                action_mask=mask,
                action_log_probs=actor.forward(sequences, mask, attention),
                kl=torch.zeros(1, prompt + length - 1),
                rewards=score,
                scores=score,
                response_length=torch.tensor([length]),
                truncated=torch.tensor([False]),
                total_length=torch.tensor([float(prompt + length)]),
                prompts=[f"prompt {i // SAMPLES}"],
                labels=[""],
                images=[None],
                mm_train_inputs=[None],
                info={"reward": score, "score": score},
            )
        )
    return samples


def experiences(args, samples: list) -> list:
    """By LENS's experience maker, but for the forward passes, which the samples have behind them."""
    from lens_openrlhf.training.hooks.experience import LensExperienceMaker

    strategy, kl_ctl = SimpleNamespace(args=args), SimpleNamespace(value=args.algo.kl.init_coef)
    tokenizer = SimpleNamespace(pad_token_id=0)
    maker = LensExperienceMaker(None, None, None, None, kl_ctl, strategy, tokenizer)
    maker.make_experience = lambda made: made
    return maker.make_experience_batch(samples)


def worst_error(samples: list, seen: list[tuple[list[int], torch.Tensor]]) -> float:
    """Largest relative error of what the update saw, against the reference on the samples' own log-probabilities."""
    tokens = [sample.action_log_probs[sample.action_mask.bool()] for sample in samples]
    offsets = torch.tensor([0, *map(len, tokens)]).cumsum(0)
    scores = torch.cat([sample.scores for sample in samples])
    expected = lens_advantages(torch.cat(tokens), offsets, scores, torch.arange(0, len(samples) + 1, SAMPLES)).advantage
    by_sequence = {tuple(sample.sequences[0].tolist()): value for sample, value in zip(samples, expected, strict=True)}
    errors = [0.0 if len(seen) == len(samples) else math.inf]
    for sequence, found in seen:
        want = by_sequence[tuple(sequence)].item()
        errors.append(((found.double() - want).abs() / max(abs(want), 1e-3)).max().item())
    return max(errors)
