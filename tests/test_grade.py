"""What `lens-openrlhf grade` reads of rows and says of them, line by line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lens_openrlhf import grade
from lens_openrlhf.grade import ANSWERS, LABELS, main
from lens_openrlhf.inputs import OptionError

pytestmark = pytest.mark.usefixtures("small_pool", "own_signals")


@pytest.fixture
def said(capsys):
    """said(*words) -> exit status, lines, and complaint."""

    def run(*words) -> tuple[int, list[str], str]:
        status = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    return run


def lines(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(**more) -> dict[str, str]:
    """What came of one answer."""
    whole = {"place": "line 1", "label": "5", "outcome": "wrong", "detail": "answer 4, label 5", "reason": ""}
    return whole | {"answer": "4", "answer_written": "4", "label_written": "5"} | more


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "line 1: wrong; read '4'; label '5'"),
        ({"answer": ""}, "line 1: wrong; read nothing; label '5'; compared '4' with '5'"),
        ({"answer": "", "answer_written": ""}, "line 1: wrong; read nothing; label '5'"),
        ({"answer": "4."}, "line 1: wrong; read '4.'; label '5'; compared '4' with '5'"),
        ({"label": "5."}, "line 1: wrong; read '4'; label '5.'; compared '4' with '5'"),
        ({"answer": "a\n  b", "answer_written": "a\n  b"}, "line 1: wrong; read 'a b'; label '5'"),
        ({"reason": "in m, not cm"}, "line 1: wrong; read '4'; label '5'; in m, not cm"),
        ({"reason": "r", "refused": "no label"}, "line 1: wrong; read '4'; label '5'; refused: no label"),
        ({"detail": "no answer found"}, "line 1: wrong; read '4'; label '5'; no answer found"),
        ({"outcome": "correct"}, "line 1: correct; read '4'; label '5'"),
        ({"outcome": "correct", "detail": "the same"}, "line 1: correct; read '4'; label '5'; the same"),
        ({"outcome": "timeout"}, "line 1: timeout; read '4'; label '5'; answer 4, label 5"),
        ({"answer": "x" * 60, "answer_written": "x" * 60}, f"line 1: wrong; read '{'x' * 60}'; label '5'"),
        ({"answer": "x" * 61, "answer_written": "x" * 61}, f"line 1: wrong; read '{'x' * 59}…'; label '5'"),
    ],
)
def test_the_line_of_an_answer(changes, line):
    assert grade._line(row(**changes)) == line


def test_the_summary():
    bad, worse = {"kind": "no text", "refused": "why"}, {"kind": "unreadable", "refused": "why"}
    rows = [row(), row(outcome="correct"), row(), row(label="7", outcome="error", **bad), row(label="7", **bad)]
    assert list(grade._summary(rows[:1])) == ["1 answer: 1 wrong"]
    assert list(grade._summary(rows)) == [
        "5 answers: 3 wrong, 1 correct, 1 error",
        "1 of 2 labels cannot be graded by: 1 no text",
    ]
    rows += [row(label=str(n), **worse) for n in range(8, 1_208)]
    assert list(grade._summary(rows)) == [
        "1,205 answers: 1,203 wrong, 1 correct, 1 error",
        "1,201 of 1,202 labels cannot be graded by: 1,200 unreadable, 1 no text",
    ]
    alone = [{"place": f"line {n}", "label": str(n)} for n in range(1_000)]
    assert list(grade._summary(alone)) == ["1,000 rows without answers: all labels can be graded by"]
    assert list(grade._summary([alone[0], alone[1] | bad])) == ["1 of 2 labels cannot be graded by: 1 no text"]


@pytest.mark.parametrize(
    ("columns", "answer_key", "label_key", "found"),
    [
        ((*reversed(ANSWERS), *LABELS), None, None, ("response", "label")),
        *(((name, "label"), None, None, (name, "label")) for name in ANSWERS),
        *((("response", name), None, None, ("response", name)) for name in LABELS),
        (("solution", "answer"), None, None, (None, "answer")),
        (("answer", "solution"), "answer", None, ("answer", "solution")),
        (("answer", "solution"), None, "solution", ("answer", "solution")),
        (("x", "y", "label", "response"), "x", "y", ("x", "y")),
        (("x", "label", "response"), "x", None, ("x", "label")),
        (("x", "label", "response"), None, "x", ("response", "x")),
        (("label",), None, None, (None, "label")),
        (("x",), "x", "x", ("x", "x")),
    ],
)
def test_which_columns_are_read(columns, answer_key, label_key, found):
    assert grade._columns(columns, answer_key, label_key) == found


@pytest.mark.parametrize(
    ("columns", "answer_key", "label_key", "message"),
    [
        (("a", "b"), None, "c", "--label_key: there is no column 'c'; there are: a, b"),
        (("label",), "c", None, "--answer_key: there is no column 'c'; there are: label"),
        ((), None, "c", "--label_key: there is no column 'c'; there are: none"),
        (("a",), None, None, f"--label_key: name the column; it is none of {', '.join(LABELS)}; there are: a"),
        (
            ("answer",),
            "answer",
            None,
            "--label_key: name the column; it is none of label, ground_truth, gold, target, reference, solution; there "
            "are: answer",
        ),
    ],
)
def test_columns_that_are_not_there(columns, answer_key, label_key, message):
    with pytest.raises(OptionError) as refused:
        grade._columns(columns, answer_key, label_key)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (5, "5"),
        (0.5, "0.5"),
        (True, True),
        (None, None),
        ([], []),
        (["a"], ["a"]),
        ([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "a"),
        ([{"role": "user"}], None),
    ],
)
def test_a_response_as_text(value, text):
    assert grade._answer_text(value) == text


WRONG = {"response": r"\boxed{4}", "label": "5"}
RIGHT = {"response": r"\boxed{5}", "label": 5}
BAD = {"response": r"\boxed{5}", "label": "{{{"}


def test_what_is_shown_and_written(said, tmp_path):
    file, out = lines(tmp_path / "a.jsonl", RIGHT, WRONG, BAD, RIGHT), tmp_path / "out.jsonl"
    status, shown, complaint = said(file, "-o", out)
    assert status == 1 and not complaint and len(shown) == 6
    assert [line.split(";")[0] for line in shown[:4]] == [
        "line 1: correct",
        "line 2: wrong",
        "line 3: error",
        "line 4: correct",
    ]
    assert shown[1] == "line 2: wrong; read '4'; label '5'"
    assert shown[4:] == [
        "4 answers: 2 correct, 1 wrong, 1 error",
        "1 of 2 labels cannot be graded by: 1 a label that does not parse",
    ]
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["place"], row["label"], row["outcome"]) for row in written] == [
        ("line 1", "5", "correct"),
        ("line 2", "5", "wrong"),
        ("line 3", "{{{", "error"),
        ("line 4", "5", "correct"),
    ]
    assert ["refused" in row for row in written] == [False, False, True, False]
    assert written[0].keys() == row().keys() and written[2].keys() == row().keys() | {"kind", "refused"}
    assert said(file, "--wrong") == (1, [shown[1], shown[2], *shown[4:]], "")
    assert said(file, "--quiet") == (1, shown[4:], "")
    assert said(file, "--max_rows", "2") == (0, [*shown[:2], "2 answers: 1 correct, 1 wrong"], "")
    assert said(file, "--max_rows", "9") == (1, shown, "")


def test_right_answers_to_labels_that_cannot_be_graded_by_are_no_right_ones(said, tmp_path, monkeypatch):
    """--wrong shows them, too."""
    monkeypatch.setattr(
        grade, "graded", lambda place, answer, label, bad: row(place=place, outcome="correct") | grade._refused(bad)
    )
    status, shown, _ = said(lines(tmp_path / "a.jsonl", RIGHT, BAD), "--wrong")
    assert status == 1 and len(shown) == 3 and shown[0].startswith("line 2: correct; ")


@pytest.mark.parametrize(("outcome", "status"), [("correct", 0), ("wrong", 0), ("error", 1), ("timeout", 1)])
def test_the_exit_status(said, tmp_path, monkeypatch, outcome, status):
    monkeypatch.setattr(grade, "graded", lambda place, *_: row(place=place, outcome=outcome))
    assert said(lines(tmp_path / "a.jsonl", RIGHT, RIGHT), "--quiet") == (status, [f"2 answers: 2 {outcome}"], "")


def test_one_answer_from_the_standard_input(said, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(r"so \boxed{5}"))
    assert said("--answer", "-", "--label", "5") == (0, ["answer: correct; read '5'; label '5'"], "")
    assert said("--answer", r"\boxed{-}", "--label", "-")[1][0].startswith("answer: ")
    status, shown, _ = said("--answer", r"\boxed{4}", "--label", "{{{")
    assert status == 1 and len(shown) == 1 and "refused: the label '{{{' does not parse" in shown[0]


def test_rows_without_texts_are_left_out(said, tmp_path):
    """As a run keeps the texts of the first prompts alone."""
    (tmp_path / "run/samples").mkdir(parents=True)
    schema = pa.schema({"step": pa.int64(), "response": pa.string(), "label": pa.string()})
    for step, rows in {
        2: [(r"\boxed{5}", "5"), (None, None)],
        1: [(None, None), (r"\boxed{4}", "5"), (None, "7")],
    }.items():
        table = [{"step": step, "response": r, "label": v} for r, v in rows]
        pq.write_table(pa.Table.from_pylist(table, schema), tmp_path / f"run/samples/step-{step:06}.parquet")
    status, shown, _ = said(tmp_path / "run")
    assert shown[0] == "2 of 5 rows have neither an answer nor a label: left out"
    assert [line.split(";")[0].rpartition(": ")[0] for line in shown[1:4]] == [
        *("step-000001.parquet row 2", "step-000001.parquet row 3", "step-000002.parquet row 1")
    ]
    assert shown[-1].startswith("3 answers: ")
    # Where none has any, all are shown.
    empty = lines(tmp_path / "b.jsonl", {"response": None, "label": None})
    assert said(empty)[1][0].startswith("line 1: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a FILE, or give --answer and --label; see lens-openrlhf grade --help"),
        (["--answer", "5"], "name a FILE, or give --answer and --label; see lens-openrlhf grade --help"),
        (["--label", "5"], "name a FILE, or give --answer and --label; see lens-openrlhf grade --help"),
        (["a.jsonl", "--answer", "5"], "--answer: goes without FILE; the columns of a.jsonl are --answer_key"),
        (["a.jsonl", "--label", ""], "--label: goes without FILE; the columns of a.jsonl are --label_key"),
        (["b.jsonl"], "FILE b.jsonl: no such file or folder"),
        (["a.jsonl", "--max_rows", "0"], "--max_rows 0: at least 1 is needed"),
        (["a.jsonl", "--max_rows", "-3"], "--max_rows -3: at least 1 is needed"),
        (["."], "FILE .: a folder without samples/*.parquet; name a run, an evaluation or a file"),
        (["a.txt"], "FILE a.txt: expected a .json, .jsonl, .csv, .parquet, .arrow file"),
        (["empty.jsonl"], "FILE empty.jsonl: there is no row in it"),
        (["empty.parquet"], "FILE empty.parquet: there is no row in it"),
        (
            ["a.jsonl", "--max", "1"],
            "unrecognized arguments: --max 1; did you mean --max_rows? Else see lens-openrlhf grade --help",
        ),
        (["a.jsonl", "-o", "out.json"], "-o out.json: expected a name that ends in .jsonl"),
        (["a.jsonl", "-o", "a.jsonl"], "-o a.jsonl: is one of the files that are read; name another one"),
        (["c.jsonl"], "--label_key: name the column; it is none of {labels}; there are: x, response, y"),
        (["c.parquet", "--label_key", "z"], "--label_key: there is no column 'z'; there are: x"),
    ],
)
def test_what_cannot_work_is_named(said, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    lines(Path("a.jsonl"), RIGHT)
    lines(Path("c.jsonl"), {"x": 1, "response": "5"}, {"y": 1})
    for name in ("empty.jsonl", "a.txt"):
        Path(name).touch()
    pq.write_table(
        pa.table({"response": pa.array([], pa.string()), "label": pa.array([], pa.string())}), "empty.parquet"
    )
    pq.write_table(pa.table({"x": [1]}), "c.parquet")
    assert said(*words) == (2, [], f"error: {message.format(labels=', '.join(LABELS))}\n")


def test_a_variable_of_the_verifiers_that_cannot_be(said, monkeypatch):
    monkeypatch.setenv("LENS_VERIFIER_TIMEOUT", "soon")
    status, shown, complaint = said("--answer", "5", "--label", "5")
    assert (status, shown) == (2, []) and complaint.startswith("error: LENS_VERIFIER_TIMEOUT='soon' is not")
