"""`lens-openrlhf grade`, in process with real workers."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest

from lens_openrlhf.grade import main
from lens_openrlhf.rewards import pool, shutdown, verifier


@pytest.fixture(autouse=True, scope="module")
def workers():
    yield
    shutdown()


def test_one_answer(capsys):
    assert main(["--answer", r"so \boxed{C. 12}", "--label", "C"]) == 0
    assert capsys.readouterr().out.startswith("answer: correct; read 'C. 12'; label 'C'; compared")


def test_file_row_by_row(tmp_path, capsys):
    rows = [
        {"response": r"so \boxed{5.}", "label": 5},
        {"response": r"so \boxed{20 \text{ km}}", "label": "20 $cm$"},
        {"response": r"so \boxed{3}", "label": "{{{"},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([str(file), "-o", str(tmp_path / "out.jsonl")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(";")[0] for line in lines[:3]] == ["line 1: correct", "line 2: wrong", "line 3: error"]
    assert lines[1].endswith("; in km, not cm") and "refused: the label '{{{' does not parse" in lines[2]
    assert lines[3:] == [
        "3 answers: 1 correct, 1 wrong, 1 error",
        "1 of 3 labels cannot be graded by: 1 a label that does not parse",
    ]
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert written[0]["answer"] == "5." and written[0]["answer_written"] == "5" and "refused" in written[2]
    assert [row.get("reason") for row in written] == ["", "in km, not cm", ""]
    assert main([str(file), "--max_rows", "1", "--quiet"]) == 0
    assert capsys.readouterr().out == "1 answer: 1 correct\n"


@pytest.mark.parametrize(
    ("answer", "label", "reason"),
    [
        ("5,5,5", "5", "several values, not one"),
        (r"\{3,4\}", "(3,4)", "a set, which has no order"),
        (r"\geq 5", "5", "a relation, not a value"),
        (r"4\times 6=20", "20", r"'4\\times 6' is something else"),
        (r"3\text{ cm}", r"3\text{ m}", "in cm, not m"),
    ],
)
def test_why_an_answer_is_wrong(answer, label, reason, capsys):
    assert main(["--answer", rf"so \boxed{{{answer}}}", "--label", label]) == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith("answer: wrong; ") and line.endswith(f"; {reason}")


def columns_taken(rows, given, path):
    """What `grade -o` wrote as label and as answer of the first row."""
    path.unlink(missing_ok=True)
    assert main([str(rows), *given, "--quiet", "-o", str(path)]) == 0
    row = json.loads(path.read_text().splitlines()[0])
    return row["label"], row.get("answer")


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_which_columns_are_read(ending, tmp_path, capsys):
    """`answer` is the gold answer in MATH's own files, and a response elsewhere."""
    boxed = {name: rf"\boxed{{{number}}}" for number, name in enumerate(("response", "answer", "solution", "label"))}

    def taken(*names, given=()):
        file = tmp_path / f"rows.{ending}"
        frame = pandas.DataFrame([{"problem": "how many?", "z": r"\boxed{9}", **{name: boxed[name] for name in names}}])
        frame.to_parquet(file) if ending == "parquet" else frame.to_json(file, orient="records", lines=True)
        return columns_taken(file, given, tmp_path / "out.jsonl")

    assert taken("solution", "answer") == (boxed["answer"], None)
    assert taken("answer") == (boxed["answer"], None)
    assert taken("answer", "label") == (boxed["label"], "1")
    assert taken("answer", "solution", "response") == (boxed["answer"], "0")
    assert taken("solution", "response") == (boxed["solution"], "0")
    assert taken("solution", "answer", given=["--answer_key", "answer"]) == (boxed["solution"], "1")
    assert taken("solution", "answer", given=["--label_key", "solution"]) == (boxed["solution"], "1")
    assert taken("answer", given=["--answer_key", "z"]) == (boxed["answer"], "9")
    assert taken("answer", given=["--label_key", "z"]) == (r"\boxed{9}", "1")


def test_nothing_that_is_there_is_written_over(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"response": "5", "label": "5"}\n')
    Path("link.jsonl").symlink_to("rows.jsonl")
    Path("hard.jsonl").hardlink_to("rows.jsonl")
    Path("other.jsonl").write_text("mine\n")
    Path("loop.jsonl").symlink_to("loop.jsonl")
    Path("folder").mkdir()
    monkeypatch.setattr(verifier, "explain_answer", lambda *_: pytest.fail("refused after grading"))
    for out, told in {
        "rows.jsonl": "is one of the files that are read",
        "./folder/../rows.jsonl": "is one of the files that are read",
        str(tmp_path / "rows.jsonl"): "is one of the files that are read",
        "link.jsonl": "is one of the files that are read",
        "hard.jsonl": "is one of the files that are read",
        "other.jsonl": "is there already",
        "loop.jsonl": "is there already",
        "absent/out.jsonl": "absent is no folder that can be written to",
        "rows.jsonl/out.jsonl": "rows.jsonl is no folder",
        "out.json": "ends in .jsonl",
    }.items():
        for given in (["rows.jsonl"], ["--answer", "5", "--label", "5"]):
            assert main([*given, "-o", out]) == 2
            said = capsys.readouterr().err
            assert f"-o {Path(out)}: " in said and (told if given == ["rows.jsonl"] else "") in said, said
    assert Path("rows.jsonl").read_text() and Path("other.jsonl").read_text() == "mine\n"
    assert not Path("absent").exists()


def test_labels_of_a_file_without_answers(tmp_path, capsys):
    """As files of prompts are; there the labels may be in a column called answer."""
    file = tmp_path / "prompts.jsonl"
    labels = ["5", "2e-3", None, 0.5, 5]
    file.write_text("".join(json.dumps({"prompt": "how many?", "answer": label}) + "\n" for label in labels))
    assert main([str(file), "--label_key", "answer", "-o", str(tmp_path / "out.jsonl")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("line 2: the label '2e-3' has two readings")
    assert lines[1] == "line 3: the label None is not text"
    assert lines[2].startswith("2 of 4 labels cannot be graded by: ") and len(lines) == 3
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert ["refused" in row for row in written] == [False, True, True, False, False]
    assert main([str(file), "--label_key", "answer", "--max_rows", "1"]) == 0
    assert capsys.readouterr().out == "1 row without answers: all labels can be graded by\n"


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "name a FILE"),
        (["no.jsonl"], "no such file"),
        (["{file}", "--label", "3"], "--label: goes without FILE"),
        (["{file}", "--answer_key", "z"], "--label_key: name the column; it is none of label"),
        (["{file}", "--answer_key", "z", "--label_key", "b"], "--answer_key: there is no column 'z'; there are: a, b"),
        (["{file}", "--max_rows", "0"], "--max_rows 0"),
        (["{file}", "-o", "x.csv"], "-o x.csv"),
    ],
)
def test_what_cannot_work_is_named(argv, named, tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1, "b": 2}\n')
    assert main([word.format(file=file) for word in argv]) == 2
    assert named in capsys.readouterr().err


def test_an_answer_over_the_time_limit_runs_once(monkeypatch):
    shutdown()
    monkeypatch.setenv("LENS_VERIFIER_TIMEOUT", "1")
    tasks = []
    run = pool._Pool.run
    monkeypatch.setattr(pool._Pool, "run", lambda *args: tasks.append(args[1]) or run(*args))
    reading = verifier.explain_answer(r"\boxed{9^{9^{9^{9}}}}", "5")
    shutdown()
    assert reading.outcome == "timeout" and "time limit" in reading.detail, reading
    assert len(tasks) == 1
