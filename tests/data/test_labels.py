"""Labels that the reward cannot grade by are found, with a reason, and none is checked twice."""

from __future__ import annotations

import json
import random
import re
import shutil
import threading
from importlib import metadata
from types import SimpleNamespace

import pytest

from lens_openrlhf.data import labels
from lens_openrlhf.rewards import label_check, pool, shutdown, verify_answer
from lens_openrlhf.rewards.labels import examine

pytestmark = pytest.mark.usefixtures("small_pool")

GOOD = ["34", r"\frac{1}{2}", r"\text{even}", "x^2 - 1", "(1, 2]", "B", r"$\boxed{7}$", "x = 3"]
BAD = {"{{{": label_check.UNREADABLE, "%": label_check.UNREADABLE}
ENDLESS = "9^{9^{9^9}}"


def test_reasons(tmp_path, monkeypatch):
    assert labels.check([ENDLESS], tmp_path) == {ENDLESS: label_check.SLOW}
    shutdown()
    monkeypatch.setenv("LENS_VERIFIER_TIMEOUT", "60")  # on a busy machine good ones may take some seconds
    assert labels.check([*GOOD, *BAD, "34"], tmp_path) == dict.fromkeys(GOOD) | BAD
    shutdown()


def test_good_labels_are_graded_right_by_the_reward():
    for label in GOOD:
        assert verify_answer(label if "boxed" in label else rf"so \boxed{{{label}}}", label).correct


def test_verdicts_are_kept_even_if_the_run_ends_early(tmp_path, monkeypatch):
    checked = []

    def interrupted(label):
        checked.append(label)
        if len(checked) == 3:
            raise KeyboardInterrupt
        return None

    monkeypatch.setattr(labels, "as_found", lambda examine, todo: ((label, interrupted(label)) for label in todo))
    with pytest.raises(KeyboardInterrupt):
        labels.check("abcd", tmp_path)
    with open(labels.cache_file(tmp_path), "a") as file:
        file.write('["c", nul')  # as a killed run leaves it
    checked.extend("...")
    assert labels.check("abcde", tmp_path) == dict.fromkeys("abcde")
    assert checked[6:] == ["c", "d", "e"]
    assert labels.check("abcde", tmp_path) == dict.fromkeys("abcde") and len(checked) == 9


def test_no_worker_is_left_where_the_time_is_over(tmp_path):
    """Of the threads that still wait for a worker none may start new ones behind `shutdown`."""
    many = [rf"\frac{{{number}}}{{7}}" for number in range(1000)]
    before = set(threading.enumerate())
    assert 0 < len(labels.check(many, tmp_path, 0.5)) < len(many)
    shutdown()
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon:
            thread.join(10)
    assert pool._pool is None


@pytest.fixture
def found(monkeypatch):
    """{label: Refusal} of what is found bad; `asked` has the labels in the order in which they were checked."""

    def as_found(find, todo):
        assert find is examine
        for label in todo:
            known.asked.append(label)
            yield label, known.bad.get(label)

    known = SimpleNamespace(bad={}, asked=[])
    monkeypatch.setattr(labels, "as_found", as_found)
    return known


def refusal(kind: str) -> label_check.Refusal:
    return label_check.Refusal(kind, "why")


def test_what_is_kept(tmp_path, found):
    """A line a label, in the order in which they came; not what the machine may have made."""
    found.bad |= {"x": refusal(label_check.UNREADABLE), "s": refusal(label_check.SLOW)}
    found.bad |= {"l": refusal(label_check.LARGE), "f": refusal(label_check.FATAL), "c": refusal(label_check.CONFUSED)}
    kinds = {label: refusal.kind for label, refusal in found.bad.items()}
    folder = tmp_path / "a" / "b"
    assert labels.check(["1", "é", "x", "s", "1", "l", "f", "c"], folder) == {"1": None, "é": None, **kinds}
    assert found.asked == ["1", "é", "x", "s", "l", "f", "c"]
    lines = labels.cache_file(folder).read_text().splitlines()
    kept = [["1", None], ["é", None], ["x", label_check.UNREADABLE], ["c", label_check.CONFUSED]]
    assert lines[0] == "" and [json.loads(line) for line in lines[1:]] == kept
    assert sorted(folder.iterdir()) == [labels.cache_file(folder)]
    found.asked.clear()
    assert labels.check(["c", "s", "1", "new"], folder) == {
        **{label: kinds[label] for label in "cs"}, "1": None, "new": None,
    }  # fmt: skip
    assert found.asked == ["s", "new"]
    found.asked.clear()
    before = labels.cache_file(folder).read_bytes()
    assert list(labels.check(["c", "1"], folder).items()) == [("c", label_check.CONFUSED), ("1", None)]
    assert found.asked == [] and labels.cache_file(folder).read_bytes() == before


