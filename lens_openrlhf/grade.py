"""`lens-openrlhf grade`: what was read in answers and labels, what was compared, and the verdict, row by row."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .commands import Parser, check_out, main_of
from .inputs import READABLE, OptionError, parquet_columns, rows_of_file
from .process import printable

# Columns that are looked for where no option names one, the surest first: `answer` is what a model wrote, or the gold
# answer beside a worked solution, as MATH has it, or where nothing else can be the label.
ANSWERS = ("response", "completion", "output", "prediction", "generated_text", "answer")
LABELS = ("label", "ground_truth", "gold", "target", "reference", "answer", "solution")
SHOWN_CHARS = 60
DESCRIPTION = """\
Grades answers that are already there, of any framework, and says of each what was read as its answer, what Math-Verify
got to compare, and why the verdict is what it is. Labels that cannot be graded by are named (docs/grading.md); of a
file without answers, such as one of prompts, they alone are shown.
"""
EPILOG = "exit status: 0 all labels can be graded by; 1 some cannot, or an answer is an error or over the time limit"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="lens-openrlhf grade",
        usage="lens-openrlhf grade FILE [...]\n       lens-openrlhf grade --answer TEXT --label TEXT",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help=f"a {', '.join(READABLE)} file, or a folder with samples/"
    )
    parser.add_argument("--answer", metavar="TEXT", help="a response; - reads it from the standard input")
    parser.add_argument("--label", metavar="TEXT", help="the right answer to it")
    group = parser.add_argument_group("rows")
    group.add_argument("--answer_key", metavar="COLUMN", help=f"of the answers (default: {', '.join(ANSWERS)})")
    group.add_argument("--label_key", metavar="COLUMN", help=f"of the labels (default: {', '.join(LABELS)})")
    group.add_argument("--max_rows", type=int, metavar="N", help="the first rows only")
    group.add_argument("--wrong", action="store_true", help="show the rows that are not correct alone")
    group.add_argument("--quiet", action="store_true", help="show the summary alone")
    group.add_argument("-o", "--out", type=Path, metavar="FILE", help="all rows as a new .jsonl, texts uncut")
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, checked.

    Raises:
        OptionError: values that cannot work.
        SystemExit: --help.
    """
    arguments = _parser().parse_args(argv)
    if arguments.out is not None:
        check_out(arguments.out, (".jsonl",), [arguments.file] if arguments.file else [], new=True)
    if arguments.file is None:
        if arguments.answer is None or arguments.label is None:
            raise OptionError("name a FILE, or give --answer and --label; see lens-openrlhf grade --help")
        return arguments
    for option in ("answer", "label"):
        if getattr(arguments, option) is not None:
            raise OptionError(f"--{option}: goes without FILE; the columns of {arguments.file} are --{option}_key")
    if not arguments.file.exists():
        raise OptionError(f"FILE {arguments.file}: no such file or folder")
    if arguments.max_rows is not None and arguments.max_rows < 1:
        raise OptionError(f"--max_rows {arguments.max_rows}: at least 1 is needed")
    return arguments


def _files(path: Path) -> list[Path]:
    files = sorted(path.glob("samples/*.parquet")) if path.is_dir() else [path]
    if not files:
        raise OptionError(f"FILE {path}: a folder without samples/*.parquet; name a run, an evaluation or a file")
    for file in files:
        if file.suffix not in READABLE:
            raise OptionError(f"FILE {file}: expected a {', '.join(READABLE)} file")
    return files


def _rows(path: Path, files: Sequence[Path], wanted: Sequence[str]) -> Iterator[tuple[str, dict]]:
    """Where each row is, and the row; of .parquet no columns but `wanted` need be in it."""
    for file in files:
        for place, row in rows_of_file("FILE", file, wanted):
            yield (f"{file.name} {place}" if path.is_dir() else place), row


def _column(columns: Collection[str], option: str, given: str | None, usual: Sequence[str]) -> str:
    found = [name for name in ([given] if given else usual) if name in columns]
    if not found:
        sought = f"there is no column {given!r}" if given else f"name the column; it is none of {', '.join(usual)}"
        raise OptionError(f"--{option}: {sought}; there are: {', '.join(columns) or 'none'}")
    return found[0]


def _columns(columns: Collection[str], answer_key: str | None, label_key: str | None) -> tuple[str | None, str]:
    """Of the answers, None where there are none, and of the labels."""
    label_key = _column(columns, "label_key", label_key, [name for name in LABELS if name != answer_key])
    answers = [name for name in ANSWERS if name in columns and name != label_key]
    if answer_key is None and not answers:
        return None, label_key
    return _column(columns, "answer_key", answer_key, answers), label_key


def _answer_text(value: Any) -> Any:
    """A response; of a list of messages, as chat formats have it, the last one's text."""
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        return value[-1].get("content")
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _text_of(label: Any) -> tuple[str, tuple[str, str] | None]:
    """A label as text, and the kind and the reason where it is none."""
    from .rewards import label_text

    try:
        return label_text(label), None
    except TypeError as error:
        return str(label), ("a label that is no text", str(error))


