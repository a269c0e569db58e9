"""The operators on random batches: the CPU's bits, for every dtype, offset width, shift, stride and length."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from lens_openrlhf import advantages

from . import batches
from .device import Cpu, Cuda
from .rows import Rows

Comparison = Callable[[random.Random, str], "str | None"]


def run(device: Cuda | Cpu, rows: Rows) -> None:
    for name, compare in COMPARISONS.items():
        until, done, different = time.monotonic() + device.pick(12.0, 0.5), 0, []
        while time.monotonic() < until and not different:
            found = compare(random.Random(done), device.kind)
            if found:
                different.append(f"seed {done}: {found}")
            done += 1
        rows.check(name, not different, batches=done, different=different[0] if different else "none")


def _difference(here: tuple, there: tuple, facts: str) -> str | None:
    for i, (a, b) in enumerate(zip(here, there, strict=True)):
        if not batches.same_bits(a, b):
            wrong = ((a != b.cpu()) & ~(a.isnan() & b.cpu().isnan())).nonzero() if a.shape == b.shape else []
            return f"result {i} of {facts}" + (f", first at {wrong[0].tolist()}" if len(wrong) else "")
    return None


def _facts(tokens: batches.Tokens) -> str:
    values, cu_seqlens, mask = tokens
    form = f"padded {tuple(values.shape)}" if cu_seqlens is None else f"{len(cu_seqlens) - 1} responses"
    offsets = "" if cu_seqlens is None else f" {cu_seqlens.dtype}"
    return f"{form} {values.dtype}{offsets} at {values.storage_offset()}{'' if mask is None else ' masked'}"


def packed(chance: random.Random, kind: str) -> str | None:
    tokens = batches.random_tokens(chance, batches.ragged(chance))
    here, there = batches.segment_mean(tokens), batches.segment_mean(batches.to(tokens, kind))
    return _difference(here, there, _facts(tokens))


def padded(chance: random.Random, kind: str) -> str | None:
    tokens = batches.random_padded(chance)
    here = advantages.segment_mean(*tokens)
    there = advantages.segment_mean(*batches.to(tokens, kind))
    alone = advantages.segment_mean(tokens.values.contiguous(), None, tokens.mask)
    return _difference(here, there, _facts(tokens)) or _difference(here, alone, "contiguous " + _facts(tokens))


def groups(chance: random.Random, kind: str) -> str | None:
    batch, switches, rho = batches.random_groups(chance), chance.choice(batches.SWITCHES), None
    if switches[5] == 0 and chance.random() < 0.3:
        rho = batches.random_rho(chance, len(batch.mean))
    here = batches.group_advantages(batch, switches, rho)
    there = batches.group_advantages(batches.to(batch, kind), switches, None if rho is None else rho.to(kind))
    return _difference(here, there, f"{len(batch.cu_groups) - 1} groups, switches {switches}, rho {rho is not None}")


def whole(chance: random.Random, kind: str) -> str | None:
    """The fused operator: the CPU's bits, and those of the two operators one after the other."""
    tokens = batches.random_padded(chance) if chance.random() < 0.3 else None
    tokens = tokens or batches.random_tokens(chance, batches.ragged(chance))
    n = len(tokens.values) if tokens.cu_seqlens is None else len(tokens.cu_seqlens) - 1
    correctness, rewards = batches.random_outcomes(chance, n)
    cu_groups = batches.offsets(batches.random_sizes(chance, n), chance.choice(batches.OFFSETS))
    switches, rho = chance.choice(batches.SWITCHES), None
    if switches[5] == 0 and chance.random() < 0.3:
        rho = batches.random_rho(chance, n)
    here = batches.lens_advantages(tokens, correctness, rewards, cu_groups, switches, rho)
    arguments = batches.to((correctness, rewards, cu_groups), kind)
    there = batches.lens_advantages(
        batches.to(tokens, kind), *arguments, switches, None if rho is None else rho.to(kind)
    )
    mean, counts, _ = batches.segment_mean(tokens)
    one_by_one = batches.group_advantages(batches.Groups(mean, counts, correctness, rewards, cu_groups), switches, rho)
    facts = f"{_facts(tokens)}, {len(cu_groups) - 1} groups, switches {switches}, rho {rho is not None}"
    responses, lengths_found, per_group, kinds, _ = here
    together = (*responses[:3], *per_group, kinds, responses[3], lengths_found)
    return _difference(here, there, facts) or _difference(
        together, (*one_by_one[:-1], mean, counts), "the fused operator, against the two: " + facts
    )


COMPARISONS: dict[str, Comparison] = {
    "segment_mean": packed,
    "segment_mean, padded slices": padded,
    "group_advantages": groups,
    "lens_advantages": whole,
}
