r"""Writings that are brought to others which Math-Verify reads, wherever they stand in a formula.

Math-Verify 0.9.0 takes LaTeX apart well, but reads some common writings as something else (`3.89e-10` as 3.89·e - 10,
`12\,000` as a product, `90°` not at all). Each rule mends one kind of writing, for answer and label alike;
docs/grading.md has their reasons and sources. No rule computes, but for repeating decimals, which LaTeX cannot say
otherwise.

A rule looks at a bounded surrounding of each character, so that a text takes time in its length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction

Rule = Callable[[str], str]

_SYMBOLS = str.maketrans(
    {
        **dict.fromkeys("−‐‑‒﹣－", "-"),
        **dict.fromkeys(
            "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "
        ),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
        **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ", "±": r"\pm ", "∓": r"\mp "},
        **{"≤": r"\leq ", "≥": r"\geq ", "⩽": r"\leq ", "⩾": r"\geq ", "≠": r"\neq ", "≈": r"\approx "},
        **{"∞": r"\infty ", "∅": r"\emptyset ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "°": r"^{\circ}"},
        **{"π": r"\pi ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "θ": r"\theta ", "λ": r"\lambda "},
        **{"ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}"},
        **{"′": "'", "’": "'", "％": r"\%", "⁄": "/", "✓": "", "✔": ""},
    }
)
PLAIN_SYMBOLS = {char: form for char, form in _SYMBOLS.items() if form in ("-", " ", "")}
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-", strict=True))
VULGAR = {char: unicodedata.normalize("NFKC", char).split("⁄") for char in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"}


def _raised(mark: str, digits: dict[str, str]) -> Rule:
    run = re.compile(f"[{''.join(digits)}]+")
    return lambda text: run.sub(lambda m: f"{mark}{{{''.join(digits[c] for c in m[0])}}}", text)


def _replace(pattern: str, replacement: str | Callable[[re.Match], str]) -> Rule:
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(replacement, text)


def _symbols(text: str) -> str:
    """Signs from outside ASCII, full-width forms and fractions that are one character."""
    if text.isascii():
        return text
    text = re.sub(r"[\uff01-\uff5e]", lambda m: chr(ord(m[0]) - 0xFEE0), text.translate(_SYMBOLS))
    text = re.sub(f"[{''.join(VULGAR)}]", lambda m: r"\frac{{{}}}{{{}}}".format(*VULGAR[m[0]]), text)
    text = re.sub(r"√\s*\(([^()]{1,50})\)", r"\\sqrt{\1}", text)
    return re.sub(r"√\s*(\d+|[A-Za-z]|(?=[({]))", lambda m: rf"\sqrt{{{m[1]}}}" if m[1] else r"\sqrt", text)


_GAP = r"(?:\\[,;:!>]|\{,\}|,(?:\\!)?|(?<=\d)\\ |[ ~'_]|\\thinspace\s?)"
_THOUSANDS = re.compile(
    rf"\\[()\[\]]|(?P<open>\\\{{|[(\[])|(?P<close>\\\}}|[)\]])"
    rf"|(?<![\d.,\\])[1-9]\d{{0,2}}(?:{_GAP}\d{{3}})+(?!\d|{_GAP}\d)"
)


def joined_thousands(text: str) -> str:
    """12,000 as 12000; but within brackets, and behind what is no sign, a comma alone is between two numbers."""
    depth = 0

    def joined(match: re.Match) -> str:
        nonlocal depth
        depth += bool(match["open"]) - bool(match["close"])
        token = match[0]
        listed = depth > 0 or re.search(r"[A-Za-z}]\s?\Z", text[max(0, match.start() - 2) : match.start()])
        if not token[0].isdigit() or (listed and re.search(r"\d,\d", token)):
            return token
        return re.sub(r"\D", "", token)

    return _THOUSANDS.sub(joined, text)


_MAX_PERIOD = 40


def _repeating(match: re.Match) -> str:
    """0.1\\overline{6} as a fraction: the digits with the period, less those before it, over nines and zeros."""
    whole, before = match["whole"] or "0", match["before"] or ""
    period = re.sub(r"\D", "", match["period"])
    if not period or len(period) + len(before) > _MAX_PERIOD:
        return match[0]
    number = Fraction(int(whole + before + period) - int(whole + before), (10 ** len(period) - 1) * 10 ** len(before))
    return rf"\frac{{{number.numerator}}}{{{number.denominator}}}"


_WORD = r"(?:mathrm|rm|operatorname|mathop|text|textrm|mbox|mathit)"

_POWERS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}


def _upright(match: re.Match) -> str:
    return f"{match[1]}{{{match[2]}}}" if match[1] else f" {match[2]} "


def _mixed(match: re.Match) -> str:
    whole, numerator, denominator = int(match[1]), int(match[2] or match[4]), int(match[3] or match[5])
    if not 0 < numerator < denominator or not whole:
        return match[0]
    return rf"\frac{{{whole * denominator + numerator}}}{{{denominator}}}"


def _binomial(match: re.Match) -> str:
    n, k = int(match[1]), int(match[2])
    return rf"\binom{{{n}}}{{{k}}}" if n > k > 0 else match[0]  # C_1^2 is the square of C_1


# What is safe to bring to another form anywhere, in prose too.
ANYWHERE: tuple[Rule, ...] = (
    _symbols,
    _raised("^", _SUPERSCRIPTS),
    _raised("_", _SUBSCRIPTS),
    # \mathrm{i}, \mathrm{e}, {\rm i}: the constants, set upright as ISO 80000-2 has them.
    _replace(rf"([_^]?)\\{_WORD}\s?\{{\s?(i|e|\\pi)\s?\}}", _upright),
    _replace(r"([_^]?)\{\s?\\rm\s+(i|e)\s?\}", _upright),
    # An imaginary unit behind a number: Math-Verify takes an i for one only where no letter or digit touches it.
    _replace(r"(?<=[\d})])i(?![A-Za-z])", " i "),
    # An en dash is a minus where nothing stands before it; between numbers it may be a range.
    _replace(r"(?:(?<=[(\[{,=*/+$])|(?<=[(\[{,=*/+$]\s)|^\s?)[–—](?=\s?[\d\\a-zA-Z.(])", "-"),
    # 2 1/2: a mixed number, not a product.
    _replace(
        r"(?<![\d./\\^_{])(\d{1,9})(?:\s+|\\[ ,]\s*)([1-9]\d{0,8})\s?/\s?(\d{1,9})(?![\d/.]\d)",
        lambda m: rf"{m[1]}\frac{{{m[2]}}}{{{m[3]}}}" if int(m[2]) < int(m[3]) else m[0],
    ),
    # 1\frac12x: Math-Verify knows mixed numbers only where nothing follows.
    _replace(
        r"(?<![\d.^_{])(\d{1,9})\s?\\[dt]?frac\s?(?:\{(\d{1,9})\}\s?\{(\d{1,9})\}|(\d)(\d))"
        r"(?=\s?(?:[A-Za-z]|\\(?:pi|sqrt)(?![a-z])))",
        _mixed,
    ),
    # Marks between thousands: 12\,000, 12{,}000, 12 000, 12'000. Groups of three and no leading zero.
    joined_thousands,
    _replace(r"(?<![\d.,])[1-9]\d{0,2}(?:\.\d{3}){2,6}(?![\d.,])", lambda m: m[0].replace(".", "")),
    _replace(r"(?<=\d)\{,\}(?=\d)", "."),  # otherwise a decimal comma
    # 0.\overline{6}, 0.\dot{6}, 0.\dot{1}4285\dot{7}, 0.(6).
    _replace(
        r"(?<![\d.])(?P<whole>\d{0,15})\.(?P<before>\d{0,15})"
        r"(?P<period>\\(?:overline|bar|dot)\s*\{?\d{1,40}\}?(?:\d{0,40}\\dot\s*\{?\d\}?)?|\(\d{1,40}\))",
        _repeating,
    ),
    # 3.89e-10, as programs write it. `2e` alone and `2e^3` stay.
    _replace(
        r"(?<![A-Za-z\d.\\])(\d{1,30}(?:\.\d{1,30})?|\.\d{1,30})[eE]([+-]?)0*(\d{1,4})(?![\dA-Za-z.^])",
        lambda m: rf"{m[1]} \times 10^{{{m[2].replace('+', '')}{m[3]}}}",
    ),
    _replace(r"(?<=\d)\s*[xX*]\s*10\s*\^", r" \\times 10^"),
    # 10^-3 and 10^12: TeX raises one character only, and nobody means that.
    _replace(r"\^\s*(-\s*\d+|\d{2,})", r"^{\1}"),
    _replace(r"\\varnothing|\\O(?![A-Za-z])", r"\\emptyset"),
    _replace(r"\\lg(?![A-Za-z])", r"\\log_{10}"),
    _replace(r"\\log_\s?(?:e(?![A-Za-z])|\{\s?e\s?\})", r"\\ln "),
    # Colours and lines say nothing; a line break in a matrix may have a height.
    _replace(r"\\(?:text)?color\s?\{\s?[A-Za-z]{1,20}\s?\}\s?|\\underline\s?(?=\{)", ""),
    _replace(r"\\\\\[-?\d{1,3}(?:\.\d{1,3})?\s?(?:pt|em|ex|mm|cm)\]", r"\\\\"),
    _replace(r"\\mathbb\s?([A-Z])(?![A-Za-z])", r"\\mathbb{\1}"),
    _replace(r"\\sqrt\s?\[(\d{1,2})\]\s?(\d|[a-z](?![a-z]))", r"\\sqrt[\1]{\2}"),
    _replace(r"\s?\\checkmark(?![a-z])|\b(?:USD|EUR|Rs\.?)\s?(?=\d)", ""),
    _replace(r"\\(leq|geq)slant(?![A-Za-z])", r"\\\1"),
    _replace(r"\^?\s?\{?\s?\\degree(?![A-Za-z])\s?\}?", r"^{\\circ}"),
    # \cos 20^\circ: Math-Verify drops the degrees, and takes 20 radians.
    _replace(
        r"\\(sin|cos|tan|cot|sec|csc)\s?(?:\(|\\left\()?\s?(\d{1,4})\s?\^\s?\{?\s?\\circ\s?\}?(?:\s?(?:\)|\\right\)))?",
        r"\\\1{\\frac{\2\\pi}{180}}",
    ),
    # \mathbf{5} and \text{5} are numbers, not names.
    _replace(r"\\(?:math(?:bf|rm|it)|text(?:bf|rm|it)?|boldsymbol|bm|mbox)\s?\{([-+\d.,\s/]{1,50})\}", r"\1"),
    # 2 million: a power of ten, not a unit.
    _replace(
        r"(?<=[\d}])(?:\\ |~|\s)?(?:\\text\s?\{\s?(thousand|million|billion|trillion)"
        r"(?:\s?\}|\s(?=[a-z]))|(thousand|million|billion|trillion)(?![a-z]))",
        lambda m: rf" \times 10^{{{_POWERS[m[1] or m[2]]}}}" + ("" if m[2] or m[0].endswith("}") else r"\text{ "),
    ),
    # Per cent in words, which is dropped as a unit where the number is not whole.
    _replace(r"(?:\\ |\\,|~|\s)?\\text\s?\{\s?(?:percent|per cent|pct)\.?\s?\}|\s?\bper\s?cent\b", r"\\%"),
    _replace(r"(?:\\[ ,;]|~|\s)+(?=\\?%)", ""),
    # Combinations as C_{10}^{3} and {}_{10}C_{3}.
    _replace(r"(?<![A-Za-z])C_\s?\{?(\d{1,4})\}?\s?\^\s?\{?(\d{1,4})\}?", _binomial),
    _replace(r"(?:\{\})?_\s?\{?(\d{1,4})\}?\s?C_\s?\{?(\d{1,4})\}?", r"\\binom{\1}{\2}"),
    _replace(r"[€£¥₹₽₩](?=\s?\d)|(?<=\d)\s?[€£¥₹₽₩]", ""),
)


def anywhere(text: str) -> str:
    """A text with formulas in it, in writings that Math-Verify reads."""
    for rule in ANYWHERE:
        text = rule(text)
    return text
