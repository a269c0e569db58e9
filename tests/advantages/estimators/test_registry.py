"""Finding estimators by name, in installed packages and in a user's file."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass, make_dataclass

import pytest

from lens_openrlhf.advantages.estimators import (
    ENTRY_POINTS,
    Estimator,
    EstimatorError,
    find,
    from_path,
    left_out,
    names,
    registry,
    run,
)
from lens_openrlhf.advantages.estimators.base import check_declared

from .batches import BATCH

# By name


@pytest.mark.parametrize("name", names())
def test_every_name_finds_a_class_of_that_name(name):
    method = find(name)
    assert issubclass(method, Estimator) and method.name == name and method.paper
    assert method().options() is not None
    for option in method.options():
        assert option.metadata["help"] and option.default is not None


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(EstimatorError, match="^grop: unknown estimator; known: lens, grpo, dapo, "):
        find("grop")


# Installed packages


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package as installed, with estimators as a function and as a class, one that is neither and one broken."""
    folder = tmp_path / "site"
    (folder / "some_package").mkdir(parents=True)
    (folder / "some_package/__init__.py").write_text(
        "from lens_openrlhf.advantages.estimators import Estimator\n"
        "def doubled(batch): return 2 * batch.rewards\n"
        "def faulty(batch): return batch.nothing\n"
        "class Tripled(Estimator):\n"
        "    name = 'tripled'\n"
        "    def advantages(self, batch): return 3 * batch.rewards\n"
        "number = 3\n"
    )
    info = folder / "some_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{ENTRY_POINTS}]\n"
        "doubled = some_package:doubled\n"
        "faulty = some_package:faulty\n"
        "tripled = some_package:Tripled\n"
        "number = some_package:number\n"
        "broken = some_package.missing:f\n"
        "grpo = some_package:doubled\n"
        "rloo = some_package:doubled\n"
        "custom = some_package:Tripled\n"
        "with-dash = some_package:doubled\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(registry, "_from_packages", functools.cache(registry._from_packages.__wrapped__))


def test_estimators_of_installed_packages_are_found_after_ours(package):
    theirs = ["tripled", "doubled", "number", "broken"]
    assert names()[:2] == ["lens", "grpo"]
    assert [name for name in names() if name in theirs] == sorted(theirs) and names().count("grpo") == 1
    assert run(find("doubled")(), BATCH).advantage.tolist() == [2, 0, 0, 0]
    assert run(find("tripled")(), BATCH).advantage.tolist() == [3, 0, 0, 0]
    assert find("grpo").__module__.startswith("lens_openrlhf.")
    with pytest.raises(
        EstimatorError, match="broken: entry point some_package.missing:f cannot be imported: No module"
    ):
        find("broken")
    with pytest.raises(EstimatorError, match="some_package:number: number is neither an Estimator subclass nor a func"):
        find("number")


def test_a_package_cannot_have_a_name_that_makes_no_option(package):
    with pytest.raises(EstimatorError, match="with-dash: entry point some_package:doubled must have a name of letters"):
        find("with-dash")


def test_a_package_cannot_have_a_name_that_means_something_already(package):
    assert left_out() == [
        "custom (some_package:Tripled)",
        "grpo (some_package:doubled)",
        "rloo (some_package:doubled)",
    ]
    assert not {"custom", "rloo"} & set(names())
    with pytest.raises(
        EstimatorError, match=r"rloo: unknown estimator \(a package has one, but the name is taken\); k"
    ):
        find("rloo")


def test_a_faulty_estimator_of_a_package_is_named_with_its_entry_point(package):
    with pytest.raises(
        EstimatorError, match=r"estimator faulty \(some_package:faulty\): advantages raised AttributeError"
    ):
        run(find("faulty")(), BATCH)


# A user's file


def test_a_function_of_a_file(write):
    path = write("def own(batch): return batch.rewards - 0.5")
    method = from_path(f"{path}:own")
    assert method.name == "own" and method.needs == frozenset()
    assert run(method(), BATCH).advantage.tolist() == [0.5, -0.5, -0.5, -0.5]


def test_a_class_of_a_file_with_options_and_annotations_as_texts(write):
    path = write(
        """
        from dataclasses import dataclass
        from lens_openrlhf.advantages.estimators import Batch, Estimator, option

        @dataclass(frozen=True, kw_only=True)
        class Config:
            scale: float = option(2.0, "factor")

        class Own(Estimator):
            Config = Config
            needs = frozenset({"entropies"})
            def advantages(self, batch: Batch) -> torch.Tensor:
                return self.config.scale * batch.entropies
        """
    )
    method = from_path(f"{path}:Own")
    assert [(option.name, option.default) for option in method.options()] == [("scale", 2.0)]
    assert run(method(), BATCH).advantage.tolist() == [1, 2, 4, 2, 2]
    assert run(method(method.Config(scale=1.0)), BATCH).advantage.tolist() == [0.5, 1, 2, 1, 1]


