"""Units behind values: which there are, by every name, and what is taken off a value."""

from __future__ import annotations

import pytest

from lens_openrlhf.rewards.units import named, split

# The unit, and its other names; all with an s behind them, too.
UNITS = """
um micrometer micrometre
mm millimeter millimetre
cm centimeter centimetre
dm decimeter decimetre
m meter metre
km kilometer kilometre
in inch inches
ft foot feet
yd yard
mile mi
s sec second
min minute
h hr hour
day
week
month
year yr
mg milligram
g gram gm
kg kilogram
lb pound
oz ounce
ml milliliter millilitre
l L liter litre
gallon gal
mph
km/h kmh kmph kph km/hr
m/s
rad radian
N newton
J joule
W watt
V volt
A ampere amp
K kelvin
Hz hertz
Pa pascal
dollar
cent
"""


def test_every_unit_by_each_of_its_names():
    for line in UNITS.split("\n")[1:-1]:
        for name in line.split():
            for form in (name, f"{name}s"):
                if form != "ms":  # milliseconds
                    assert named(form) == (line.split()[0], 1), form
    assert named("ms") == ("ms", 1)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("ms", ("ms", 1)),
        ("M", ("m", 1)),
        ("KM", ("km", 1)),
        ("Meters", ("m", 1)),
        (r"\text{ cm}", ("cm", 1)),
        (r"\mathrm{m}/\mathrm{s}", ("m/s", 1)),
        ("m per s", ("m/s", 1)),
        ("miles per hour", None),
        ("km per h", ("km/h", 1)),
        ("square meters", ("m", 2)),
        ("sq. ft", ("ft", 2)),
        ("Sq ft", ("ft", 2)),
        ("cubic cm", ("cm", 3)),
        ("cu. in.", ("in", 3)),
        ("cm^2", ("cm", 2)),
        ("cm^{-1}", ("cm", -1)),
        ("cm ^ { 3 }", ("cm", 3)),
        ("m^10", None),
        ("m^-2", ("m", -2)),
        (r"\,cm", ("cm", 1)),
        (r"\mu m", ("um", 1)),
        (r"\mu\text{m}", ("um", 1)),
        ("apples", None),
        ("", None),
        ("%", None),
        (" .", None),
        ("square", None),
        ("{cm}", ("cm", 1)),
        ("~kg", ("kg", 1)),
        (r"\operatorname{kg}", ("kg", 1)),
        ("sq m^2", ("m", 2)),
        ("foot.", ("ft", 1)),
        ("l", ("l", 1)),
        ("L", ("l", 1)),
        ("N", ("N", 1)),
        ("n", None),
        ("Pa", ("Pa", 1)),
        ("hz", None),
        ("J", ("J", 1)),
        ("w", None),
    ],
)
def test_a_unit_and_its_power(text, unit):
    assert named(text) == unit


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10 cm", "10"),
        ("10cm", "10"),
        (r"10\,cm", "10"),
        ("10 sq. ft", "10"),
        ("10 square feet", "10"),
        ("10 m", "10"),
        ("10m", "10m"),
        ("10 h", "10"),
        ("-3.5 kg", "-3.5"),
        ("1,000 m/s^2", "1,000"),
        (r"5\frac12 in", r"5\frac12"),
        (r"\frac{1}{2} mi", r"\frac{1}{2} mi"),
        (r"\frac12 foot", r"\frac12"),
        ("3/4 cup", "3/4"),
        (r"2\times 10^{3} km", r"2\times 10^{3}"),
        (".5 g", ".5"),
        ("5 apples", "5"),
        ("5 red apples", "5 red apples"),
        ("5 is", "5 is"),
        ("5 times", "5"),
        ("5 sin", "5 sin"),
        ("5 six", "5 six"),
        ("5 apples and pears now to eat", "5 apples and pears now to eat"),
        ("10 cm^2", "10"),
        ("10 cm^{3}", "10"),
        ("10 cm.", "10"),
        ("10 cmx", "10 cmx"),
        ("x m", "x m"),
        (r"10\text{ cm}", "10"),
        (r"x\text{ cm}", "x"),
        (r"\sqrt{2}\text{ m}", r"\sqrt{2}"),
        (r"\pi\text{ m}", r"\pi"),
        (r"10\text{ m}/\text{s}", "10"),
        (r"10\ \mathrm{m}\cdot\mathrm{s}", "10"),
        (r"10\text{ cm}^2", "10"),
        (r"10\text{ m}^{-2}", "10"),
        (r"10\text{ a.m.}", r"10\text{ a.m.}"),
        (r"10\text{ (mod 7)}", r"10\text{ (mod 7)}"),
        (r"10\text{ (apples)}", "10"),
        (r"10\text{ m/s^2}", "10"),
        (r"10\text{ x=5}", r"10\text{ x=5}"),
        (r"x_\text{max}", r"x_\text{max}"),
        (r"=\text{ m}", r"=\text{ m}"),
        (r"\text{ m}", r"\text{ m}"),
        ("x th", "x th"),
        (r"20\degree C", r"20\degree C"),
        (r"10\,\Omega", "10"),
        (r"10\Omega", r"10\Omega"),
        (r"10\,\mu", r"10\,\mu"),
        (r"10\,\mu\text{m}", "10"),
        (r"10\mu", r"10\mu"),
        (r"10\text{ k}\Omega", r"10\text{ k}\Omega"),
        (r"10\,\Omega\text{m}", r"10\,\Omega"),
        (r"10\text{ a}\text{ b}\text{ c}\text{ d}\text{ e}", r"10\text{ a}"),
        ("10 V", "10"),
        ("10 t", "10 t"),
        ("10 K", "10"),
        ("10 L^2", "10"),
        (r"10\text{ m}^{ 2 }", "10"),
        (r"10\text{ m}^10", r"10\text{ m}^10"),
        (r"5\text{ more}", r"5\text{ more}"),
        (r"5\text{ twelve}", r"5\text{ twelve}"),
        (r"10\textrm{ kg}", "10"),
        (r"10\rm{ kg}", "10"),
        (r"10\textit{ kg}", "10"),
        (r"10\operatorname{kg}", "10"),
        (r"10\mbox{ kg}", "10"),
    ],
)
def test_what_is_behind_a_value(text, value):
    assert split(text) == (value, text[len(value) :])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"2^\text{nd}", "2"),
        (r"5^{\text{th}}", "5"),
        ("5th", "5"),
        ("21st", "21"),
        ("2nd", "2"),
        ("3rd", "3"),
        ("4^{th}", "4"),
        (r"20^\circ C", r"20^{\circ}"),
        (r"20^{\circ}\text{F}", r"20^{\circ}"),
    ],
)
def test_what_goes_with_no_unit(text, value):
    """Ordinals, and degrees of whatever scale."""
    assert split(text) == (value, "")


@pytest.mark.parametrize(
    "text", [r"!\text{ m}", r"(a)\text{ m}", r"2^\text{cm}", r"2_\text{cm}", r"3+\text{ cm}", r"2(\text{ cm}"]
)
def test_upright_text_behind_no_value(text):
    assert split(text) == (text, "")
