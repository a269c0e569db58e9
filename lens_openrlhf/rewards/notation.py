r"""How answers and labels are written, brought to what Math-Verify reads.

Math-Verify 0.9.0 takes LaTeX apart well, but reads some common writings as something else (`3.89e-10` as 3.89·e - 10,
`12\,000` as a product, `90°` not at all), and its list of units takes variables away (`2+3d` becomes 5). Each rule
mends one kind of writing, for answer and label alike; docs/grading.md has their reasons and sources. No rule computes,
but for repeating decimals, which LaTeX cannot say otherwise.

A rule looks at a bounded surrounding of each character, so that a text takes time in its length.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

Rule = Callable[[str], str]

# Longer than any answer that a person writes. What is longer is handed over as it is.
MAX_CHARS = 2_000

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
_PLAIN_SYMBOLS = {char: form for char, form in _SYMBOLS.items() if form in ("-", " ", "")}
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-", strict=True))
_VULGAR = {char: unicodedata.normalize("NFKC", char).split("⁄") for char in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"}


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
    text = re.sub(f"[{''.join(_VULGAR)}]", lambda m: r"\frac{{{}}}{{{}}}".format(*_VULGAR[m[0]]), text)
    text = re.sub(r"√\s*\(([^()]{1,50})\)", r"\\sqrt{\1}", text)
    return re.sub(r"√\s*(\d+|[A-Za-z]|(?=[({]))", lambda m: rf"\sqrt{{{m[1]}}}" if m[1] else r"\sqrt", text)


_GAP = r"(?:\\[,;:!>]|\{,\}|,(?:\\!)?|(?<=\d)\\ |[ ~'_]|\\thinspace\s?)"
_THOUSANDS = re.compile(
    rf"\\[()\[\]]|(?P<open>\\\{{|[(\[])|(?P<close>\\\}}|[)\]])"
    rf"|(?<![\d.,\\])[1-9]\d{{0,2}}(?:{_GAP}\d{{3}})+(?!\d|{_GAP}\d)"
)


def _joined_thousands(text: str) -> str:
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
    _joined_thousands,
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

_UNITS = (
    "mm|cm|dm|km|nm|ft|feet|foot|in|inch|inches|yd|yards?|miles?|mph|kmph|kph|km/h|m/s|m/s\\^2|km/hr|mg|kg|lbs?|oz|"
    "grams?|pounds?|ounces?|tons?|ml|mL|liters?|litres?|gallons?|quarts?|cups?|hrs?|hours?|mins?|minutes?|secs?|"
    "seconds?|days?|weeks?|months?|years?|dollars?|cents?|rupees?|yuan|euros?|USD|Rs\\.?|degrees?|deg|radians?|rad|units?|"
    "meters?|metres?|centimeters?|centimetres?|kilometers?|kilometres?|Hz|Pa|kPa|kJ|kW|mol|percent|points?|people|"
    "students?|times|ways"
)
_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log exp sqrt max min lim mod gcd lcm det".split()
)
_POWER = r"(?:\s?\^\s?\{?[23]\}?)?"
_NUMBER = (
    r"-?(?:\d[\d,.]*|\.\d+|\d*\s?\\[dt]?frac\s?(?:\{-?\d+\}\{\d+\}|\d\d)|\d+\s?/\s?\d+)"
    r"(?:\s?\\?times\s?10\^\{?-?\d+\}?)?"
)
_PLAIN_UNIT = re.compile(
    rf"(?P<number>{_NUMBER})(?:"
    rf"(?:\s|\\[,; ]|~)*(?:(?:square|cubic|sq\.?|cu\.?)\s+)?(?:{_UNITS})(?![A-Za-z]){_POWER}"
    # A unit of one letter only where it stands apart from a mere number: 2h is a product.
    rf"|(?:\s|\\[,; ]|~)+(?:[mgshlLNJWVAK]{_POWER})"
    r"|(?:\s|\\[ ]|~)+(?P<words>[A-Za-z]{4,20}(?:\s+[A-Za-z]{2,20}){0,4})"
    r")\.?"
)
_UPRIGHT_UNIT = re.compile(
    r"(?:\s|\\[,;! ]|~){0,4}\\(?:text|mbox|mathrm|textrm|rm|textit|operatorname)\s?"
    r"\{(?P<text>[^{}$\\]{0,80})\}\s?(?:\^\s?(?:\{\s?-?\d\s?\}|\d))?\Z"
)
# Words that say more than the unit of a value: without them 10 a.m. were 10 p.m.
_MEANING = frozenset(
    "is are was if when where for or and not no nor but else odd even mod modulo am pm a.m p.m noon midnight more less "
    "greater smaller larger than least most up down left right north south east west above below increase decrease "
    "gain loss profit bc ad bce ce to from between only all any each with without dozen hundred thousand million "
    "billion trillion base pi percent plus minus over squared cubed half halves third thirds fourths fifth fifths "
    "sixths sevenths eighths ninths tenth tenths hundredths thousandths one two three four five six seven eight nine "
    "ten eleven twelve twenty thirty forty fifty alpha beta gamma delta theta lambda mu omega phi psi sigma tau "
    "factorial choose root roots remainder".split()
)
_ORDINAL = re.compile(r"(?<=\d)\s?(?:\^\s?\{?\s?)?(?:\\(?:text|mathrm|textrm)\s?\{\s?)?(?:st|nd|rd|th)\s?\}{0,2}\Z")
_NAME = re.compile(
    r"(?:[A-Z][a-z]{2,20}|[a-z]{2,20}\s[a-z]{2,20}|yes|no|true|false|none|odd|even|never|always)(?:\s[a-zA-Z]{1,20}){0,10}"
)
_WORD_ALONE = re.compile(r"(?=[a-z]{0,19}[aeiou])[a-z]{4,20}")
_NO_WORDS = _FUNCTIONS | frozenset("infty infinity alpha beta gamma delta theta lambda omega sigma".split())
# The numbers of statements, as \textcircled{1} or as one character.
_CIRCLED = re.compile(r"(?:(?:\\textcircled\s?\{?\d{1,2}\}?|[①-⑳])[\s,、]{0,3}){1,20}")
_POINT_WITHOUT_DIGITS = re.compile(r"(?<=\d)\.(?=\s?[-+*/^)])")  # 1./3
# Two readings, 2·10^-3 and 2e - 3.
_AMBIGUOUS = re.compile(r"(?<![\w.\\}])(?!1e)\d{1,20}e[+-]\d(?![\w.])")
_STOP_IN_TEXT = re.compile(r"(\\text\s?\{[^{}]{0,200}[a-z]{3})\.\}\Z")
_OMEGA, _MU = (re.compile(rf"(?<=\d)(?:\s|\\[,;! ]|~){{1,4}}\\{name}\s?\Z") for name in ("Omega", "mu"))
_TEMPERATURE = re.compile(r"\^\s?\{?\s?\\(?:circ|degree)\s?\}?\s?(?:[CF]|\\(?:text|mathrm)\{\s?[CF]\s?\})$")
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"), ("“", "”"))
_ENDS = re.compile(r"(?:\s|\\\\|\\[,;:! ]|~|(?<![.\d])\.|(?<=\d)\.(?!\d)|[,;:。，；])\Z")
_SPACES_BEFORE = re.compile(
    r"^(?:\s|\\[,;:! ]|~|=|\\displaystyle(?![a-z])"
    r"|(?i:the\s)?(?i:solution|answer)s?\s(?:is|are)(?:\s?:|\s(?=[$\\\d(\[])))+"
)
_LETTERS = re.compile(r"[A-Z](?:[A-Z]{1,25}|(?:\s?:\s?[A-Z]){1,9})")
_CHAIN = re.compile(r">|\\gt(?![a-z])|\\geq?(?![a-z])")
_ALL_UPRIGHT = re.compile(r"\\(?:text|mbox)\s?\{\s?(-?\d[^{}$\\]{1,80})\}")  # \text{5 apples}
_RELATION = r"(?:<|>|\\[lg](?:eq?|t)(?![a-z]))"
_IN_RELATION = r"(?:[^{}|,;]|\{\d{1,9}\}|\\text\{ ?or ?\})"
_SET_OF_ALL = re.compile(  # \{x | x > 3\} is the relation
    rf"\\\{{\s?([a-z])(?:\s?\\in\s?\\mathbb\{{R\}})?\s?(?:\||:|\\mid(?![a-z]))\s?"
    rf"(?P<relation>{_IN_RELATION}{{0,60}}{_RELATION}{_IN_RELATION}{{1,60}})\\\}}"
)
_RATIO = re.compile(r"\d{1,9}(?:\s?:\s?\d{1,9}){2,9}")
_OR = re.compile(
    rf"(?P<name>[a-z])\s?(?P<first>{_RELATION})\s?(?P<a>[^<>=,;|]{{1,40}}?)\s?"
    r"(?:\\(?:text|mbox|mathrm)\s?\{\s?or\s?\}|\\ or\\ |\bor\b)\s?"
    rf"(?P=name)\s?(?P<second>{_RELATION})\s?(?P<b>[^<>=,;|]{{1,40}})"
)
_VARIABLE = re.compile(r"[A-Za-z]\s?=\s?(?=[-.\d\\])")
_PLAIN = re.compile(r"-?(?:0|[1-9]\d{0,17})(?:\.\d{1,5})?")  # most answers: nothing to do
_BETWEEN_DOLLARS = re.compile(r"\$([^$]*)\$")


def undelimited(text: str) -> str:
    """Without formula delimiters or emphasis around all of it, white space, and punctuation at its end."""
    while True:
        before, text = text, _SPACES_BEFORE.sub("", text)
        end = len(text)
        while found := _ENDS.search(text, max(0, end - 3), end):
            end = found.start()
        text = text[:end]
        for start, end in _DELIMITERS:
            inner = text[len(start) : len(text) - len(end)]
            if text.startswith(start) and text.endswith(end) and len(text) > len(start + end) and start not in inner:
                text = inner
                break
        if text == before:
            return text


def _split_unit(text: str) -> tuple[str, str]:
    """A value, and what was behind it: a unit or words behind a number, upright text behind any value."""
    found = _PLAIN_UNIT.fullmatch(text)
    if found and not (found["words"] and (_FUNCTIONS | _MEANING) & set(found["words"].lower().split())):
        return found["number"], text[found.end("number") :]
    full = text = _ORDINAL.sub("", _TEMPERATURE.sub(r"^{\\circ}", text))
    for _ in range(4):  # \text{ m}/\text{s}
        found = _UPRIGHT_UNIT.search(text)
        if not found or not _is_unit(found["text"]):
            break
        rest = re.sub(r"(?:/|\\cdot)\s?\Z", "", text[: found.start()].rstrip())
        if not _is_value(rest):
            break
        text = rest
    # \Omega alone, or \mu before what is a unit already.
    symbol = _OMEGA.search(text) if text == full else _MU.search(text)
    text = text[: symbol.start()] if symbol else text
    return text, full[len(text) :]


def _is_unit(text: str) -> bool:
    words = {word.strip(".").lower() for word in re.findall(r"[A-Za-z.]+", text)}
    text = re.sub(r"\^\s?-?[1-4](?!\d)|\A\s?\(([A-Za-z ]+)\)\s?\Z", r"\1", text)  # m/s^2, (apples)
    return not words & _MEANING and not re.search(r"[\d(=<>]", text)


def _is_value(text: str) -> bool:
    """Something with a size, which the upright text behind it is no index or exponent of."""
    return re.search(r"\d|\\pi|\\sqrt|[a-zA-Z]\s?\Z", text) is not None and text[-1] not in "_^{(\\=<>,;:+-*/"


def _upwards(text: str) -> str:
    """A>B>C as C<B<A, as Math-Verify compares chains link by link."""
    links = _CHAIN.split(text)
    if (
        len(links) < 3
        or re.search(r"[{}|,;]", text)
        or "<" in text
        or r"\le" in text
        or any(not 0 < len(link.strip()) <= 30 for link in links)
    ):
        return text
    signs = [r"\leq " if "e" in sign else "<" for sign in _CHAIN.findall(text)]
    parts = [links[-1]]
    for link, sign in zip(reversed(links[:-1]), reversed(signs), strict=True):
        parts += [sign, link]
    return "".join(parts)


def _ratio(text: str) -> str:
    """2:4:6 as the point (1, 2, 3), where Math-Verify divides; a ratio of two is a fraction."""
    if not _RATIO.fullmatch(text):
        return text
    terms = [int(term) for term in text.split(":")]
    divisor = math.gcd(*terms)
    return f"({', '.join(str(term // divisor) for term in terms)})"


def _union(text: str) -> str:
    """x<1 or x>2 as a union of intervals."""
    found = _OR.fullmatch(text)
    if not found:
        return text
    parts = []
    for sign, end in ((found["first"], found["a"]), (found["second"], found["b"])):
        closed = sign[0] == "\\" and "e" in sign
        below, above = ("", "]" if closed else ")"), ("[" if closed else "(", "")
        if sign[0] == "<" or sign.startswith(r"\l"):
            parts.append(rf"(-\infty,{end}{below[1]}")
        else:
            parts.append(rf"{above[0]}{end},\infty)")
    return r"\cup".join(parts)


def ambiguous(text: str) -> str | None:
    """The part of a label that has two readings, None where there is none."""
    found = _AMBIGUOUS.search(text)
    return found and found[0]


def anywhere(text: str) -> str:
    """A text with formulas in it, in writings that Math-Verify reads."""
    for rule in ANYWHERE:
        text = rule(text)
    return text


# A formula: nothing between its delimiters ends it early.
FORMULA = re.compile(
    r"(\$\$[^$]{1,1000}\$\$|\$[^$]{1,1000}\$|\\\((?:[^\\]|\\(?!\))){0,400}\\\)|\\\[(?:[^\\]|\\(?!\])){0,400}\\\])"
)
# Numbers that stand in prose without being a formula, and are none for Math-Verify: 2 1/2, 3.89e-10, ½, 0.\overline{6}.
_NUMBER_IN_PROSE = re.compile(
    r"(?<![\w.,^/\\])-?(?:\d{1,9}\s+\d{1,9}/\d{1,9}|(?:\d{1,30}(?:\.\d{1,30})?|\.\d{1,30})(?:[eE][+-]?\d{1,4}|\s*[×x*]\s*10\s*\^\s*-?\d{1,4})"
    rf"|\d{{0,9}}[{''.join(_VULGAR)}]|\d{{0,15}}\.\d{{0,15}}\\(?:overline|bar)\{{\d{{1,40}}\}})(?![\w^/])"
)


def prose(text: str) -> str:
    """A text with formulas and numbers in it, in writings that Math-Verify reads."""
    parts = FORMULA.split(text)  # every second one is a formula
    parts[1::2] = map(anywhere, parts[1::2])
    parts[::2] = [
        _NUMBER_IN_PROSE.sub(lambda m: f"${anywhere(m[0])}$", _joined_thousands(part.translate(_PLAIN_SYMBOLS)))
        for part in parts[::2]
    ]
    return "".join(parts)


def whole(text: str) -> str:
    """An answer or a label that is nothing else, in a writing that Math-Verify reads."""
    return whole_and_unit(text)[0]


@lru_cache(maxsize=256)  # an answer is asked for several times, a label for each of its answers
def whole_and_unit(text: str) -> tuple[str, str]:
    """As `whole`, and what was behind the value."""
    if len(text) > MAX_CHARS or _PLAIN.fullmatch(text):
        return text, ""
    # Dollars around a part, as in `5 $\\pi$`: the rest belongs to it. What is left of them is currency.
    text = _BETWEEN_DOLLARS.sub(r" \1 ", undelimited(text.replace(r"\$", ""))).replace("$", "")
    text = undelimited(text)
    if _PLAIN.fullmatch(text):
        return text, ""
    text = undelimited(anywhere(text))
    if found := _ALL_UPRIGHT.fullmatch(text):
        text = found[1]
    if found := _SET_OF_ALL.fullmatch(text):
        text = found["relation"]
    text = _union(_ratio(text))
    before = _VARIABLE.match(text)
    text, unit = _split_unit(text[before.end() :] if before else text)
    text = (before[0] if before else "") + text
    text = _STOP_IN_TEXT.sub(r"\1}", text)
    if _LETTERS.fullmatch(text) or _NAME.fullmatch(text) or (_WORD_ALONE.fullmatch(text) and text not in _NO_WORDS):
        return rf"\text{{{text}}}", unit  # letters in an order, or a word, not their product
    if _CIRCLED.fullmatch(text):
        numbers = re.findall(r"\d{1,2}|[①-⑳]", text)
        return ",".join(unicodedata.normalize("NFKC", number) for number in numbers), unit
    return _upwards(_POINT_WITHOUT_DIGITS.sub("", text.replace(";", ","))), unit


_COMMAND_OR_LETTER = re.compile(r"\\(?:text|operatorname|begin|end)[a-z]*\s?\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z]")
_TEXT_LABEL = re.compile(r"\\(?:text|mathrm|textbf|mbox)\s?\{[A-Za-z ]{2,40}\}")


def like(text: str, label: str) -> str:
    r"""A `whole` text as the label has its letters; of the label itself, too.

    - R beside r: Math-Verify reads both as r, so that R - r would be 0. R gets an index.
    - i where the label has no other letter but e: the imaginary unit, for Math-Verify a variable in (1+i)^2.
    - a word where the label is one in \text{}.
    """
    if _TEXT_LABEL.fullmatch(label.strip("$ ")) and re.fullmatch("[A-Za-z]{2,40}", text):
        return rf"\text{{{text}}}"
    letters = {token for token in _COMMAND_OR_LETTER.findall(label) if len(token) == 1}
    both = {letter for letter in letters if letter.isupper() and letter.lower() in letters}
    imaginary = "i" in letters <= {"i", "e"}
    if not both and not imaginary:
        return text

    def named(match: re.Match) -> str:
        if imaginary and match[0] == "i":
            return " I "
        indexed = match[0] in both and not text[match.end() :].startswith("_")
        return f"{match[0]}_{{0}}" if indexed else match[0]

    return _COMMAND_OR_LETTER.sub(named, text)