@pytest.mark.parametrize("lines", ['["1", nul', "5", '["1"]', '["1", null, 3]', "null", '[["1"], null]', b"\xff\xfe"])
def test_lines_that_cannot_be_read_are_left_out(lines, tmp_path, found):
    file = labels.cache_file(tmp_path)
    file.write_bytes(lines if isinstance(lines, bytes) else f'{lines}\n["2", "bad"]\n'.encode())
    known = {} if isinstance(lines, bytes) else {"2": "bad"}
    assert labels.check(["1", "2"], tmp_path) == {"1": None, "2": None, **known}
    assert found.asked == ["1", "2"][: 2 - len(known)]


def test_a_cache_that_cannot_be_written(tmp_path, found):
    (tmp_path / "file").touch()
    for _ in range(2):
        assert labels.check(["1", "2"], tmp_path / "file" / "cache") == {"1": None, "2": None}
    assert found.asked == ["1", "2"] * 2


@pytest.mark.parametrize(("seconds", "checked"), [(2.0, 3), (1.9, 2), (0.0, 1), (100.0, 8)])
def test_for_so_long_and_no_longer(seconds, checked, tmp_path, found, monkeypatch):
    """A second a label; which are checked is a matter of chance, and the same each time."""
    clock = iter(range(100))
    monkeypatch.setattr(labels, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    given = list("abcdefgh")
    order = list(given)
    random.Random(0).shuffle(order)
    taken = order[:checked]
    assert labels.check(given, tmp_path, seconds) == {label: None for label in given if label in taken}
    assert found.asked == taken and order != given
    assert labels._kept(labels.cache_file(tmp_path)) == dict.fromkeys(taken)


def test_what_decides_besides_the_label(tmp_path, monkeypatch):
    """Each package and limit makes another cache; how many check, and how they are kept apart, does not."""
    for name in ("TIMEOUT", "MEMORY_GB", "WORKERS", "ISOLATION"):
        monkeypatch.delenv(f"LENS_VERIFIER_{name}", raising=False)
    packages = ("math-verify", "latex2sympy2_extended", "sympy")
    assert labels.versions() == {
        **{name: metadata.version(name) for name in packages}, "verifier_seconds": "10", "verifier_gib": "4",
    }  # fmt: skip
    files, real = [labels.cache_file(tmp_path)], metadata.version
    monkeypatch.setenv("LENS_VERIFIER_WORKERS", "3")
    monkeypatch.setenv("LENS_VERIFIER_ISOLATION", "off")
    assert labels.cache_file(tmp_path) == files[0] and files[0].parent == tmp_path
    assert re.fullmatch(r"labels-[0-9a-f]{16}\.jsonl", files[0].name)
    for package in packages:
        with monkeypatch.context() as patch:
            patch.setattr(metadata, "version", lambda name, of=package: "0" if name == of else real(name))
            files.append(labels.cache_file(tmp_path))
    monkeypatch.setenv("LENS_VERIFIER_TIMEOUT", "2.5")
    monkeypatch.setenv("LENS_VERIFIER_MEMORY_GB", "0.5")
    assert [*labels.versions().values()][-2:] == ["2.5", "0.5"]
    for name in ("TIMEOUT", "MEMORY_GB"):
        with monkeypatch.context() as patch:
            patch.delenv(f"LENS_VERIFIER_{name}")
            files.append(labels.cache_file(tmp_path))
    assert len({*files}) == len(files) == 6


def test_another_limit_is_another_cache(tmp_path, monkeypatch):
    before = labels.cache_file(tmp_path)
    monkeypatch.setenv("LENS_VERIFIER_TIMEOUT", "3")
    assert labels.cache_file(tmp_path) != before


@pytest.mark.parametrize("name", sorted(path.name for path in labels.GRADER.glob("*.py")))
def test_other_code_of_the_grader_is_another_cache(name, tmp_path, monkeypatch):
    copy = shutil.copytree(labels.GRADER, tmp_path / "rewards")
    before = labels.cache_file(tmp_path)
    monkeypatch.setattr(labels, "GRADER", copy)
    assert labels.cache_file(tmp_path) == before
    with open(copy / name, "a") as module:
        module.write("# changed")
    assert labels.cache_file(tmp_path) != before


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (pool.WorkerLost, label_check.FATAL),
        (pool.TimeLimit, label_check.SLOW),
        (pool.MemoryLimit, label_check.LARGE),
    ],
)
def test_what_may_have_come_from_outside_is_no_verdict_to_keep(error, kind, tmp_path, monkeypatch):
    def failed(*args):
        raise error("by chance")

    with monkeypatch.context() as patch:
        patch.setattr(pool, "run_in_worker", failed)
        assert labels.check(["34"], tmp_path) == {"34": kind}
    assert labels.check(["34"], tmp_path) == {"34": None}
