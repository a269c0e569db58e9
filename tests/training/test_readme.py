"""README's command for a model of one's own, typed as it stands there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lens_openrlhf import cli, cpu_runtime
from lens_openrlhf.training import command as train

README = Path(__file__).parents[2] / "README.md"


def typed() -> tuple[str, list[str]]:
    """What README's section has the reader type: the lines before the command, and the command's words."""
    section = README.read_text().partition("\n## Your own model\n")[2]
    block = re.search(r"^```bash\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[1]
    before, name, command = block.partition("\nlens-openrlhf ")
    assert name and "…" not in block and "..." not in block
    return before.partition("\n")[2], shlex.split(command.replace("\\\n", ""))


@pytest.mark.parametrize("gpus", [0, 1])
def test_the_command_is_planned_as_typed(gpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(train, "interrupt_once", lambda: None)  # the test runner's own handlers stay
    monkeypatch.setattr(cpu_runtime, "required", lambda: gpus == 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    before, words = typed()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # what `source` does in the left out line
    subprocess.run(["bash", "-e"], input=before, text=True, check=True, env=os.environ | {"PATH": path})
    rows = [json.loads(line) for line in Path("prompts.jsonl").read_text().splitlines()]
    assert len(rows) == 64 and all(row["prompt"].endswith(r"\boxed{}.") and row["label"].isdigit() for row in rows)

    assert cli.main([*words, "--dry_run"]) == 0
    shown = capsys.readouterr()
    plan = " ".join(shown.out.split())
    assert not shown.err and "the actor on 1 (1 data-parallel rank" in plan
    prompts, steps = (8, "8 steps") if gpus == 0 else (1024, "1 step")
    assert f"{prompts} prompts x 8 answers" in plan and f"64 prompts: {steps} x 1 episode" in plan
    missing = plan.partition("before it can run on this machine: ")[2]
    assert re.fullmatch(r"- --actor.model_name_or_path \S+: is fetched from the hub when the run starts, .*", missing)
    assert " - --" not in missing, "nothing else is missing"
