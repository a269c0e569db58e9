"""Files of rollouts: which columns are read, their numbers checked by kind, the table about them, and the rows once
more."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lens_openrlhf.inputs import OptionError
from lens_openrlhf.outside import rollouts, summary, writing
from lens_openrlhf.outside.files import File, column_names, find_files, labels
from lens_openrlhf.outside.rollouts import Rollouts, choose

from .test_advantages_command import write_lines, write_table

ROW = {"prompt": "q", "reward": 1.0, "logprobs": [-1.0, -2.0]}
FORMATS = ("jsonl", "parquet")


def write(path: Path, rows: list[dict]) -> Path:
    return Path((write_table if path.suffix == ".parquet" else write_lines)(path, rows))


def refusal(function, *args, **kwargs) -> str:
    with pytest.raises(OptionError) as refused:
        function(*args, **kwargs)
    return str(refused.value)


# Places.


def test_a_run_stands_for_its_steps_by_their_numbers_between_the_other_files(tmp_path):
    (tmp_path / "run/samples").mkdir(parents=True)
    steps = [tmp_path / f"run/samples/step-{name}.parquet" for name in ("000002", "000010", "1000000")]
    for path in (*reversed(steps), tmp_path / "run/samples/notes.parquet"):
        write(path, [ROW])
    first, last = write(tmp_path / "z.jsonl", [ROW]), write(tmp_path / "a.parquet", [ROW])
    assert find_files([str(first), str(tmp_path / "run"), str(last)]) == [first, *steps, last]


def test_places_that_are_none_are_named(tmp_path):
    file, other = write(tmp_path / "a.jsonl", [ROW]), write(tmp_path / "b.jsonl", [ROW])
    (tmp_path / "run/samples").mkdir(parents=True)
    for places, message in {
        (file, tmp_path / "run"): f"{tmp_path}/run: a folder without samples/step-*.parquet; name a run folder, or "
        "files",
        (file, tmp_path / "b.csv"): f"{tmp_path}/b.csv: expected a .jsonl or .parquet file, or a run folder",
        (file, tmp_path / "c.jsonl"): f"{tmp_path}/c.jsonl: no such file",
        (other, file, file, other): f"{other}: is named twice; its responses would count double",
    }.items():
        assert refusal(find_files, [str(place) for place in places]) == message


# Columns by kind.


def test_labels_are_texts_and_whole_numbers_each_once(tmp_path):
    values = [True, "2", 2, 1, 0.5, None, ["x"], "2", "1"]
    paths = [
        write(tmp_path / "none.parquet", [ROW]),
        write(tmp_path / "a.jsonl", [{"label": value} for value in values] + [ROW]),
        write(tmp_path / "b.parquet", [{"label": value} for value in ("3", None, "2")]),
        write(tmp_path / "c.parquet", [{"label": value} for value in (0.5, 4.0)]),
        write(tmp_path / "d.parquet", [{"label": value} for value in (5, 2)]),
    ]
    assert labels(paths) == ["2", 2, 1, "1", "3", 5] and labels(paths[:1]) == []


def test_the_columns_of_a_file(tmp_path):
    assert column_names(write(tmp_path / "a.jsonl", [{"b": 1, "a": 2}, {"c": 3}])) == ["b", "a"]
    assert column_names(write(tmp_path / "a.parquet", [{"b": 1, "a": 2}])) == ["b", "a"]
    assert column_names(write(tmp_path / "b.jsonl", [])) == []
    (tmp_path / "b.parquet").write_bytes(b"no parquet, but long enough for one")
    path = tmp_path / "b.parquet"
    told = refusal(column_names, path)
    assert told.startswith(f"{path}: cannot be read as parquet (Parquet magic bytes not found in footer")
    assert "\n" not in told
    # Its columns can be read, its rows cannot.
    whole = write(tmp_path / "c.parquet", [{"a": "x" * 100 + str(n)} for n in range(100)])
    content = bytearray(whole.read_bytes())
    content[4:60] = bytes(56)
    whole.write_bytes(content)
    assert refusal(File, whole, {"prompt": "a"}).startswith(f"{whole}: cannot be read (")


def file_of(folder: Path, ending: str, **columns: list) -> File:
    """A file with these columns, which are read as such, in several pieces where the format has them."""
    path = folder / f"rows.{ending}"
    if ending == "jsonl":
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        write(path, rows)
    else:
        pq.write_table(pa.table(columns), path, row_group_size=2)
    return File(path, {name: name for name in columns})


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([3, -1, 2], None, [3.0, -1.0, 2.0]),
        ([0.5, None, 2.0], None, [0.5, math.nan, 2.0]),
        ([True, False, None], None, [1.0, 0.0, math.nan]),
        ([None, None, None], None, [math.nan] * 3),
        ([1, 0, 1], pa.uint8(), [1.0, 0.0, 1.0]),
        ([0.5, 1.0, 2.0], pa.float32(), [0.5, 1.0, 2.0]),
        ([decimal.Decimal("0.5"), decimal.Decimal("1.0")], None, [0.5, 1.0]),
        (["1", "2"], None, "column x is string, expected numbers"),
        ([datetime.date(2026, 1, 1)], None, "column x is date32[day], expected numbers"),
    ],
)
def test_columns_of_parquet_that_are_numbers(tmp_path, values, kind, expected):
    file = file_of(tmp_path, "parquet", x=pa.array(values, kind))
    if isinstance(expected, str):
        assert refusal(file.numbers, "x") == f"{file.path}: {expected}"
        return
    found = file.numbers("x")
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float64 and file.rows == len(values)


def test_values_of_lines_that_are_numbers(tmp_path):
    file = file_of(tmp_path, "jsonl", x=[3, 0.5, True, False, None])
    np.testing.assert_array_equal(file.numbers("x"), [3.0, 0.5, 1.0, 0.0, math.nan])
    path = write(tmp_path / "b.jsonl", [{"x": 1, "y": 1}, {"y": 2}])
    np.testing.assert_array_equal(File(path, {"x": "x"}).numbers("x"), [1.0, math.nan])
    for value, shown in (("right", '"right"'), ([1.0], "[1.0]"), ("x" * 100, '"' + "x" * 79)):
        file = file_of(tmp_path, "jsonl", x=[None, 1, value, value])
        assert refusal(file.numbers, "x") == f"{file.path}: row 3, column x: {shown}, expected numbers"


@pytest.mark.parametrize("ending", FORMATS)
def test_whole_numbers_from_the_least_on(tmp_path, ending):
    found = file_of(tmp_path, ending, x=[3.0, 0.0, 7.0]).whole("x", 0)
    assert found.tolist() == [3, 0, 7] and found.dtype == np.int64
    assert file_of(tmp_path, ending, x=[1, 2]).whole("x", 1).tolist() == [1, 2]
    for value, shown in ((0.5, "0.5"), (0.0, "0.0"), (-1.0, "-1.0"), (None, "empty or NaN")):
        file = file_of(tmp_path, ending, x=[1.0, 1.0, value, value])
        said = f"{file.path}: row 3, column x: {shown}, expected a whole number of at least 1"
        assert refusal(file.whole, "x", 1) == said


@pytest.mark.parametrize(
    "kind",
    [None, pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.int16()), pa.list_(pa.float64(), 2)],
)
def test_columns_of_lists(tmp_path, kind):
    rows = [[1, 2], [3, 4], [5, 6]] if pa.types.is_fixed_size_list(kind or pa.null()) else [[1, 2], [], [3]]
    for ending in FORMATS if kind is None else ("parquet",):
        values, lengths = file_of(tmp_path, ending, x=rows if ending == "jsonl" else pa.array(rows, kind)).lists("x")
        assert values.tolist() == [value for row in rows for value in row] and values.dtype == np.float64
        assert lengths.tolist() == [len(row) for row in rows] and lengths.dtype == np.int64


def test_lists_that_are_all_empty_and_columns_that_are_no_lists(tmp_path):
    for ending in FORMATS:
        values, lengths = file_of(tmp_path, ending, x=[[], []]).lists("x")
        assert values.tolist() == [] and lengths.tolist() == [0, 0]
    for rows, kind in (([["a"]], "list<element: string>"), ([1.0], "double"), (["a"], "string")):
        file = file_of(tmp_path, "parquet", x=rows)
        assert refusal(file.lists, "x") == f"{file.path}: column x is {kind}, expected lists of numbers"
    for value, shown in (("a", '"a"'), (["a"], '["a"]'), (1.0, "1.0")):
        file = file_of(tmp_path, "jsonl", x=[[1.0], value, value])
        assert refusal(file.lists, "x") == f"{file.path}: row 2, column x: {shown}, expected lists of numbers"


@pytest.mark.parametrize("ending", FORMATS)
def test_the_place_of_a_token_between_empty_lists(tmp_path, ending):
    rows = [[], [1.0, 2.0], [], [], [3.0, 4.0, 5.0], [6.0]]
    file = file_of(tmp_path, ending, x=rows)
    values, lengths = file.lists("x")
    for bad, row, token in ((1.0, 2, 1), (2.0, 2, 2), (3.0, 5, 1), (5.0, 5, 3), (6.0, 6, 1)):
        said = f"{file.path}: row {row}, column x: token {token} of the list is {bad}; no"
        assert refusal(file.check_tokens, "x", values == bad, lengths, "no", values) == said
        assert refusal(file.check_tokens, "x", values >= bad, lengths, "no", values) == said
    file.check_tokens("x", values > 6, lengths, "no", values)
    file = file_of(tmp_path, ending, x=[[1.0], None, None])
    assert refusal(file.lists, "x") == f"{file.path}: row 2, column x: is empty, expected a list"


@pytest.mark.parametrize("ending", FORMATS)
def test_what_tells_prompts_apart(tmp_path, ending):
    chat = [{"role": "user", "content": "é"}]
    for values, keys in (
        (["a", "", "1"], ["a", "", "1"]),
        ([1, 0, 1], [1, 0, 1]),
        ([1.0, 2.5], ["1.0", "2.5"]),
        ([chat, chat], [json.dumps([{"content": "é", "role": "user"}])] * 2),
    ):
        assert file_of(tmp_path, ending, x=values).keys("x") == keys
    for values in (["a", None, None], [1.0, math.nan, math.nan]):
        file = file_of(tmp_path, ending, x=values)
        assert (
            refusal(file.keys, "x") == f"{file.path}: row 2, column x: is empty or NaN; every response needs its prompt"
        )


def test_prompts_are_the_same_whatever_the_order_of_their_keys_and_dates_are_prompts(tmp_path):
    file = file_of(tmp_path, "jsonl", x=[{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 1}])
    first, second, third = file.keys("x")
    assert first == second != third
    day = datetime.date(2026, 11, 28)
    assert file_of(tmp_path, "parquet", x=[day]).keys("x") == ['"2026-11-28"']


# Which columns are read.

EVERY = [
    *("prompt", "prompt_id", "step", "correctness", "reward", "confidence", "mean_logprob", "logprobs"),
    *("tokens", "length", "self_certainty", "entropies", "step_score", "other"),
]


def chosen(path: Path, there: list[str], given: dict[str, str] | None = None, needs=(), extras=()) -> dict[str, str]:
    """Of a file with these columns, `given` by name; the others are None, as where no option was given."""
    write(path, [dict.fromkeys(there, 1)] if there else [])
    return choose(path, dict.fromkeys(rollouts.USUAL) | (given or {}), needs, extras)


def without(*names: str) -> list[str]:
    return [name for name in EVERY if name not in names]


LOGPROBS = {"step": "step", "correctness": "correctness", "reward": "reward", "logprobs": "logprobs"}
OUTCOMES = {"prompt": "prompt_id", "step": "step", "correctness": "correctness", "reward": "reward"}


@pytest.mark.parametrize(
    ("there", "more", "expected"),
    [
        (EVERY, {}, {"prompt": "prompt_id"} | LOGPROBS),
        (without("prompt_id"), {}, {"prompt": "prompt"} | LOGPROBS),
        (without("prompt"), {}, {"prompt": "prompt_id"} | LOGPROBS),
        (without("step"), {}, {k: v for k, v in ({"prompt": "prompt_id"} | LOGPROBS).items() if k != "step"}),
        (without("reward"), {}, {"prompt": "prompt_id"} | {k: v for k, v in LOGPROBS.items() if k != "reward"}),
        (without("correctness"), {}, {"prompt": "prompt_id"} | {k: v for k, v in LOGPROBS.items() if k[0] != "c"}),
        (without("logprobs"), {}, OUTCOMES | {"mean_logprob": "mean_logprob", "length": "length"}),
        (without("logprobs", "length"), {}, OUTCOMES | {"mean_logprob": "mean_logprob", "length": "tokens"}),
        (without("logprobs", "mean_logprob"), {}, OUTCOMES | {"confidence": "confidence", "length": "length"}),
        (EVERY, {"given": {"confidence": "other"}}, OUTCOMES | {"confidence": "other", "length": "length"}),
        (EVERY, {"given": {"mean_logprob": "other"}}, OUTCOMES | {"mean_logprob": "other", "length": "length"}),
        (
            EVERY,
            {"given": {"confidence": "confidence", "length": "other"}},
            OUTCOMES | {"confidence": "confidence", "length": "other"},
        ),
        (EVERY, {"given": {"prompt": "other", "step": "tokens"}}, LOGPROBS | {"prompt": "other", "step": "tokens"}),
        (EVERY, {"needs": ["entropies"]}, {"prompt": "prompt_id"} | LOGPROBS | {"entropies": "entropies"}),
        (
            EVERY,
            {"needs": ["logprobs", "self_certainty"]},
            {"prompt": "prompt_id"} | LOGPROBS | {"self_certainty": "self_certainty"},
        ),
        (
            EVERY,
            {"needs": ["entropies"], "given": {"mean_logprob": "mean_logprob", "entropies": "other"}},
            OUTCOMES | {"mean_logprob": "mean_logprob", "entropies": "other", "length": "length"},
        ),
        (
            EVERY,
            {"extras": ["step_score", "other"]},
            {"prompt": "prompt_id"} | LOGPROBS | {"extra step_score": "step_score", "extra other": "other"},
        ),
    ],
)
def test_the_columns_that_are_read(tmp_path, there, more, expected):
    assert chosen(tmp_path / "a.jsonl", there, **more) == expected


@pytest.mark.parametrize(
    ("there", "more", "message"),
    [
        ([], {}, "{path}: has no rows"),
        (["a", "b"], {"given": {"reward": "c"}}, "--reward c: {path} has no such column; it has a, b"),
        (
            ["reward", "logprobs"],
            {},
            "{path}: no column says which responses share a prompt (columns: reward, logprobs); name it with --prompt "
            "COLUMN",
        ),
        (
            ["prompt", "logprobs"],
            {},
            "{path}: no column has the outcome (columns: prompt, logprobs); name it with --correctness COLUMN or "
            "--reward COLUMN",
        ),
        (
            ["prompt", "reward"],
            {},
            "{path}: no column has log-probabilities (columns: prompt, reward); name it with --logprobs, "
            "--mean_logprob or --confidence COLUMN",
        ),
        (
            ["prompt", "reward", "mean"],
            {"given": {"mean_logprob": "mean"}},
            "{path}: mean is a response's, but no column has its number of tokens (columns: prompt, reward, mean); "
            "name it with --length COLUMN",
        ),
        (
            EVERY,
            {"given": {"length": "tokens"}},
            "--length tokens: the lists in logprobs have their length; leave it out",
        ),
        (
            ["prompt", "reward", "logprobs"],
            {"needs": ["entropies"]},
            "{path}: no column has the entropies that the estimator needs of every token (columns: prompt, reward, "
            "logprobs); name it with --entropies COLUMN",
        ),
        (
            EVERY,
            {"needs": ["logprobs"], "given": {"confidence": "other"}},
            "--confidence other: the estimator needs the log-probability of every token; name their column with "
            "--logprobs COLUMN",
        ),
        (
            ["prompt", "reward", "logprobs"],
            {"extras": ["drawn"]},
            "{path}: no column is named drawn, which the estimator needs of every response (columns: prompt, reward, "
            "logprobs); add it to the rows",
        ),
    ],
)
def test_columns_that_are_missing_are_named_with_the_remedy(tmp_path, there, more, message):
    path = tmp_path / "a.jsonl"
    assert refusal(chosen, path, there, **more) == message.format(path=path)


# What is read.


def read(paths, needs=(), extras=(), **given) -> Rollouts:
    return rollouts.read(paths, dict.fromkeys(rollouts.USUAL) | given, needs, extras)


def same(found: Rollouts, **expected) -> None:
    """Every field of what was read, arrays by type and value."""
    assert vars(found).keys() == expected.keys()

    def check(value, wanted):
        if isinstance(wanted, dict):
            assert value.keys() == wanted.keys()
            for name in wanted:
                check(value[name], wanted[name])
        elif isinstance(wanted, np.ndarray):
            np.testing.assert_array_equal(value, wanted, strict=True)
        else:
            assert value == wanted

    for name, wanted in expected.items():
        check(vars(found)[name], wanted)


@pytest.mark.parametrize("endings", [("jsonl", "parquet"), ("parquet", "jsonl")])
def test_files_are_read_one_after_the_other_as_one(tmp_path, endings):
    rows = [
        {"prompt": p, "step": s, "correctness": c, "reward": r, "logprobs": lp, "entropies": [-v for v in lp], "z": z}
        for p, s, c, r, lp, z in [
            ("b", 0, 1.0, 0.75, [-1.0, -2.0], 0.5),
            ("a", 2, 0.0, -3.0, [], 1.5),
            ("b", 2, 0.5, 0.5, [-3.0], 2.5),
            ("c", 0, 0.0, 0.0, [-4.0, -5.0, 0.0], 3.5),
            ("a", 0, 1.0, 9.0, [-6.0], -4.5),
        ]
    ]
    paths = [write(tmp_path / f"{n}.{ending}", rows[n * 3 : 3 + n * 2]) for n, ending in enumerate(endings)]
    logprobs = np.array([-1.0, -2.0, -3.0, -4.0, -5.0, 0.0, -6.0])
    same(
        read(paths, ["entropies"], ["z"]),
        files=paths,
        columns={"prompt": "prompt"} | LOGPROBS | {"entropies": "entropies", "extra z": "z"},
        prompt=np.array([0, 1, 0, 2, 1]),
        recurs=True,
        step=np.array([0, 2, 2, 0, 0]),
        correctness=np.array([1.0, 0.0, 0.5, 0.0, 1.0]),
        reward=np.array([0.75, -3.0, 0.5, 0.0, 9.0]),
        mean_logprob=None,
        length=np.array([2, 0, 1, 3, 1]),
        tokens={"logprobs": logprobs, "entropies": -logprobs},
        extras={"z": np.array([0.5, 1.5, 2.5, 3.5, -4.5])},
    )


@pytest.mark.parametrize(
    ("form", "values", "mean"),
    [
        ("mean_logprob", [-1.0, 0.0, -0.5, 7.0], [-1.0, 0.0, -0.5, 7.0]),
        ("confidence", [0.5, 1.0, 0.0, -7.0], [math.log(0.5), 0.0, -math.inf, math.nan]),
    ],
)
def test_one_number_a_response_and_nothing_else(tmp_path, form, values, mean):
    rows = [{"prompt": "q", "correctness": 1, form: v, "length": n} for v, n in zip(values, (3, 1, 2, 0), strict=True)]
    path = write(tmp_path / "a.jsonl", rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what has no logarithm is no fault where it counts for nothing
        found = read([path])
    same(
        found,
        files=[path],
        columns={"prompt": "prompt", "correctness": "correctness", form: form, "length": "length"},
        prompt=np.zeros(4, dtype=np.int64),
        recurs=True,
        step=np.ones(4, dtype=np.int64),
        correctness=np.ones(4),
        reward=np.ones(4),
        mean_logprob=np.array(mean),
        length=np.array([3, 1, 2, 0]),
        tokens={},
        extras={},
    )


@pytest.mark.parametrize(
    ("columns", "given", "recurs"),
    [
        ({"prompt_id": 0}, {}, True),
        ({"prompt": "q", "step": 1}, {}, True),
        ({"prompt_id": 0, "step": 1}, {}, False),
        ({"prompt_id": 0, "prompt": "q", "step": 1}, {"prompt": "prompt"}, True),
        ({"prompt_id": 0, "step": 1}, {"prompt": "prompt_id"}, True),
    ],
)
def test_when_a_prompts_number_says_something_from_step_to_step(tmp_path, columns, given, recurs):
    path = write(tmp_path / "a.jsonl", [columns | {"reward": 1, "logprobs": [-1.0]}])
    assert read([path], **given).recurs is recurs


BAD = {"prompt": "q", "step": 1.0, "correctness": 1.0, "reward": 1.0, "logprobs": [-1.0, -1.0]}
MEAN = {"prompt": "q", "reward": 1.0, "mean_logprob": -1.0, "tokens": 2.0, "entropies": [1.0, 1.0]}
CONFIDENCE = {"prompt": "q", "reward": 1.0, "confidence": 0.5, "length": 2.0}
LOGPROB = "a log-probability is a number of at most 0; leave such responses out, or mend what wrote them"
IN_RANGE = "a mean token probability is in [0, 1] (runs have it with this project's estimators alone)"


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize(
    ("row", "change", "needs", "message"),
    [
        (BAD, {"step": 0.0}, [], None),
        (BAD, {"step": -1.0}, [], "step: -1.0, expected a whole number of at least 0"),
        (BAD, {"reward": -5.0}, [], None),
        (BAD, {"reward": math.inf}, [], "reward: inf; a reward is finite"),
        (BAD, {"reward": None}, [], "reward: empty or NaN; a reward is finite"),
        (BAD, {"correctness": 0.0}, [], None),
        (BAD, {"correctness": 0.25}, [], None),
        (BAD, {"correctness": 1.001}, [], "correctness: 1.001, expected 0 to 1"),
        (BAD, {"correctness": -0.001}, [], "correctness: -0.001, expected 0 to 1"),
        (BAD, {"correctness": None}, [], "correctness: empty or NaN, expected 0 to 1"),
        (
            CONFIDENCE,
            {"reward": -0.001},
            [],
            "reward: -0.001, expected 0 to 1; name the verifier's outcome with --correctness COLUMN",
        ),
        (BAD, {"logprobs": [-1.0, 0.001]}, [], None),
        (BAD, {"logprobs": [-1.0, 0.002]}, [], f"logprobs: token 2 of the list is 0.002; {LOGPROB}"),
        (BAD, {"logprobs": [-math.inf, math.nan]}, [], f"logprobs: token 2 of the list is empty or NaN; {LOGPROB}"),
        (MEAN, {"mean_logprob": 0.001}, [], None),
        (MEAN, {"mean_logprob": 0.002}, [], f"mean_logprob: 0.002; {LOGPROB}"),
        (MEAN, {"mean_logprob": None}, [], f"mean_logprob: empty or NaN; {LOGPROB}"),
        (MEAN, {"mean_logprob": 3.0, "tokens": 0.0}, [], None),
        (MEAN, {"tokens": -1.0}, [], "tokens: -1.0, expected a whole number of at least 0"),
        (CONFIDENCE, {"confidence": 1.0}, [], None),
        (CONFIDENCE, {"confidence": 0.0}, [], None),
        (CONFIDENCE, {"confidence": 1.001}, [], f"confidence: 1.001; {IN_RANGE}"),
        (CONFIDENCE, {"confidence": -0.001}, [], f"confidence: -0.001; {IN_RANGE}"),
        (CONFIDENCE, {"confidence": None, "length": 0.0}, [], None),
        (MEAN, {"entropies": [1.0]}, ["entropies"], "entropies: has 1 numbers for 2 tokens (tokens)"),
        (MEAN, {"entropies": [1.0, 1.0, 1.0]}, ["entropies"], "entropies: has 3 numbers for 2 tokens (tokens)"),
        (MEAN, {"entropies": [1.0, -math.inf]}, ["entropies"], "entropies: token 2 of the list is -inf; a finite "),
    ],
)
def test_both_sides_of_what_can_be_used(tmp_path, ending, row, change, needs, message):
    path = write(tmp_path / f"a.{ending}", [row, row | change, row | change])
    if message is None:
        assert len(read([path], needs).prompt) == 3
    else:
        assert refusal(read, [path], needs).startswith(f"{path}: row 2, column {message}")


@pytest.mark.parametrize("value", [None, math.inf, -math.inf])
def test_what_else_is_read_must_be_finite(tmp_path, value):
    path = write(tmp_path / "a.jsonl", [BAD | {"z": 1.0}, BAD | {"z": value}])
    shown = "empty or NaN" if value is None else value
    assert refusal(read, [path], (), ["z"]) == f"{path}: row 2, column z: {shown}; a finite number is needed"


def test_a_later_file_without_rows_is_named(tmp_path):
    first, second = write(tmp_path / "a.parquet", [BAD]), tmp_path / "b.parquet"
    pq.write_table(pq.read_table(first).slice(0, 0), second)
    assert refusal(read, [first, second]) == f"{second}: has no rows"


@pytest.mark.parametrize(
    "config",
    [
        *(None, "no JSON", "{}", "[]", '{"options": []}', '{"options": {"algo.lens.confidence": "geometric"}}'),
        '{"options": {}}',
    ],
)
def test_a_runs_confidences_are_taken_for_a_mean_tokens_unless_it_says_otherwise(tmp_path, config):
    (tmp_path / "samples").mkdir()
    path = write(tmp_path / "samples/step-000001.parquet", [CONFIDENCE])
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert read([path]).mean_logprob.tolist() == [math.log(0.5)]
    (tmp_path / "config.json").write_text('{"options": {"algo.lens.confidence": "sequence"}}')
    assert (
        refusal(read, [path])
        == f"{path}: the run had --algo.lens.confidence sequence, so its column confidence is the "
        "probability of whole answers, where a mean token's is needed; there is no way back from it"
    )


# The table.


def made(kinds: list[tuple[int, int, float, float, int]], files=("a.jsonl",), columns=None) -> Rollouts:
    """Rows of (step, prompt, correctness, reward, length)."""
    step, prompt, correctness, reward, length = map(np.array, zip(*kinds, strict=True))
    return Rollouts(
        files=[Path(file) for file in files],
        columns=columns or {"prompt": "prompt"},
        prompt=prompt,
        recurs=True,
        step=step,
        correctness=correctness.astype(float),
        reward=reward.astype(float),
        mean_logprob=None,
        length=length,
        tokens={},
        extras={},
    )


MIXED_UP = [
    (1, 7, 0, 0, 1),
    (2, 3, 1, 1, 4),
    (1, 3, 1, 1, 2),
    (2, 7, 0, 0, 0),
    (1, 7, 0, -1, 3),
    (1, 3, 0, 0, 2),
    (2, 3, 1, 1, 1),
]


def test_the_table_by_kinds_of_groups():
    """Step 1: prompt 7 all wrong, but its rewards differ, 3 mixed; step 2: 3 all right, 7 wrong, without tokens."""
    by_response = [1.0, 0.0, -3.0, 0.5, 2.0, 1.0, 0.0]
    by_token = [np.full(n, value) for (*_, n), value in zip(MIXED_UP, (2, 1, -1, 0, 0, 0, 0), strict=True)]
    columns = {"prompt": "prompt_id", "reward": "reward", "length": "tokens"}
    found = summary.table(made(MIXED_UP, columns=columns), {"lens": by_response, "mine": by_token})
    # Of prompt 7, 3 and 7: sizes 1, 2 | 0.5; 3, 1; 0, 0; by tokens 1, 6 | 0; 6, 2; 0, 0. By token: 2, 0; 1; 1.
    assert (
        found
        == """\
