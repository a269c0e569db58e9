"""Answers and labels that are meant to do harm: ten kinds, as many of each as one likes, the same every time.

The harm would show: code that runs makes a file, or connects to a port, or sets a variable of the worker's environment.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "LENS_CODE_RAN"
LABEL = "48271"  # no case comes to this


@dataclass(frozen=True)
class Case:
    kind: str
    response: str
    label: str
    correct: bool  # whether the answer is right nevertheless


@dataclass(frozen=True)
class Traps:
    """What code that ran would leave: files in `folder`, connections to `port`, VARIABLE in the worker."""

    folder: Path
    port: int

    def payloads(self, name: str) -> list[str]:
        """Python expressions that spring a trap; `name` is a file's."""
        file = self.folder / name
        return [
            f"__import__('os').system('touch {file}')",
            f'__import__("os").popen("touch {file}").read()',
            f"open('{file}','w').close()",
            f"__import__('pathlib').Path('{file}').touch()",
            f"__import__('subprocess').call(['touch','{file}'])",
            f"__import__('socket').create_connection(('127.0.0.1',{self.port})).close()",
            f"exec(\"open('{file}','w')\")",
            f"eval(compile(\"open('{file}','w')\",'','eval'))",
            f"[c for c in ().__class__.__base__.__subclasses__() if c.__name__=='_wrap_close'][0]"
            f".__init__.__globals__['system']('touch {file}')",
            f"(lambda: open('{file}','w'))()",
            f"__import__('sympy').sympify(\"open('{file}','w')\")",
            f"__import__('os').environ.__setitem__('{VARIABLE}','1')",
        ]


def powers(dice: random.Random, traps: Traps) -> str:
    base, top = dice.randrange(2, 99), dice.randrange(7, 12)
    tower = dice.choice(["**", "^"]).join([str(base)] * dice.randrange(4, 9))
    braces = f"{base}" + "^{9" * top + "}" * top
    return dice.choice(
        [
            tower,
            braces,
            f"10^{{10^{{{top}}}}}",
            rf"\left({base}^{{{10**top}}}\right)^{{{10**top}}}",
            rf"{base}^{{{10**top}!}}",
            rf"2^{{10^{{{top}}}}} - 2^{{10^{{{top}}}}}",
            rf"e^{{e^{{e^{{{top}}}}}}}",
            rf"\sqrt[{base}]{{{base}^{{10^{{{top}}}}}}}",
            rf"\frac{{1}}{{{base}^{{10^{{{top}}}}}}}",
            rf"\log_{{{base}}}{{{base}^{{10^{{{top}}}}}}}",
        ]
    )


def factorials(dice: random.Random, traps: Traps) -> str:
    n = 10 ** dice.randrange(6, 12)
    return dice.choice(
        [
            f"{n}!",
            f"({n}!)!",
            "9" + "!" * dice.randrange(3, 40),
            rf"\binom{{{n}}}{{{n // 2}}}",
            rf"\sum_{{k=1}}^{{{n}}} \frac{{1}}{{k^k}}",
            rf"\prod_{{k=1}}^{{{n}}} (k^2+1)",
            rf"\int_0^1 x^{{{n}}} \sin(x^{{{n}}}) dx",
            rf"\lim_{{x \to 0}} \frac{{x^{{{n}}}!}}{{\sin x}}",
            rf"(x+1)^{{{n}}}",
            rf"(x+y+z+w)^{{{dice.randrange(50, 500)}}} = 1",
        ]
    )


