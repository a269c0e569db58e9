"""The command: files it writes, errors it gives, and what of a run's text reaches the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

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


def test_options_and_their_defaults():
    from lens_openrlhf.reporting import command as module

    args = module._parser().parse_args(["a", "b"])
    assert vars(args) == {
        "runs": [Path("a"), Path("b")],
        "output": None,
        "watch": False,
        "port": None,
        "sample_steps": 8,
        "allow_different_data": False,
    }
    args = module._parser().parse_args(["a", "-o", "x", "--port", "65535", "--sample_steps", "0"])
    assert (args.output, args.port, args.sample_steps) == (Path("x"), 65535, 0)
    args = module._parser().parse_args(["a", "--port", "1", "--sample_steps", "1000000000"])
    assert (args.port, args.sample_steps) == (1, 10**9)
    assert module.PACKAGES == ("plotly", "pyarrow", "scipy", "torch")


@pytest.mark.parametrize(
    ("option", "value", "limits"),
    [
        *(("--port", value, "1 to 65535") for value in ("0", "65536", "-1", "x", "1.5", "²", "00000000001")),
        *(("--sample_steps", value, "0 to 1000000000") for value in ("-1", "1000000001", "99999999999")),
    ],
)
def test_numbers_within_limits(command, option, value, limits):
    status, out, error = command("a", f"{option}={value}")
    assert (status, out) == (2, "")
    assert error == (
        f"error: argument {option}: {value!r}: expected a whole number from {limits}; see lens-openrlhf report --help\n"
    )


def test_an_option_without_its_value_is_told_by_both_names(command):
    told = "error: argument -o/--output: expected one argument; see lens-openrlhf report --help\n"
    assert command("a", "-o") == (2, "", told)


def test_what_cannot_be_shown_is_told_whole(command, one_run, tmp_path):
    (tmp_path / "compare.json").write_text('{"arms": {}}')
    assert command(tmp_path, "-o", tmp_path / "page.html") == (
        2,
        "",
        f"error: {tmp_path}: the comparison has no runs yet\n",
    )
    assert command(one_run, "--watch", "-o", "x.html") == (
        *(2, ""),
        "error: --watch serves the page and writes no file: leave out -o, or --watch\n",
    )
    assert command(one_run, "--port", 8000) == (2, "", "error: --port has no effect without --watch\n")
    write_config(tmp_path / "other", **{"eval.dataset": "/data/other.jsonl"})
    told = f"{one_run} evaluates on /data/sums/heldout.jsonl, but {tmp_path}/other evaluates on /data/other.jsonl"
    assert command(one_run, tmp_path / "other", "-o", tmp_path / "page.html") == (
        *(2, ""),
        f"error: different evaluation data: {told}. Their Pass@k cannot be compared; report them apart, or go on with "
        "--allow_different_data\n",
    )
    assert command(one_run, tmp_path / "other", "-o", tmp_path / "page.html", "--allow_different_data")[0] == 0
    assert page_data(tmp_path / "page.html")["warnings"] == [
        f"Different evaluation data: {told}. Differences of Pass@k may be the data's."
    ]


def test_a_page_that_cannot_be_written(command, one_run, tmp_path, monkeypatch):
    from lens_openrlhf.reporting import page

    def write(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "write", write)
    assert command(one_run, "-o", tmp_path / "page.html") == (
        *(2, ""),
        f"error: -o {tmp_path}/page.html: cannot be written (No space left on device)\n",
    )


def test_a_folder_that_cannot_be_read(command, one_run, monkeypatch):
    from lens_openrlhf.reporting import command as module

    def find_runs(paths):
        raise PermissionError(13, "Permission denied", "/secret")

    monkeypatch.setattr(module, "find_runs", find_runs)
    assert command(one_run) == (2, "", "error: /secret: Permission denied\n")


def test_what_it_wrote_and_what_was_wrong(command, tmp_path, monkeypatch):
    from lens_openrlhf.reporting import page

    asked = []
    report_data = page.report_data
    monkeypatch.setattr(page, "report_data", lambda *a, **k: asked.append(k) or report_data(*a, **k))
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_config(tmp_path / name, **{"algo.lens.alpha": 1.0})
        (tmp_path / name / "metrics.jsonl").write_text('{"epoch": 1}\n')
    what = "1 lines have no whole number `step`; they are another program's, and left out"
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    status, out, err = command("a", "b", "--sample_steps", 3)
    assert torch.get_num_threads() == 1, "thousands of small operations are faster so"
    torch.set_num_threads(threads)
    size = len((tmp_path / "report.html").read_text()) / 1e6
    assert (status, out) == (0, f"report.html: 1 arm, 2 runs, {size:.1f} MB\n")
    assert err == f"a/metrics.jsonl (and 1 more): {what}\n"
    status, out, err = command("a", "-o", "one.html")
    assert out.startswith("one.html: 1 arm, 1 run, ") and err == f"a/metrics.jsonl: {what}\n"
    assert [k["sample_steps"] for k in asked] == [3, 8]


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
