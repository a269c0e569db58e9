"""OpenRLHF's command line, run as it stands and without what it trains with.

OpenRLHF keeps its parser and checks under `if __name__ == "__main__"` of openrlhf.cli.train_ppo_ray, a module that
imports Ray, DeepSpeed and vLLM first: seconds, before a misspelt option is refused. Here the block is taken from the
module's source and run up to its last statement, `train(args)`, with nothing imported but what its statements name.
tests/training/test_contract.py holds what is relied on.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

MODULE = "openrlhf.cli.train_ppo_ray"
# The one module of OpenRLHF's that the block imports. Its package imports DeepSpeed; itself it needs nothing.
HELPER = "openrlhf.utils.config"


def source() -> Path:
    """The file of OpenRLHF's command."""
    spec = importlib.util.find_spec(MODULE)  # imports openrlhf and openrlhf.cli, which are empty
    assert spec and spec.origin
    return Path(spec.origin)


def main_block() -> ast.Module:
    """The statements under `if __name__ == "__main__"` but for the last, `train(args)`, behind those imports of the
    module that they use. They read `argparse`, which whoever runs them provides, and leave `args`.

    Raises:
        RuntimeError: OpenRLHF has changed.
    """
    body = ast.parse(source().read_text()).body
    blocks = [n for n in body if isinstance(n, ast.If) and ast.unparse(n.test) == "__name__ == '__main__'"]
    if len(blocks) != 1 or ast.unparse(blocks[0].body[-1]) != "train(args)":
        raise RuntimeError(f"{MODULE} has changed: expected one `if __name__ == '__main__'` that ends in train(args)")
    block = blocks[0].body[:-1]
    used = {node.id for statement in block for node in ast.walk(statement) if isinstance(node, ast.Name)}
    used.remove("argparse")
    imports = [n for n in body if isinstance(n, ast.Import | ast.ImportFrom) and used & _bound(n)]
    return ast.Module(body=imports + block, type_ignores=[])


def _bound(statement: ast.Import | ast.ImportFrom) -> set[str]:
    return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """Inside, a module can be imported without its package, whose `__init__` is what takes long."""
    if name in sys.modules:
        yield
        return
    file = source().parents[1].joinpath(*name.split(".")[1:]).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        yield
    finally:
        del sys.modules[name]


def parse(parser: Callable[[], object]) -> SimpleNamespace:
    """OpenRLHF's nested arguments, of the command line that `parser` knows.

    Args:
        parser: stands in for argparse.ArgumentParser in the block.

    Raises:
        AssertionError: what OpenRLHF refuses.
        RuntimeError: OpenRLHF has changed.
    """
    code = compile(main_block(), str(source()), "exec")
    namespace = {"argparse": SimpleNamespace(ArgumentParser=parser)}
    with _alone(HELPER):
        exec(code, namespace)
    return namespace["args"]
