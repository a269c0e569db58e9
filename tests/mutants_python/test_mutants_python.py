"""What `make mutants-python` reports of a package whose tests are known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .__main__ import LENS
from .blocks import Blocks
from .campaign import Campaign
from .operators import plant

PACKAGE = {
    "little/__init__.py": "",
    "little/seen.py": '''
from __future__ import annotations

LIMIT = 3


def below(number: int) -> bool:
    """Whether it is below the limit."""
    return number < LIMIT
''',
    "little/blind.py": """
def half(number):
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number / 2


def never(items):
    return items[0]
""",
    "little/stuck.py": """
def emptied(items):
    while items:
        items.pop()
    return len(items)
""",
    "little/apart.py": """
import sys

if __name__ == "__main__":
    sys.stdout.write(str(int(sys.argv[1]) + 1))


def twice(number):
    return number * 2
""",
    "tests/__init__.py": "",
    "tests/test_seen.py": """
from little.seen import LIMIT, below


def test_below():
    assert below(LIMIT - 1) is True and below(LIMIT) is False and below(2) is True and below(3) is False
""",
    "tests/test_blind.py": """
from little.blind import half


def test_half():
    half(4)
""",
    "tests/test_stuck.py": """
from little.stuck import emptied


def test_emptied():
    assert emptied([1, 2]) == 0
""",
    "tests/test_apart.py": """
import multiprocessing
import subprocess
import sys

from little.apart import twice


def test_command():
    assert subprocess.check_output([sys.executable, "-m", "little.apart", "4"]) == b"5"


def test_worker():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(twice, (4,)) == 8
""",
}

TRY = """
import dataclasses, json, sys
from pathlib import Path
from tests.mutants_python.campaign import Campaign
from tests.mutants_python.harness import Project

