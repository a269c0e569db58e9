"""How commands refuse, where they may write to, and how they end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lens_openrlhf import cli
from lens_openrlhf.commands import Parser, check_out, ended, main_of
from lens_openrlhf.inputs import OptionError


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (OptionError("no such option"), 2, "error: no such option"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: [Errno 13] Permission denied: '/x'"),
    ],
)
def test_a_command_ends_in_one_line_that_says_why(capsys, error, status, line):
    assert ended(raising(error), "interrupted; nothing was written") == status
    assert capsys.readouterr() == ("", f"{line}\n")


def test_what_is_no_fault_of_the_input_is_not_hidden():
    assert ended(lambda: 3) == 3
    with pytest.raises(TypeError):
        ended(raising(TypeError()))


@pytest.mark.parametrize("size", [10, 10**7])
def test_a_reader_that_leaves_early_is_no_error(size):
    code = (
        "import sys; from lens_openrlhf.commands import ended\n"
        f"sys.stdin.read(); sys.exit(ended(lambda: print('x' * {size}) or 0))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_a_parser_refuses_in_one_line_with_the_nearest_option(capsys):
    def parse(argv):
        parser = Parser(prog="lens-openrlhf try")
        parser.add_argument("--number", type=int, default=0)
        return parser.parse_args(argv)

    main = main_of(parse, lambda arguments: arguments.number)
    assert main(["--number", "7"]) == 7 and capsys.readouterr() == ("", "")
    for words, said in (
        (["--numbre", "7"], "unrecognized arguments: --numbre 7; did you mean --number? Else see"),
        (["--number", "x"], "argument --number: invalid int value: 'x'; see"),
    ):
        assert main(words) == 2
        assert capsys.readouterr() == ("", f"error: {said} lens-openrlhf try --help\n")


def test_a_file_to_be_written(tmp_path):
    here, link = tmp_path / "here.jsonl", tmp_path / "link.jsonl"
    here.touch()
    link.symlink_to(here)
    check_out(here)
    check_out(tmp_path / "new.jsonl", (".jsonl", ".parquet"), [here, tmp_path / "absent"], new=True)
    for out, more, said in (
        (tmp_path / "a.txt", {"suffixes": (".jsonl", ".parquet")}, "ends in .jsonl or .parquet"),
        (tmp_path, {}, "is a folder; name a file in it"),
        (tmp_path / "absent" / "a", {}, "absent is no folder that can be written to; make it"),
        (here / "a", {}, "here.jsonl is no folder that can be written to"),
        (link, {"reads": [here]}, "is one of the files that are read"),
        (here, {"new": True}, "is there already"),
        (Path("x" * 300), {"new": True}, None),
    ):
        if said is None:
            check_out(out, **more)  # what writes it will say so
            continue
        with pytest.raises(OptionError, match=f"^-o {out}: .*{said}"):
            check_out(out, **more)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_refuses_an_option_that_it_does_not_have(name, capsys, own_signals):
    assert cli.main([name, "--no_such_option", "1"]) == 2
    out, error = capsys.readouterr()
    assert not out and error.startswith("error: ") and error.endswith(f"see lens-openrlhf {name} --help\n")
    assert error.count("\n") == 1
