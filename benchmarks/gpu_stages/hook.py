"""The actor's gather and hook on the device, with log-probabilities of a real model: the CPU's advantages."""

from __future__ import annotations

import random
import time
from types import SimpleNamespace

import torch

from lens_openrlhf.advantages import estimators
from lens_openrlhf.advantages.across_ranks import gather
from lens_openrlhf.advantages.token_statistics import statistics
from lens_openrlhf.training.hooks.advantages import compute, set_advantages
from lens_openrlhf.training.hooks.columns import needs_of, pack
from lens_openrlhf.training.hooks.tags import CARRIERS, PROMPT, ROLLOUT_INDEX

from . import batches
from .device import Cpu, Cuda
from .rows import Rows, need

GROUP = 8
PROMPT_TOKENS = 5
CLIP = (-10.0, 10.0)


def run(device: Cuda | Cpu, rows: Rows) -> None:
    need("transformers")
    model = random_model(device)
    items = samples(model, device.pick(16, 2), device.pick(512, 16), device.kind)
    # LENS; one with numbers of every token; one that remembers.
    for name in ("lens", "rl_zvp", "intuitor", "spo"):
        found, took = {}, 0.0
        for kind in ("cpu", device.kind, device.kind):
            start = time.perf_counter()
            found[kind] = advantages(name, items, kind)
            took = time.perf_counter() - start
        tokens = sum(len(part) for part in found["cpu"])
        if name == "lens":
            same = all(batches.same_bits(a, b) for a, b in zip(found["cpu"], found[device.kind], strict=True))
            rows.check(f"{name}: the same bits", same and any(part.any() for part in found["cpu"]), seconds=took)
            continue
        # These use torch's exp and log, which are not the CPU's to the last bit.
        pairs = zip(found["cpu"], found[device.kind], strict=True)
        close = all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in pairs)
        rows.check(f"{name}: the same advantages", close and tokens > 0, seconds=took)


def random_model(device: Cuda | Cpu):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=device.pick(896, 32),
        intermediate_size=device.pick(4864, 64),
        num_hidden_layers=device.pick(4, 1),
        num_attention_heads=device.pick(14, 2),
        num_key_value_heads=device.pick(2, 1),
        vocab_size=device.pick(32_000, 100),
    )
    return Qwen2ForCausalLM(config).to(device.kind, torch.bfloat16).eval()


def samples(model, prompts: int, longest: int, kind: str) -> list[SimpleNamespace]:
    """What a replay buffer holds of `GROUP` answers to each prompt, in any order: OpenRLHF's fields, on the CPU."""
    chance, items = random.Random(5), []
    for i in range(prompts * GROUP):
        length = PROMPT_TOKENS + chance.randrange(1, longest)
        tokens = torch.randint(model.config.vocab_size, (1, length), device=kind)
        with torch.no_grad():
            logits = model(tokens).logits[0, :-1].float()
        logprobs = logits.log_softmax(-1).gather(-1, tokens[0, 1:, None])[:, 0]
        numbers = statistics(logits, tuple(CARRIERS)).cpu()
        mask = torch.zeros(length - 1, dtype=torch.long)
        mask[PROMPT_TOKENS - 1 :] = 1
        score = float(i >= GROUP and chance.random() < 0.3)  # the first prompt has no right answer
        info = {ROLLOUT_INDEX: torch.tensor(i), PROMPT: torch.tensor(i // GROUP)}
        items.append(
            SimpleNamespace(
                action_log_probs=logprobs.cpu(),
                rollout_log_probs=logprobs.cpu(),
                action_mask=mask,
                scores=torch.tensor(score),
                rewards=torch.tensor(score),
                info=info,
                **{field: numbers[:, k] for k, field in enumerate(CARRIERS.values())},
            )
        )
    chance.shuffle(items)
    return items


def advantages(name: str, items: list[SimpleNamespace], kind: str) -> list[torch.Tensor]:
    """Of each sample's tokens, by the actor's own steps on a device."""
    items = [SimpleNamespace(**{**vars(item), "info": dict(item.info)}) for item in items]
    estimator = estimators.find(name)()
    needs = needs_of(estimator)
    gathered = gather(*pack(items, needs, kind), None, None)
    result = compute(gathered, estimator, needs, GROUP, 1, CLIP)
    set_advantages(items, gathered.own(result.values, result.per_token), result.per_token)
    return [item.advantages for item in items]
