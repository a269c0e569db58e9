"""Time limit, memory limit, killed workers, many threads: the pool with real worker processes."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lens_openrlhf.rewards import pool, shutdown, validate_label, verifier, verify_answer
from lens_openrlhf.rewards.worker import SELF_KILL_SECONDS

from .workers import workers_of

ENDLESS = r"\boxed{9^{9^{9^9}}}"  # one multiplication in C that no Python code can interrupt
TWO_SECONDS = r"\boxed{\int_0^1 x^{50000} dx}"  # equal to 1/50001
HUGE = r"\boxed{2^{10^9}}"  # 125 MB


@pytest.fixture(autouse=True, scope="module")
def one_worker():
    """So that it is known which worker is at work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENS_VERIFIER_WORKERS", "1")
        shutdown()
        yield
        shutdown()


@pytest.fixture
def new_pool(monkeypatch):
    """A pool for this test alone, which starts after the test has changed settings."""
    shutdown()
    yield monkeypatch
    shutdown()


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def warm_up() -> int:
    """Starts the pool; the process id of its worker."""
    assert verify_answer(r"\boxed{1}", "1").correct
    (worker,) = workers_of(os.getpid())
    return worker


def in_background(function, *args):
    return ThreadPoolExecutor(1).submit(function, *args)


def kill_while_working(worker: int) -> None:
    before = cpu_seconds(worker)
    wait_until(lambda: cpu_seconds(worker) > before + 0.2)
    os.kill(worker, signal.SIGKILL)


def test_endless_verification_times_out_and_the_pool_goes_on():
    warm_up()
    for response in (ENDLESS, r"\boxed{(10^8)!}", "it is 9**9**9**9"):
        start = time.monotonic()
        verdict = verify_answer(response, "5", timeout=0.5)
        assert (verdict.correct, verdict.outcome) == (False, "timeout")
        assert time.monotonic() - start >= 0.5
        assert verify_answer(r"\boxed{5}", "5").correct


@pytest.mark.parametrize("label", ["9^{9^{9^9}}", "{" * 3000 + "1" + "}" * 3000])
def test_endless_label(new_pool, label):
    new_pool.setenv("LENS_VERIFIER_TIMEOUT", "1")
    assert verify_answer(r"\boxed{5}", label).outcome == "timeout"
    assert "too long" in validate_label(label)


def test_waiting_for_a_worker_is_not_counted():
    warm_up()
    endless = [in_background(verify_answer, ENDLESS, "5", 1.0) for _ in range(2)]
    time.sleep(0.2)
    start = time.monotonic()
    assert verify_answer(r"\boxed{5}", "5", timeout=1.0).correct
    assert time.monotonic() - start > 1.5
    assert [task.result().outcome for task in endless] == ["timeout"] * 2


def test_worker_killed_once_is_replaced_and_the_task_repeated():
    worker = warm_up()
    verdict = in_background(verify_answer, TWO_SECONDS, r"\frac{1}{50001}")
    kill_while_working(worker)
    assert verdict.result().outcome == "correct"


def test_worker_killed_twice_is_an_error(caplog):
    worker = warm_up()
    verdict = in_background(verify_answer, ENDLESS, "5")
    with caplog.at_level(logging.WARNING):
        kill_while_working(worker)
        wait_until(lambda: workers_of(os.getpid()) not in ([], [worker]))
        (second,) = workers_of(os.getpid())
        kill_while_working(second)
        assert verdict.result().outcome == "error"
    assert "worker lost twice" in verdict.result().detail and "worker lost twice" in caplog.text
    assert verify_answer(r"\boxed{5}", "5").correct


def test_idle_worker_killed():
    os.kill(warm_up(), signal.SIGKILL)
    assert verify_answer(r"\boxed{5}", "5").correct
    os.kill(warm_up(), signal.SIGKILL)
    time.sleep(0.5)  # pebble takes the death of its only worker for the end of the pool
    assert verify_answer(r"\boxed{5}", "5").correct


def test_stuck_pool_is_replaced(new_pool):
    new_pool.setenv("LENS_VERIFIER_TIMEOUT", "1")
    new_pool.setattr(pool, "STALL_SECONDS", 1.0)
    stopped = warm_up()
    os.kill(stopped, signal.SIGSTOP)
    assert verify_answer(r"\boxed{5}", "5").correct
    wait_until(lambda: stopped not in workers_of(os.getpid()))


def test_memory_limit(new_pool, caplog):
    new_pool.setenv("LENS_VERIFIER_MEMORY_GB", "0.3")
    worker = warm_up()
    with caplog.at_level(logging.WARNING):
        verdict = verify_answer(HUGE, "5")
    assert verdict.outcome == "error" and "memory limit" in verdict.detail
    assert "memory limit" in caplog.text
    assert warm_up() != worker


def test_workers_are_replaced_after_a_number_of_tasks(new_pool):
    new_pool.setattr(pool, "TASKS_PER_WORKER", 3)
    workers = {warm_up() for _ in range(4)}
    assert len(workers) == 2


