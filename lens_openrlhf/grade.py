"""`lens-openrlhf grade`: what was read in answers and labels, what was compared, and the verdict, row by row."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from .inputs import READABLE, OptionError, rows_of_file
from .process import ended, printable

# Columns that are looked for where no option names one.
ANSWERS = ("response", "answer", "completion", "output", "prediction", "generated_text")
LABELS = ("label", "ground_truth", "gold", "target", "solution", "reference")
SHOWN_CHARS = 60
DESCRIPTION = """\
Grades answers that are already there, of any framework, and says of each what was read as its answer, what Math-Verify
got to compare, and why the verdict is what it is. Labels that cannot be graded by are named (docs/grading.md).
"""
EPILOG = "exit status: 0 all labels can be graded by; 1 some cannot, or an answer is an error or over the time limit"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message}; see lens-openrlhf grade --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
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
    group.add_argument("-o", "--out", type=Path, metavar="FILE", help="all rows as .jsonl, texts uncut")
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, checked.

    Raises:
        OptionError: values that cannot work.
        SystemExit: --help.
    """
    arguments = _parser().parse_args(argv)
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
    if arguments.out is not None and (arguments.out.suffix != ".jsonl" or arguments.out == arguments.file):
        raise OptionError(f"-o {arguments.out}: expected the name of another file, which ends in .jsonl")
    return arguments


def _rows(path: Path) -> Iterator[tuple[str, dict]]:
    """Where each row is, and the row."""
    files = sorted(path.glob("samples/*.parquet")) if path.is_dir() else [path]
    if not files:
        raise OptionError(f"FILE {path}: a folder without samples/*.parquet; name a run, an evaluation or a file")
    for file in files:
        if file.suffix not in READABLE:
            raise OptionError(f"FILE {file}: expected a {', '.join(READABLE)} file")
        for place, row in rows_of_file("FILE", file):
            yield (f"{file.name} {place}" if path.is_dir() else place), row


def _column(rows: Sequence[tuple[str, dict]], option: str, given: str | None, usual: Sequence[str]) -> str:
    columns = dict.fromkeys(name for _, row in rows for name in row)
    found = [name for name in ([given] if given else usual) if name in columns]
    if not found:
        sought = repr(given) if given else f"none of {', '.join(usual)}"
        raise OptionError(f"--{option}: {sought} is no column; there are: {', '.join(columns) or 'none'}")
    return found[0]


def _answer_text(value: Any) -> Any:
    """A response; of a list of messages, as chat formats have it, the last one's text."""
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        return value[-1].get("content")
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _label(value: Any) -> Any:
    # A column of numbers in a CSV file, or one with gaps in pandas, holds whole numbers as floats.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def graded(place: str, answer: Any, label: Any, bad: tuple[str, str] | None) -> dict[str, str]:
    """What came of one answer; `bad` is the kind of label and why it is refused, if it is."""
    from .rewards.pool import explain_answer

    row = {"place": place, "label": str(label), **explain_answer(answer, label)._asdict()}
    return row if bad is None else row | dict(zip(("kind", "refused"), bad, strict=True))


def _line(row: dict[str, str]) -> str:
    def short(text: str) -> str:
        text = " ".join(text.split())
        return repr(text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…")

    parts = [f"read {short(row['answer'])}" if row["answer"] else "read nothing", f"label {short(row['label'])}"]
    if (row["answer_written"], row["label_written"]) != (row["answer"], row["label"]) and row["answer_written"]:
        parts.append(f"compared {short(row['answer_written'])} with {short(row['label_written'])}")
    if "refused" in row:
        parts.append(f"refused: {row['refused']}")
    elif row["outcome"] not in ("correct", "wrong") or not row["detail"].startswith("answer "):
        parts.append(row["detail"])
    elif ": in " in row["detail"]:
        parts.append("in other units")
    return f"{row['place']}: {row['outcome']}; {'; '.join(parts)}"


def _summary(rows: Sequence[dict[str, str]]) -> Iterator[str]:
    outcomes = Counter(row["outcome"] for row in rows)
    yield f"{len(rows):,} answers: " + ", ".join(f"{count:,} {name}" for name, count in outcomes.most_common())
    refused = {row["label"]: row["kind"] for row in rows if "kind" in row}
    if refused:
        kinds = Counter(refused.values())
        yield f"{len(refused):,} of {len({row['label'] for row in rows}):,} labels cannot be graded by: " + ", ".join(
            f"{count:,} {kind}" for kind, count in kinds.most_common()
        )


def _run(arguments: argparse.Namespace) -> int:
    from .process import interrupt_once
    from .rewards.labels import as_found, examine
    from .rewards.pool import Settings

    interrupt_once()
    try:
        workers = Settings.from_env().workers
    except ValueError as error:
        raise OptionError(str(error)) from None
    if arguments.file is None:
        answer = sys.stdin.read() if arguments.answer == "-" else arguments.answer
        triples = [("answer", answer, arguments.label)]
    else:
        found = list(islice(_rows(arguments.file), arguments.max_rows))
        if not found:
            raise OptionError(f"FILE {arguments.file}: there is no row in it")
        answer_key = _column(found, "answer_key", arguments.answer_key, ANSWERS)
        label_key = _column(found, "label_key", arguments.label_key, LABELS)
        triples = [(place, _answer_text(row.get(answer_key)), _label(row.get(label_key))) for place, row in found]
    labels = dict.fromkeys(label for _, _, label in triples if type(label) in (str, int))
    bad = dict(as_found(examine, labels))
    rows = []
    with ThreadPoolExecutor(2 * workers) as threads:
        reasons = [
            bad[label] if type(label) in (str, int) else ("a label that is no text", f"{label!r} is no text")
            for _, _, label in triples
        ]
        jobs = threads.map(graded, *zip(*triples, strict=True), reasons)
        for row in jobs:
            rows.append(row)
            if not arguments.quiet and not (arguments.wrong and row["outcome"] == "correct" and "refused" not in row):
                print(printable(_line(row)))
    if arguments.file is not None:
        print(printable("\n".join(_summary(rows))))
    if arguments.out is not None:
        with open(arguments.out, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    failed = any("refused" in row or row["outcome"] in ("error", "timeout") for row in rows)
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the process's exit status; every failure ends in one line that says why."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return ended(lambda: _run(parse(argv)), OptionError, "interrupted")


if __name__ == "__main__":
    sys.exit(main())
