import dataclasses
import math

import pytest

from lens_openrlhf.advantages import GroupKind, LensConfig


def test_the_defaults_are_the_papers():
    assert dataclasses.asdict(LensConfig()) == {
        "scope": "both",
        "alpha": 0.25,
        "confidence": "geometric",
        "confidence_from": "actor",
        "difficulty": "importance",
        "preference": "none",
        "gamma": 0.0,
    }


@pytest.mark.parametrize(
    "option, value",
    [
        ("scope", "all"),
        ("scope", None),
        ("scope", "Both"),
        ("confidence", "arithmetic"),
        ("confidence_from", "reference"),
        ("difficulty", "none"),
        ("difficulty", ""),
        ("alpha", -0.25),
        ("alpha", -1e-300),
        ("alpha", math.nan),
        ("alpha", math.inf),
        ("preference", "uniform"),
        ("gamma", -0.5),
        ("gamma", math.nan),
    ],
)
def test_a_bad_value_is_named_with_its_option(option, value):
    with pytest.raises(ValueError) as caught:
        LensConfig(**{option: value})
    assert option in str(caught.value) and repr(value) in str(caught.value)


@pytest.mark.parametrize("value", ["0.25", None])
def test_an_alpha_that_is_no_number_is_named(value):
    with pytest.raises(ValueError, match="alpha"):
        LensConfig(alpha=value)


@pytest.mark.parametrize(
    "option, values",
    [
        ("scope", ["both", "mixed", "negative", "none"]),
        ("confidence", ["geometric", "sequence"]),
        ("confidence_from", ["actor", "rollout"]),
        ("difficulty", ["importance", "max"]),
        ("alpha", [0, 0.0, 1, 4.5]),
        ("preference", ["none", "length", "policy"]),
    ],
)
def test_every_documented_value_is_accepted(option, values):
    for value in values:
        assert getattr(LensConfig(**{option: value}), option) == value


def test_what_the_length_preference_goes_with():
    assert LensConfig(preference="length", gamma=0.9).gamma == 0.9
    for preference in ("none", "policy"):
        with pytest.raises(ValueError, match="gamma=0.9: has no effect without preference='length'"):
            LensConfig(preference=preference, gamma=0.9)
    with pytest.raises(ValueError, match="confidence='sequence'.*'geometric'"):
        LensConfig(preference="length", confidence="sequence")


def test_options_are_given_by_name_and_stay():
    with pytest.raises(TypeError):
        LensConfig("both")
    with pytest.raises(dataclasses.FrozenInstanceError):
        LensConfig().alpha = 1.0


def test_group_kinds():
    assert {kind.name: kind.value for kind in GroupKind} == {"NEGATIVE": 0, "POSITIVE": 1, "MIXED": 2}
