"""``python -m lens_openrlhf.demo --out DIR`` writes the tiny profile."""

from __future__ import annotations

import argparse
from pathlib import Path

from .build import HELDOUT_PROMPTS, TRAIN_PROMPTS, prepare


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lens_openrlhf.demo", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and the questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-prompts", type=int, default=TRAIN_PROMPTS)
    parser.add_argument("--heldout-prompts", type=int, default=HELDOUT_PROMPTS)
    arguments = parser.parse_args()
    paths = prepare(
        arguments.out,
        seed=arguments.seed,
        train_prompts=arguments.train_prompts,
        heldout_prompts=arguments.heldout_prompts,
    )
    for name, path in vars(paths).items():
        print(f"{name:8}{path}")


if __name__ == "__main__":
    main()
