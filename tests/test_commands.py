"""How commands refuse, where they may write to, and how they end."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from lens_openrlhf import __version__, cli
from lens_openrlhf.advantages.config import option
from lens_openrlhf.commands import Parser, add_fields, check_out, ended, main_of
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


def test_an_option_is_guessed_only_where_one_is_unknown(capsys):
    parser = Parser(prog="try", allow_abbrev=False)
    parser.add_argument("--number", type=int, choices=[1, 2])
    parser.add_argument("file", nargs="?")
    for words, said in (
        (["--numbers=7"], "unrecognized arguments: --numbers=7; did you mean --number? Else see try --help"),
        (["a", "b", "--zzz", "--numbre"], "unrecognized arguments: b --zzz --numbre; see try --help"),
        (["a", "numbre"], "unrecognized arguments: numbre; see try --help"),
        (["--number", "3"], "argument --number: invalid choice: 3 (choose from 1, 2); see try --help"),
        (["--number"], "argument --number: expected one argument; see try --help"),
    ):
        with pytest.raises(OptionError) as refused:
            parser.parse_args(words)
        assert str(refused.value) == said
    assert capsys.readouterr() == ("", "")


@dataclass(frozen=True)
class Config:
    rate: float = option(0.5, "how fast, in %")
    way: str = option("short", "which way", ("short", "long"))
    careful: bool = option(True, "look twice")
    times: int = 3


def test_fields_of_an_estimator_are_options(capsys):
    parser = Parser(prog="try", allow_abbrev=False)
    add_fields(parser, "options of none", "none", ())
    add_fields(parser, "options of mine", "mine", fields(Config))
    found = vars(parser.parse_args([]))
    assert found == {"algo.mine.rate": 0.5, "algo.mine.way": "short", "algo.mine.careful": True, "algo.mine.times": 3}
    words = [
        "--algo.mine.rate",
        "2",
        "--algo.mine.way",
        "long",
        "--algo.mine.careful",
        "False",
        "--algo.mine.times",
        "4",
    ]
    found = vars(parser.parse_args(words))
    assert found == {"algo.mine.rate": 2.0, "algo.mine.way": "long", "algo.mine.careful": False, "algo.mine.times": 4}
    assert type(found["algo.mine.rate"]) is float
    for text, value in {"true": True, "TRUE": True, "false": False, "False": False}.items():
        assert vars(parser.parse_args(["--algo.mine.careful", text]))["algo.mine.careful"] is value
    for words, said in (
        (["--algo.mine.careful", "1"], "argument --algo.mine.careful: '1': expected true or false; see try --help"),
        (["--algo.mine.times", "1.5"], "argument --algo.mine.times: invalid int value: '1.5'; see try --help"),
        (
            ["--algo.mine.way", "on"],
            "argument --algo.mine.way: invalid choice: 'on' (choose from 'short', 'long'); see",
        ),
    ):
        with pytest.raises(OptionError, match=f"^{re.escape(said)}"):
            parser.parse_args(words)
    told = " ".join(parser.format_help().split())
    assert "options of none" not in told and told.endswith(
        "options of mine: --algo.mine.rate VALUE how fast, in % (default: 0.5) --algo.mine.way {short,long} which way "
        "(default: short) --algo.mine.careful VALUE look twice (default: True) --algo.mine.times VALUE (default: 3)"
    )


def test_a_file_to_be_written(tmp_path):
    here, link = tmp_path / "here.jsonl", tmp_path / "link.jsonl"
    here.touch()
    link.symlink_to(here)
    away = tmp_path / "away.jsonl"
    away.symlink_to("nowhere")
    check_out(here)
    check_out(away)
    check_out(Path("a"))
    check_out(tmp_path / "new.jsonl", (".jsonl", ".parquet"), [here, tmp_path / "absent"], new=True)
    check_out(here, (), [tmp_path / "absent", tmp_path])
    check_out(Path("x" * 300), new=True)  # what writes it will say so
    absent = tmp_path / "absent"
    no_folder = "is no folder that can be written to; make it, or name another file"
    for out, more, said in (
        (tmp_path / "a.txt", {"suffixes": (".jsonl", ".parquet")}, "expected a name that ends in .jsonl or .parquet"),
        (tmp_path / "a", {"suffixes": (".html",)}, "expected a name that ends in .html"),
        (tmp_path, {}, "is a folder; name a file in it"),
        (absent / "a", {}, f"{absent} {no_folder}"),
        (here / "a", {}, f"{here} {no_folder}"),
        (link, {"reads": [absent, here]}, "is one of the files that are read; name another one"),
        (here, {"reads": [link], "new": True}, "is one of the files that are read; name another one"),
        (here, {"new": True}, "is there already; name another one"),
        (away, {"new": True}, "is there already; name another one"),
    ):
        for name, words in (("-o", {}), ("--out", {"option": "--out"})):
            with pytest.raises(OptionError) as refused:
                check_out(out, **more, **words)
            assert str(refused.value) == f"{name} {out}: {said}"


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((path, mode)))
    with pytest.raises(OptionError, match="is no folder that can be written to"):
        check_out(tmp_path / "a")
    assert asked == [(tmp_path, os.W_OK)]


def test_what_is_said_of_an_interruption_by_default(capsys):
    stopped = raising(KeyboardInterrupt())
    assert ended(stopped) == main_of(lambda words: words, lambda _: stopped())([]) == 130
    assert capsys.readouterr() == ("", "interrupted\n" * 2)


def test_a_commands_words_are_those_of_the_process_where_none_are_given(monkeypatch, capsys):
    main = main_of(lambda words: words, lambda words: print(words) or 3, "interrupted; the run stays")
    monkeypatch.setattr("sys.argv", ["prog", "a", "b c"])
    assert main() == main(None) == 3 and capsys.readouterr().out == "['a', 'b c']\n" * 2
    assert main(()) == 3 and capsys.readouterr().out == "[]\n"
    for raised, status, said in (
        (KeyboardInterrupt(), 130, "interrupted; the run stays"),
        (OptionError("x"), 2, "error: x"),
    ):
        interrupted = main_of(
            lambda words: words, lambda _, raised=raised: raising(raised)(), "interrupted; the run stays"
        )
        assert interrupted([]) == status and capsys.readouterr().err == f"{said}\n"


# {command: module}
MODULES = {
    "train": ".training.command",
    "data": ".data.command",
    "evaluate": ".evaluation.command",
    "grade": ".grade",
    "compare": ".experiments.compare",
    "report": ".reporting.command",
    "advantages": ".outside.command",
    "simulate": ".experiments.tabular",
    "doctor": ".doctor",
}


@pytest.fixture
def modules(monkeypatch):
    """What was imported and called, instead of it."""
    called = []

    def imported(name, package):
        return SimpleNamespace(main=lambda words: called.append((name, package, words)) or 7)

    monkeypatch.setattr(cli, "import_module", imported)
    return called


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_gets_what_follows_its_name(modules, monkeypatch, name):
    assert cli.main([name, "--help", "--version", name]) == 7
    monkeypatch.setattr("sys.argv", ["lens-openrlhf", name, "a b"])
    assert cli.main() == 7
    module = (MODULES[name], "lens_openrlhf")
    assert modules == [(*module, ["--help", "--version", name]), (*module, ["a b"])]
    assert sorted(MODULES) == sorted(cli.COMMANDS)


def test_an_unknown_command_and_an_interruption_while_one_is_imported(modules, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["trian"])
    assert end.value.code == 2 and "invalid choice: 'trian' (choose from 'train', 'data'," in capsys.readouterr().err
    monkeypatch.setattr(cli, "import_module", lambda *_: raising(KeyboardInterrupt())())
    assert cli.main(["train"]) == 130 and capsys.readouterr() == ("", "interrupted\n")
    assert cli.main([]) == 0
    told = capsys.readouterr().out
    assert told.startswith("usage: lens-openrlhf [-h] [--version] COMMAND\n")
    assert all(f"\n  {name:<10} {text}\n" in told for name, (_, text) in cli.COMMANDS.items())
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"lens-openrlhf {__version__}\n"


def test_what_packages_warn_of_in_every_process_is_not_said(modules, monkeypatch):
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    log = logging.getLogger("bitsandbytes.backends.cpu")
    monkeypatch.setattr(log, "level", logging.NOTSET)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cli.main(["doctor"])
        warnings.warn("The pynvml package is deprecated.", FutureWarning, stacklevel=1)
        warnings.warn("The pynvml package is deprecated.", UserWarning, stacklevel=1)
        warnings.warn("Another package is deprecated.", FutureWarning, stacklevel=1)
    assert [(w.category, str(w.message).split()[0]) for w in caught] == [
        (UserWarning, "The"),
        (FutureWarning, "Another"),
    ]
    assert os.environ["PYTHONWARNINGS"] == "ignore:The pynvml package:FutureWarning"
    assert log.level == logging.ERROR
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    cli.main(["doctor"])
    assert os.environ["PYTHONWARNINGS"] == "error"


def test_a_path_need_not_be_text(modules, monkeypatch, tmp_path):
    """A terminal that knows ASCII alone, and a stream that is none of Python's."""
    with open(tmp_path / "out", "w", encoding="ascii") as out, open(tmp_path / "err", "w", encoding="ascii") as err:
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setattr("sys.stderr", err)
        cli.main(["doctor"])
        print("é \udcff", file=out)
        print("ü", file=err)
    assert ((tmp_path / "out").read_text(), (tmp_path / "err").read_text()) == ("\\xe9 \\udcff\n", "\\xfc\n")
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert cli.main(["doctor"]) == 7


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_refuses_an_option_that_it_does_not_have(name, capsys, own_signals):
    assert cli.main([name, "--no_such_option", "1"]) == 2
    out, error = capsys.readouterr()
    assert not out and error.startswith("error: ") and error.endswith(f"see lens-openrlhf {name} --help\n")
    assert error.count("\n") == 1
