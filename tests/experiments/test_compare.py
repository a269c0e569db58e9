"""The command `compare` without training."""

from __future__ import annotations

import pytest

from lens_openrlhf.experiments.compare import main


def test_a_dry_run_says_what_would_be_run_and_writes_nothing(content, write, tmp_path, capsys):
    path = write(content)
    assert main([str(path), "-o", str(tmp_path / "out"), "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert "2 arms on 2 seeds, 4 runs" in shown and "GRPO: algo.lens.scope none" in shown
    assert "[4/4] LENS/seed-2: not started" in shown and "lens-openrlhf train --actor.model_name_or_path" in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [[], ["a.yaml", "--archive", "b", "c"], ["a.yaml", "--table", "--dry_run"]])
def test_words_that_make_no_command(words, capsys):
    assert main(words) == 2 and capsys.readouterr().err.endswith("; see lens-openrlhf compare --help\n")
