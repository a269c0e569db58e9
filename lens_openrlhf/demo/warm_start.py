"""Supervised training of the tiny model on worked demonstrations, habits and all."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.utils.logging import disable_progress_bar

from .tasks import demonstrate, iter_questions, make_habits
from .tokenizer import build_tokenizer

MAX_LENGTH = 256
IGNORED = -100


@dataclass(frozen=True)
class WarmStart:
    """Shape of the model and length of its supervised training."""

    hidden_size: int = 256
    layers: int = 2
    heads: int = 4
    key_value_heads: int = 2
    intermediate_size: int = 768
    steps: int = 1500
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    threads: int = 2


def build_model(settings: WarmStart, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A Qwen2 model with random weights."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads,
        intermediate_size=settings.intermediate_size,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def train(out: Path, settings: WarmStart, *, seed: int) -> None:
    """Train a model from scratch on the training side's questions and save it with its tokenizer."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tokenizer = build_tokenizer(MAX_LENGTH)
            model = build_model(settings, tokenizer)
            _fit(model, _batches(tokenizer, settings.batch_size, seed), settings)
    finally:
        torch.set_num_threads(threads_before)
    disable_progress_bar()  # one line for each file written
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _fit(model: Qwen2ForCausalLM, batches: Iterator[tuple[torch.Tensor, torch.Tensor]], settings: WarmStart) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / settings.warmup_steps, 1 - step / settings.steps)
    )
    model.train()
    for _ in (progress := tqdm(range(settings.steps), desc="warm start", unit="step", disable=None)):
        tokens, targets = next(batches)
        logits = model(input_ids=tokens).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.eval()


def _batches(
    tokenizer: PreTrainedTokenizerFast, batch_size: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of (tokens, targets); prompts and padding are ignored as targets."""
    habits = make_habits(seed)
    rng = random.Random(f"demonstrations-{seed}")
    questions = iter_questions(heldout=False, seed=seed)
    while True:
        sequences = []
        for _ in range(batch_size):
            question = next(questions)
            prompt = tokenizer.encode(question.prompt)
            answer = tokenizer.encode(demonstrate(question, habits, rng).text)
            sequences.append((prompt, answer + [tokenizer.eos_token_id]))
        width = max(len(prompt) + len(answer) for prompt, answer in sequences)
        tokens = torch.full((batch_size, width), tokenizer.pad_token_id)
        targets = torch.full((batch_size, width), IGNORED)
        for row, (prompt, answer) in enumerate(sequences):
            tokens[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            targets[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
        yield tokens, targets
