"""Estimators by name: the methods of this project, those of installed packages, and a user's own file."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from .base import Estimator, EstimatorError, Result, check_declared
from .batch import Batch

if TYPE_CHECKING:
    from torch import Tensor

ENTRY_POINTS = "lens_openrlhf.estimators"
CUSTOM = "custom"  # --algo.lens.estimator_path
# What `--algo.advantage.estimator NAME` and `--algo.NAME.FIELD` mean already.
OPENRLHF = ("gae", "reinforce", "rloo", "reinforce_baseline", "group_norm", "dr_grpo", "flash_reinforce")
RESERVED = frozenset({CUSTOM, "advantage", "kl", *OPENRLHF})

# name: module and class, imported when they are asked for
OURS = {
    "lens": ("lens", "Lens"),
    "grpo": ("grpo", "Grpo"),
    "dapo": ("dapo", "Dapo"),
    "ngrpo": ("ngrpo", "Ngrpo"),
    "rl_zvp": ("rl_zvp", "RlZvp"),
    "nsr": ("signs", "Nsr"),
    "psr": ("signs", "Psr"),
    "w_reinforce": ("signs", "WReinforce"),
    "asymre": ("asymre", "Asymre"),
    "topr": ("topr", "Topr"),
    "passk": ("passk", "Passk"),
    "intuitor": ("certainty", "Intuitor"),
    "rent": ("certainty", "Rent"),
    "spo": ("spo", "Spo"),
    "reinforce_ada": ("reinforce_ada", "ReinforceAda"),
    "spectral": ("spectral", "Spectral"),
}


@functools.cache
def _from_packages() -> dict:
    """Entry points by name; read once, as all that is installed is looked through for them."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def names() -> list[str]:
    """All estimators that can be found by name, this project's first."""
    return [*OURS, *sorted(_from_packages().keys() - OURS.keys() - RESERVED)]


def left_out() -> list[str]:
    """What installed packages offer under a name that is taken."""
    taken = OURS.keys() | RESERVED
    return [f"{point.name} ({point.value})" for name, point in sorted(_from_packages().items()) if name in taken]


def from_function(function: Callable[[Batch], Tensor | Result], name: str, source: str) -> type[Estimator]:
    """An estimator class around a function of a batch; `function.needs`, if it is there, is its needs."""

    class FromFunction(Estimator):
        def advantages(self, batch: Batch) -> Tensor | Result:
            return function(batch)

    FromFunction.name, FromFunction.source = name, source
    FromFunction.needs = frozenset(getattr(function, "needs", ()))
    check_declared(FromFunction, source)
    return FromFunction


def _as_class(thing: object, name: str, source: str) -> type[Estimator]:
    if isinstance(thing, type) and issubclass(thing, Estimator):
        thing.source = source
        if thing.name == Estimator.name:
            thing.name = name
        check_declared(thing, source)
        return thing
    if callable(thing) and not isinstance(thing, type):
        return from_function(thing, name, source)
    raise EstimatorError(f"{source}: {name} is neither an Estimator subclass nor a function of a batch")


def find(name: str) -> type[Estimator]:
    """The estimator class of that name.

    Raises:
        EstimatorError: an unknown name, which lists the known ones, or a package that cannot be imported.
    """
    if name in OURS:
        module, class_name = OURS[name]
        return getattr(importlib.import_module(f".{module}", __package__), class_name)
    if name not in names():
        taken = " (a package has one, but the name is taken)" if name in _from_packages() else ""
        raise EstimatorError(f"{name}: unknown estimator{taken}; known: {', '.join(names())}")
    point = _from_packages()[name]
    if not name.isidentifier():  # an option's name has it between dots
        raise EstimatorError(f"{name}: entry point {point.value} must have a name of letters, digits and _")
    try:
        thing = point.load()
    except Exception as error:
        raise EstimatorError(f"{name}: entry point {point.value} cannot be imported: {error}") from error
    return _as_class(thing, name, point.value)


def load(place: str, expected: str) -> tuple[object, str, str]:
    """What a user's own file has under a name, given as `my.py:name`; also the name and the path.

    Raises:
        EstimatorError: no such file or name, or a file that cannot be imported; `expected` says what it should be.
    """
    path, separator, name = place.rpartition(":")
    if not separator or not path.endswith(".py") or not name.isidentifier():
        raise EstimatorError(f"{place}: expected FILE.py:NAME, {expected}")
    if not Path(path).is_file():
        raise EstimatorError(f"{place}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"lens_estimator_{Path(path).stem}", path)
    assert spec and spec.loader  # of a .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise EstimatorError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        own = {n: v for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__}
        there = [n for n, v in own.items() if inspect.isfunction(v) or isinstance(v, type) and issubclass(v, Estimator)]
        raise EstimatorError(f"{path}: has no {name}; it has {', '.join(there) or 'no function and no Estimator'}")
    return getattr(module, name), name, path


def from_path(place: str) -> type[Estimator]:
    """The estimator of a user's own file, given as `my.py:name`: an Estimator subclass or a function of a batch.

    Raises:
        EstimatorError: no such file or name, or a file that cannot be imported.
    """
    return _as_class(*load(place, "a function of a batch or an Estimator subclass"))