def graded(place: str, answer: Any, label: str, bad: tuple[str, str] | None) -> dict[str, str]:
    """What came of one answer; `bad` is the kind of label and why it is refused, if it is."""
    from .rewards.verifier import explain_answer

    return {"place": place, "label": label, **explain_answer(answer, label)._asdict(), **_refused(bad)}


def _refused(bad: tuple[str, str] | None) -> dict[str, str]:
    return {} if bad is None else dict(zip(("kind", "refused"), bad, strict=True))


def _line(row: dict[str, str]) -> str:
    def short(text: str) -> str:
        text = " ".join(text.split())
        return repr(text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…")

    parts = [f"read {short(row['answer'])}" if row["answer"] else "read nothing", f"label {short(row['label'])}"]
    if (row["answer_written"], row["label_written"]) != (row["answer"], row["label"]) and row["answer_written"]:
        parts.append(f"compared {short(row['answer_written'])} with {short(row['label_written'])}")
    if "refused" in row:
        parts.append(f"refused: {row['refused']}")
    elif row.get("reason"):
        parts.append(row["reason"])
    elif row["outcome"] not in ("correct", "wrong") or not row["detail"].startswith("answer "):
        parts.append(row["detail"])
    return f"{row['place']}: {row['outcome']}; {'; '.join(parts)}"


def _count(rows: Sequence, name: str) -> str:
    return f"{len(rows):,} {name}" + "s" * (len(rows) != 1)


def _summary(rows: Sequence[dict[str, str]]) -> Iterator[str]:
    outcomes = Counter(row["outcome"] for row in rows if "outcome" in row)
    if outcomes:
        yield f"{_count(rows, 'answer')}: " + ", ".join(f"{count:,} {name}" for name, count in outcomes.most_common())
    labels = {row["label"] for row in rows}
    refused = {row["label"]: row["kind"] for row in rows if "kind" in row}
    if refused:
        kinds = Counter(refused.values())
        yield f"{len(refused):,} of {len(labels):,} labels cannot be graded by: " + ", ".join(
            f"{count:,} {kind}" for kind, count in kinds.most_common()
        )
    elif not outcomes:
        yield f"{_count(rows, 'row')} without answers: all labels can be graded by"


def _all_rows(arguments: argparse.Namespace) -> tuple[list[tuple[str, Any, Any]], bool]:
    """Place, answer and label of every row, and whether there are answers."""
    if arguments.file is None:
        answer = sys.stdin.read() if arguments.answer == "-" else arguments.answer
        return [("answer", answer, arguments.label)], True
    files, given = _files(arguments.file), (arguments.answer_key, arguments.label_key)
    names = parquet_columns("FILE", files[0])
    keys = _columns(names, *given) if names else ()
    found = list(islice(_rows(arguments.file, files, [key for key in keys if key]), arguments.max_rows))
    if not found:
        raise OptionError(f"FILE {arguments.file}: there is no row in it")
    answer_key, label_key = keys or _columns(dict.fromkeys(name for _, row in found for name in row), *given)
    return [(at, _answer_text(row.get(answer_key)), row.get(label_key)) for at, row in found], answer_key is not None


def _run(arguments: argparse.Namespace) -> int:
    from .process import interrupt_once
    from .prompts import check_verifier
    from .rewards.labels import as_found, examine
    from .rewards.pool import Settings

    interrupt_once()
    check_verifier()
    triples, answered = _all_rows(arguments)
    # A run's samples/ have texts of the first prompts of a step alone.
    given = [row for row in triples if any(value is not None for value in row[1:])] or triples
    if answered and len(given) < len(triples):
        print(f"{len(triples) - len(given):,} of {len(triples):,} rows have neither an answer nor a label: left out")
        triples = given
    texts = [_text_of(label) for _, _, label in triples]
    distinct = dict.fromkeys(text for text, no_text in texts if no_text is None)
    found = tqdm(as_found(examine, distinct), "checking labels", len(distinct), leave=False, unit="label", disable=None)
    bad = dict(found)
    reasons = [no_text or bad[text] for text, no_text in texts]
    rows = []
    if answered:
        with ThreadPoolExecutor(2 * Settings.from_env().workers) as threads:
            columns = ([at for at, _, _ in triples], [answer for _, answer, _ in triples], [text for text, _ in texts])
            for row in threads.map(graded, *columns, reasons):
                rows.append(row)
                if not arguments.quiet and not (
                    arguments.wrong and row["outcome"] == "correct" and "refused" not in row
                ):
                    print(printable(_line(row)))
    else:
        for (at, _, _), (text, _), reason in zip(triples, texts, reasons, strict=True):
            rows.append({"place": at, "label": text, **_refused(reason)})
            if reason and not arguments.quiet:
                print(printable(f"{at}: {rows[-1]['refused']}"))
    if arguments.file is not None:
        print(printable("\n".join(_summary(rows))))
    if arguments.out is not None:
        with open(arguments.out, "x") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    failed = any("refused" in row or row.get("outcome") in ("error", "timeout") for row in rows)
    return 1 if failed else 0


main = main_of(parse, _run)
