"""Answers of a run: what is read of them, what confidence says, and which texts reach the page; by hand."""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lens_openrlhf.reporting import samples, texts
from lens_openrlhf.reporting.arms import Arm
from lens_openrlhf.reporting.confidence import penalty_data, reliability_data, windows
from lens_openrlhf.reporting.runs import Problem, Run
from lens_openrlhf.reporting.samples import read_rows, read_samples
from lens_openrlhf.reporting.series import short, spread
from lens_openrlhf.reporting.texts import text_data

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # numpy's would reach the terminal

# Two prompts with two answers each, as a file may hold them: not in their order.
ROWS = [
    {"prompt_id": 1, "index": 3, "correctness": 0.0, "reward": 0.0, "tokens": 8, "confidence": 0.5, "advantage": -0.5},
    {"prompt_id": 0, "index": 1, "correctness": 0.0, "reward": -1.0, "tokens": 5, "confidence": 0.2, "advantage": -1.0},
    {"prompt_id": 1, "index": 2, "correctness": 0.0, "reward": 0.0, "tokens": 4, "confidence": 0.1, "advantage": 0.25},
    {"prompt_id": 0, "index": 0, "correctness": 1.0, "reward": 2.0, "tokens": 3, "confidence": 0.4, "advantage": 1.0},
]
TEXTS = {"prompt": "p", "label": "l", "response": "r", "kind": "mixed", "truncated": False}
MAX = {"algo.lens.difficulty": "max"}


def write(folder: Path, step: int, rows=ROWS, **columns) -> Path:
    """columns: whole columns in place of the rows' own; None for one that is not there."""
    table = {name: [row[name] for row in rows] for name in rows[0]}
    table |= {name: [row.get(name, value) for row in rows] for name, value in TEXTS.items()}
    table = {name: values for name, values in (table | columns).items() if values is not None}
    path = folder / "samples" / f"step-{step:06}.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(table), path)
    return path


def run(folder: Path, **options) -> Run:
    paths = sorted((folder / "samples").glob("*.parquet"))
    return Run(folder, folder.name, options=options, samples={int(path.stem[5:]): path for path in paths})


def test_answers_are_read_in_the_order_of_their_prompts(tmp_path):
    write(tmp_path, 3)
    (found,) = read_samples(run(tmp_path, **MAX)).values()
    assert {name: values.tolist() for name, values in found.columns.items()} == {
        "prompt_id": [0, 0, 1, 1],
        "index": [0, 1, 2, 3],
        "correctness": [1, 0, 0, 0],
        "reward": [2, -1, 0, 0],
        "tokens": [3, 5, 4, 8],
        "confidence": [0.4, 0.2, 0.1, 0.5],
        "advantage": [1, -1, 0.25, -0.5],
    }
    assert found.group.tolist() == [0, 0, 1, 1]
    assert found.groups.difficulty.tolist() == pytest.approx([0.8, 1.0])
    assert found.groups.advantage.tolist() == [1, -1, 0.25, -0.5], "the update's, not computed anew"
    assert found.z.tolist() == pytest.approx([0.25, 0.1, 0.5])
    assert found.metrics() == {
        "lens/negative_groups": 0.5,
        "lens/positive_groups": 0.0,
        "lens/mixed_groups": 0.5,
        "lens/abs_advantage_negative": 0.375,
        "lens/abs_advantage_positive": None,
        "lens/abs_advantage_mixed": 1.0,
        "lens/rescued_samples": 0.5,
        "lens/rescued_tokens": pytest.approx(12 / 20),
        "lens/confidence_right": pytest.approx(0.4),
        "lens/confidence_wrong": pytest.approx(0.8 / 3),
        "lens/empty_responses": 0.0,
        "lens/difficulty": pytest.approx(0.9),
        "rollout/reward_mean": 0.25,
        "rollout/response_length_mean": 5.0,
    }


