"""docs/estimators.md: its table is complete and right, and its examples run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from lens_openrlhf.advantages import estimators
from lens_openrlhf.advantages.estimators import find, from_path, run

from .batches import answers, batch_of

DOCUMENT = Path(__file__).parents[3] / "docs/estimators.md"
TEXT = DOCUMENT.read_text()
METHODS = TEXT[TEXT.index("## Methods") : TEXT.index("## Your own")]


def test_the_table_has_every_method_with_its_paper_needs_and_options():
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in METHODS.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == [f"`{name}`" for name in estimators.OURS]
    for cell, paper, _, needs, options, negative in rows:
        name = cell.strip("`")
        method = find(name)
        assert paper == method.paper
        assert ("groups" in needs) == method.compares_answers, name
        assert all(need.replace("_", "-") in needs for need in method.needs), name
        assert (negative in ("nothing", "sampled away")) == (not method.learns_from_negative_groups), name
        if name not in ("lens", "spectral"):
            assert options == ", ".join(f"`{option.name}` {option.default}" for option in method.options()), name


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = list(re.finditer(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))
    assert len(blocks) == 2 and blocks[0][1].startswith("# my.py\n")
    Path("my.py").write_text(blocks[0][1])
    line = TEXT[: blocks[1].start(1)].count("\n")
    exec(compile("\n" * line + blocks[1][1], str(DOCUMENT), "exec"), {})  # errors name the document's line

    batch = batch_of([answers(1, 0)])
    assert run(from_path("my.py:surprised")(), batch).advantage.tolist() == [0.5, -0.5]
    running = from_path("my.py:Running")
    first, second = running(), running()
    run(first, batch)
    second.load_state_dict(first.state_dict())
    assert run(second, batch).advantage.tolist() == pytest.approx([0.95, -0.05])
    with pytest.raises(ValueError, match="rate=2: expected"):
        running.Config(rate=2)


def test_the_entry_point_is_the_group_that_is_looked_up():
    assert f'[project.entry-points."{estimators.ENTRY_POINTS}"]' in TEXT
    if sys.version_info >= (3, 11):
        import tomllib

        block = re.search(r"^```toml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
        points = tomllib.loads(block[1])["project"]["entry-points"]
        assert points == {estimators.ENTRY_POINTS: {"running": "my_package.my:Running"}}


def test_the_attributes_of_a_batch_are_all_named():
    from dataclasses import fields

    section = TEXT[TEXT.index("### What a batch has") : TEXT.index("### What is checked")]
    assert {f.name for f in fields(estimators.Batch)} <= set(re.findall(r"`(\w+)`", section))
