"""A small model with its questions, and answers as an evaluation keeps them."""

from __future__ import annotations

import pandas as pd
import pytest

from lens_openrlhf.demo import prepare
from lens_openrlhf.demo.warm_start import WarmStart


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A model of the tiny profile that was hardly trained, and its questions."""
    return prepare(
        tmp_path_factory.mktemp("tiny"), warm_start=WarmStart(steps=40), train_prompts=64, heldout_prompts=16
    )


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
