"""OpenRLHF's command, taken from its source and run without what it trains with."""

from __future__ import annotations

import argparse
import ast
import sys
from types import SimpleNamespace

import pytest

from lens_openrlhf.training.commandline import openrlhf_command

SOURCE = """
import argparse
import os, heavy.part, json as j
from light import one, two as three
from unused import other

def train(args):
    heavy.go()

if __name__ != "__main__":
    pass

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    args = one(parser, j)
    args.more = three
    train(args)
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """command(text) makes that OpenRLHF's command."""

    def put(text: str) -> None:
        (tmp_path / "command.py").write_text(text)
        monkeypatch.setattr(openrlhf_command, "source", lambda: tmp_path / "command.py")

    return put


def test_the_block_is_taken_with_the_imports_that_it_uses(command):
    command(SOURCE)
    assert ast.unparse(openrlhf_command.main_block()).splitlines() == [
        "import os, heavy.part, json as j",
        "from light import one, two as three",
        "parser = argparse.ArgumentParser()",
        "args = one(parser, j)",
        "args.more = three",
    ]
    command(SOURCE.replace("one(parser, j)", "heavy(parser)").replace("three\n    train", "4\n    train"))
    assert ast.unparse(openrlhf_command.main_block()).splitlines() == [
        "import os, heavy.part, json as j",
        "parser = argparse.ArgumentParser()",
        "args = heavy(parser)",
        "args.more = 4",
    ]


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("train(args)\n", "train(args)\n    print(args)\n"),
        ("    train(args)\n", "    train(args, 1)\n"),
        ('if __name__ == "__main__"', "if True"),
        ("def train(args):\n    heavy.go()\n", 'if __name__ == "__main__":\n    train(args)\n'),
    ],
)
def test_another_command_is_not_run(command, was, becomes):
    assert was in SOURCE
    command(SOURCE.replace(was, becomes))
    with pytest.raises(RuntimeError, match="^openrlhf.cli.train_ppo_ray has changed: expected one `if __name__"):
        openrlhf_command.main_block()


def test_its_helper_is_loaded_alone_and_not_kept(monkeypatch):
    monkeypatch.delitem(sys.modules, openrlhf_command.HELPER, raising=False)

    class Stop(Exception):
        pass

    def parser():
        module = sys.modules[openrlhf_command.HELPER]
        assert module.__file__.endswith("openrlhf/utils/config.py")
        raise Stop

    with pytest.raises(Stop):
        openrlhf_command.parse(parser)
    assert openrlhf_command.HELPER not in sys.modules
    own = SimpleNamespace()
    monkeypatch.setitem(sys.modules, openrlhf_command.HELPER, own)
    monkeypatch.setattr(openrlhf_command, "main_block", lambda: ast.parse("args = 3"))
    assert openrlhf_command.parse(argparse.ArgumentParser) == 3
    assert sys.modules[openrlhf_command.HELPER] is own