def nesting(dice: random.Random, traps: Traps) -> str:
    depth = dice.choice([10, 50, 200, 1000, 3000])
    opening, closing = dice.choice(
        [
            ("{", "}"),
            ("(", ")"),
            (r"\left(", r"\right)"),
            (r"\frac{1}{1+", "}"),
            (r"\frac{", "}{2}"),
            (r"\sqrt{", "}"),
            (r"\boxed{", "}"),
            (r"\text{", "}"),
            (r"\begin{pmatrix}", r"\end{pmatrix}"),
            ("|", "|"),
            ("x^{", "}"),
            ("-(", ")"),
            (r"\{", r"\}"),
        ]
    )
    closed = dice.choice([depth, depth - 1, depth // 2, 0])
    return opening * depth + "1" + closing * closed


def size(dice: random.Random, traps: Traps) -> str:
    n = dice.choice([1_000, 20_000, 300_000, 1_000_000]) + dice.randrange(100)
    return dice.choice(
        [
            "1" * n,
            "0." + "3" * n,
            "1+" * (n // 2) + "1",
            "x" * n,
            "1," * (n // 2) + "1",
            r"\{" + ",".join(map(str, range(n // 8))) + r"\}",
            " ".join(f"x_{{{i}}}^{i % 90}" for i in range(n // 12)),
            r"\begin{pmatrix}" + r"1 & 2 \\" * (n // 9) + r"\end{pmatrix}",
            "and so on " * (n // 10),
            "€" * n,
        ]
    )


def unicode(dice: random.Random, traps: Traps) -> str:
    number = "".join(dice.choice("0123456789") for _ in range(4))
    wide = number.translate({ord("0") + i: 0xFF10 + i for i in range(10)})
    arabic = number.translate({ord("0") + i: 0x0660 + i for i in range(10)})
    return dice.choice(
        [
            wide,
            arabic,
            "".join(chr(0x1D7CE + int(c)) for c in number),
            f"\u202e{number}\u202c",
            f"\u2067{number}\u2069",
            "\u200b".join(number),
            "\ufeff" + number,
            number + "\u0336" * dice.randrange(1, 2000),
            "\u0430\u0435\u043e" * 20,
            f"{number}\x00{number}",
            "\x00" * dice.randrange(1, 500),
            "\ud800" * dice.randrange(1, 50) + number,
            "\u2028" + number + "\u2029",
            "ﷺ" * dice.randrange(1, 200),
            "½¾①²³" * dice.randrange(1, 50),
            "\U000e0041" * dice.randrange(1, 100) + number,
            "".join(chr(dice.randrange(0x20, 0x3000)) for _ in range(dice.randrange(1, 300))),
        ]
    )


def python(dice: random.Random, traps: Traps) -> str:
    code = dice.choice(traps.payloads(f"ran-{dice.randrange(10**6)}"))
    return dice.choice(
        [
            "{}",
            "({})",
            "1+{}",
            "[{}]",
            "x={}",
            "{}=1",
            r"\text{{{}}}",
            r"\mathrm{{{}}}",
            r"\operatorname{{{}}}",
            r"\frac{{{}}}{{2}}",
            r"\sqrt{{{}}}",
            "lambda: {}",
            "1 if {} else 2",
            "f'{{{}}}'",
            "Integer({})",
            "`{}`",
            "$({})",
            "{{{{{}}}}}",
            "$${}$$",
            r"\({}\)",
            "5\n{}",
            "5;{}",
            "5#\n{}",
            "5,{}",
            "2**{}",
        ]
    ).format(code)


def latex(dice: random.Random, traps: Traps) -> str:
    file = traps.folder / f"ran-{dice.randrange(10**6)}"
    return dice.choice(
        [
            r"\input{/etc/passwd}",
            r"\include{/etc/passwd}",
            r"\lstinputlisting{/etc/passwd}",
            rf"\immediate\write18{{touch {file}}}",
            rf"\write18{{touch {file}}}",
            rf"\input{{|touch {file}}}",
            rf"\newwrite\f\immediate\openout\f={file}\immediate\write\f{{x}}",
            r"\def\a{\a\a}\a",
            r"\loop\iftrue\repeat",
            r"\csname input\endcsname{/etc/passwd}",
            r"\catcode`\{=12 {",
            rf"\directlua{{os.execute('touch {file}')}}",
            rf"\ShellEscape{{touch {file}}}",
            r"\href{javascript:alert(1)}{5}",
            r"\url{file:///etc/passwd}",
            r"\includegraphics{/dev/zero}",
            r"\read16 to\x",
            r"\newcommand{\x}{\x\x}\x",
        ]
    ) + dice.choice(["", " 5", r"\\", "%"])


def control(dice: random.Random, traps: Traps) -> str:
    pieces = (
        "%s%n%x" * dice.randrange(1, 200),
        "{0.__class__.__mro__[1].__subclasses__}",
        "{}" * dice.randrange(1, 200),
        "${jndi:ldap://127.0.0.1/x}",
        "\x1b]0;title\x07\x1b[2J\x1b[1;31m",
        "\x1b]52;c;cm0=\x07",
        "\x1b[?1049h" * dice.randrange(1, 100),
        "\r\r\r\b\b\b\x7f",
        "\x9b31m\x90q",
        "'; DROP TABLE answers; --",
        "<script>alert(1)</script>",
        "../../../../etc/passwd",
        "\\u005f\\u005fimport\\u005f\\u005f",
        "&#x27;&lt;",
        "nan",
        "inf",
        "1e999999999",
        "-0x" + "f" * 300,
        "1_000_000__",
        "1j" * dice.randrange(1, 20),
    )
    return "".join(dice.choice(pieces) for _ in range(dice.randrange(1, 4)))


def regex(dice: random.Random, traps: Traps) -> str:
    """What regular expressions may take long to give up."""
    n = dice.choice([50, 500, 3000]) + dice.randrange(50)
    return dice.choice(
        [
            "final answer is " * (n // 16 + 1),
            "answer: " * (n // 8 + 1),
            "$" * n,
            "$1$ and " * (n // 8 + 1),
            r"\(" * (n // 2),
            r"\boxed{" * (n // 7 + 1),
            " " * n + "x",
            "1 " * (n // 2),
            "1,234" * (n // 5),
            "(" * n + "1",
            "%" * n,
            "1+1*" * (n // 4),
            "-" * n + "1",
            "{" * (n // 2) + r"\frac",
            "\n" * n,
            "a" * n + "!",
            r"\frac" * (n // 5 + 1),
            ("1/" * (n // 2)) + "2",
            r"\\" * (n // 2),
        ]
    )


_PIECES = (
    r"\frac \sqrt \left( \right) \left. \right] \text{ \begin{cases} \end{matrix} \infty \le \pm \cup \in \mathbb{R}"
    r" \int _0 ^1 \sum \overline{ \vec{ \degree \% \$ { } ( ) [ ] | & ~ ^ _ = < > + - * / . , ; : ! ' 0 1 7 99 3.14 x y"
    r" i e \pi \\ \boxed{ \to \mid \emptyset \ldots"
).split()


def broken(dice: random.Random, traps: Traps) -> str:
    return dice.choice(["", " "]).join(dice.choice(_PIECES) for _ in range(dice.randrange(2, 60)))


KINDS: dict[str, Callable[[random.Random, Traps], str]] = {
    make.__name__: make for make in (powers, factorials, nesting, size, unicode, python, latex, control, regex, broken)
}


def cases(kind: str, count: int, traps: Traps) -> list[Case]:
    """`count` cases of a kind: as the boxed answer, without a box, as the label, and before a right answer."""
    found: dict[tuple[str, str], Case] = {}
    for number in range(count):
        dice = random.Random(f"{kind}-{number}")
        while True:
            text = KINDS[kind](dice, traps)
            response, label, correct = {
                0: (text, LABEL, False),
                1: (f"The answer is ${text}$.", LABEL, False),
                2: (r"\boxed{5}", text, False),
                3: (f"{text}\nHence \\boxed{{{LABEL}}}.", LABEL, True),
            }.get(number % 8, (rf"\boxed{{{text}}}", LABEL, False))
            if (response, label) not in found:
                break
        found[response, label] = Case(kind, response, label, correct)
    return list(found.values())