a.jsonl: 7 samples, 4 groups, 2 steps
columns read: prompt from prompt_id, reward, length from tokens

                        negative  mixed  positive     all
groups                         2      1         1       4
samples                        3      2         2       7
lens
  mean |advantage|         1.167      2         0   1.071
  share of |advantage|     46.7%  53.3%      0.0%  100.0%
  the same by tokens       46.7%  53.3%      0.0%  100.0%
  rescued samples              1      0         0       1
mine
  mean |advantage|        0.6667    0.5       0.5  0.5714
  share of |advantage|     50.0%  25.0%     25.0%  100.0%
  the same by tokens       25.0%  25.0%     50.0%  100.0%
  rescued samples              0      0         1       1"""
    )


def test_a_table_of_nothing():
    """No group of two kinds, and no advantage at all."""
    found = summary.table(made([(5, 1, 0, 0, 2), (5, 1, 0, 0, 2)]), {"grpo": [0.0, 0.0]})
    assert (
        found
        == """\
a.jsonl: 2 samples, 1 groups, 1 step
columns read: prompt

                        negative  mixed  positive  all
groups                         1      0         0    1
samples                        2      0         0    2
grpo
  mean |advantage|             0      –         –    0
  share of |advantage|         –      –         –    –
  the same by tokens           –      –         –    –
  rescued samples              0      0         0    0"""
    )


@pytest.mark.parametrize(
    ("files", "named"),
    [(["a", "b"], "a and b: "), (["a", "b", "c"], "a and 2 more files: "), (["a"] * 1_002, "a and 1,001 more files: ")],
)
def test_the_files_of_a_table(files, named):
    first, *_ = summary.table(made(MIXED_UP, files), {}).splitlines()
    assert first == f"{named}7 samples, 4 groups, 2 steps"


def test_a_table_of_many_samples_has_its_thousands_apart():
    rows = [(1, n // 2, 0, 0, 1) for n in range(3_000)]
    found = summary.table(made(rows), {"lens": [1.0] * 3_000}).splitlines()
    assert found[0] == "a.jsonl: 3,000 samples, 1,500 groups, 1 step"
    assert [line.split()[-4:] for line in (found[4], found[5], found[-1])] == [
        ["1,500", "0", "0", "1,500"],
        ["3,000", "0", "0", "3,000"],
        ["3,000", "0", "0", "3,000"],
    ]


# The rows once more.

FIRST = [{"id": 1, "advantage": "old", "text": "é"}, {"id": 2, "advantage": "old", "text": "b"}]
SECOND = [{"id": 3.5, "more": [1, 2]}]


@pytest.mark.parametrize("endings", [("jsonl", "jsonl"), ("jsonl", "parquet"), ("parquet", "jsonl")])
def test_rows_are_written_with_more_columns(tmp_path, endings):
    paths = [
        write(tmp_path / f"{n}.{e}", rows) for n, (e, rows) in enumerate(zip(endings, (FIRST, SECOND), strict=True))
    ]
    columns = {"advantage": [1, 0.5, -2.0], "by_token": [np.array([1.0, 2.0]), np.array([]), np.array([3.0])]}
    lists = [values.tolist() for values in columns["by_token"]]
    writing.write(tmp_path / "out.jsonl", paths, columns)
    added = [{"advantage": a, "by_token": b} for a, b in zip(columns["advantage"], lists, strict=True)]
    text = (tmp_path / "out.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == [
        row | more for row, more in zip(FIRST + SECOND, added, strict=True)
    ]
    assert text.startswith('{"id": 1, "advantage": 1.0, ')
    writing.write(tmp_path / "out.parquet", paths, columns)
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == [
        {"id": i, "text": t, "more": m, **more}
        for i, t, m, more in zip([1.0, 2.0, 3.5], ["é", "b", None], [None, None, [1, 2]], added, strict=True)
    ]
    assert pq.ParquetFile(tmp_path / "out.parquet").metadata.row_group(0).column(0).compression == "ZSTD"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*(p.name for p in paths), "out.jsonl", "out.parquet"]
    )


def test_what_json_has_no_word_for_is_written_as_text(tmp_path):
    path = write(tmp_path / "a.parquet", [{"at": datetime.datetime(2026, 11, 28, 12)}])
    writing.write(tmp_path / "out.jsonl", [path], {"advantage": [0.5]})
    assert (tmp_path / "out.jsonl").read_text() == '{"at": "2026-11-28 12:00:00", "advantage": 0.5}\n'


def test_rows_without_a_common_form_and_places_that_cannot_be_written(tmp_path):
    first, second = write(tmp_path / "a.parquet", [{"x": 1}]), write(tmp_path / "b.parquet", [{"x": "1"}])
    third = write(tmp_path / "c.jsonl", [{"x": 1}, {"x": [1]}])
    out = tmp_path / "out.parquet"
    told = refusal(writing.write, out, [first, second], {"a": [1.0, 2.0]})
    assert told.startswith(f"{first} and the others have no common form as a table (") and "\n" not in told
    assert told.endswith("); write .jsonl")
    told = refusal(writing.write, out, [first, third], {"a": [1.0] * 3})
    assert told.startswith(f"{third}: its rows have no common form as a table (") and told.endswith("); write .jsonl")
    long = tmp_path / ("x" * 300 + ".jsonl")
    assert refusal(writing.write, long, [first], {"a": [1.0]}) == f"-o {long}: cannot be written (File name too long)"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet", "c.jsonl"]
