"""The options of OpenRLHF that estimators set or insist on are there, and take these values."""

from __future__ import annotations

import pytest

from lens_openrlhf.advantages.estimators import find, names
from lens_openrlhf.training.options import flatten


def words(defaults) -> list[str]:
    """As on a command line."""
    result = []
    for option, value in defaults.items():
        result.append(f"--{option}")
        if value is not True:
            result += [str(x) for x in (value if isinstance(value, list) else [value])]
    return result


@pytest.mark.parametrize("name", [name for name in names() if find(name).defaults or find(name).requires])
def test_openrlhf_takes_the_defaults_of_a_method_and_they_are_what_it_requires(parse, name):
    method = find(name)
    values = flatten(parse(*words(method.defaults), estimator="group_norm"))
    for option, value in method.defaults.items():
        assert values[option] == value and type(values[option]) is type(value), option
    for option, (value, reason) in method.requires.items():
        assert values[option] == value and reason, option
