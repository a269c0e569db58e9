"""Units that have one meaning: 10 km is not 10 cm, although either answers a label that is only 10."""

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
