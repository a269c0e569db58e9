"""Writes folders of comparisons with known correctness, as `lens-openrlhf compare` leaves them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml


def write_lines(path: Path, records: Sequence[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_run(
    folder: Path,
    scores: Sequence[Sequence[float]],
    splits: Mapping[str, Sequence] | None = None,
    negative: Sequence[float | None] = (0.5, 0.5),
    seconds: float = 2.0,
    versions: Mapping[str, str] | None = None,
) -> None:
    """A finished run of len(negative) steps whose last evaluation has `scores` [P][n]."""
    folder.mkdir(parents=True)
    write_lines(
        folder / "metrics.jsonl",
        [
            {"step": step, "time": 1.0 * step, "lens/negative_groups": share, "timing/step_total": seconds}
            for step, share in enumerate(negative, 1)
        ],
    )
    untrained = [[0.0 for _ in prompt] for prompt in scores]
    extra = {} if splits is None else {"splits": splits}
    write_lines(
        folder / "eval.jsonl",
        [
            {"step": 0, "time": 0.5, "scores": untrained, **extra},
            {"step": len(negative), "time": 9.0, "scores": scores, **extra},
        ],
    )
    config = {"command": [], "options": {"logger.run_dir": str(folder.resolve())}, "versions": versions or {}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "train.log").write_text("everything the workers said\n")
    for name in ("samples", "tensorboard"):
        (folder / name).mkdir()
    (folder / "samples" / "step-000001.parquet").write_bytes(b"PAR1 rows PAR1")
    (folder / "tensorboard" / "events").write_bytes(b"events")


def write_comparison(
    folder: Path,
    runs: Mapping[str, Mapping[int, Mapping]],
    seeds: Sequence[int] | None = None,
    states: Mapping[str, str] | None = None,
    **spec,
) -> Path:
    """A comparison with finished `runs` {arm: {seed: arguments of write_run}}; `states` of others by arm/seed-N."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = seeds or sorted({seed for of_arm in runs.values() for seed in of_arm})
    content = {"name": "known", "arms": {arm: {} for arm in runs}, "seeds": list(seeds), **spec}
    (folder / "spec.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    records = {}
    for arm, of_arm in runs.items():
        for seed, arguments in of_arm.items():
            write_run(folder / "runs" / arm / f"seed-{seed}", **arguments)
            records[f"{arm}/seed-{seed}"] = {"state": "finished", "seconds": 100.0}
    records |= {key: {"state": state} for key, state in (states or {}).items()}
    state = {"name": "known", "arms": {arm: {} for arm in runs}, "inputs": {}, "runs": records}
    (folder / "compare.json").write_text(json.dumps(state))
    return folder
