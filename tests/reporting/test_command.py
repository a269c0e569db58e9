"""The command: files it writes, errors it gives, and what of a run's text reaches the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from .conftest import words
from .generate import write_config, write_run


def page_data(path) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="report-data">(.*?)</script>', path.read_text())
    return json.loads(text)


def test_one_file_that_needs_nothing_else(command, comparison, tmp_path):
    output = tmp_path / "page.html"
    status, out, err = command(comparison, "-o", output)
    assert (status, err) == (0, "") and out.startswith(f"{output}: 2 arms, 6 runs, ")
    text = output.read_text()
    # Of addresses there are only those in plotly.js, which is packed; the policy forbids to follow any.
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", text)
    assert "default-src 'none'" in text and "connect-src 'none'" in text
    assert [arm["label"] for arm in page_data(output)["arms"]] == ["grpo", "lens"]
    assert list(tmp_path.iterdir()) == [output], "nothing half-written is left"


def test_several_runs_and_comparisons_at_once(command, comparison, one_run, tmp_path):
    status, out, _ = command(one_run, comparison, "-o", tmp_path / "page.html")
    assert status == 0
    assert [arm["label"] for arm in page_data(tmp_path / "page.html")["arms"]] == ["one", "grpo", "lens"]


def test_text_of_a_run_cannot_leave_its_place(command, run, tmp_path):
    write_config(run, **{"actor.model_name_or_path": "</script><script>alert(1)</script>", "x": "<!--"})
    status, _, _ = command(run, "-o", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert status == 0 and "alert(1)" in text and "<script>alert" not in text and "<!--" not in text
    assert text.count("</script>") == 3, "data, script and plotly.js"


def test_lone_surrogates_do_not_stop_the_page(command, tmp_path):
    for name, word in (("a", "\ud800"), ("b", "fine")):
        write_run(tmp_path / name, 1, 1, prompts=1, heldout=4)
        write_config(tmp_path / name, **{"data.input_template": word})
    assert command(tmp_path / "a", tmp_path / "b", "-o", tmp_path / "page.html")[0] == 0


def test_problems_are_told_on_the_terminal_too(command, run, tmp_path):
    (run / "samples/step-000003.parquet").write_bytes(b"no parquet")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step":')
    status, _, err = command(run, "-o", tmp_path / "page.html")
    assert status == 0
    assert f"{run / 'metrics.jsonl'}, line 13: the last line is cut off" in err
    assert f"{run / 'samples/step-000003.parquet'}: cannot be read as parquet" in err


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda p: p / "absent", "no such folder"),
        (lambda p: (p / "file").write_text("") or p / "file", "no such folder"),
        (lambda p: (p / "empty").mkdir() or p / "empty", "neither a run folder .* nor a comparison's"),
    ],
)
def test_what_is_no_run_folder(command, tmp_path, make, told):
    path = make(tmp_path)
    status, _, err = command(path, "-o", tmp_path / "page.html")
    assert status == 2 and re.fullmatch(f"error: {re.escape(str(path))}: {told}.*\n", err)
    assert not (tmp_path / "page.html").exists()


def test_a_comparison_without_runs(command, tmp_path):
    (tmp_path / "compare.json").write_text('{"arms": {}}')
    status, _, err = command(tmp_path, "-o", tmp_path / "page.html")
    assert status == 2 and "has no runs yet" in err


def test_different_data_needs_to_be_allowed(command, one_run, tmp_path):
    write_run(tmp_path / "other", 1, 1, heldout=10)
    words = (one_run, tmp_path / "other", "-o", tmp_path / "page.html")
    status, _, err = command(*words)
    assert status == 2 and str(one_run) in err and str(tmp_path / "other") in err and "--allow_different_data" in err
    status, _, err = command(*words, "--allow_different_data")
    assert status == 0
    (warning,) = page_data(tmp_path / "page.html")["warnings"]
    assert str(one_run) in warning and str(tmp_path / "other") in warning


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["-o", "{tmp}"], "is a folder; name a file"),
        (["-o", "{tmp}/absent/page.html"], "is no folder that can be written to"),
        (["--port", "8000"], "--port has no effect without --watch"),
        (["--watch", "-o", "x.html"], "--watch serves the page"),
    ],
)
def test_options_that_cannot_work(command, one_run, tmp_path, argv, told):
    status, _, err = command(one_run, *(word.format(tmp=tmp_path) for word in argv))
    assert status == 2 and err.startswith("error: ") and told in err


@pytest.mark.parametrize("argv", [["--sample_steps", "-1"], ["--sample_steps", "many"], ["--port", "0"], []])
def test_options_that_are_none(command, argv):
    status, _, error = command(*argv)
    assert status == 2 and error.endswith("; see lens-openrlhf report --help\n") and error.count("\n") == 1


def test_a_missing_package_is_named(command, one_run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "plotly", None)
    status, _, err = command(one_run)
    assert status == 2 and "the report needs plotly" in err and "pip install 'lens_openrlhf[report]'" in err


def test_the_console_command_reaches_it(one_run, tmp_path):
    done = subprocess.run(words(one_run), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").stat().st_size > 1_000_000


def test_twenty_long_runs_make_a_page_that_can_be_mailed(command, tmp_path):
    """1,000 steps of two arms with ten seeds, and of twenty arms: data without plotly.js."""
    base = write_run(tmp_path / "base", 1, 1, prompts=4, n=8)
    first = [json.loads(line) for line in (base / "metrics.jsonl").read_text().splitlines()][0]
    lines = [json.dumps(first | {"step": step}) + "\n" for step in range(1, 1001)]
    (base / "metrics.jsonl").write_text("".join(lines))
    evaluation = json.loads((base / "eval.jsonl").read_text().splitlines()[-1])
    (base / "eval.jsonl").write_text("".join(json.dumps(evaluation | {"step": s}) + "\n" for s in range(0, 1001, 50)))
    folders = [tmp_path / f"run-{i:02}" for i in range(20)]
    for i, folder in enumerate(folders):
        shutil.copytree(base, folder)
        write_config(folder, **{"algo.lens.alpha": 1 + i})
    status, out, _ = command(*folders, "-o", tmp_path / "page.html")
    assert status == 0 and "20 arms, 20 runs" in out
    assert (tmp_path / "page.html").stat().st_size < 12_000_000
    data = page_data(tmp_path / "page.html")
    assert data["width"] == 3 and len(data["curves"]["lens/negative_groups"][0]["x"]) == 334
