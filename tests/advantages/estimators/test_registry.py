"""Finding estimators by name, in installed packages and in a user's file; and what `run` refuses of them."""

from __future__ import annotations

import math
import re
import textwrap

import pytest
import torch

from lens_openrlhf.advantages.estimators import (
    ENTRY_POINTS,
    Batch,
    Estimator,
    EstimatorError,
    Result,
    find,
    from_path,
    left_out,
    made,
    names,
    run,
)

from .batches import Answer, answers, batch_of

BATCH = batch_of([[Answer(1, (0.5, 1.0)), Answer(0, (2.0,))], answers(0, 0)])


@pytest.fixture
def write(tmp_path):
    """write(code) -> path of a file with it."""

    def to_file(code: str, name: str = "my.py") -> str:
        path = tmp_path / name
        path.write_text("from __future__ import annotations\nimport torch\n" + textwrap.dedent(code))
        return str(path)

    return to_file


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


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise NotImplementedError", "advantages raised NotImplementedError"),
        ("raise KeyError('oops')", "advantages raised KeyError: 'oops'"),
        ("return None", "gave back NoneType, expected a tensor or a Result"),
        ("return batch.rewards.tolist()", "gave back list, expected a tensor or a Result"),
        ("return batch.rewards / 0", "response 0 has advantage inf"),
        ("return batch.rewards / batch.rewards", "response 1 has advantage nan"),
        (
            "return batch.entropies.log() * (batch.entropies - 0.5) / (batch.entropies - 0.5)",
            "token 0 has advantage nan",
        ),
        ("return batch.rewards[:3]", r"gave back shape \[3\], expected \[4\], one a response or \[5\], one a token$"),
        ("return batch.rewards[:, None]", r"gave back shape \[4, 1\], expected"),
        ("return batch.rewards.mean()", r"gave back shape \[\], expected"),
        ("return batch.rewards.to('meta')", "gave back advantages on meta, expected cpu"),
        ("return batch.rewards + 1j", "gave back torch.complex128, expected real numbers"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_file(write, body, message):
    path = write(f"def own(batch): {body}")
    with pytest.raises(EstimatorError, match=rf"^estimator own \({re.escape(path)}\): {message}"):
        run(from_path(f"{path}:own")(), BATCH)


def test_one_a_token_without_token_numbers_says_how_to_get_them(write):
    path = write("def own(batch): return torch.zeros(5)")
    with pytest.raises(
        EstimatorError, match=r"expected \[4\], one a response \(one a token only with needs of logprobs, "
    ):
        run(from_path(f"{path}:own")(), batch_of([answers(0, 0, 0, 0)], needs=()))


# What comes back


class Given(Estimator):
    def __init__(self, result):
        super().__init__()
        self.result = result

    def advantages(self, batch):
        return self.result


def test_advantages_come_back_as_float64_without_a_graph():
    for given in (torch.tensor([1, 0, 2, 3]), torch.ones(4, requires_grad=True), torch.ones(4, dtype=torch.bool)):
        advantage = run(Given(given), BATCH).advantage
        assert advantage.dtype == torch.float64 and not advantage.requires_grad
        assert advantage.tolist() == given.tolist()


def test_the_confidence_is_the_geometric_mean_unless_given():
    batch = batch_of([[Answer(1, (1.0, 1.0), logprob=-2.0), Answer(0, ())]])
    confidence = run(Given(torch.zeros(2)), batch).confidence.tolist()
    assert confidence[0] == math.exp(-2) and math.isnan(confidence[1])
    given = torch.tensor([0.25, 0.5])
    result = run(Given(Result(advantage=torch.zeros(2), confidence=given, metrics={"mine": 1.5, "none": None})), batch)
    assert result.confidence is given and result.metrics == {"mine": 1.5, "none": None}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"confidence": 0.5}, r"gave back float as confidence, expected a tensor \[2\]"),
        ({"confidence": torch.zeros(3)}, r"gave back a confidence of shape \[3\] on cpu, expected \[2\]"),
        ({"confidence": torch.tensor([math.nan, 0.5])}, "response 0 has confidence nan"),
        ({"metrics": None}, "gave back NoneType as metrics, expected a dict"),
        ({"metrics": {"mine": "much"}}, "metric 'mine' is 'much', expected a number or None"),
    ],
)
def test_what_comes_along_is_checked_too(more, message):
    batch = batch_of([[Answer(1, (1.0,)), Answer(0, ())]])
    with pytest.raises(EstimatorError, match=rf"^estimator custom \(.*\): {message}"):
        run(Given(Result(advantage=torch.zeros(2), **more)), batch)