def test_worker_that_ended_itself_at_the_time_limit():
    with pytest.raises(pool.TimeLimit):
        pool._running_pool().run(signal.raise_signal, (signal.SIGALRM,), 5.0)


def test_many_threads(new_pool):
    new_pool.setenv("LENS_VERIFIER_WORKERS", "2")
    with ThreadPoolExecutor(32) as threads:
        verdicts = list(
            threads.map(
                lambda i: verify_answer(rf"\boxed{{\frac{{{i}}}{{7}}}}", rf"\frac{{{2 * (i - i % 2)}}}{{14}}"),
                range(200),
            )
        )
    assert [v.outcome for v in verdicts] == ["correct", "wrong"] * 100
    assert len(workers_of(os.getpid())) == 2


def test_first_call_from_a_thread_that_ends(new_pool):
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(verify_answer(r"\boxed{5}", "5")))
    thread.start()
    thread.join()
    worker = warm_up()
    assert verdicts[0].correct and warm_up() == worker


def test_shutdown_in_mid_verification():
    warm_up()
    verdict = in_background(verify_answer, TWO_SECONDS, r"\frac{1}{50001}")
    time.sleep(0.5)
    shutdown()
    assert verdict.result().outcome == "correct"
    shutdown()
    assert workers_of(os.getpid()) == []


def test_text_is_never_run_as_code(tmp_path):
    marker = tmp_path / "marker"
    code = f"__import__('os').system('touch {marker}')"
    for text in (
        code,
        f"({code})",
        f"1+{code}",
        rf"\text{{{code}}}",
        rf"\operatorname{{{code}}}",
        f"lambda: {code}",
    ):
        for response in (text, rf"\boxed{{{text}}}", f"The answer is ${text}$", f"= {text}"):
            assert not verify_answer(response, "5").correct
        verify_answer(r"\boxed{5}", text)
    assert verify_answer(r"\boxed{5}", "5").correct
    assert not marker.exists()


def test_warnings_are_rate_limited(caplog, monkeypatch):
    monkeypatch.setattr(verifier, "_warnings", type(verifier._warnings)())
    with caplog.at_level(logging.WARNING):
        for _ in range(205):
            verify_answer(r"\boxed{5}", "")
    assert [record.args[1] for record in caplog.records] == [1, 2, 3, 4, 5, 100, 200]
    assert "the label is empty" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LENS_VERIFIER_TIMEOUT", "0"),
        ("LENS_VERIFIER_WORKERS", "1.5"),
        ("LENS_VERIFIER_MEMORY_GB", "inf"),
        ("LENS_VERIFIER_ISOLATION", "yes"),
    ],
)
def test_wrong_settings(new_pool, name, value):
    new_pool.setenv(name, value)
    with pytest.raises(ValueError, match=name):
        pool.Settings.from_env()
    verdict = verify_answer(r"\boxed{5}", "5")
    assert verdict.outcome == "error" and name in verdict.detail


def run_script(tmp_path, text: str) -> subprocess.Popen:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(text))
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, script], stdin=pipe, stdout=pipe, text=True, cwd=tmp_path)


def test_a_script_without_main_guard(tmp_path):
    process = run_script(
        tmp_path,
        r"""
        import sys
        print("main", flush=True)  # a worker that ran this script would print it again
        from lens_openrlhf.rewards import verify_answer
        assert not {"torch", "openrlhf", "vllm"} & set(sys.modules)
        print(verify_answer(r"\boxed{5}", "5").outcome, flush=True)
        sys.stdin.read()
        """,
    )
    assert [process.stdout.readline() for _ in range(2)] == ["main\n", "correct\n"]
    for worker in workers_of(process.pid):
        assert "libtorch" not in Path(f"/proc/{worker}/maps").read_text()
    assert process.communicate(timeout=120)[0] == "" and process.returncode == 0


def test_workers_end_with_a_killed_parent(tmp_path):
    process = run_script(
        tmp_path,
        rf"""
        import os, time
        from threading import Thread
        os.environ["LENS_VERIFIER_WORKERS"] = "2"
        from lens_openrlhf.rewards import verify_answer
        verify_answer(r"\boxed{{1}}", "1")
        Thread(target=verify_answer, args=({ENDLESS!r}, "5", 2.0)).start()
        print("ready", flush=True)
        time.sleep(60)
        """,
    )
    process.stdout.readline()
    idle_or_not = workers_of(process.pid)
    assert len(idle_or_not) == 2
    time.sleep(0.5)
    process.kill()
    process.communicate()

    def left():
        return [worker for worker in idle_or_not if Path(f"/proc/{worker}").exists()]

    wait_until(lambda: len(left()) <= 1, 3.0)
    wait_until(lambda: not left(), 2.0 + SELF_KILL_SECONDS)


def test_forked_child_has_a_pool_of_its_own():
    worker = warm_up()
    child = os.fork()
    if child == 0:
        correct = verify_answer(r"\boxed{5}", "5").correct
        shutdown()
        os._exit(0 if correct else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert warm_up() == worker
