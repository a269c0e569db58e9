r"""The value of a formula, by a route of its own: neither Math-Verify nor its parser has a part in it.

A formula is evaluated in numbers, with random values for its variables; lists, points, intervals, sets and relations
are compared part by part. It reads plain mathematics only, and `read` gives None for the rest, which is never taken for
equal or for unequal.
"""

from __future__ import annotations

import cmath
import math
import random
import re
from collections.abc import Callable
from functools import cache
from typing import Any

POINTS = 3
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?|\.\d+)|(?P<command>\\(?:[a-zA-Z]+|[{}%|]))|(?P<letter>[a-zA-Z])|(?P<sign>[-+*/^_()\[\]{}|!=<>,;%']))"
)
_SILENT = re.compile(r"\\(?:left|right|displaystyle|limits|,|;|!|:| |quad|qquad)(?![a-zA-Z])|(?<!\\)\$|~|\\[()\[\]]")
_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    **{"sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "ln": cmath.log, "exp": cmath.exp},
    **{"sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh, "log": lambda x: cmath.log(x) / math.log(10)},
    **{"arcsin": cmath.asin, "arccos": cmath.acos, "arctan": cmath.atan, "lg": lambda x: cmath.log(x) / math.log(10)},
    **{"cot": lambda x: 1 / cmath.tan(x), "sec": lambda x: 1 / cmath.cos(x), "csc": lambda x: 1 / cmath.sin(x)},
}
_GREEK = frozenset(
    "alpha beta gamma delta epsilon theta lambda mu nu rho sigma tau phi varphi omega Omega Delta".split()
)
_RELATIONS = {
    "=": "=",
    "<": "<",
    ">": ">",
    r"\le": "<=",
    r"\leq": "<=",
    r"\ge": ">=",
    r"\geq": ">=",
    r"\ne": "!=",
    r"\neq": "!=",
}
_OPEN, _CLOSE = ("(", "[", "{", r"\{"), (")", "]", "}", r"\}")


class Unreadable(ValueError):
    """Not the plain mathematics that is read here."""


@cache
def _variable(name: str, point: int) -> complex:
    return complex(random.Random(f"{name} {point}").uniform(0.6, 2.9), 0)


def tokens(text: str) -> list[str]:
    """Raises Unreadable."""
    text = re.sub(r"\\[dtc]frac", r"\\frac", _SILENT.sub(" ", text)).strip()
    found, place = [], 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise Unreadable(text[place : place + 20])
        found.append(match[0].strip())
        place = match.end()
    return found


class _Reader:
    """One expression at one point of the variables."""

    def __init__(self, parts: list[str], point: int) -> None:
        self.parts, self.place, self.point = parts, 0, point

    def next(self) -> str:
        return self.parts[self.place] if self.place < len(self.parts) else ""

    def take(self, wanted: str = "") -> str:
        part = self.next()
        if not part or (wanted and part != wanted):
            raise Unreadable(f"{part!r} for {wanted!r}")
        self.place += 1
        return part

    def sum(self) -> complex:
        total = self.product()
        while self.next() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            total += sign * self.product()
        return total

    def product(self) -> complex:
        if self.next() in ("+", "-"):
            return self.product() if self.take() == "+" else -self.product()
        value = self.power()
        while True:
            if self.next() in ("*", r"\cdot", r"\times"):
                self.take()
                value *= self.power()
            elif self.next() in ("/", r"\div"):
                self.take()
                value /= self.power()
            elif self.begins():
                value *= self.power()
            else:
                return value

    def begins(self) -> bool:
        part = self.next()
        return bool(part) and (
            part in ("(", "[", "{") or part[0].isalnum() or part[0] == "." or (part[0] == "\\" and part[1:].isalpha())
        )

    def power(self) -> complex:
        value = self.base()
        while self.next() in ("^", "!", r"\%", "%"):
            sign = self.take()
            if sign == "!":
                value = complex(math.gamma(value.real + 1))
            elif sign != "^":
                value /= 100
            elif self.parts[self.place : self.place + 1] == [r"\circ"]:
                self.take()
            elif self.parts[self.place : self.place + 3] == ["{", r"\circ", "}"]:
                self.place += 3
            else:
                value = value ** self.argument()
        return value

    def argument(self) -> complex:
        """In braces, or one digit, letter or command, as TeX takes it."""
        part = self.next()
        if part and part[0].isdigit() and len(part) > 1:
            self.parts[self.place : self.place + 1] = [part[0], part[1:]]
        if part == "-":  # 10^-3, which nobody means otherwise
            self.take()
            return -complex(float(self.take()))
        return self.base()

    def base(self) -> complex:
        part = self.take()
        if part[0].isdigit() or part[0] == ".":
            return self.mixed(part)
        if part in ("(", "[", "{"):
            value = self.sum()
            self.take(_CLOSE[_OPEN.index(part)])
            return value
        if part == "|":
            value = self.sum()
            self.take("|")
            return complex(abs(value))
        if part.isalpha():
            return self.letter(part)
        return self.command(part[1:])

    def mixed(self, number: str) -> complex:
        ahead = self.parts[self.place : self.place + 7]
        if number.isdigit() and len(ahead) == 7 and ahead[0] == r"\frac" and ahead[2].isdigit() and ahead[5].isdigit():
            if int(ahead[2]) < int(ahead[5]):
                self.place += 7
                return complex(int(number) + int(ahead[2]) / int(ahead[5]))
        return complex(float(number))

    def letter(self, name: str) -> complex:
        if self.next() == "_":
            self.take()
            start = self.place
            self.argument()
            name += "_" + "".join(self.parts[start : self.place]).strip("{}")
        return {"e": complex(math.e), "i": 1j}.get(name) or _variable(name, self.point)

    def command(self, name: str) -> complex:
        if name == "pi":
            return complex(math.pi)
        if name in _GREEK:
            return self.letter(name)
        if name == "frac":
            above = self.argument()
            return above / self.argument()
        if name == "sqrt":
            degree = complex(2)
            if self.next() == "[":
                self.take()
                degree = self.sum()
                self.take("]")
            inside = self.argument()
            if inside.imag == 0 and inside.real < 0 and degree == 3:
                return complex(-((-inside.real) ** (1 / 3)))
            return inside ** (1 / degree)
        if name in ("mathrm", "text", "operatorname", "mathbf") and self.parts[self.place + 2 : self.place + 3] == [
            "}"
        ]:
            self.take("{")
            value = self.letter(self.take())
            self.take("}")
            return value
        if name in _FUNCTIONS:
            return self.function(name)
        raise Unreadable(name)

    def function(self, name: str) -> complex:
        act, exponent = _FUNCTIONS[name], complex(1)
        if self.next() == "_" and name == "log":
            self.take()
            base = self.argument()
            act = lambda x: cmath.log(x) / cmath.log(base)  # noqa: E731
        if self.next() == "^":
            self.take()
            exponent = self.argument()
            if exponent.real < 0:
                raise Unreadable("inverse function")
        if self.next() in ("(", "[", "{", "|"):
            return act(self.base()) ** exponent
        value = self.power()
        while self.begins() and self.next()[1:] not in _FUNCTIONS and self.next() not in ("(", "["):
            value *= self.power()
        return act(value) ** exponent


def _numbers(parts: list[str]) -> tuple:
    if parts in ([r"\infty"], ["+", r"\infty"]):
        return ("infinity", 1)
    if parts == ["-", r"\infty"]:
        return ("infinity", -1)
    if r"\pm" in parts:
        return ("set", tuple(_numbers([sign if part == r"\pm" else part for part in parts]) for sign in "+-"))
    values = []
    for point in range(POINTS):
        reader = _Reader(list(parts), point)
        try:
            values.append(reader.sum())
        except (ArithmeticError, ValueError, IndexError, RecursionError) as error:
            raise Unreadable(str(error)) from error
        if reader.next():
            raise Unreadable(reader.next())
    if not all(cmath.isfinite(value) for value in values):
        raise Unreadable("no finite value")
    return ("value", tuple(values))


def _split(parts: list[str], at: Any) -> list[list[str]]:
    """At signs outside brackets; the signs stand between as parts of one."""
    depth, found = 0, [[]]
    for part in parts:
        depth += (part in _OPEN) - (part in _CLOSE)
        if depth == 0 and part in at:
            found += [[part], []]
        else:
            found[-1].append(part)
    return found


def _form(parts: list[str]) -> tuple:
    if not parts:
        raise Unreadable("empty")
    pieces = _split(parts, (r"\cup",))
    if len(pieces) > 1:
        return ("union", tuple(_form(piece) for piece in pieces[::2]))
    pieces = _split(parts, (",", ";"))
    if len(pieces) > 1:
        return ("list", tuple(_form(piece) for piece in pieces[::2]))
    pieces = _split(parts, _RELATIONS)
    if len(pieces) > 1:
        sides = [_numbers(piece) for piece in pieces[::2]]
        signs = [_RELATIONS[piece[0]] for piece in pieces[1::2]]
        if all(sign in (">", ">=") for sign in signs):
            sides, signs = sides[::-1], [sign.replace(">", "<") for sign in signs[::-1]]
        return ("relation", tuple(signs), tuple(sides))
    brackets = [len(_split(parts[1:-1], (",",))) > 1, parts[0] in ("(", "["), parts[-1] in (")", "]")]
    depths = [(part in ("(", "[", "{", r"\{")) - (part in (")", "]", "}", r"\}")) for part in parts]
    alone = all(sum(depths[: place + 1]) > 0 for place in range(len(parts) - 1)) and sum(depths) == 0
    if all(brackets) and alone:
        return ("bracketed", parts[0] + parts[-1], tuple(_form(piece) for piece in _split(parts[1:-1], (",",))[::2]))
    if parts[0] == r"\{" and alone:
        return ("set", tuple(_form(piece) for piece in _split(parts[1:-1], (",",))[::2]))
    return _numbers(parts)


def read(text: str) -> tuple | None:
    """A form that `same` compares; None for what is not read here."""
    try:
        return _form(tokens(text))
    except (Unreadable, RecursionError):
        return None


def _close(first: complex, second: complex) -> bool:
    return abs(first - second) <= 1e-9 * max(abs(first), abs(second), 1e-300)


def same(first: tuple, second: tuple) -> bool:
    """Whether two forms from `read` are equal; forms of different kinds are not."""
    if first[0] != second[0]:
        return False
    if first[0] == "infinity":
        return first == second
    if first[0] == "value":
        return all(_close(a, b) for a, b in zip(first[1], second[1], strict=True))
    if first[0] == "relation":
        if first[1] != second[1]:
            return False
        if all(map(same, first[2], second[2])):
            return True
        return first[1] == ("=",) and _proportional(first[2], second[2])
    if first[:-1] != second[:-1] or len(first[-1]) != len(second[-1]):
        return False
    if first[0] in ("set", "union"):
        rest = list(second[-1])
        for part in first[-1]:
            found = next((other for other in rest if same(part, other)), None)
            if found is None:
                return False
            rest.remove(found)
        return True
    return all(map(same, first[-1], second[-1]))


def _proportional(first: tuple, second: tuple) -> bool:
    """Two equations whose sides differ by the same, up to a factor that does not depend on the variables."""
    if any(side[0] != "value" for side in first + second):
        return False
    ours = [a - b for a, b in zip(first[0][1], first[1][1], strict=True)]
    theirs = [a - b for a, b in zip(second[0][1], second[1][1], strict=True)]
    if any(abs(value) < 1e-12 for value in ours + theirs):
        return False
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return all(_close(ratio, ratios[0]) for ratio in ratios)


def near(first: tuple, second: tuple) -> bool:
    """Whether two values are within a hundredth, so that one may be the other one, rounded."""
    if first[0] != "value" or second[0] != "value":
        return False
    return all(abs(a - b) <= 0.01 * max(abs(a), abs(b)) for a, b in zip(first[1], second[1], strict=True))
