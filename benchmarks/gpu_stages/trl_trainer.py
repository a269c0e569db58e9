"""TRL's GRPOTrainer with LENS: real steps of a small random model, whose advantages are computed a second time."""

from __future__ import annotations

import math
import os
import tempfile

import torch

from lens_openrlhf.advantages.reference import lens_advantages

from .device import Cpu, Cuda
from .rows import Rows, need

STEPS, PROMPTS, SAMPLES, LONGEST = 3, 2, 4, 6
# A forward pass of its own, in float32 on both sides, but padded otherwise.
TOLERANCE = 1e-3


def short(completion_ids, **_) -> list[float]:
    """The verifier: right is what has fewer tokens than there may be."""
    return [float(len(ids) < LONGEST) for ids in completion_ids]


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().cpu() for parameter in model.parameters()])


def run(device: Cuda | Cpu, rows: Rows) -> None:
    need("trl", "transformers", "datasets")
    # The trainer would spread over all cards that it sees.
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import GRPOConfig

    from lens_openrlhf.demo.tokenizer import build_tokenizer
    from lens_openrlhf.outside.trl import LensGRPOTrainer

    class Recording(LensGRPOTrainer):
        """Keeps each step's advantages, and what the reference makes of the same answers."""

        def _generate_and_score_completions(self, inputs):
            batch = super()._generate_and_score_completions(inputs)
            ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
            attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
            mask = batch["completion_mask"].bool()
            with torch.no_grad():
                logits = self.model(input_ids=ids, attention_mask=attention).logits
            logprobs = logits[:, -mask.shape[1] - 1 : -1].double().log_softmax(-1)
            logprobs = logprobs.gather(2, batch["completion_ids"][:, :, None])[:, :, 0][mask].cpu()
            offsets = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0)).cpu()
            outcome = self._rewards_per_func[:, 0].double().cpu()
            groups = torch.arange(0, len(mask) + 1, SAMPLES)
            steps.append((batch["advantages"].cpu(), lens_advantages(logprobs, offsets, outcome, groups).advantage))
            return batch

    steps: list[tuple[torch.Tensor, torch.Tensor]] = []
    torch.manual_seed(0)
    tokenizer = build_tokenizer(256)
    width = device.pick(256, 16)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Recording(
            model=LlamaForCausalLM(config),
            reward_funcs=short,
            args=GRPOConfig(
                output_dir=folder,
                max_steps=STEPS,
                save_strategy="no",
                per_device_train_batch_size=PROMPTS * SAMPLES,
                num_generations=SAMPLES,
                max_completion_length=LONGEST,
                learning_rate=1e-2,
                report_to=[],
                use_cpu=device.kind == "cpu",
                bf16=False,
                gradient_checkpointing=False,
                disable_tqdm=True,
                logging_steps=1,
                seed=3,
            ),
            train_dataset=Dataset.from_dict({"prompt": [f"{i}+{i}=" for i in range(8)]}),
            processing_class=tokenizer,
        )
        before = weights(trainer.model)
        trainer.train()
    moved = not torch.equal(before, weights(trainer.model))
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    finite = all(map(math.isfinite, losses)) and len(losses) == STEPS
    rows.check("steps with a finite loss that change the weights", moved and finite, steps=len(losses))
    error = max(((a - b).abs() / b.abs().clamp(min=1e-3)).max().item() for a, b in steps)
    rows.check("advantages are the reference's", error < TOLERANCE, relative_error=error)
    on = {parameter.device.type for parameter in trainer.model.parameters()}
    rows.check("on the device", on == {device.kind}, found=", ".join(sorted(on)))
