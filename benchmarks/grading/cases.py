r"""Answers to grade: for a label, right ones in other writings, and wrong ones near it.

A writing changes nothing that a marker looks at: where the answer stands (a box, tags, behind a thought), how it is
set (`\dfrac`, thousands, `x=`). A neighbour changes one thing that decides: a digit, a sign, a letter, an order, a
part, or which answer is the final one. What changes the formula itself is kept only if `values` finds the new formula
equal (or unequal) by a route of its own; those that it cannot decide are counted.

A list of small rules, one after the other, which is why it is long.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from . import values

Written = Iterator[tuple[str, str]]  # the rule and what it makes

_INTEGER = re.compile(r"-?(?:0|[1-9]\d*)")
_DECIMAL = re.compile(r"-?\d+\.\d+")
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}|(-?)(\d+)/(\d+)")
_GROUPED = re.compile(r"-?[1-9]\d{0,2}(?:,\d{3})+")
_SCIENTIFIC = re.compile(r"(-?\d(?:\.\d+)?)e([+-]?)0*(\d+)|(-?\d(?:\.\d+)?) ?\\times ?10\^\{?(-?)(\d+)\}?")
_CHOICE = re.compile(r"\(?([A-E])\)?")
_WORD = re.compile(r"(?:\\text\{ ?)?([A-Z][a-z]{2,20}|yes|no|true|false|even|odd)(?: ?\})?")
_PROSE = re.compile(
    r"(?<![A-Za-z\\])[A-Za-z]{2,}\s+[A-Za-z]{2,}|[^\x00-\x7f]"
    r"|(?<![A-Za-z\\])(?:a|and|are|at|by|for|from|if|in|is|mod|of|or|otherwise|the|to|when|where|with)(?![A-Za-z])\s?\S"
)
# Constants that may have any value, so that a sign or a name is nothing.
_FREE = r"[cCkK](?:_|\s*$|\s*[+-]|\s*e)"
# What is not changed: words, units, and names of LaTeX; and numbers in scientific notation have changes of their own.
_MASKED = re.compile(
    r"\\(?:text|mathrm|operatorname|begin|end|mbox)\s?\{[^{}]*\}(?:\^\{?\d\}?)?|\\[a-zA-Z]+|(?<=\d)e(?=[-+]?\d)"
    r"|(?<![a-zA-Z\\])(?:[a-z]{3,}|cm|mm|km|kg|ft|in)(?![a-zA-Z])(?:\s?\^\s?\{?\s?\d\s?\}?)?"
)
_PARTS = ("a part less", "a part of the union less", "one of two signs")
_WORDS = ("Tuesday", "Marianne", "blue", "no", "triangle")


class Case(NamedTuple):
    """A response to grade by a label, whether it is right, and the rule that made it."""

    label: str
    response: str
    right: bool
    rule: str


def body(label: str) -> str:
    """The label without the dollars of its formulas."""
    text = label.replace("$", "") if label.count("$") % 2 == 0 and r"\$" not in label else label
    return re.sub(r"(?<=[\w}$)])\.$", "", text.strip())


def make(label: str, seed: int = 0, undecided: Counter | None = None) -> list[Case]:
    """All cases of a label, in an order that depends on `seed`; `undecided` counts formulas that cannot be checked."""
    undecided = Counter() if undecided is None else undecided
    chance = random.Random(f"{seed} {label}")
    text = body(label)
    prose = _PROSE.search(text) is not None
    rights, wrongs = [("as it is", text)], []
    if not prose:
        rights += dict.fromkeys(_checked(text, writings(text, chance), True, undecided))
        wrongs += dict.fromkeys(_checked(text, neighbours(text, chance), False, undecided))
    if "97" not in text:
        wrongs.append(("another answer", "97"))
    cases = [Case(label, rf"The answer is $\boxed{{{other}}}$.", True, rule) for rule, other in rights]
    cases += [Case(label, rf"The answer is $\boxed{{{other}}}$.", False, rule) for rule, other in wrongs]
    cases += [Case(label, response, True, rule) for rule, response in _places(text, prose)]
    # A part beside the whole is no other answer.
    others = [other for rule, other in wrongs if rule not in _PARTS]
    for wrong in others and [chance.choice(others)]:
        cases += [Case(label, response, True, rule) for rule, response in _places_beside(text, wrong)]
        cases += [Case(label, response, False, rule) for rule, response in _wrong_places(text, wrong)]
    cases = list({(case.response): case for case in reversed(cases)}.values())[::-1]
    chance.shuffle(cases)
    return cases


def _checked(text: str, written: Written, right: bool, undecided: Counter) -> Written:
    mine = values.read(text)
    for rule, other in written:
        if other == text:
            continue
        if rule.endswith("!"):  # known by construction, and no formula
            yield rule[:-1], other
            continue
        theirs = values.read(other)
        if mine is None or theirs is None:
            undecided[rule] += 1
        elif values.same(mine, theirs) == right and (right or not _rounding(text, mine, theirs)):
            yield rule, other


def _rounding(text: str, mine: tuple, theirs: tuple) -> bool:
    """Whether the label may be rounded, and the other value be meant."""
    return "." in text and values.near(mine, theirs)


# --- right -------------------------------------------------------------------------------------------------


def writings(text: str, chance: random.Random) -> Written:
    """Other settings of the same answer."""
    if match := _CHOICE.fullmatch(text):
        for form in ("({})", r"\text{{{}}}", r"\textbf{{({})}}", r"\mathrm{{{}}}", "{}."):
            yield "choice letter!", form.format(match[1])
        yield "choice with its text!", rf"{match[1]}. \text{{none of the others}}"
        return
    if match := _WORD.fullmatch(text):
        yield "word!", match[1]
        yield "word in \\text!", rf"\text{{{match[1]}}}"
        yield "word in \\textbf!", rf"\textbf{{{match[1]}}}"
        return
    yield from _numbers(text)
    if not _SCIENTIFIC.fullmatch(text):
        yield from _settings(text)
        yield from _orders(text)
    free = next((letter for letter in "xyaz" if letter not in text), None)
    words = not text[:1].isdigit() and re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}", text)
    if free and not words and not re.search(r"[=<>,;]|\\(?:le|ge|ne|in|cup|text|pm)|\(", text):
        yield "x= in front!", f"{free}={text}"
        yield "x = in front!", f"{free} = {text}"


def _settings(text: str) -> Written:
    yield r"\dfrac", re.sub(r"\\t?frac(?![a-z])", r"\\dfrac", text)
    yield r"\tfrac", re.sub(r"\\d?frac(?![a-z])", r"\\tfrac", text)
    yield r"\frac without braces", re.sub(r"\\frac\{(\d)\}\{(\d)\}", r"\\frac\1\2", text)
    yield r"\sqrt without braces", re.sub(r"\\sqrt\{(\d)\}", r"\\sqrt\1", text)
    yield "exponent in braces", re.sub(r"\^(\w)(?![\w{])", r"^{\1}", text)
    yield "exponent without braces", re.sub(r"\^\{(\w)\}(?!\w)", r"^\1", text)
    yield "spaces around signs", re.sub(r"(?<=[\w}])([-+=])(?=[\w\\])(?![^{]*\})", r" \1 ", text)
    yield "no spaces", re.sub(r"(?<![a-zA-Z]) +| +(?![a-zA-Z])", "", text) if r"\text" not in text else text
    yield (
        "thin spaces",
        re.sub(r"(?<!\\),\s*", r",\\,", text) if not re.search(r"\d,\d{3}(?!\d)|[a-z]{3}", text) else text,
    )
    yield (
        r"\left and \right",
        re.sub(r"\)", r"\\right)", re.sub(r"\(", r"\\left(", text))
        if r"\left" not in text and text.count("(") == text.count(")")
        else text,
    )
    yield r"without \left and \right", re.sub(r"\\(?:left|right)(?=[()\[\]|])", "", text)
    yield r"\cdot", re.sub(r"(?<=\d)(?=\\sqrt|\\pi)", r" \\cdot ", text)
    yield "+infinity", re.sub(r"(?<![-+])\\infty", r"+\\infty", text)
    yield r"\leq", re.sub(r"\\le(?![a-z])", r"\\leq", re.sub(r"\\ge(?![a-z])", r"\\geq", text))
    yield r"\le", re.sub(r"\\leq(?![a-z])", r"\\le", re.sub(r"\\geq(?![a-z])", r"\\ge", text))
    yield "upright e and i", re.sub(r"(?<![a-zA-Z\\{])([ei])(?![a-zA-Z])", r"\\mathrm{\1}", text)
    yield r"\displaystyle", rf"\displaystyle {text}"


def _numbers(text: str) -> Written:
    if _INTEGER.fullmatch(text):
        yield "5.0", f"{text}.0"
        yield "unit!", rf"{text}\text{{ cm}}"
        yield "unit apart!", rf"{text}\ \mathrm{{kg}}"
        yield "unit in words!", f"{text} apples"
        yield "plain text!", rf"\text{{{text}}}"
        sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
        if len(digits) > 3:
            for name, mark in (
                ("comma", ","),
                ("thin space", r"\,"),
                ("braced comma", "{,}"),
                ("space", " "),
                (r",\!", r",\!"),
            ):
                yield f"thousands with {name}!", sign + f"{int(digits):,}".replace(",", mark)
    if _GROUPED.fullmatch(text):
        yield "no thousands mark!", text.replace(",", "")
        yield "thousands with braced comma!", text.replace(",", "{,}")
    if _DECIMAL.fullmatch(text):
        yield "trailing zero", f"{text}0"
        if abs(float(text)) < 1:
            yield "no zero in front", text.replace("0.", ".", 1)
        if len(text.partition(".")[2]) <= 2:
            exact = Fraction(text)
            if exact.denominator > 1:
                yield (
                    "fraction for a decimal",
                    rf"{'-' if exact < 0 else ''}\frac{{{abs(exact.numerator)}}}{{{exact.denominator}}}",
                )
    if match := _FRACTION.fullmatch(text):
        sign, above, below = match[1] or match[4] or "", match[2] or match[5], match[3] or match[6]
        yield "a/b", f"{sign}{above}/{below}"
        yield r"\frac", rf"{sign}\frac{{{above}}}{{{below}}}"
        yield "sign above", rf"\frac{{{sign}{above}}}{{{below}}}"
        yield "not reduced", rf"{sign}\frac{{{2 * int(above)}}}{{{2 * int(below)}}}"
        whole, rest = divmod(int(above), int(below)) if int(below) else (0, 0)
        if whole and rest:
            yield "mixed number", rf"{sign}{whole}\frac{{{rest}}}{{{below}}}" if not sign else text
        if int(below) and 1000 * int(above) % int(below) == 0:
            yield "exact decimal", sign + f"{int(above) / int(below):.3f}".rstrip("0").rstrip(".")
    if match := _SCIENTIFIC.fullmatch(text):
        number, sign, power = (match[1], match[2].strip("+"), match[3]) if match[1] else match.groups()[3:]
        yield r"\times 10!", rf"{number} \times 10^{{{sign}{power}}}"
        yield r"\cdot 10!", rf"{number} \cdot 10^{{{sign}{power}}}"
        if "." in number:
            yield "1e5!", f"{number}e{sign}{power}"
    if re.fullmatch(r"-?\d+(?:\.\d+)?(?:\^\\circ|\^\{\\circ\})", text):
        number = text.partition("^")[0]
        for form in ("{}°", r"{}^\circ", r"{}^{{\circ}}", r"{}\text{{ degrees}}", r"{}\degree"):
            yield "degrees!", form.format(number)
    if re.fullmatch(r"-?\d+(?:\.\d+)?\\?%", text):
        yield "per cent!", text.replace("\\", "")
        yield "per cent!", text.rstrip("%").rstrip("\\") + r"\%"


def _terms(text: str) -> list[str]:
    """The terms of a sum, each with its sign; outside of any bracket."""
    depth, start, found = 0, 0, []
    for place, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 and char in "+-" and place > start and text[place - 1] not in "^_=<>*/(,":
            found.append(text[start:place].strip())
            start = place
    return [*found, text[start:].strip()]


def _parts(text: str, at: str) -> list[str]:
    depth, found = 0, [""]
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 and char == at:
            found.append("")
        else:
            found[-1] += char
    return [part.strip() for part in found]


def _orders(text: str) -> Written:
    if not re.search(r"[=<>,;]|\\(?:le|ge|ne|in|cup|pm|mp|text|begin)", text):
        terms = _terms(text)
        if len(terms) > 1:
            turned = "".join(term if term[0] in "+-" else f"+{term}" for term in terms[1:] + terms[:1])
            yield "terms in another order", turned.removeprefix("+")
    if text.startswith(r"\{") and text.endswith(r"\}") and not re.search(r"\||\\mid|[()]", text):
        yield "set in another order", r"\{" + ", ".join(_parts(text[2:-2], ",")[::-1]) + r"\}"
    pieces = text.split(r"\cup")
    if len(pieces) == 2:
        yield "union in another order", rf"{pieces[1].strip()} \cup {pieces[0].strip()}"
    if match := re.fullmatch(r"([a-zA-Z]) ?([<>]) ?(-?[\d./]+)", text):
        yield "relation turned around", f"{match[3]} {'<' if match[2] == '>' else '>'} {match[1]}"


def _places(text: str, prose: bool) -> Written:
    """Where an answer stands. A formula that is not in a box is in dollars."""
    yield "box alone", rf"\boxed{{{text}}}"
    yield "space in the box", rf"So it is \boxed{{ {text} }}"
    yield "display", rf"Therefore \[\boxed{{{text}}}\]"
    yield "end of turn", rf"Thus $\boxed{{{text}}}$<|im_end|>"
    yield r"\fbox", rf"Hence \fbox{{${text}$}}." if "$" not in text else rf"Hence \fbox{{{text}}}."
    yield "answer tags", f"<answer>{text}</answer>" if prose else f"<answer>${text}$</answer>"
    yield "box in answer tags", rf"<answer>\boxed{{{text}}}</answer>"
    yield "box twice", rf"$\boxed{{{text}}}$. So the final answer is $\boxed{{{text}}}$."
    if not prose:
        yield "stop in the box", rf"The answer is \boxed{{{text}.}}"
        yield "dollars in the box", rf"The answer is \boxed{{${text}$}}."
        yield "bold in the box", rf"**Answer:** $\boxed{{{text}}}$"
        yield "dollars, no box", f"The answer is ${text}$."
        yield "parentheses, no box", rf"The final answer is \({text}\)."


def _places_beside(text: str, wrong: str) -> Written:
    """Right: what is not the final answer is beside it."""
    yield (
        "another answer in the thoughts",
        rf"<think>Perhaps \boxed{{{wrong}}}? No.</think>The answer is $\boxed{{{text}}}$.",
    )
    yield (
        "an answer before the final one",
        rf"First I found $\boxed{{{wrong}}}$, but I forgot a case, so it is $\boxed{{{text}}}$.",
    )
    yield "another answer before the tags", f"We could have ${wrong}$. <answer>${text}$</answer>"


# --- wrong -------------------------------------------------------------------------------------------------


def neighbours(text: str, chance: random.Random) -> Written:
    """Other answers, near it."""
    if match := _CHOICE.fullmatch(text):
        for letter in "ABCDE":
            if letter != match[1]:
                yield "another letter!", letter
        yield "another letter with its text!", rf"{'B' if match[1] == 'A' else 'A'}. \text{{none of the others}}"
        return
    if match := _WORD.fullmatch(text):
        for word in _WORDS:
            if word.lower() != match[1].lower():
                yield "another word!", rf"\text{{{word}}}"
        return
    masked = _MASKED.sub(lambda m: "\0" * len(m[0]), text)
    yield from _changed(text, masked, chance)
    yield from _dropped(text, masked, chance)
    yield from _rearranged(text, masked)
    for form in re.finditer(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", text):
        yield "fraction upside down", rf"{text[: form.start()]}\frac{{{form[2]}}}{{{form[1]}}}{text[form.end() :]}"
    if match := re.fullmatch(r"(?:\\left)?([(\[])([^()\[\]]*?)(?:\\right)?([)\]])", text):
        parts = _parts(match[2], ",")
        if len(parts) > 1:
            yield "order", match[1] + ", ".join(parts[::-1]) + match[3]
            yield "a part less", match[1] + ", ".join(parts[:-1]) + match[3]
            yield "a part more", match[1] + ", ".join([*parts, "97"]) + match[3]
    elif (
        not _GROUPED.fullmatch(text)
        and len(parts := re.split(r"[,;]\s*", text)) > 1
        and not re.search(r"[()\[\]{}]", text.replace(r"\frac{", ""))
    ):
        yield "a part less", ", ".join(parts[:-1])
        yield "a part more", ", ".join([*parts, "97"])
    if _INTEGER.fullmatch(text) or _GROUPED.fullmatch(text):
        plain = text.replace(",", "")
        yield "ten times!" if plain != "0" else "ten times", plain + ("0" if plain != "0" else "")
    if match := _SCIENTIFIC.fullmatch(text):
        number, sign, power = (match[1], match[2].strip("+"), match[3]) if match[1] else match.groups()[3:]
        yield "another power!", rf"{number} \times 10^{{{sign}{int(power) + 1}}}"
        yield "sign of the power!", rf"{number} \times 10^{{{'' if sign else '-'}{power}}}" if int(power) else text
        yield "no power!", number if int(power) else text


def _changed(text: str, masked: str, chance: random.Random) -> Written:
    """A digit, a sign, a relation, a letter or a function."""
    digits = [m.start() for m in re.finditer(r"(?<![cCkK]_)(?<![cCkK]_\{)(?<![cCkK]_ \{)\d", masked)]
    for place in chance.sample(digits, min(4, len(digits))):
        other = chance.choice([digit for digit in "123456789" if digit != text[place]])
        yield "digit", text[:place] + other + text[place + 1 :]
    signs = [match.start() for match in re.finditer(rf"[-+](?!\s*{_FREE})", masked)]
    for place in chance.sample(signs, min(2, len(signs))):
        yield "sign", text[:place] + ("-" if text[place] == "+" else "+") + text[place + 1 :]
    if text and text[0] not in "+-([{" and not re.match(rf"\\(?:pm|\{{|left|text)|{_FREE}|.*[=<>]|.*\\[lg]e", text):
        yield "sign in front", f"-{text}"
    for place in [place for place, char in enumerate(masked) if char in "<>"][:1]:
        yield "relation", text[:place] + ("<" if text[place] == ">" else ">") + text[place + 1 :]
    if match := re.search(r"\\(le|ge)(q?)(?![a-z])", text):
        yield (
            "relation",
            rf"{text[: match.start()]}\{'ge' if match[1] == 'le' else 'le'}{match[2]}{text[match.end() :]}",
        )
        yield "strict", f"{text[: match.start()]}{'<' if match[1] == 'le' else '>'}{text[match.end() :]}"
    if match := re.search(r"[\[\]]", text):
        if re.search(r"\\infty|\\cup", text) or re.fullmatch(r"(?:\\left)?[(\[].*,.*[)\]]", text):
            if r"\sqrt[" not in text:
                yield "bracket", text[: match.start()] + ("(" if match[0] == "[" else ")") + text[match.end() :]
    # Not a constant of integration, nor a letter that only names the value.
    letters = [
        place
        for place, char in enumerate(masked)
        if char.isalpha()
        and not re.match(_FREE, text[place:])
        and not re.match(r"\s*\w(?:\(\w\))?\s*=", text[: place + 1] + "=")
    ]
    used = {char.lower() for char in masked if char.isalpha()}
    for place in chance.sample(letters, min(2, len(letters))):
        other = next(letter for letter in "wqvuk" if letter not in used)
        yield "letter", text[:place] + other + text[place + 1 :]
    for name, other in (("sin", "cos"), ("cos", "sin"), ("tan", "cot"), ("ln", "sin")):
        if rf"\{name}" in text:
            yield "function", re.sub(rf"\\{name}(?![a-z])", rf"\\{other}", text, count=1)


def _rearranged(text: str, masked: str) -> Written:
    """Brackets, bars, one of two signs, the index of a root, a base or a part of a union gone; variables exchanged."""
    yield "brackets dropped", re.sub(r"(?<![a-zA-Z])\(([^(),]*)\)", r"\1", text, count=1)
    yield "bars dropped", re.sub(r"(?:\\left)?\|([^|]*?)(?:\\right)?\|", r"\1", text, count=1)
    yield "factorial dropped", text.replace("!", "", 1)
    yield "index of the root dropped", re.sub(r"\\sqrt\[\d+\]", r"\\sqrt", text, count=1)
    yield "base dropped", re.sub(r"\\log\s*_\s*(?:\{[^{}]*\}|\d)", r"\\log", text, count=1)
    if re.search(r"\\pm\s*(?:\d|\\sqrt|\\frac)", text):
        yield "one of two signs!", re.sub(r"\\pm", "+", text, count=1)
        yield "one of two signs!", re.sub(r"\\pm", "-", text, count=1)
    if r"\cup" in text:
        yield "a part of the union less", text.rpartition(r"\cup")[0].strip()
    letters = [char for char in dict.fromkeys(masked) if char.isalpha() and char not in "cCkKei"]
    if len(letters) > 1:
        exchanged = dict(zip(letters[:2], letters[1::-1], strict=True))
        yield (
            "variables exchanged",
            "".join(exchanged.get(char, char) if masked[place] == char else char for place, char in enumerate(text)),
        )


def _dropped(text: str, masked: str, chance: random.Random) -> Written:
    """A variable, an exponent, a root, pi or the last term left out."""
    for match in list(re.finditer(r"(?<=[\w}])[a-zA-Z](?![a-zA-Z^_({=])", masked))[-1:]:
        if not re.search(r"\\[a-zA-Z]*$", text[: match.start() + 1]):
            yield "variable dropped", text[: match.start()] + text[match.end() :]
    for match in list(re.finditer(r"\^\{[^{}]*\}|\^\w", masked))[-1:]:
        if "circ" not in text[match.start() : match.end()]:
            yield "exponent dropped", text[: match.start()] + text[match.end() :]
    yield "root dropped", re.sub(r"\\sqrt(?=\{)", "", text, count=1)
    yield "pi dropped", re.sub(r"(?<=[\d}])\s?\\pi(?![a-z])", "", text, count=1)
    if r"\pi" in text:
        yield "pi for e", re.sub(r"\\pi(?![a-z])", "e", text, count=1)
    if not re.search(r"[=<>,;]|\\(?:le|ge|ne|in|cup|pm|mp|text|begin)", text) and len(terms := _terms(text)) > 1:
        yield "term dropped", "".join(terms[:-1])


def _wrong_places(text: str, wrong: str) -> Written:
    """Wrong: the right answer stands there, but not as the final one."""
    yield "the other box is the last", rf"It could be $\boxed{{{text}}}$, but the answer is $\boxed{{{wrong}}}$."
    if not re.search("[,;]", text):  # of a list, both together may be the whole
        yield "two guesses", rf"\boxed{{{text}}} or \boxed{{{wrong}}}"
        yield "two guesses, turned", rf"\boxed{{{wrong}}}, \boxed{{{text}}}"
    yield "right in the thoughts alone", rf"<think>So \boxed{{{text}}}.</think>The answer is $\boxed{{{wrong}}}$."
    yield "right before the tags alone", f"I first thought ${text}$. <answer>${wrong}$</answer>"
    yield "thoughts without end", rf"<think>Perhaps \boxed{{{text}}}, or perhaps"
    yield "last box cut off", rf"\boxed{{{text}}} is for $n=1$. In general \boxed{{\frac{{7"
    yield "no answer", "I cannot solve this."
