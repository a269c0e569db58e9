"""Kinds of slip: what can be changed where in a module. Texts for people, annotations and logging stay."""

from __future__ import annotations

import ast
import difflib
import functools
from collections.abc import Iterator
from dataclasses import dataclass

from .blocks import suites, targets

COMPARISONS = {
    **{ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="},
    **{ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in"},
}
ARITHMETIC = {
    **{ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*", ast.Pow: "*"},
    **{ast.BitAnd: "|", ast.BitOr: "&"},
}
OTHER_NAME = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}
OTHER_ATTRIBUTE = {
    "mean": "sum",
    "amax": "amin",
    "amin": "amax",
    "max": "min",
    "min": "max",
    "any": "all",
    "all": "any",
}
# Calls whose arguments are for people.
TELLING = {"print", "complain", "remark", "error", "warn", "warning", "info", "debug", "exception", "critical", "log"}
# Keywords left as they are: texts, and what zip is asked to make sure of.
LEFT = {"help", "description", "epilog", "metavar", "usage", "strict"}


@dataclass(frozen=True)
class Mutant:
    """A change of one module's text.

    Attributes:
        file: path below the root of the project.
        function: qualified name of what it lies in, "" for the module.
        line: 1-based.
        block: of `Blocks`.
        names: what is assigned there, where it runs at import; None where it runs in a call.
        kind: of slip.
        start: offset in bytes of what is replaced, up to `end`.
        new: the text in its place.
    """

    file: str
    function: str
    line: int
    block: int
    names: frozenset[str] | None
    kind: str
    start: int
    end: int
    new: str

    def apply(self, source: str) -> str:
        text = source.encode()
        return (text[: self.start] + self.new.encode() + text[self.end :]).decode()

    def change(self, source: str) -> tuple[str, str]:
        """The lines that go and those that come, without the space around them."""
        lines = list(difflib.unified_diff(source.splitlines(), self.apply(source).splitlines(), n=0, lineterm=""))[3:]
        return tuple("\n".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")

    def sound(self, source: str) -> bool:
        """Whether it parses, and as something else."""
        try:
            changed = ast.parse(self.apply(source))
        except SyntaxError:
            return False
        return ast.dump(changed) != _dumped(source)


@functools.lru_cache(8)
def _dumped(source: str) -> str:
    return ast.dump(ast.parse(source))


class Planter:
    """All mutants of one module."""

    def __init__(self, file: str, source: str, tree: ast.Module):
        """tree: of the same source, numbered by `Blocks`."""
        self.file, self.text = file, source.encode()
        self.arrays = "import torch" in source or "import numpy" in source
        self.lines = [0]
        for line in self.text.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.found: dict[tuple, Mutant] = {}
        self._body(tree, "", at_import=True)

    # where something lies

    def _start(self, node: ast.AST) -> int:
        return self.lines[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.AST) -> int:
        return self.lines[node.end_lineno - 1] + node.end_col_offset

    def _of(self, node: ast.AST) -> str:
        return self.text[self._start(node) : self._end(node)].decode()

    def _add(self, kind: str, node: ast.AST, start: int, end: int, new: str) -> None:
        key = (start, end, new)
        self.found.setdefault(key, Mutant(self.file, *self._place(node), kind, start, end, new))

    def _place(self, node: ast.AST) -> tuple:
        return self.function, node.lineno, self.block, self.names

    def _replace(self, kind: str, node: ast.AST, new: str) -> None:
        self._add(kind, node, self._start(node), self._end(node), new)

    def _drop(self, kind: str, parts: list[ast.AST], index: int) -> None:
        """One of several parts between commas. The key of a dict's entry is a part, too: (key, value)."""
        first, last = parts[index] if isinstance(parts[index], tuple) else (parts[index],) * 2
        start, end = self._start(first), self._end(last)
        if index + 1 < len(parts):
            after = parts[index + 1]
            end = self._start(after[0] if isinstance(after, tuple) else after)
        elif index:
            before = parts[index - 1]
            start = self._end(before[1] if isinstance(before, tuple) else before)
        self._add(kind, first, start, end, "")

    # statements

    def _body(self, node: ast.AST, function: str, at_import: bool) -> None:
        for suite in suites(node):
            for statement in suite:
                self.function, self.block, self.names = function, statement.block, None
                if at_import:
                    assigned = isinstance(statement, ast.Assign | ast.AnnAssign)
                    self.names = frozenset(targets(statement) if assigned else ())
                if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                    self._function(statement, function)
                elif isinstance(statement, ast.ClassDef):
                    self._body(statement, f"{function}.{statement.name}".lstrip("."), at_import)
                else:
                    self._statement(statement, drop=not at_import)
                    self._body(statement, function, at_import)

    def _function(self, node: ast.FunctionDef, function: str) -> None:
        self.function = f"{function}.{node.name}".lstrip(".")
        self.block, self.names = node.body[0].block, None
        for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self._expression(default)
        self._body(node, self.function, at_import=False)

    def _statement(self, node: ast.stmt, drop: bool) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Global | ast.Nonlocal | ast.Pass | ast.Assert):
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        stored = isinstance(node, ast.Assign) and all(
            isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets
        )
        gone = call or stored or isinstance(node, ast.AugAssign | ast.Delete | ast.Raise | ast.Continue | ast.Break)
        if drop and gone and not (call and _called(node.value) in TELLING - {"print"}):
            self._replace("statement dropped", node, "pass")
        if isinstance(node, ast.Raise):
            return
        if isinstance(node, ast.Return):
            if node.value is None:
                self._replace("statement dropped", node, "pass")
            elif not (isinstance(node.value, ast.Constant) and node.value.value is None):
                self._replace("return", node.value, "None")
        if isinstance(node, ast.With) and not any(item.optional_vars for item in node.items):
            self._add("with dropped", node, self._start(node), self._end(node.items[-1].context_expr), "if True")
        if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
            start, end = self._end(node.target), self._start(node.value)
            old = self.text[start:end].decode()
            self._add("arithmetic", node, start, end, f" {ARITHMETIC[type(node.op)]}= " if "\n" not in old else old)
        annotation = getattr(node, "annotation", None)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr) and child is not annotation and not _all_names(node):
                self._expression(child)
            elif isinstance(child, ast.withitem):
                self._expression(child.context_expr)
            elif isinstance(child, ast.match_case) and child.guard:
                self._expression(child.guard)

    # expressions

    def _expression(self, node: ast.AST) -> None:
        if isinstance(node, ast.JoinedStr):  # a text; and Python 3.11 does not know where its parts lie
            return
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method:
            method(node)
        if isinstance(node, ast.Call) and _called(node) in TELLING:
            return
        for child in ast.iter_child_nodes(node):
            if _for_people(child):
                continue
            if isinstance(node, ast.Lambda) and isinstance(child, ast.arguments):
                continue
            if isinstance(child, ast.expr | ast.keyword | ast.comprehension | ast.Slice):
                self._expression(child)

    def _compare(self, node: ast.Compare) -> None:
        parts = [node.left, *node.comparators]
        for left, operator, right in zip(parts, node.ops, parts[1:], strict=False):
            self._between("comparison", left, right, COMPARISONS[type(operator)])

    def _between(self, kind: str, left: ast.AST, right: ast.AST, new: str) -> None:
        """Replace the operator between two operands, parentheses beside it left as they are."""
        start, end = self._end(left), self._start(right)
        between = self.text[start:end].decode()
        head = between[: len(between) - len(between.lstrip(" \n)"))]
        tail = between[len(between.rstrip(" \n(")) :]
        self._add(kind, left, start, end, f"{head}{new}{tail}")

    def _boolop(self, node: ast.BoolOp) -> None:
        new = "or" if isinstance(node.op, ast.And) else "and"
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between("and/or", left, right, new)

    def _unaryop(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub | ast.Invert) and not isinstance(node.operand, ast.Constant):
            self._replace("not or minus dropped", node, f"({self._of(node.operand)})")

    def _binop(self, node: ast.BinOp) -> None:
        texts = any(_is_text(side) for side in (node.left, node.right))
        if type(node.op) in ARITHMETIC and not texts:
            self._between("arithmetic", node.left, node.right, ARITHMETIC[type(node.op)])

    def _constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._replace("constant", node, str(not value))
        elif isinstance(value, int):
            self._replace("constant", node, {0: "1", 1: "0"}.get(value, str(value + 1)))
        elif isinstance(value, float):
            self._replace("constant", node, repr(value * 2 if value else 1.0))
        elif isinstance(value, str) and not any(space in value for space in " \n<"):
            self._replace("constant", node, '""' if value else '"x"')

    def _subscript(self, node: ast.Subscript) -> None:
        cut = node.slice
        if not isinstance(node.ctx, ast.Load):
            return
        if isinstance(cut, ast.Slice):
            for bound in filter(None, (cut.lower, cut.upper)):
                self._replace("slice bound dropped", bound, "")
        elif isinstance(cut, ast.Constant) and isinstance(cut.value, int):
            self._replace("index", cut, str(cut.value + 1))
        elif isinstance(cut, ast.UnaryOp) and isinstance(cut.operand, ast.Constant):
            self._replace("index", cut, f"-{cut.operand.value + 1}" if isinstance(cut.op, ast.USub) else "0")
        elif self.arrays and isinstance(cut, ast.Compare | ast.UnaryOp | ast.BinOp | ast.Name):
            self._add("mask left out", node, self._end(node.value), self._end(node), "")

    def _call(self, node: ast.Call) -> None:
        name = _called(node)
        if name in TELLING:
            return
        self._renamed(node.func)
        given = [*node.args, *node.keywords]
        for index, argument in enumerate(given):
            starred = isinstance(argument, ast.Starred) or (isinstance(argument, ast.keyword) and argument.arg is None)
            if not starred and not _for_people(argument):
                self._drop("argument dropped", given, index)
        for left, right in zip(node.args, node.args[1:], strict=False):
            if not isinstance(left, ast.Starred) and not isinstance(right, ast.Starred) and name not in ("min", "max"):
                between = self.text[self._end(left) : self._start(right)].decode()
                start, end = self._start(left), self._end(right)
                self._add("arguments swapped", left, start, end, self._of(right) + between + self._of(left))
        if name == "sorted" and not any(keyword.arg == "reverse" for keyword in node.keywords):
            self._add("sorted", node, self._end(node) - 1, self._end(node), ", reverse=True)")

    def _renamed(self, function: ast.expr) -> None:
        if isinstance(function, ast.Name) and function.id in OTHER_NAME:
            self._replace("other function", function, OTHER_NAME[function.id])
        elif isinstance(function, ast.Attribute) and function.attr in OTHER_ATTRIBUTE:
            end = self._end(function)
            self._add("other function", function, end - len(function.attr), end, OTHER_ATTRIBUTE[function.attr])

    def _dict(self, node: ast.Dict) -> None:
        pairs = [(key or value, value) for key, value in zip(node.keys, node.values, strict=True)]
        for index, key in enumerate(node.keys):
            if key and len(pairs) > 1:
                self._drop("entry dropped", pairs, index)

    def _sequence(self, node: ast.List | ast.Set | ast.Tuple) -> None:
        named = all(isinstance(part, ast.Constant | ast.Name | ast.Attribute | ast.Tuple) for part in node.elts)
        if isinstance(node.ctx if not isinstance(node, ast.Set) else ast.Load(), ast.Load) and named:
            for index in range(len(node.elts) if len(node.elts) > 2 else 0):
                self._drop("entry dropped", node.elts, index)

    _list = _set = _tuple = _sequence

    def _ifexp(self, node: ast.IfExp) -> None:
        self._replace("branch", node, f"({self._of(node.body)})")
        self._replace("branch", node, f"({self._of(node.orelse)})")

    def _comprehension(self, node: ast.comprehension) -> None:
        for condition in node.ifs:
            self._replace("filter dropped", condition, "True")


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _for_people(node: ast.AST) -> bool:
    if isinstance(node, ast.keyword):
        return node.arg in LEFT
    return isinstance(node, ast.JoinedStr) or (_is_text(node) and " " in node.value)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _all_names(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets)


def plant(file: str, source: str, tree: ast.Module) -> Iterator[Mutant]:
    return iter(Planter(file, source, tree).found.values())
