r"""Units behind values: taking them off, and telling those apart that have one meaning.

Math-Verify's own list of units takes variables away (`2+3d` becomes 5). 10 km is not 10 cm, although either answers a
label that is only 10.
"""

from __future__ import annotations

import re

_NAMES = {
    "um": "micrometer micrometre",
    "mm": "millimeter millimetre",
    "cm": "centimeter centimetre",
    "dm": "decimeter decimetre",
    "m": "meter metre",
    "km": "kilometer kilometre",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard",
    "mile": "mi",
    "s": "sec second",
    "min": "minute",
    "h": "hr hour",
    "day": "",
    "week": "",
    "month": "",
    "year": "yr",
    "mg": "milligram",
    "g": "gram gm",
    "kg": "kilogram",
    "lb": "pound",
    "oz": "ounce",
    "ml": "milliliter millilitre",
    "l": "L liter litre",
    "gallon": "gal",
    "mph": "",
    "km/h": "kmh kmph kph km/hr",
    "m/s": "",
    "rad": "radian",
    "N": "newton",
    "J": "joule",
    "W": "watt",
    "V": "volt",
    "A": "ampere amp",
    "K": "kelvin",
    "Hz": "hertz",
    "Pa": "pascal",
    "dollar": "",
    "cent": "",
}
_UNIT = {
    form: unit for unit, names in _NAMES.items() for name in (unit, *names.split()) for form in (name, f"{name}s")
} | {"ms": "ms"}
_SIDES = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_POWER = re.compile(r"\s*\^\s*\{?\s*(-?\d)\s*\}?\s*\Z")


def named(text: str) -> tuple[str, int] | None:
    """The unit and its power that a text names, as it stands behind a value; None where it is none that is known."""
    text = re.sub(r"\\(?:text|mbox|mathrm|textrm|rm|textit|operatorname)\b|\\[,;:! ]|~", " ", text).replace(r"\mu", "u")
    power = 1
    if found := _POWER.search(text):
        power, text = int(found[1]), text[: found.start()]
    words = re.sub(r"[{}]", " ", text).replace(" per ", "/").strip(" .").split()
    if words and (side := _SIDES.get(words[0].lower().strip("."))):
        power, words = side, words[1:]
    name = "".join(words)
    unit = _UNIT.get(name) or _UNIT.get(name.lower())
    return (unit, power) if unit else None


_TAKEN_OFF = (
    "mm|cm|dm|km|nm|ft|feet|foot|in|inch|inches|yd|yards?|miles?|mph|kmph|kph|km/h|m/s|m/s\\^2|km/hr|mg|kg|lbs?|oz|"
    "grams?|pounds?|ounces?|tons?|ml|mL|liters?|litres?|gallons?|quarts?|cups?|hrs?|hours?|mins?|minutes?|secs?|"
    "seconds?|days?|weeks?|months?|years?|dollars?|cents?|rupees?|yuan|euros?|USD|Rs\\.?|degrees?|deg|radians?|rad|units?|"
    "meters?|metres?|centimeters?|centimetres?|kilometers?|kilometres?|Hz|Pa|kPa|kJ|kW|mol|percent|points?|people|"
    "students?|times|ways"
)
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log exp sqrt max min lim mod gcd lcm det".split()
)
_SQUARED = r"(?:\s?\^\s?\{?[23]\}?)?"
_NUMBER = (
    r"-?(?:\d[\d,.]*|\.\d+|\d*\s?\\[dt]?frac\s?(?:\{-?\d+\}\{\d+\}|\d\d)|\d+\s?/\s?\d+)"
    r"(?:\s?\\?times\s?10\^\{?-?\d+\}?)?"
)
_PLAIN_UNIT = re.compile(
    rf"(?P<number>{_NUMBER})(?:"
    rf"(?:\s|\\[,; ]|~)*(?:(?:square|cubic|sq\.?|cu\.?)\s+)?(?:{_TAKEN_OFF})(?![A-Za-z]){_SQUARED}"
    # A unit of one letter only where it stands apart from a mere number: 2h is a product.
    rf"|(?:\s|\\[,; ]|~)+(?:[mgshlLNJWVAK]{_SQUARED})"
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
_OMEGA, _MU = (re.compile(rf"(?<=\d)(?:\s|\\[,;! ]|~){{1,4}}\\{name}\s?\Z") for name in ("Omega", "mu"))
_TEMPERATURE = re.compile(r"\^\s?\{?\s?\\(?:circ|degree)\s?\}?\s?(?:[CF]|\\(?:text|mathrm)\{\s?[CF]\s?\})$")


def split(text: str) -> tuple[str, str]:
    """A value, and what was behind it: a unit or words behind a number, upright text behind any value."""
    found = _PLAIN_UNIT.fullmatch(text)
    if found and not (found["words"] and (FUNCTIONS | _MEANING) & set(found["words"].lower().split())):
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
