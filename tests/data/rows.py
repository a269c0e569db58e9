"""Small data in the real schemas and layouts of the sources."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
    "precalculus",
)  # fmt: skip
BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
AFTER = '\n\nRemember to put your answer on its own line after "Answer:".'


def math_row(problem: str, answer: str, level: str = "Level 3", type: str = "Algebra") -> dict:
    solution = f"We try $\\boxed{{0}}$ first, which fails. So it is $\\boxed{{{answer}}}$."
    return {"problem": problem, "level": level, "type": type, "solution": solution}


def dapo_row(problem: str, answer: str) -> dict:
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": f"{BEFORE}{problem}{AFTER}", "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": f"index of {problem}"},
    }


def numina_row(problem: str, answer: str, **others: str) -> dict:
    return {
        "problem": problem,
        "solution": f"A long story, and then {answer}.",
        "answer": answer,
        "problem_type": "Algebra",
        "question_type": "math-word-problem",
        "problem_is_valid": "Yes",
        "solution_is_valid": "Yes",
        "source": "olympiads",
        "synthetic": False,
        **others,
    }


# 12 problems, of which one is in the test set, one is there twice and one has an answer that does not parse.
MATH_TRAIN = [
    *(math_row(f"Train: what is ${n} + {n}$?", str(2 * n), f"Level {1 + n % 5}") for n in range(9)),
    math_row("train:  what  is $0+0$?", "0"),
    math_row("Test: what is $3^2$?", "9"),
    math_row("Train: who?", "???"),
]
MATH_TEST = [
    *(math_row(f"Test: what is ${n}^2$?", str(n * n), f"Level {1 + n % 5}", "Number Theory") for n in range(6)),
    math_row("Test: how many halves?", "\\frac{1}{2}", "Level ?"),
    math_row("Test: whose?", "%"),
]
# 10 distinct problems, of which one is in the test set and one in MATH train.
DAPO = [
    *(dapo_row(f"Let $d = {n}$. Find $2d$.", str(2 * n)) for n in range(8)),
    dapo_row("Test: what is $4^{2}$?".replace("{2}", "2"), "16"),
    dapo_row("Train: what is $5 + 5$?", "10"),
]
NUMINA = [
    *(numina_row(f"Numina: simplify $\\frac{{{2 * n}}}{{4}}$.", f"\\frac{{{n}}}{{2}}") for n in range(1, 6)),
    numina_row("Prove it.", "proof", question_type="proof"),
    numina_row("Show it.", "proof"),
    numina_row("Where is it?", "notfound"),
    numina_row("Half a problem", "1", problem_is_valid="Incomplete"),
    numina_row("A problem", "1", solution_is_valid="Problem not solved"),
    numina_row("Train: what is $6+6$?", "12"),
    numina_row("TEST: what is 5^2?", "25"),
    numina_row("Numina: endless", "9^{9^{9^9}}"),
]


def write_parquet(path: Path, rows: Sequence[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def write_jsonl(path: Path, rows: Sequence[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def math_snapshot(folder: Path) -> Path:
    """As EleutherAI/hendrycks_math: a config for each subject, with train and test, and a README that lists them."""
    configs = []
    for number, subject in enumerate(SUBJECTS):
        for split, rows in (("train", MATH_TRAIN), ("test", MATH_TEST)):
            # No row falls to the last subjects' test files.
            part = rows[number :: len(SUBJECTS)]
            write_parquet(folder / subject / f"{split}-00000-of-00001.parquet", part)
        files = "".join(f"  - split: {s}\n    path: {subject}/{s}-*\n" for s in ("train", "test"))
        configs.append(f"- config_name: {subject}\n  data_files:\n{files}")
    (folder / "README.md").write_text("---\nlicense: mit\nconfigs:\n" + "".join(configs) + "---\n# MATH\n")
    return folder


def math_files(folder: Path) -> Path:
    write_jsonl(folder / "math_train.jsonl", MATH_TRAIN)
    write_jsonl(folder / "math_test.jsonl", MATH_TEST)
    return folder
