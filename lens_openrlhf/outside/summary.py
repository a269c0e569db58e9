"""What advantages say of groups by kind, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..advantages import GroupKind
from ..advantages.estimators import group_kinds, same_rewards
from .rollouts import Rollouts

KINDS = (GroupKind.NEGATIVE, GroupKind.MIXED, GroupKind.POSITIVE)


def _groups(rollouts: Rollouts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each response its group [N], of each group its kind [Q], and whether all its rewards are the same [Q]."""
    pairs = np.stack([rollouts.step, rollouts.prompt], axis=1)
    _, group, sizes = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    group = group.reshape(-1)
    order = np.argsort(group)
    starts = torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)]))
    kinds = group_kinds(torch.from_numpy(rollouts.correctness[order]), starts)
    same = same_rewards(torch.from_numpy(rollouts.reward[order]), starts)
    return group, kinds.numpy(), same.numpy()


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def table(rollouts: Rollouts, advantages: Mapping[str, Sequence[Any]]) -> str:
    """A column a kind, and for each estimator the mean |advantage|, its share of all |advantage|, by samples and by
    tokens, and the samples that GRPO would give 0 and it does not."""
    group, kinds, same = _groups(rollouts)
    kind = kinds[group]
    members = [kind == number for number in KINDS] + [np.ones(len(kind), dtype=bool)]
    lines = [["", *(number.name.lower() for number in KINDS), "all"]]
    lines.append(["groups", *(f"{int((kinds == number).sum()):,}" for number in KINDS), f"{len(kinds):,}"])
    lines.append(["samples", *(f"{int(member.sum()):,}" for member in members)])
    for name, values in advantages.items():
        if isinstance(values[0], np.ndarray):
            by_tokens = np.array([np.abs(value).sum() for value in values])
            size = by_tokens / np.maximum(rollouts.length, 1)
        else:
            size = np.abs(np.array(values))
            by_tokens = size * rollouts.length
        rescued = same[group] & (size > 0)
        lines.append([name])
        lines.append(["  mean |advantage|", *(f"{size[m].mean():.4g}" if m.any() else "–" for m in members)])
        lines.append(["  share of |advantage|", *(_share(size[m].sum(), size.sum()) for m in members)])
        lines.append(["  the same by tokens", *(_share(by_tokens[m].sum(), by_tokens.sum()) for m in members)])
        lines.append(["  rescued samples", *(f"{int(rescued[m].sum()):,}" for m in members)])
    width = max(len(line[0]) for line in lines)
    columns = [max(len(line[i]) for line in lines if len(line) > i) for i in range(1, len(KINDS) + 2)]
    steps = len(np.unique(rollouts.step))
    read = ", ".join(f"{what} from {column}" if what != column else what for what, column in rollouts.columns.items())
    first, *others = rollouts.files
    more = f" and {len(others):,} more files" if len(others) > 1 else "".join(f" and {path}" for path in others)
    head = [f"{first}{more}: {len(kind):,} samples, {len(kinds):,} groups, {steps:,} step{'s' if steps != 1 else ''}"]
    head += [f"columns read: {read}", ""]
    rows = [
        "  ".join([line[0].ljust(width), *(cell.rjust(w) for cell, w in zip(line[1:], columns, strict=False))]).rstrip()
        for line in lines
    ]
    return "\n".join([*head, *rows])