def test_groups_of_different_sizes_and_fractions(tmp_path):
    more = {
        "prompt_id": 0,
        "index": 9,
        "correctness": 0.5,
        "reward": 0.5,
        "tokens": 2,
        "confidence": 0.3,
        "advantage": 0.0,
    }
    write(tmp_path, 3, [*ROWS, more])
    (found,) = read_samples(run(tmp_path, **MAX)).values()
    assert found.group.tolist() == [0, 0, 0, 1, 1] and found.columns["index"].tolist() == [0, 1, 9, 2, 3]
    assert found.groups.difficulty.tolist() == pytest.approx([0.8, 1.0])
    assert found.z.tolist() == pytest.approx([0.25, 0.375, 0.1, 0.5]), "half right is wrong"


def test_answers_without_a_confidence_count_otherwise(tmp_path):
    write(tmp_path, 1, confidence=[0.5, 0.2, None, 0.4], advantage=[None] * 4)
    write(tmp_path, 2, confidence=[None] * 4, advantage=[None] * 4)
    write(tmp_path, 3, confidence=[None, 0.2, None, 0.4])
    found = read_samples(run(tmp_path, **MAX))
    assert found[1].z.tolist() == pytest.approx([0.25, 0.5])
    assert found[1].metrics()["lens/difficulty"] == pytest.approx(0.9)
    assert found[2].z.tolist() == [] and found[2].metrics()["lens/difficulty"] is None
    assert found[2].metrics()["lens/negative_groups"] == 0.5
    assert found[3].z.tolist() == pytest.approx([0.25])
    assert found[3].metrics()["lens/difficulty"] == pytest.approx(0.8)


def test_confidences_of_no_logarithm(tmp_path):
    write(tmp_path, 1, confidence=[0.5, 0.2, 0.0, 0.4])
    write(tmp_path, 2, confidence=[0.5, 0.2, -0.1, 0.4])
    found = run(tmp_path, **MAX)
    (read,) = read_samples(found).values()
    assert read.z.tolist() == pytest.approx([0.25, 0, 0.5])
    told = "mean_logprob: response 2 is nan, although the response has tokens; the step's answers are left out"
    assert found.problems == [Problem(str(found.samples[2]), told)]


@pytest.mark.parametrize(
    ("options", "difficulty"),
    [
        ({}, [1.2, 1.0]),
        (MAX, [0.8, 1.0]),
        ({"algo.lens.preference": "length", "algo.lens.gamma": 3.0}, [3.0, 3.0]),
        ({"algo.lens.preference": "length", "algo.lens.gamma": -1, **MAX}, [1.2, 1.0]),
        ({"algo.lens.difficulty": None, "algo.lens.scope": "nonsense", "algo.lens.alpha": "?"}, [1.2, 1.0]),
    ],
)
def test_the_difficulty_is_that_of_the_runs_options(tmp_path, options, difficulty):
    """One of three answers right, with confidence 0.4, makes D_imp 1.2; what is damaged counts as not given."""
    write(tmp_path, 1, [*ROWS, ROWS[1] | {"index": 9, "confidence": 0.1}])
    (found,) = read_samples(run(tmp_path, **options)).values()
    assert found.groups.difficulty.tolist() == pytest.approx(difficulty)


def test_a_file_that_is_written_anew_is_read_anew(tmp_path):
    path = write(tmp_path, 1)
    assert read_samples(run(tmp_path))[1].columns["tokens"].tolist() == [3, 5, 4, 8]
    write(tmp_path, 1, tokens=[18, 15, 14, 13])
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert read_samples(run(tmp_path))[1].columns["tokens"].tolist() == [13, 15, 14, 18]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"reward": None, "index": None}, "has no column index, reward"),
        ({"reward": ["a"] * 4}, "column reward is string, expected numbers"),
        ({"confidence": [[1]] * 4}, "column confidence is list<element: int64>, expected numbers"),
        *(
            ({name: [1, 2, None, 4]}, f"column {name} has rows without a number")
            for name in ("prompt_id", "index", "correctness", "reward", "tokens")
        ),
        ({"reward": [0, math.inf, 0, 0]}, "column reward has rows without a number"),
    ],
)
def test_a_step_that_cannot_be_used_is_told_and_left_out(tmp_path, columns, told):
    write(tmp_path, 1)
    path = write(tmp_path, 2, **columns)
    found = run(tmp_path)
    assert list(read_samples(found)) == [1]
    assert found.problems == [Problem(str(path), f"{told}; the step's answers are left out")]


