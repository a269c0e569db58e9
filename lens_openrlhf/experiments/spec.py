"""The spec of a comparison: its file read, and checked for form."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..inputs import OptionError

LABEL = re.compile(r"\w[\w .,=+()-]*")
LABEL_LENGTH = 30
MAX_VALUES = 100_000


class SpecError(OptionError):
    """A spec that cannot be run, or not fairly, with the place and the remedy."""


def fail(message: str) -> NoReturn:
    raise SpecError(message)


def nearest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known))
    return f"; did you mean {found[0]}?" if found else ""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A comparison as its file has it. The first arm is the baseline."""

    name: str
    profile: str | None = None
    gpus: int | None = None  # the profile's size; None: its own
    paper: str | None = None  # which of the paper's tables to lay beside, see paper.yaml
    options: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int]
    k: Sequence[int] | None = None  # None: powers of two up to the answers a prompt
    split_by: Sequence[str] | None = None  # None: all that the runs recorded
    parallel: int = 1
    allow_unfair: Sequence[str] = ()
    keep_models: bool = False


def read(path: Path) -> Spec:
    """The spec in a YAML file.

    Raises:
        SpecError: a file that cannot be read, an unknown key, a value of the wrong type, duplicate seeds, an arm whose
            label makes no good folder name.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML itself takes the last of several equal keys without a word."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        fail(f"{path}: line {key.start_mark.line + 1}: {key.value!r} stands there twice")
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        with open(path) as file:
            content = yaml.load(file, Loader)
    except OSError as error:
        fail(f"{path}: cannot be read ({error.strerror})")
    except SpecError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        fail(f"{path}: is not YAML ({' '.join(str(error).split())})")
    try:
        _check_size(content)
        return _check_types(content)
    except SpecError as error:
        fail(f"{path}: {error}")


def _check_size(content: Any) -> None:
    """A few lines of aliases to aliases can mean more values than the memory holds; messages would print them."""
    values = [content]
    for _ in range(MAX_VALUES + 1):
        if not values:
            return
        value = values.pop()
        values += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    fail(f"means more than {MAX_VALUES:,} values, with every alias written out; a spec needs far fewer")


def _check_types(content: Any) -> Spec:
    if not isinstance(content, dict):
        fail("expected keys such as arms and seeds, each with a value")
    known = list(Spec.__dataclass_fields__)
    for key in content:
        if key not in known:
            fail(f"unknown key {key!r}{nearest(str(key), known)} (keys are: {', '.join(known)})")
    # A key without a value is one that was left out.
    content = {"options": {}} | {key: value for key, value in content.items() if value is not None}
    for key in ("name", "arms", "seeds"):
        if key not in content:
            fail(f"{key} is missing")

    for key, kind, expected in (
        ("name", str, "text"),
        ("profile", str, "the name of a profile"),
        ("paper", str, "the name of one of the paper's tables"),
        ("keep_models", bool, "true or false"),
    ):
        if key in content and not isinstance(content[key], kind):
            fail(f"{key} is {content[key]!r}: expected {expected}")
    for key, member, expected in (
        ("seeds", int, "whole numbers"),
        ("k", int, "whole numbers"),
        ("split_by", str, "columns of the evaluation data"),
        ("allow_unfair", str, "options"),
    ):
        values = content.get(key, [])
        if not isinstance(values, list) or any(type(value) is not member for value in values):
            fail(f"{key} is {values!r}: expected a list of {expected}")
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            fail(f"{key}: {twice[0]} stands there twice")
    if not content["seeds"]:
        fail("seeds is empty: expected at least one")
    for key in ("seeds", "k"):
        for value in content.get(key, []):
            if value < (key == "k"):
                fail(f"{key}: {value} is too small: expected at least {int(key == 'k')}")
    for key, expected in (("parallel", "how many runs at once"), ("gpus", "how many GPUs the profile is for")):
        number = content.get(key, 1)
        if type(number) is not int or number < 1:
            fail(f"{key} is {number!r}: expected {expected}, at least 1")
    _check_label("name", content["name"])

    arms = content["arms"]
    if not isinstance(arms, dict) or not arms:
        fail(f"arms is {arms!r}: expected a label and options for each arm")
    folders: dict[str, str] = {}
    for label in arms:
        if not isinstance(label, str):
            fail(f"arms: the label {label!r} is no text; write it in quotes")
        _check_label(f"arm {label!r}", label)
        other = folders.setdefault(label.lower(), label)
        if other != label:
            fail(f"arms {other!r} and {label!r} differ by case alone, and some disks take their folders for one")
    content["arms"] = {label: _check_options(f"arm {label!r}", given) for label, given in arms.items()}
    if "paper" in content:
        _check_paper(content["paper"], arms)
    content["options"] = _check_options("options", content["options"])
    return Spec(**content)


def _check_paper(table: str, arms: Iterable[str]) -> None:
    from . import paper

    if table not in paper.names():
        fail(f"paper is {table!r}: expected one of {'; '.join(paper.names())}")
    theirs = paper.pass_at_k(table)
    if not set(arms) & set(theirs):
        fail(f"paper: none of the arms is called as those of {table} ({', '.join(theirs)})")


def _check_label(place: str, label: str) -> None:
    if not LABEL.fullmatch(label) or label[-1] in " ." or len(label) > LABEL_LENGTH:
        fail(
            f"{place}: {label!r} makes no good folder name; use at most {LABEL_LENGTH} letters, digits, spaces and "
            ". , = + ( ) -, beginning with a letter or digit and not ending with a dot"
        )


def _check_options(place: str, given: Any) -> dict[str, list[str] | None]:
    """{option: words, or None to leave it out}."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        fail(f"{place} is {given!r}: expected options, such as algo.lens.alpha: 0.25")
    return {str(name): _to_words(f"{place}: {name}", value) for name, value in given.items()}


def _to_words(place: str, value: Any) -> list[str] | None:
    if value is None:
        return None
    if value is True:
        return []
    if value is False:
        fail(f"{place}: false says nothing on a command line; write null to leave the option out")
    values = value if isinstance(value, list) else [value]
    if not values or any(type(item) not in (str, int, float) for item in values):
        fail(
            f"{place} is {value!r}: expected a value, a list of values, true for a bare flag, or null to leave the "
            "option out; options have dotted names, such as algo.lens.alpha"
        )
    return [str(item) for item in values]
