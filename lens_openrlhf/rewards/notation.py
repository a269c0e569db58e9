r"""Answers and labels in the writing that Math-Verify reads: alone, or within prose.

`rules` brings formulas to it, `units` takes off what stands behind a value; here is what holds of a whole answer alone.
"""

from __future__ import annotations

import math
import re
import unicodedata
from functools import lru_cache

from lens_openrlhf.rewards import units
from lens_openrlhf.rewards.rules import PLAIN_SYMBOLS, VULGAR, anywhere, joined_thousands

# Longer than any answer that a person writes. What is longer is handed over as it is.
MAX_CHARS = 2_000

_NAME = re.compile(
    r"(?:[A-Z][a-z]{2,20}|[a-z]{2,20}\s[a-z]{2,20}|yes|no|true|false|none|odd|even|never|always)(?:\s[a-zA-Z]{1,20}){0,10}"
)
_WORD_ALONE = re.compile(r"(?=[a-z]{0,19}[aeiou])[a-z]{4,20}")
_NO_WORDS = units.FUNCTIONS | frozenset("infty infinity alpha beta gamma delta theta lambda omega sigma".split())
# The numbers of statements, as \textcircled{1} or as one character.
_CIRCLED = re.compile(r"(?:(?:\\textcircled\s?\{?\d{1,2}\}?|[①-⑳])[\s,、]{0,3}){1,20}")
_POINT_WITHOUT_DIGITS = re.compile(r"(?<=\d)\.(?=\s?[-+*/^)])")  # 1./3
# Two readings, 2·10^-3 and 2e - 3.
_AMBIGUOUS = re.compile(r"(?<![\w.\\}])(?!1e)\d{1,20}e[+-]\d(?![\w.])")
_STOP_IN_TEXT = re.compile(r"(\\text\s?\{[^{}]{0,200}[a-z]{3})\.\}\Z")
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
        for left, right in _DELIMITERS:
            inner = text[len(left) : len(text) - len(right)]
            if text.startswith(left) and text.endswith(right) and len(text) > len(left + right) and left not in inner:
                text = inner
                break
        if text == before:
            return text


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
        if sign[0] == "<" or sign.startswith(r"\l"):
            parts.append(rf"(-\infty,{end}{']' if closed else ')'}")
        else:
            parts.append(rf"{'[' if closed else '('}{end},\infty)")
    return r"\cup".join(parts)


def ambiguous(text: str) -> str | None:
    """The part of a label that has two readings, None where there is none."""
    found = _AMBIGUOUS.search(text)
    return found and found[0]


# A formula: nothing between its delimiters ends it early.
FORMULA = re.compile(
    r"(\$\$[^$]{1,1000}\$\$|\$[^$]{1,1000}\$|\\\((?:[^\\]|\\(?!\))){0,400}\\\)|\\\[(?:[^\\]|\\(?!\])){0,400}\\\])"
)
# Numbers that stand in prose without being a formula, and are none for Math-Verify: 2 1/2, 3.89e-10, ½, 0.\overline{6}.
_NUMBER_IN_PROSE = re.compile(
    r"(?<![\w.,^/\\])-?(?:\d{1,9}\s+\d{1,9}/\d{1,9}|(?:\d{1,30}(?:\.\d{1,30})?|\.\d{1,30})(?:[eE][+-]?\d{1,4}|\s*[×x*]\s*10\s*\^\s*-?\d{1,4})"
    rf"|\d{{0,9}}[{''.join(VULGAR)}]|\d{{0,15}}\.\d{{0,15}}\\(?:overline|bar)\{{\d{{1,40}}\}})(?![\w^/])"
)


def prose(text: str) -> str:
    """A text with formulas and numbers in it, in writings that Math-Verify reads."""
    parts = FORMULA.split(text)  # every second one is a formula
    parts[1::2] = map(anywhere, parts[1::2])
    parts[::2] = [
        _NUMBER_IN_PROSE.sub(lambda m: f"${anywhere(m[0])}$", joined_thousands(part.translate(PLAIN_SYMBOLS)))
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
    text, unit = units.split(text[before.end() :] if before else text)
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
