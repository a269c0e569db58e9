"""What a worker may not do, whatever runs in it: network, processes, files, and the parent's memory."""

from __future__ import annotations

import ctypes
import io
import os
import pickle
import socket

import pytest
from pebble.common.types import ResultStatus

from lens_openrlhf.rewards import isolation, pool, shutdown, spawning, verify_answer


@pytest.fixture(params=["auto", "python", "off"], scope="module")
def mode(request):
    """A pool in each mode; the last shows that what is refused in the others would have worked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENS_VERIFIER_WORKERS", "1")
        patch.setenv("LENS_VERIFIER_ISOLATION", request.param)
        shutdown()
        yield request.param
        shutdown()


def run(code: str) -> str | None:
    """What `code` raises in a worker, None where it raises nothing."""
    try:
        pool.run_in_worker(exec, (code,), None)
    except RuntimeError as error:
        return str(error)
    return None


def test_the_level_is_what_a_worker_found(mode):
    level = pool.isolation_in_force()
    assert level == mode or (mode == "auto" and level == "kernel"), "libseccomp2 is missing here, or seccomp"


def test_libraries_that_would_start_threads_are_quiet(mode, capfd):
    """OpenBLAS says what it could not start, on the terminal, when a label makes SymPy import NumPy."""
    assert run("import sys; sys.modules.pop('numpy', None); import numpy; numpy.eye(99) @ numpy.eye(99)") is None
    assert "pthread_create" not in capfd.readouterr().err


def test_no_network(mode):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        told = run(f"import socket; socket.create_connection({server.getsockname()})")
        if mode == "off":
            assert told is None
            server.accept()[0].close()
        else:
            assert "PermissionError" in told
            with pytest.raises(TimeoutError):
                server.accept()


@pytest.mark.parametrize(
    "code",
    [
        "open({new!r}, 'w')",
        "import os; os.system('touch {new}')",
        "import os; os.popen('touch {new}').read()",
        "import subprocess; subprocess.run(['touch', {new!r}])",
        "import os; os.waitpid(os.posix_spawn('/bin/sh', ['sh', '-c', 'touch {new}'], {{}}), 0)",
        "import os\npid = os.fork()\nif pid == 0:\n open({new!r}, 'w'); os._exit(0)\nos.waitpid(pid, 0)",
        "import os; os.mkdir({new!r})",
        "import os; os.symlink('x', {new!r})",
        "import os; os.rename({old!r}, {new!r})",
        "import os; os.link({old!r}, {new!r})",
        "import ctypes; ctypes.CDLL(None).mkdir({new!r}.encode(), 0o700)",
    ],
)
def test_nothing_is_started_or_made(mode, tmp_path, code):
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_text("old")
    told = run(code.format(new=str(new), old=str(old)))
    assert os.path.lexists(new) == (mode == "off"), told


@pytest.mark.parametrize(
    "code",
    [
        "open({old!r}, 'a').write('more')",
        "open({old!r}, 'r+').write('more')",
        "import os; os.open({old!r}, os.O_RDONLY | os.O_TRUNC)",
        "import os; os.truncate({old!r}, 0)",
        "import os; os.remove({old!r})",
        "import os; os.chmod({old!r}, 0o600)",
        "import os; os.utime({old!r}, (0, 0))",
    ],
)
def test_files_stay_as_they_are(mode, tmp_path, code):
    old = tmp_path / "old"
    old.write_text("old")
    old.chmod(0o644)

    def found():
        return old.exists() and (old.read_text(), old.stat().st_mode, old.stat().st_mtime)

    before = found()
    told = run(code.format(old=str(old)))
    assert (found() == before) == (mode != "off"), told


def test_other_processes_are_left_alone(mode):
    told = run("import os; os.kill(os.getppid(), 0)")
    assert told is None if mode == "off" else "PermissionError" in told


def test_answers_are_still_graded(mode):
    assert verify_answer(r"\boxed{\frac{2}{4}}", "0.5").correct
    assert verify_answer(r"\boxed{\int_0^1 x^2 dx}", r"\frac13").correct
    assert verify_answer(r"\boxed{\frac{2}{4}}", "0.4").outcome == "wrong"


def test_a_worker_cannot_run_code_in_its_parent(mode, tmp_path):
    """By a pickle that it sends back."""
    new = tmp_path / "new"
    code = f"type('Trap', (), {{'__reduce__': lambda self: (exec, (\"open({str(new)!r}, 'w')\",))}})()"
    with pytest.raises(pool.WorkerLost):
        pool.run_in_worker(eval, (code,), None)
    with pytest.raises(pool.WorkerLost):
        pool.run_in_worker(eval, ("__import__('collections').OrderedDict()",), None)
    assert not new.exists()
    assert verify_answer(r"\boxed{1}", "1").correct


def test_a_status_is_read_as_every_python_pickles_it():
    """Python 3.11.2 sends getattr(ResultStatus, name), and no other getattr may pass."""

    def read(*arguments):
        class Sent:
            def __reduce__(self):
                return getattr, arguments

        return spawning.Messages(io.BytesIO(pickle.dumps(Sent()))).load()

    assert read(ResultStatus, "FAILURE") is ResultStatus.FAILURE
    for arguments in ((ValueError, "mro"), (ResultStatus, "mro"), (ResultStatus, [])):
        with pytest.raises(pickle.PicklingError):
            read(*arguments)


def in_child(work) -> int:
    """`work()`'s result, from a child that is thrown away."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            status = work()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(os.getuid() != 0, reason="every other test runs as an ordinary user already")
def test_an_ordinary_user_has_the_kernels_filter_too():
    def work() -> int:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        if isolation.isolate("auto") != "kernel":
            return 1
        try:
            socket.socket()
        except PermissionError:
            return 0
        return 2

    assert in_child(work) == 0


def test_without_libseccomp_it_is_pythons_hook(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert in_child(lambda: 0 if isolation.isolate("auto") == "python" else 1) == 0
