"""Which problems a set takes, in which order, and what is said of every row that it leaves out."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from lens_openrlhf.data import labels, recipes
from lens_openrlhf.data.problems import KINDS, Problem, key
from lens_openrlhf.data.recipes import Counts, Sets
from lens_openrlhf.inputs import OptionError

from . import rows

CACHE = Path("cache")


def source(option: str, **splits: list[dict]) -> SimpleNamespace:
    return SimpleNamespace(kind=KINDS[option], rows=lambda split: iter(splits[split]))


@pytest.fixture
def verdicts(monkeypatch):
    """{label: why it is bad} of what is graded by; the labels in the order in which they were asked for."""
    bad: dict[str, str] = {}
    asked: list[str] = []

    def check(distinct, cache):
        assert cache == CACHE
        asked.extend(distinct)
        return {label: bad.get(label) for label in distinct}

    monkeypatch.setattr(labels, "check", check)
    return SimpleNamespace(bad=bad, asked=asked)


def texts(problems: list[Problem]) -> list[str]:
    return [problem.text for problem in problems]


MATH_TRAIN = [
    rows.math_row("a train", "1", "Level 1"),
    rows.math_row("a test", "2"),
    rows.math_row("a train", "3"),
    rows.math_row("in 500 alone", "4"),
    rows.math_row("a TEST ", "5"),
    rows.math_row("", "6"),
    rows.math_row("bad label", "?1"),
    rows.math_row("another train", "8", "Level 2", "Geometry"),
]
MATH_TEST = [
    rows.math_row("a test", "11"),
    rows.math_row("bad test", "?2"),
    rows.math_row("a test", "10"),
    {"problem": "no solution", "solution": "", "level": "Level 1", "type": "Algebra"},
]
MATH_500 = [rows.math_row("in 500 alone", "20"), rows.math_row("a test", "21")]
DAPO = [
    rows.dapo_row("d one", "30"),
    rows.dapo_row("d two", "31"),
    rows.dapo_row("d one", "32"),
    rows.dapo_row("another train", "33"),
    rows.dapo_row("in 500 alone", "34"),
    rows.dapo_row("bad test", "35"),
    rows.dapo_row("bad label", "36"),
    *(rows.dapo_row(f"bad {n}", f"?{n}") for n in range(3, 8)),
    rows.dapo_row("d three", "?!"),
]


def all_sources() -> dict:
    return {
        "math": source("math", train=MATH_TRAIN, test=MATH_TEST),
        "math500": source("math500", test=MATH_500),
        "dapo": source("dapo", train=DAPO),
    }


def test_a_whole_set(verdicts, capsys):
    verdicts.bad |= {f"?{n}": "unread" for n in range(1, 8)} | {"?!": "slow"}
    made = recipes.build(all_sources(), 7, None, CACHE)
    train = [
        Problem("a train", "1", "MATH", 1, "Algebra"),
        Problem("another train", "8", "MATH", 2, "Geometry"),
    ]
    dapo = [Problem("d one", "30", "DAPO"), Problem("d two", "31", "DAPO")]
    train += random.Random(7).sample(dapo, 2)
    random.Random(7).shuffle(train)
    test = [Problem("a test", "10", "MATH", 3, "Algebra"), Problem("a test", "11", "MATH", 3, "Algebra")]
    of_500 = [Problem("in 500 alone", "20", "MATH", 3, "Algebra"), Problem("a test", "21", "MATH", 3, "Algebra")]
    assert made == Sets(
        {"train": train, "test": test, "math500": sorted(of_500, key=lambda problem: key(problem.text))},
        {
            "MATH test": Counts(4, {"no answer": 1, "unread": 1}, 2, 2),
            "MATH-500": Counts(2, {}, 2, 2),
            "MATH train": Counts(
                8,
                {
                    "also in MATH test": 1,
                    "a duplicate": 2,
                    "also in MATH-500": 1,
                    "no problem text": 1,
                    "unread": 1,
                },
                2,
                2,
            ),
            "DAPO": Counts(
                13,
                {
                    "a duplicate": 1,
                    "also in MATH train": 2,
                    "also in MATH-500": 1,
                    "also in MATH test": 1,
                    "unread": 5,
                    "slow": 1,
                },
                2,
                2,
            ),
        },
        {"unread": ["?2", "?1", "?3"], "slow": ["?!"]},
        [
            "MATH train has 8 rows here; the paper's has 7,500",
            "MATH test has 4 rows here; the paper's has 5,000",
            "MATH test: 2 of 4 problems are left out, as Math-Verify cannot grade their answers",
            "DAPO: the paper takes 17,500 problems, but only 2 are left; all are used",
        ],
    )
    assert list(made.files) == ["train", "test", "math500"]
    assert verdicts.asked == "11 ?2 10 20 21 1 ?1 8 30 31 ?3 ?4 ?5 ?6 ?7 ?!".split()
    assert capsys.readouterr().out.splitlines() == [
        "reading MATH test …",
        "reading MATH-500 …",
        "reading MATH train …",
        "reading DAPO …",
        "checking 16 labels …",
    ]


def many(count: int) -> dict:
    return {
        "math": source(
            "math",
            train=[rows.math_row(f"train {n}", str(n)) for n in range(3)],
            test=[rows.math_row(f"test {n}", str(n)) for n in range(6)],
        ),
        "dapo": source("dapo", train=[rows.dapo_row(f"dapo {n}", str(n)) for n in range(count)]),
    }


ORDER_OF_SEED_0 = ["dapo 4", "train 2", "train 1", "train 0", "dapo 0", "dapo 3"]
ORDER_OF_SEED_1 = ["train 2", "dapo 1", "dapo 4", "train 0", "dapo 0", "train 1"]
ORDER_OF_THE_TEST = ["test 1", "test 2", "test 5", "test 3", "test 0", "test 4"]


def test_the_order_of_a_training_set_is_its_seeds(verdicts):
    """Written down: a set that is made again, by a later release too, has the same rows in the same order."""
    assert texts(recipes.build(many(5), 0, 3, CACHE).files["train"]) == ORDER_OF_SEED_0
    assert texts(recipes.build(many(5), 1, 3, CACHE).files["train"]) == ORDER_OF_SEED_1


def test_the_order_of_a_test_set_is_that_of_no_copy_and_no_seed(verdicts):
    sources = many(5)
    test = recipes.build(sources, 0, 3, CACHE).files["test"]
    assert texts(test) == ORDER_OF_THE_TEST
    backwards = [rows.math_row(f"test {n}", str(n)) for n in reversed(range(6))]
    sources["math"] = source("math", train=[rows.math_row("train 0", "0")], test=backwards)
    assert recipes.build(sources, 1, 2, CACHE).files["test"] == test


@pytest.mark.parametrize("wanted", [1, 4, 5])
def test_so_many_problems_of_dapo(wanted, verdicts):
    made = recipes.build(many(5), 3, wanted, CACHE)
    assert made.counts["DAPO"] == Counts(5, {}, 5, wanted)
    taken = {problem.text for problem in made.files["train"] if problem.source == "DAPO"}
    assert len(taken) == wanted and taken == {p.text for p in random.Random(3).sample(dapo_problems(5), wanted)}
    assert not any("DAPO" in note for note in made.notes)


def dapo_problems(count: int) -> list[Problem]:
    return [Problem(f"dapo {n}", str(n), "DAPO") for n in range(count)]


TOO_FEW = (
    "--dapo_problems 6: only 5 are left that are distinct, in no test set and not in MATH train; ask for fewer, or "
    "leave the option out for as many as there are"
)


def test_too_few_problems_of_dapo(verdicts):
    with pytest.raises(OptionError) as refusal:
        recipes.build(many(5), 0, 6, CACHE)
    assert str(refusal.value) == TOO_FEW and verdicts.asked == []
    # And where that turns out by the labels.
    sources = many(6)
    sources["dapo"] = source("dapo", train=[rows.dapo_row(f"dapo {n}", f"d{n}") for n in range(6)])
    verdicts.bad["d5"] = "bad"
    with pytest.raises(OptionError) as refusal:
        recipes.build(sources, 0, 6, CACHE)
    assert str(refusal.value) == TOO_FEW and verdicts.asked


def test_the_papers_numbers(verdicts):
    """Where all is there, there is nothing to note."""
    sources = {
        "math": source(
            "math",
            train=[rows.math_row(f"train {n}", "1") for n in range(7_500)],
            test=[rows.math_row(f"test {n}", "1") for n in range(5_000)],
        ),
        "dapo": source("dapo", train=[rows.dapo_row(f"dapo {n}", "1") for n in range(17_501)]),
    }
    made = recipes.build(sources, 0, None, CACHE)
    assert made.notes == [] and made.counts["DAPO"] == Counts(17_501, {}, 17_501, 17_500)
    assert len(made.files["train"]) == 25_000 and len(made.files["test"]) == 5_000


def test_all_of_numina(verdicts):
    sources = many(1)
    del sources["dapo"]
    sources["numina"] = source("numina", train=[rows.numina_row(f"n {n}", str(n)) for n in range(4)])
    made = recipes.build(sources, 0, None, CACHE)
    assert sorted(texts(made.files["train"])) == [*(f"n {n}" for n in range(4)), *(f"train {n}" for n in range(3))]
    assert list(made.files) == ["train", "test"] and not any("DAPO" in note for note in made.notes)
    assert made.counts["NuminaMath-1.5"] == Counts(4, {}, 4, 4)


def test_nothing_is_left(verdicts):
    sources = many(2)
    rest = [rows.dapo_row(f"test {n % 3}", "1") for n in range(4)] + [rows.dapo_row("", "1")] * 1_001
    sources["dapo"] = source("dapo", train=rest)
    with pytest.raises(OptionError) as refusal:
        recipes.build(sources, 0, None, CACHE)
    assert str(refusal.value) == (
        "DAPO: nothing is left of 1,005 rows: 1,001 no problem text, 3 also in MATH test, 1 a duplicate"
    )
    sources["dapo"] = source("dapo", train=[])
    with pytest.raises(OptionError, match="^DAPO: nothing is left of 0 rows: none dropped$"):
        recipes.build(sources, 0, None, CACHE)
