"""The sets of `lens-openrlhf data` as OpenRLHF's own dataset reads them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from openrlhf.datasets import PromptDataset

from lens_openrlhf.data import command
from lens_openrlhf.data.problems import Problem
from lens_openrlhf.training.hooks import data_sets
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


def test_only_places_that_lie_here_are_read_through_a_link(tmp_path, monkeypatch):
    """Names of the hub, splits and plain paths stay; the links are there while OpenRLHF reads."""
    odd, plain = tmp_path / "a [1].jsonl", tmp_path / "b.jsonl"
    for file in (odd, plain):
        file.write_text(file.name)
    given = []

    def theirs(datasets, *args, **kwargs):
        given.append((datasets.split(","), args, kwargs))
        given.append(Path(datasets.split(",")[0].removesuffix("@train")).read_text())
        return "rows"

    monkeypatch.setattr(data_sets, "theirs", theirs)
    names = [f"{odd}@train", str(plain), "hub/some[x]", f"{odd}"]
    assert blending_datasets(",".join(names), "probabilities", split="x") == "rows"
    (found, args, kwargs), text = given
    assert args == ("probabilities",) and kwargs == {"split": "x"} and text == "a [1].jsonl"
    assert found[1:3] == names[1:3] and found[0].endswith("@train") and "@" not in found[3]
    links = [found[0].removesuffix("@train"), found[3]]
    assert not any(set(link) & set("[] ,@") for link in links) and not any(Path(link).exists() for link in links)
