"""Labels that the reward cannot grade by are found, with a reason, and none is checked twice."""

from __future__ import annotations

import shutil
import threading

import pytest

from lens_openrlhf.data import labels
from lens_openrlhf.rewards import label_check, pool, shutdown, verify_answer

pytestmark = pytest.mark.usefixtures("small_pool")

GOOD = ["34", r"\frac{1}{2}", r"\text{even}", "x^2 - 1", "(1, 2]", "B", r"$\boxed{7}$", "x = 3"]
BAD = {
    "{{{": label_check.UNREADABLE,
    "%": label_check.UNREADABLE,
    "9^{9^{9^9}}": label_check.SLOW,
}


def test_reasons(tmp_path):
    assert labels.check([*GOOD, *BAD, "34"], tmp_path) == dict.fromkeys(GOOD) | BAD


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
