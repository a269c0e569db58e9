"""The sets of `lens-openrlhf data` as OpenRLHF's own dataset reads them."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from openrlhf.datasets import PromptDataset

from lens_openrlhf.data import command
from lens_openrlhf.data.problems import Problem
from lens_openrlhf.training.hooks.data_sets import blending_datasets


@pytest.mark.parametrize("chat", [False, True])
def test_prompts_and_labels_arrive_as_they_are(tmp_path, chat):
    problems = [
        Problem(r"What is $\frac{1}{2} + {n}$?", r"\frac{3}{2}", "MATH", 2, "Algebra"),
        Problem("b", "7", "DAPO"),
    ]
    file = tmp_path / "me@corp, [old]" / "math+dapo" / "train.parquet"  # OpenRLHF alone could not take it
    file.parent.mkdir(parents=True)
    command.write(file, problems, command.TEMPLATE, is_test=False)
    rows = pq.read_table(file).to_pylist()

    data = SimpleNamespace(input_key="prompt", label_key="label", apply_chat_template=chat)
    strategy = SimpleNamespace(args=SimpleNamespace(data=data), print=lambda *_: None, is_rank_0=lambda: False)
    tokenizer = SimpleNamespace(
        apply_chat_template=lambda messages, tokenize, add_generation_prompt: "".join(
            f"<{message['role']}>{message['content']}" for message in messages
        )
    )
    dataset = PromptDataset(blending_datasets(str(file), None, strategy), tokenizer, strategy)
    mark = "<user>" if chat else ""
    assert dataset.prompts == [mark + row["prompt"] for row in rows] and dataset.labels == [r"\frac{3}{2}", "7"]
    assert rows[0]["prompt"] == problems[0].text + command.TEMPLATE.removeprefix("{problem}")
