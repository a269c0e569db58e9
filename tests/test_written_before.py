"""What earlier versions wrote is still read: a run folder with its checkpoints, and archives.

written_before/run is what commit 45d85d4 left of a real run of the tiny profile (2 steps, 16 prompts x 4 answers); the
model's states in its checkpoints are stand-ins of 1,000 bytes, listed in manifests by that commit's own writer.
alpha4_tiny.txt is the table that it printed of that archive.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from lens_openrlhf import cli
from lens_openrlhf.advantages import estimators
from lens_openrlhf.reporting import page
from lens_openrlhf.reporting.runs import find_runs
from lens_openrlhf.run_folder.log import METRICS, read
from lens_openrlhf.run_folder.samples import files_by_step
from lens_openrlhf.training.checkpoints import estimator_state, resuming
from lens_openrlhf.training.launch.summary import summary_table

HERE = Path(__file__).parent
ARCHIVES = HERE.parent / "docs" / "experiments"


@pytest.fixture
def run(tmp_path):
    return Path(shutil.copytree(HERE / "written_before" / "run", tmp_path / "run"))


def test_the_report_of_a_run(run):
    data = page.report_data(find_runs([run]), sample_steps=2, warnings=[])
    assert not data["problems"] and len(data["arms"]) == 1
    text = json.dumps(data)
    # As that version's report and console had them.
    assert '"y": [0.34375, 0.3125]' in text and '"y": [0.26562, 0.23438]' in text
    table = summary_table(run, 124, 100)
    assert "0.344 ± 0.156" in table and "-0.031 ± 0.031" in table


@pytest.mark.parametrize(
    "words, said", [(("advantages",), "lens"), (("grade",), "32 answers: 20 wrong, 12 correct")], ids=["adv", "grade"]
)
def test_the_answers_of_a_run(run, words, said, own_signals, capsys):
    assert list(files_by_step(run)) == [1, 2]
    cli.main([*words, str(run)])
    assert said in capsys.readouterr().out


def test_a_run_goes_on_from_its_checkpoint(run):
    recorded = json.loads((run / "config.json").read_text())["options"]
    args = SimpleNamespace(
        ckpt=SimpleNamespace(load_enable=True, path=str(run / "checkpoints")),
        train=SimpleNamespace(enable_ema=False),
        ds=SimpleNamespace(use_universal_ckpt=False),
        actor=SimpleNamespace(model_name_or_path="a model that is not here"),
        logger=SimpleNamespace(run_dir=str(run)),
    )
    found = resuming.check(args, recorded)
    assert (found.tag, found.step, found.notes) == ("global_step2", 2, [])
    estimator_state.load_estimator(run / "checkpoints", estimators.find("lens")())

    (run / "checkpoints" / "_actor" / "global_step2" / "mp_rank_00_model_states.pt").write_bytes(b"\2" * 999)
    found = resuming.check(args, recorded)
    assert found.step == 1 and "global_step2 is left out" in found.notes[0]
    resuming.go_on(args, found)
    assert [record["step"] for record in read(run / METRICS)] == list(files_by_step(run)) == [1]


@pytest.mark.parametrize("archive", sorted(path.name for path in ARCHIVES.glob("*.tar.xz")))
def test_the_table_of_an_archive(archive, capsys):
    assert cli.main(["compare", "--table", str(ARCHIVES / archive)]) == 0
    table = capsys.readouterr().out
    assert "Pass@16" in table
    if archive == "alpha4_tiny.tar.xz":
        assert table == (HERE / "written_before" / "alpha4_tiny.txt").read_text()
