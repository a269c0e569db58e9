"""Which test runs what: a copy of the package whose every block says that it ran, in whatever process.

A bit a test and block lies in a file that all processes of a test map into their memory, those started with `spawn` or
as a command, too. It is there before a worker gives up its right to write files, and stays when one is killed.
"""

from __future__ import annotations

import ast
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

VARIABLE = "LENS_MUTANTS_HITS"
MODULE = "mutants_hits"
ROWS = 1500  # tests of one file at most; row 0 is its collection
HEADER = 8  # the offset of the row that is being filled

RECORDER = f'''"""Sets the bit of a block for the test that runs."""
import mmap, os

def hit(block):
    pass

_path = os.environ.get({VARIABLE!r})
if _path:
    with open(_path, "r+b") as _file:
        _view = memoryview(mmap.mmap(_file.fileno(), 0))
    _row = _view[:{HEADER}].cast("q")

    def hit(block):
        _view[_row[0] + block] = 1
'''


def suites(statement: ast.AST) -> Iterator[list[ast.stmt]]:
    """The bodies of a statement, a branch of it each."""
    for field in ("body", "orelse", "finalbody"):
        if isinstance(getattr(statement, field, None), list) and getattr(statement, field):
            yield getattr(statement, field)
    for part in [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]:
        yield part.body


class Blocks:
    """Numbers the blocks of a package: the beginning of each body, and what follows a statement that has bodies.

    Every statement gets the attribute `block`.
    """

    def __init__(self, sources: dict[str, str]):
        """sources: text by path."""
        self.trees = {name: ast.parse(text) for name, text in sources.items()}
        self.names: list[set[str]] = []  # what each block mentions
        self.file: list[str] = []
        self.first: dict[str, int] = {}  # of each file
        self.at_import: list[bool] = []
        self.import_time: list[tuple[set[str], set[str]]] = []  # (targets, mentioned) of assignments run at import
        for name, tree in self.trees.items():
            self.first[name] = len(self)
            self._suite(tree.body, name, at_import=True)

    def __len__(self) -> int:
        return len(self.names)

    def _new(self, file: str, at_import: bool) -> int:
        self.names.append(set())
        self.file.append(file)
        self.at_import.append(at_import)
        return len(self.names) - 1

    def _suite(self, body: list[ast.stmt], file: str, at_import: bool) -> None:
        block = self._new(file, at_import)
        for statement in body:
            statement.block = block
            inner = list(suites(statement))
            inside = {id(node) for suite in inner for part in suite for node in ast.walk(part)}
            mentioned = {name for node in ast.walk(statement) if id(node) not in inside for name in _names(node)}
            self.names[block] |= mentioned
            if at_import and isinstance(statement, ast.Assign | ast.AnnAssign):
                self.import_time.append((targets(statement), mentioned))
            function = isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)
            for suite in inner:
                self._suite(suite, file, at_import and not function)
            if inner and not function and not isinstance(statement, ast.ClassDef):
                block = self._new(file, at_import)

    def within(self, blocks: Iterable[int]) -> dict[str, list[int]]:
        """The blocks by file, counted from its first, so that a change of one file leaves those of others."""
        found: dict[str, list[int]] = {}
        for block in blocks:
            name = self.file[block]
            found.setdefault(name, []).append(block - self.first[name])
        return found

    def numbers(self, within: dict[str, list[int]]) -> Iterator[int]:
        """What `within` was given."""
        return (self.first[name] + block for name, blocks in within.items() for block in blocks)

    def readers(self, names: set[str]) -> set[int]:
        """Blocks, run in a call, that mention one of the names, or one that was made of them at import."""
        known, size = set(names), -1
        while len(known) != size:
            size = len(known)
            for made, mentioned in self.import_time:
                if mentioned & known:
                    known |= made
        return {b for b in range(len(self)) if not self.at_import[b] and self.names[b] & known}

    def recording(self, name: str) -> str:
        """The source of one file, with every block saying that it ran."""
        tree = ast.parse(ast.unparse(self.trees[name]))
        _copy_blocks(self.trees[name], tree)
        _plant_hits(tree)
        first = 0
        while first < len(tree.body) and _stays_first(tree.body[first]):
            first += 1
        tree.body.insert(first, ast.parse(f"from {MODULE} import hit as _lens_mutants_hit").body[0])
        return ast.unparse(ast.fix_missing_locations(tree))


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr


def targets(statement: ast.Assign | ast.AnnAssign) -> set[str]:
    found = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return {name for target in found for node in ast.walk(target) for name in _names(node)}


def _copy_blocks(old: ast.AST, new: ast.AST) -> None:
    for before, after in zip(suites(old), suites(new), strict=True):
        for one, other in zip(before, after, strict=True):
            other.block = one.block
            _copy_blocks(one, other)


def _stays_first(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
        return True
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _plant_hits(node: ast.AST) -> None:
    for suite in suites(node):
        planted, last = [], None
        for statement in suite:
            if statement.block != last and not _stays_first(statement):
                planted.append(ast.parse(f"_lens_mutants_hit({statement.block})").body[0])
                last = statement.block
            planted.append(statement)
            _plant_hits(statement)
        suite[:] = planted


class Record:
    """The file of bits, for one file of tests."""

    def __init__(self, path: Path, blocks: int):
        self.path, self.blocks = path, blocks
        with open(path, "wb") as file:
            file.truncate(HEADER + ROWS * blocks)
        self._open()

    def _open(self) -> None:
        with open(self.path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._row = memoryview(self._map)[:HEADER].cast("q")
        self.row(0)

    def row(self, number: int) -> None:
        if number >= ROWS:
            raise ValueError(f"{number} tests in one file: raise ROWS in {__file__}")
        self._row[0] = HEADER + number * self.blocks

    def read(self, rows: int) -> list[list[int]]:
        """The blocks that ran, by row."""
        found = []
        for number in range(rows):
            bits = self._map[HEADER + number * self.blocks : HEADER + (number + 1) * self.blocks]
            found.append([block for block, bit in enumerate(bits) if bit])
        return found

    def remove(self) -> None:
        os.unlink(self.path)
