"""Answers as an evaluation keeps them."""

from __future__ import annotations

import pandas as pd


def frame(correctness, same_as=None, outcome="wrong", **splits) -> pd.DataFrame:
    """Answers as `read_samples` gives them: `correctness` and `same_as` are [P][n], each split column is [P]."""
    rows = []
    for prompt, scores in enumerate(correctness):
        for sample, score in enumerate(scores):
            rows.append(
                {
                    "prompt_id": prompt,
                    "sample": sample,
                    "tokens": 10 * prompt + sample,
                    "truncated": sample == 0,
                    "correctness": float(score),
                    "outcome": outcome,
                    "same_as": sample if same_as is None else same_as[prompt][sample],
                    **{name: values[prompt] for name, values in splits.items()},
                }
            )
    return pd.DataFrame(rows)
