"""Labels and graders that are not in this work tree: from clones of public repositories, and an older commit.

Nothing of them is kept: what a grader needs is written into a temporary folder for as long as it runs. A clone may be
one with a work tree or a bare one.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Absent(Exception):
    """What was asked for is not there; the message says why."""


def git_show(clone: Path, path: str) -> str:
    """A file of the clone's last commit. Raises Absent."""
    result = subprocess.run(["git", "-C", clone, "show", f"HEAD:{path}"], capture_output=True)
    if result.returncode:
        raise Absent(f"{path} is not in {clone}")
    return result.stdout.decode()


def revision(clone: Path) -> str:
    """The first letters of the commit that a clone stands at."""
    result = subprocess.run(["git", "-C", clone, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True)
    return result.stdout.strip()


def _final(row: dict) -> Any:
    return row["final_answer"][0] if len(row["final_answer"]) == 1 else None


def _boxed(row: dict) -> str | None:
    start = row["solution"].rfind(r"\boxed{")
    depth = 0
    for place in range(start + 6, len(row["solution"]) if start >= 0 else 0):
        depth += (row["solution"][place] == "{") - (row["solution"][place] == "}")
        if depth == 0:
            return row["solution"][start + 7 : place]
    return None


# The label of a row, by set: of `evaluation/data/*/test.jsonl` in QwenLM/Qwen2.5-Math.
PUBLIC_SETS: dict[str, Callable[[dict], Any]] = {
    **dict.fromkeys(
        ("aime24", "amc23", "cmath", "gaokao2024_I", "gaokao2024_II", "gaokao2023en"), lambda row: row["answer"]
    ),
    **dict.fromkeys(("carp_en", "college_math", "gaokao_math_cloze"), lambda row: row["answer"]),
    **dict.fromkeys(("gaokao2024_mix", "cn_middle_school"), lambda row: row["choice_answer"] or row["answer"]),
    "aqua": lambda row: row["correct"],
    "asdiv": lambda row: row["answer"].partition("(")[0].strip(),
    "gaokao_math_qa": lambda row: row["label"],
    "gsm8k": lambda row: row["answer"].rpartition("####")[2].strip(),
    "math": _boxed,
    "mawps": lambda row: row["target"],
    "minerva_math": _boxed,
    "mmlu_stem": lambda row: "ABCD"[row["answer"]],
    "olympiadbench": _final,
    "sat_math": lambda row: row["Answer"],
    "svamp": lambda row: row["Answer"],
    "tabmwp": lambda row: row["answer"],
}


def public_labels(clone: Path, name: str) -> list[str]:
    """The distinct labels of a public set in their order. Raises Absent."""
    path = f"evaluation/data/{name}/test.jsonl"
    try:
        rows = [json.loads(line) for line in git_show(clone, path).split("\n") if line.strip()]
    except json.JSONDecodeError as error:
        raise Absent(f"{path} in {clone} is not JSON lines") from error
    labels = []
    for row in rows:
        label = PUBLIC_SETS[name](row)
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        if label is not None and str(label).strip():
            labels.append(str(label))
    return list(dict.fromkeys(labels))


def commit_of_this(commit: str, folder: Path) -> None:
    """The package as it was at `commit`, into `folder`. Raises Absent."""
    here = Path(__file__).parents[2]
    result = subprocess.run(["git", "-C", here, "archive", commit, "lens_openrlhf"], capture_output=True)
    if result.returncode:
        raise Absent(f"commit {commit} is not in {here}: a shallow clone?")
    with tarfile.open(fileobj=io.BytesIO(result.stdout)) as archive:
        archive.extractall(folder)  # of our own repository


def _copy(clone: Path, folder: Path, files: dict[str, str]) -> None:
    """Files of a clone by the name that they get; an empty path makes an empty file."""
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(git_show(clone, path) if path else "")


def qwen(clone: Path, folder: Path) -> None:
    """Its utils.py, of which the functions used need nothing, asks for a data set's examples."""
    latex = "evaluation/latex2sympy/"
    modules = {
        name: latex + name for name in ("latex2sympy2.py", "gen/PSParser.py", "gen/PSLexer.py", "gen/PSListener.py")
    }
    own = {
        "grader.py": "evaluation/grader.py",
        "parser_of_qwen.py": "evaluation/parser.py",
        "utils.py": "",
        "gen/__init__.py": "",
    }
    _copy(clone, folder, modules | own)


def verl(clone: Path, folder: Path) -> None:
    """Two of its reward functions, without the package around them, which asks for all of verl."""
    scores = "verl/utils/reward_score/"
    files = [
        scores + name
        for name in ("math_reward.py", "prime_math/__init__.py", "prime_math/grader.py", "prime_math/math_normalize.py")
    ]
    empty = dict.fromkeys(("verl/__init__.py", "verl/utils/__init__.py", scores + "__init__.py"), "")
    _copy(clone, folder, {name: name for name in [*files, "verl/utils/py_functional.py"]} | empty)
    (folder / "verl/utils/metric.py").write_text("Metric = None\n")


def open_instruct(clone: Path, folder: Path) -> None:
    files = ("open_instruct/math_utils.py", "open_instruct/logger_utils.py")
    _copy(clone, folder, {name: name for name in files} | {"open_instruct/__init__.py": ""})