@pytest.mark.parametrize(
    ("code", "place", "message"),
    [
        ("", "{path}", r"my.py: expected FILE.py:NAME"),
        ("", "{path}:", r"my.py:: expected FILE.py:NAME"),
        ("", "{path}:a b", r"my.py:a b: expected FILE.py:NAME"),
        ("", "my.txt:f", r"^my.txt:f: expected FILE.py:NAME"),
        ("", "{path}x.py:f", r"there is no file .*my.pyx.py$"),
        ("1 / 0", "{path}:f", r"my.py: cannot be imported: ZeroDivisionError: division by zero"),
        ("def f(:", "{path}:f", r"my.py: cannot be imported: SyntaxError"),
        ("x = torch.nn.Linear", "{path}:f", r"my.py: has no f; it has no function and no Estimator$"),
        ("def g(batch): ...", "{path}:f", r"my.py: has no f; it has g$"),
        (
            "from lens_openrlhf.advantages.estimators import Estimator\nclass G(Estimator): ...\ndef h(): ...",
            "{path}:f",
            r"my.py: has no f; it has G, h$",
        ),
        ("f = 3", "{path}:f", r"my.py: f is neither an Estimator subclass nor a function of a batch"),
        ("class f: ...", "{path}:f", r"my.py: f is neither an Estimator subclass nor a function of a batch"),
        (
            "def f(b): ...\nf.needs = {'entropy'}",
            "{path}:f",
            r"f \(.*my.py\): needs entropy; known: logprobs, entropies",
        ),
        (
            "from lens_openrlhf.advantages.estimators import Estimator\nclass f(Estimator): needs = {'entropy'}",
            "{path}:f",
            r"f \(.*my.py\): needs entropy; known: logprobs, entropies",
        ),
        (
            "def f(b): ...\nf.needs = ('z', 'logprobs', 'a')",
            "{path}:f",
            r"f \(.*my.py\): needs a, z; known: logprobs, entropies, self_certainty$",
        ),
        (
            "from lens_openrlhf.advantages.estimators import Estimator\nclass f(Estimator): sampling = 'twice'",
            "{path}:f",
            r"f \(.*my.py\): has sampling 'twice'; known: plain, until_positive, by_weight, scored",
        ),
        (
            "from lens_openrlhf.advantages.estimators import Estimator\nclass f(Estimator): policy_loss = 'pg'",
            "{path}:f",
            r"has policy_loss 'pg'; known: ppo, reinforce, topr",
        ),
        (
            "from lens_openrlhf.advantages.estimators import Estimator\nclass f(Estimator): Config = dict",
            "{path}:f",
            r"its Config is no dataclass",
        ),
        (
            "from lens_openrlhf.advantages.estimators import Estimator\nclass f(Estimator): sampling = 'scored'",
            "{path}:f",
            r"has sampling 'scored', but its Config has no scorer",
        ),
        (
            "from dataclasses import make_dataclass\nfrom lens_openrlhf.advantages.estimators import Estimator\n"
            "class f(Estimator): Config = make_dataclass('C', ['scale'])",
            "{path}:f",
            r"option scale has no default of type bool, int, float, str",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(write, code, place, message):
    with pytest.raises(EstimatorError, match=message):
        from_path(place.format(path=write(code)))


def test_a_file_that_cannot_be_imported_leaves_nothing_behind(write):
    with pytest.raises(EstimatorError, match=r"broken.py: cannot be imported: RuntimeError: no luck$"):
        from_path(write("raise RuntimeError('no luck')", "broken.py") + ":f")
    assert "lens_estimator_broken" not in sys.modules
    path = write("def f(batch): return batch.rewards", "sound.py")
    assert from_path(f"{path}:f").source == path
    assert sys.modules.pop("lens_estimator_sound").f.__module__ == "lens_estimator_sound"


def test_what_a_file_has_is_named_and_nothing_that_it_imports(write):
    path = write(
        """
        from lens_openrlhf.advantages.estimators import Estimator
        from json import dumps

        class Mine(Estimator): ...
        class Other: ...
        def of_mine(batch): ...
        NUMBER = 3
        """
    )
    with pytest.raises(EstimatorError, match="has no missing; it has Mine, of_mine$"):
        from_path(f"{path}:missing")


def test_a_class_without_a_name_has_that_of_the_file(write):
    path = write(
        """
        from lens_openrlhf.advantages.estimators import Estimator
        class Mine(Estimator): ...
        class Named(Estimator):
            name = "named"
        """
    )
    assert [(kind.name, kind.source) for kind in (from_path(f"{path}:Mine"), from_path(f"{path}:Named"))] == [
        ("Mine", path),
        ("named", path),
    ]


SAMPLED = {"until_positive": ["rounds", "oversample", "stop"], "scored": ["scorer"], "by_weight": [], "plain": []}


@pytest.mark.parametrize(("sampling", "wanted"), SAMPLED.items())
def test_a_way_of_sampling_has_its_options(sampling, wanted):
    for missing in [None, *wanted]:
        names = [name for name in wanted if name != missing]
        config = dataclass(frozen=True, kw_only=True)(make_dataclass("Config", [(name, int, 1) for name in names]))
        kind = type("Mine", (Estimator,), {"sampling": sampling, "Config": config, "name": "mine"})
        if missing is None:
            check_declared(kind, "my.py")
        else:
            expected = f"^mine \\(my.py\\): has sampling '{sampling}', but its Config has no {missing}$"
            with pytest.raises(EstimatorError, match=expected):
                check_declared(kind, "my.py")


@pytest.mark.parametrize("default", [True, 3, 0.5, "text", None, [1], 1j])
def test_options_are_what_a_command_line_can_give(default):
    config = make_dataclass("Config", [("first", int, 1)], bases=(type("Given", (), {}),))
    config = dataclass(make_dataclass("Config", [("second", object, None)], bases=(config,)))
    config.__dataclass_fields__["second"].default = default
    kind = type("Mine", (Estimator,), {"Config": config, "name": "mine"})
    if isinstance(default, bool | int | float | str):
        check_declared(kind, "my.py")
    else:
        with pytest.raises(EstimatorError, match="option second has no default of type bool, int, float, str$"):
            check_declared(kind, "my.py")


@pytest.mark.parametrize("loss", ["ppo", "reinforce", "topr"])
def test_the_losses_that_there_are(loss):
    check_declared(type("Mine", (Estimator,), {"policy_loss": loss}), "my.py")