def test_an_empty_response_needs_no_confidence():
    batch = batch_of([[Answer(1, (1.0,)), Answer(0, ())]])
    confidence = torch.tensor([0.5, math.nan])
    assert run(Given(Result(advantage=torch.zeros(2), confidence=confidence)), batch).confidence is confidence


def test_what_it_does_to_its_batch_is_not_recorded(write):
    path = write(
        "def own(batch):\n    batch.mean_logprob.zero_()\n    batch.lengths.zero_()\n"
        "    return batch.rewards.sub_(0.5).add_(batch.correctness.zero_())"
    )
    batch = batch_of([answers(1, 0)])
    before = run(Given(torch.zeros(2)), batch)
    result = run(from_path(f"{path}:own")(), batch)
    assert result.advantage.tolist() == [0.5, -0.5]
    assert batch.rewards.tolist() == batch.correctness.tolist() == [1, 0]
    assert result.confidence.tolist() == before.confidence.tolist() != [1, 1]


def test_one_that_cannot_be_made_is_named_with_its_file(write):
    path = write(
        """
        from dataclasses import dataclass
        from lens_openrlhf.advantages.estimators import Estimator, option

        @dataclass(frozen=True, kw_only=True)
        class Config:
            scale: float = option(1.0, "factor")
            def __post_init__(self):
                if self.scale < 0:
                    raise ValueError(f"scale={self.scale}: use at least 0")
                {}[self.scale - 1]

        class Own(Estimator):
            Config = Config

        class Other(Estimator):
            def __init__(self, config=None):
                raise ValueError("no luck")
        """
    )
    own, other = (from_path(f"{path}:{name}") for name in ("Own", "Other"))
    with pytest.raises(ValueError, match="^scale=-1: use at least 0"):
        made(own, {"scale": -1})
    with pytest.raises(EstimatorError, match=rf"^estimator Own \({re.escape(path)}\): its Config raised KeyError"):
        made(own, {"scale": 3})
    with pytest.raises(EstimatorError, match=r"^estimator Other \(.*my.py\): __init__ raised ValueError: no luck"):
        made(other, {})


def test_an_estimator_from_a_prompt_is_named_without_a_file(monkeypatch):
    import sys
    import types

    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))  # as in a notebook: it has no file
    prompted = type("Prompted", (Given,), {"name": "prompted", "__module__": "__main__"})
    with pytest.raises(EstimatorError, match="^estimator prompted: gave back NoneType"):
        run(prompted(None), BATCH)


def test_the_helpers_of_a_batch():
    batch: Batch = batch_of([[Answer(1, (1.0, 2.0)), Answer(0, ())], answers(1), answers(0.3, 0.3), answers(0, 0, 0)])
    assert batch.group_of.tolist() == [0, 0, 1, 2, 2, 3, 3, 3]
    assert batch.response_of.tolist() == [0, 0, 2, 3, 4, 5, 6, 7]
    assert batch.kinds.tolist() == [2, 1, 0, 0]
    assert batch.group_mean(batch.correctness).tolist() == [0.5, 1, 0.3, 0]
    assert batch.token_mean(batch.entropies).tolist() == [1.5, 0, 1, 1, 1, 1, 1, 1]
    assert batch.token_mean(batch.entropies).dtype == torch.float64
    assert batch.grpo(batch.rewards).tolist() == pytest.approx([0.5**0.5, -(0.5**0.5), 0, 0, 0, 0, 0, 0])