root = Path(sys.argv[1])
project = Project(root, "little", ["seen.py", "blind.py", "stuck.py", "apart.py"], warm=["pytest"])
campaign = Campaign(project, root / "work", root / "equivalent.toml", 1, say=lambda text: None, patience=6)
campaign.record()
print(json.dumps([dataclasses.asdict(result) for result in campaign.run(campaign.sample(500, 1))]))
"""


def project(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


def tried(root: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-W", "ignore", "-c", TRY, root], capture_output=True, text=True)


@pytest.mark.slow
def test_it_reports_what_no_test_notices(tmp_path):
    root = project(tmp_path, PACKAGE)
    entry = {"file": "little/blind.py", "function": "half", "was": "return number / 2", "becomes": "return None"}
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())
    (root / "equivalent.toml").write_text(f'[[equivalent]]\n{lines}reason = "for the test"\n')
    done = tried(root)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert {(r["file"], r["becomes"]) for r in results if r["by"] is None} == {
        ("little/blind.py", "if number <= 0:"),
        ("little/blind.py", "if number < 1:"),
        ("little/blind.py", "pass"),
        ("little/blind.py", "return number * 2"),
        ("little/blind.py", "return number / 3"),
        ("little/blind.py", "return items[1]"),
        ("little/blind.py", "return None"),  # of `never`; the one of `half` is on the list
    }
    by = {(r["file"], r["becomes"]): r["by"] for r in results if r["by"]}
    assert {file for file, _ in by} == {"little/seen.py", "little/stuck.py", "little/apart.py"}
    assert by["little/seen.py", "LIMIT = 4"] == "tests/test_seen.py::test_below"
    assert by["little/stuck.py", "pass"] == "no end: tests/test_stuck.py::test_emptied"
    assert by["little/apart.py", "sys.stdout.write(str(int(sys.argv[1]) - 1))"] == "tests/test_apart.py::test_command"
    assert by["little/apart.py", "return number / 2"] == "tests/test_apart.py::test_worker"


def test_a_test_that_fails_without_a_mutant_ends_the_run(tmp_path):
    failing = {"tests/test_half.py": "from little.blind import half\n\ndef test_third():\n    assert half(3) == 1\n"}
    done = tried(project(tmp_path, PACKAGE | failing))
    assert done.returncode != 0
    assert "Failing: tests/test_half.py::test_third" in done.stderr


SLIPS = [
    ("return a < b", {"return a <= b", "return None"}),
    ("return a and b or c", {"return a or b or c", "return a and b and c", "return None"}),
    ("return not a", {"return (a)", "return None"}),
    ("a.b = c", {"pass"}),
    ("return (a + b) * c", {"return (a - b) * c", "return (a + b) / c", "return None"}),
    ("return a[1:b]", {"return a[:b]", "return a[1:]", "return a[0:b]", "return None"}),
    ("return a[-1]", {"return a[-2]", "return a[-0]", "return None"}),
    ("f(a, k=b)", {"pass", "f(k=b)", "f(a)"}),
    ("f(a, b)", {"pass", "f(b)", "f(a)", "f(b, a)"}),
    ("c = d.get('k', True)", {"c = d.get('k', False)", "c = d.get('k')", "c = d.get(True)", "c = d.get(\"\", True)"}
     | {"c = d.get(True, 'k')"}),
    ("return sorted(a)", {"return list(a)", "return sorted(a, reverse=True)", "return sorted()", "return None"}),
    ("return a.mean()", {"return a.sum()", "return None"}),
    ("return max(a, b)", {"return min(a, b)", "return max(b)", "return max(a)", "return None"}),
    ("return {a: b, c: d}", {"return {c: d}", "return {a: b}", "return None"}),
    ("return [x for x in a if x]", {"return [x for x in a if True]", "return None"}),
    ("return a if b else c", {"return (a)", "return (c)", "return None"}),
    ("with a: b()", {"if True: b()", "with a: pass"}),
    ("a: int = 0", {"a: int = 1"}),
    ("raise ValueError(f'{a} is not {1 + 1}', 1)", {"pass"}),
    ("print('one', 1)", {"pass"}),
    ("logger.warning('one %d', 1)", set()),
    ("parser.add_argument('--a', help='one' + b)", {"pass", "parser.add_argument(help='one' + b)"}
     | {"parser.add_argument(\"\", help='one' + b)"}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), SLIPS, ids=[line for line, _ in SLIPS])
def test_kinds_of_slip(line, expected):
    source = f'def one():\n    """Text, 1 < 2."""\n    {line}\n'
    mutants = list(plant("one.py", source, Blocks({"one.py": source}).trees["one.py"]))
    assert all(mutant.sound(source) and mutant.function == "one" for mutant in mutants)
    assert {mutant.change(source)[1] for mutant in mutants} == expected


def test_a_mask_is_left_out_where_there_are_arrays():
    source = "import torch\n\ndef one(x, kept):\n    return x[kept]\n"
    changes = {
        mutant.change(source)[1] for mutant in plant("one.py", source, Blocks({"one.py": source}).trees["one.py"])
    }
    assert changes == {"return x", "return None"}


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    return Campaign(LENS, tmp_path_factory.mktemp("mutants"), Path(__file__).parent / "equivalent.toml")


def test_every_planted_source_is_there(campaign):
    """A folder or file that moved would leave the sample without a word."""
    assert {campaign.project.group(name) for name in campaign.planted} >= {*LENS.planted} - {
        name for name in LENS.planted if name.endswith(".py")
    }
    for name in LENS.planted:
        assert (LENS.root / LENS.package / name).exists(), name


def test_a_sample_is_the_same_again_and_of_every_package(campaign):
    sample = campaign.sample(100, 7)
    assert sample == campaign.sample(100, 7) != campaign.sample(100, 8)
    assert len(set(sample)) == len(sample) >= 97
    assert (
        min(
            sum(campaign.project.group(m.file) == group for m in sample)
            for group in map(campaign.project.group, campaign.planted)
        )
        >= 5
    )


def test_equivalent_ones_are_mutants_and_have_a_reason(campaign):
    assert not campaign.stale(), "no such mutant any longer: take it from equivalent.toml"
    assert all(len(entry["reason"]) > 10 for entry in campaign.equivalent)


def test_a_recording_computes_the_same():
    source = PACKAGE["little/stuck.py"]
    names = {"hit": lambda block: hits.append(block)}
    hits = []
    text = (
        Blocks({"stuck.py": source})
        .recording("stuck.py")
        .replace("from mutants_hits import hit as _lens_mutants_hit", "")
    )
    exec(text, {"_lens_mutants_hit": names["hit"]}, names)
    assert names["emptied"]([1, 2, 3]) == 0
    assert len(hits) == 2 + 3 + 1  # module and function, each round, what follows the loop