def test_files_that_are_none(tmp_path):
    paths = [write(tmp_path, step) for step in (1, 2, 3)]
    paths[0].write_bytes(b"none")
    pq.write_table(pq.read_table(paths[1]).slice(0, 0), paths[1])
    found = run(tmp_path)
    paths[2].unlink()
    assert read_samples(found) == {}
    assert [problem.where for problem in found.problems] == [str(path) for path in paths]
    told = [problem.what for problem in found.problems]
    assert told[0].startswith("cannot be read as parquet (") and told[0].endswith("); the step's answers are left out")
    assert told[1] == "has no rows; the step's answers are left out"
    assert told[2].startswith("[Errno 2] No such file or directory")


def test_of_many_steps_fifty_are_read(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(samples, "_step_samples", lambda path, config, changed: path)
    found = Run(tmp_path, "run", samples={step: tmp_path / "file" for step in range(1, 202)})
    assert list(read_samples(found)) == spread(range(1, 202), 50) and len(read_samples(found)) == 50


def test_rows_with_their_texts(tmp_path):
    rows = [{**row, "prompt": f"p{row['prompt_id']}", "response": f"r{row['index']}"} for row in ROWS]
    found = read_rows(
        write(tmp_path, 1, rows, label=["1", None, "3", "4"], truncated=[True, False, None, False], extra=[1] * 4)
    )
    ordered = [rows[i] for i in (3, 1, 2, 0)]
    labels, cut = ("4", None, "3", "1"), (False, False, None, True)
    assert found == [
        {**row, "label": label, "kind": "mixed", "truncated": c}
        for row, label, c in zip(ordered, labels, cut, strict=True)
    ]


def test_texts_of_other_kinds(tmp_path):
    assert [row["label"] for row in read_rows(write(tmp_path, 1, label=[1, 2, 3, 4]))] == ["4", "2", "3", "1"]
    with pytest.raises(ValueError, match="^column label is list<element: int64>, expected texts$"):
        read_rows(write(tmp_path, 1, label=[[1]] * 4))
    with pytest.raises(ValueError, match="^has no column prompt, truncated$"):
        read_rows(write(tmp_path, 1, prompt=None, truncated=None))


# What confidence says.


def answers(confidence, right, z=()):
    columns = {"confidence": np.array(confidence, dtype=float), "correctness": np.array(right, dtype=float)}
    return SimpleNamespace(columns=columns, z=np.array(z, dtype=float))


@pytest.mark.parametrize(
    ("steps", "parts"),
    [
        ([5, 6], {"all": range(5, 7)}),
        ([5, 7], {"all": range(5, 8), "first": range(5, 6), "last": range(7, 8)}),
        ([9, 2], {"all": range(2, 10), "first": range(2, 4), "last": range(8, 10)}),
    ],
)
def test_the_first_and_the_last_third(steps, parts):
    assert windows(steps) == parts


def test_reliability_by_equal_shares_of_all_arms_answers():
    """Confidences 0 to 19 over both arms: ten bins of two."""
    first = {1: answers([2, 1, 0, math.nan], [1, 0.5, 0, 1]), 3: answers([3, 4], [1, 0])}
    again = {1: answers([19], [1])}
    second = {2: answers(range(18, 4, -1), [c >= 12 for c in range(18, 4, -1)])}
    parts = {"all": range(1, 4), "last": range(2, 4)}
    none = [None] * 10
    of_second = {
        "x": [*none[:2], 5, 6.5, 8.5, 10.5, 12.5, 14.5, 16.5, 18],
        "y": [*none[:2], 0, 0, 0, 0, 1, 1, 1, 1],
        "n": [0, 0, 1, 2, 2, 2, 2, 2, 2, 1],
        "auc": 1.0,
    }
    all_of_first = {
        "x": [0.5, 2.5, 4, *none[:6], 19],
        "y": [0, 1, 0, *none[:6], 1],
        "n": [2, 2, 1, 0, 0, 0, 0, 0, 0, 1],
        "auc": short(7 / 9),  # 2, 3 and 19 are right, 0, 1 and 4 wrong
    }
    last_of_first = {
        "x": [None, 3, 4, *none[:7]],
        "y": [None, 1, 0, *none[:7]],
        "n": [0, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        "auc": 0.0,
    }
    assert reliability_data([[first, again], [second], [{}]], parts) == {
        "confidence": [2 * i + 0.5 for i in range(10)],
        "windows": {"all": [all_of_first, of_second, None], "last": [last_of_first, of_second, None]},
    }


def test_reliability_of_few_confidences():
    part = {"all": range(1, 2)}
    one = reliability_data([[{1: answers([0.3, 0.3, 0.3], [1, 0, 1])}]], part)
    assert one == {
        "confidence": [0.3],
        "windows": {"all": [{"x": [0.3], "y": [0.66667], "n": [3], "auc": 0.5}]},
    }
    (same,) = reliability_data([[{1: answers([0.1, 0.9], [1, 1])}]], part)["windows"]["all"]
    assert same["auc"] is None and sum(same["n"]) == 2
    (same,) = reliability_data([[{1: answers([0.1, 0.9], [0, 0.5])}]], part)["windows"]["all"]
    assert same["auc"] is None and [y for y in same["y"] if y is not None] == [0, 0]
    nothing = {"confidence": [], "windows": {}}
    assert reliability_data([[{1: answers([math.nan], [1])}]], part) == reliability_data([[{}]], {}) == nothing


def test_penalties_of_wrong_answers():
    def weight(z):
        return -math.log1p(-z) / z - 1 if z else 0.0

    zs = [0.0, 0.01, 0.021, 0.021, 0.49, 0.5, 0.5000001]
    arms = [[{1: answers([], [], zs[:3]), 2: answers([], [], [0.3])}, {1: answers([], [], zs[3:])}], [{}]]
    found = penalty_data(arms, {"all": range(1, 3), "first": range(1, 2)})
    count = [2, 2, *[0] * 22, 3]
    grid = [round(i / 100, 2) for i in range(99)]
    assert found["z"] == grid
    assert found["w"] == [pytest.approx(weight(z), rel=1e-4, abs=1e-9) for z in grid]
    assert found["edges"] == [round(i / 50, 2) for i in range(26)]
    with_third = [*count[:15], 1, *count[16:]]
    assert found["histograms"] == {
        "all": [
            {"n": with_third, "mean_weight": pytest.approx((sum(map(weight, zs)) + weight(0.3)) / 8, rel=1e-4)},
            None,
        ],
        "first": [{"n": count, "mean_weight": pytest.approx(sum(map(weight, zs)) / 7, rel=1e-4)}, None],
    }


# Texts.


def entries(folder: Path, steps: int = 9, more: Run | None = None) -> list[dict]:
    found = run(folder, **MAX)
    listed = [Arm("a", [found])] + ([Arm("b", [more])] if more else [])
    return text_data(listed, {r.folder: read_samples(r) for arm in listed for r in arm.runs}, steps)


def test_texts_of_a_step_with_their_numbers(tmp_path):
    rows = [{**row, "prompt": f"p{row['prompt_id']}", "response": f"r{row['index']}"} for row in ROWS]
    write(tmp_path, 4, rows, truncated=[True, False, None, False], advantage=[-0.5, None, 1 / 3, 1.0])
    empty = Run(tmp_path / "empty", "empty", seed="3")

    def answer(text, correctness, reward, confidence, advantage, tokens, truncated=False):
        return {
            **{"text": text, "correctness": correctness, "reward": reward, "confidence": confidence},
            **{"advantage": advantage, "tokens": tokens, "truncated": truncated},
        }

    more = {"label": "l", "kind": "mixed"}
    assert entries(tmp_path, more=empty) == [
        {
            "arm": 0,
            "run": tmp_path.name,
            "seed": None,
            "recorded": 1,
            "texts": {
                "4": [
                    {
                        **{"prompt": "p0", **more, "difficulty": 0.8},
                        "answers": [answer("r0", 1.0, 2.0, 0.4, 1.0, 3), answer("r1", 0.0, -1.0, 0.2, None, 5)],
                    },
                    {
                        **{"prompt": "p1", **more, "difficulty": 1.0},
                        "answers": [
                            answer("r2", 0.0, 0.0, 0.1, 0.33333, 4),
                            answer("r3", 0.0, 0.0, 0.5, -0.5, 8, truncated=True),
                        ],
                    },
                ]
            },
        },
        {"arm": 1, "run": "empty", "seed": "3", "recorded": 0, "texts": {}},
    ]


def test_which_steps_have_texts(tmp_path):
    for step in range(1, 8):
        write(tmp_path, step, response=[None] * 4 if step == 4 else list("abcd"))
    write(tmp_path, 7, truncated=None)
    found = run(tmp_path)
    answers = {tmp_path: read_samples(found)}
    assert list(text_data([Arm("a", [found])], answers, 3)[0]["texts"]) == ["1"]
    assert found.problems == [Problem(str(found.samples[7]), "has no column truncated; the step's texts are left out")]
    assert list(text_data([Arm("a", [found])], answers, 9)[0]["texts"]) == ["1", "2", "3", "5", "6"]
    assert text_data([Arm("a", [found])], answers, 0)[0] == {
        **{"arm": 0, "run": tmp_path.name, "seed": None, "recorded": 7, "texts": {}},
    }


@pytest.mark.parametrize(("budget", "prompts"), [(540, 2), (539, 1), (270, 1), (0, 1)])
def test_prompts_that_fit_beside_the_first(tmp_path, monkeypatch, budget, prompts):
    """Each has a prompt of 10 characters and two answers of 10, each with numbers for which 120 count."""
    path = write(tmp_path, 1, prompt=["p" * 10] * 4, response=["r" * 10] * 4)
    for share in (1, 2):  # two runs share what there is
        monkeypatch.setattr(texts, "TEXT_BYTES", share * budget)
        other = Run(tmp_path / "other", "other", options=MAX, samples={1: path}) if share == 2 else None
        assert [len(entry["texts"]["1"]) for entry in entries(tmp_path, more=other)] == [prompts] * share


def test_a_prompt_without_its_text_costs_nothing(tmp_path, monkeypatch):
    write(tmp_path, 1, prompt=[None] * 4, label=[None] * 4, response=["r" * 10] * 4)
    monkeypatch.setattr(texts, "TEXT_BYTES", 520)
    (entry,) = entries(tmp_path)
    assert [(p["prompt"], p["label"]) for p in entry["texts"]["1"]] == [(None, None)] * 2


@pytest.mark.parametrize(
    ("budget", "characters"), [(0, 200), (602, 200), (603, 201), (12_000, 4000), (9_000_000, 4000)]
)
def test_long_texts_are_cut(tmp_path, monkeypatch, budget, characters):
    monkeypatch.setattr(texts, "TEXT_BYTES", budget)
    long = "0123456789" * 600
    write(tmp_path, 1, prompt=[long] * 4, label=[long[:characters]] * 4, response=[long] * 4)
    first = entries(tmp_path)[0]["texts"]["1"][0]
    cut = f"{long[:characters]} … ({6000 - characters:,} more characters)"
    assert (first["prompt"], first["label"]) == (cut, long[:characters])
    assert [answer["text"] for answer in first["answers"]] == [cut, cut]


def test_prompts_with_different_numbers_of_answers(tmp_path, monkeypatch):
    """What each may have follows from the largest group."""
    monkeypatch.setattr(texts, "TEXT_BYTES", 1200)
    rows = [row | {"prompt_id": int(row["index"] > 0)} for row in ROWS]
    write(tmp_path, 1, rows, response=["r" * 900] * 4)
    first = entries(tmp_path)[0]["texts"]["1"][0]
    assert [answer["text"] for answer in first["answers"]] == ["r" * 300 + " … (600 more characters)"]
    assert (first["prompt"], first["label"], first["kind"]) == ("p", "l", "mixed")


def test_the_page_may_have_so_many_characters():
    assert (texts.TEXT_BYTES, texts.MAX_CHARACTERS) == (3_000_000, 4000)
