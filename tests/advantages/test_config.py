import dataclasses
import math

import pytest

from lens_openrlhf.advantages import GroupKind, LensConfig
from lens_openrlhf.advantages.config import ROUNDING, check_choices, check_number, option


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


@pytest.mark.parametrize(
    ("value", "limits", "said"),
    [
        (1, {"least": 1}, None),
        (0.5, {"least": 1}, "x=0.5: expected a finite number >= 1"),
        (1, {"above": 1}, "x=1: expected a finite number above 1"),
        (1.5, {"above": 1}, None),
        (-1e300, {}, None),
        (-math.inf, {}, "x=-inf: expected a finite number"),
        (math.inf, {"least": 0}, "x=inf: expected a finite number >= 0"),
        (math.nan, {"hint": "say"}, "x=nan: expected a finite number (say)"),
        (True, {"least": 0, "hint": "say"}, "x=True: expected a finite number >= 0 (say)"),
        ("1", {"above": 0, "hint": "say"}, "x='1': expected a finite number above 0 (say)"),
    ],
)
def test_a_number_has_both_limits(value, limits, said):
    if said is None:
        check_number("x", value, **limits)
    else:
        with pytest.raises(ValueError) as caught:
            check_number("x", value, **limits)
        assert str(caught.value) == said


def test_choices_are_those_of_the_field():
    kind = dataclasses.make_dataclass(
        "Config", [("free", str, option("a", "anything")), ("bound", str, option("b", "a choice", ("b", "c")))]
    )
    for bound in ("b", "c"):
        check_choices(kind(free="z", bound=bound))
    with pytest.raises(ValueError, match="^bound='z': expected one of b, c$"):
        check_choices(kind(bound="z"))
    assert [dict(entry.metadata) for entry in dataclasses.fields(kind)] == [
        {"help": "anything", "choices": None},
        {"help": "a choice", "choices": ("b", "c")},
    ]


@pytest.mark.parametrize(
    ("scope", "mixed", "uniform"),
    [("both", True, True), ("mixed", True, False), ("negative", False, True), ("none", False, False)],
)
def test_which_groups_a_scope_has(scope, mixed, uniform):
    config = LensConfig(scope=scope)
    assert (config.penalises_mixed, config.penalises_uniform) == (mixed, uniform)


def test_a_preference_tensor_stands_alone():
    LensConfig().check_preference_tensor()
    for preference in ("length", "policy"):
        with pytest.raises(ValueError, match=f"is a tensor, but the config has preference='{preference}'; use 'none'"):
            LensConfig(preference=preference).check_preference_tensor()


def test_what_counts_as_rounding():
    assert ROUNDING == 1e-9
