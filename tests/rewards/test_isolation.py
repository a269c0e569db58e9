"""What a worker may not do, whatever runs in it: network, processes, files, and the parent's memory."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import io
import logging
import os
import pickle
import signal
import socket
import threading
from types import SimpleNamespace

import pytest
from pebble.common.types import RemoteException, ResultStatus

from lens_openrlhf.rewards import isolation, pool, shutdown, spawning, verify_answer, worker


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


@pytest.mark.parametrize(
    "module, name",
    [
        ("pebble.pool.process", "Acknowledgement"),
        ("pebble.pool.process", "TaskResult"),
        ("pebble.pool.process", "TaskProblem"),
        ("pebble.common.types", "Result"),
        ("pebble.common.types", "ResultStatus"),
        ("builtins", "ValueError"),
        ("builtins", "MemoryError"),
    ],
)
def test_what_a_worker_may_send(module, name):
    found = spawning.Messages(io.BytesIO(b"")).find_class(module, name)
    assert found is getattr(importlib.import_module(module), name)


def test_an_error_is_rebuilt_as_pebble_sends_it():
    found = spawning.Messages(io.BytesIO(pickle.dumps(RemoteException(ValueError("no"), "trace")))).load()
    assert type(found) is ValueError and found.args == ("no",) and "trace" in str(found.__cause__)


@pytest.mark.parametrize(
    "module, name",
    [
        ("builtins", "eval"),
        ("builtins", "int"),
        ("builtins", "KeyboardInterrupt"),
        ("builtins", "nothing"),
        ("os", "system"),
        ("os", "OSError"),
        ("pebble.pool.process", "Result"),
        ("pebble.common.types", "RemoteException"),
        ("lens_openrlhf.rewards.grading", "BadLabel"),
    ],
)
def test_what_a_worker_may_not_send(module, name):
    with pytest.raises(pickle.PicklingError) as refusal:
        spawning.Messages(io.BytesIO(b"")).find_class(module, name)
    assert str(refusal.value) == f"a worker sent {module}.{name}"


def test_other_processes_than_workers_still_load_their_program(monkeypatch):
    """Only while a worker is launched, and in that thread, its program is left out."""
    given = {"init_main_from_path": "a.py", "init_main_from_name": "a", "dir": "/"}
    monkeypatch.setattr(spawning, "_standard_preparation", lambda name: {**given, "name": name})
    assert spawning.spawn.get_preparation_data("w") == {**given, "name": "w"}
    found = []

    def launch(process):
        found.append(spawning.spawn.get_preparation_data(process))
        other = threading.Thread(target=lambda: found.append(spawning.spawn.get_preparation_data("other")))
        other.start()
        other.join()
        if process == "bad":
            raise OSError("no process")
        return "started"

    monkeypatch.setattr(spawning.popen_spawn_posix, "Popen", launch)
    assert spawning.WorkerContext.Process._Popen("w") == "started"
    with pytest.raises(OSError, match="no process"):
        spawning.WorkerContext.Process._Popen("bad")
    assert found == [
        {"dir": "/", "name": "w"}, {**given, "name": "other"}, {"dir": "/", "name": "bad"}, {**given, "name": "other"},
    ]  # fmt: skip
    assert spawning.spawn.get_preparation_data("w") == {**given, "name": "w"}


def test_only_the_parents_end_of_a_pipe_reads_messages_so():
    reader, writer = spawning.WorkerContext().Pipe(duplex=False)
    writer.send(ResultStatus.SUCCESS)
    assert reader.recv() is ResultStatus.SUCCESS
    writer.send(os.system)
    with pytest.raises(pickle.PicklingError):
        reader.recv()
    assert not writer.readable
    one, other = spawning.WorkerContext().Pipe()
    one.send(os.getcwd)
    assert other.recv() is os.getcwd and one.writable and one.readable


def conditions(name: str) -> list[list[tuple]]:
    return [
        [(c.argument, c.comparison, c.first, c.second) for c in found]
        for call, found in isolation._rules()
        if call == name
    ]


def test_when_system_calls_are_refused():
    names = [name for name, _ in isolation._rules()]
    always = [name for name, found in isolation._rules() if not found]
    assert {*names} - {*always} == {"tgkill", "open", "openat"} and len({*always}) == len(always)
    # Of each family at least one, as each is a list of its own.
    assert {"socket", "io_uring_setup", "fork", "setns", "creat", "pivot_root"} <= {*always}
    assert conditions("tgkill") == [[(0, 1, os.getpid(), 0)]]  # other than this process
    for name, argument in (("open", 1), ("openat", 2)):
        assert conditions(name) == [
            [(argument, 7, os.O_ACCMODE, os.O_WRONLY)],
            [(argument, 7, os.O_ACCMODE, os.O_RDWR)],
            [(argument, 7, os.O_CREAT, os.O_CREAT)],
            [(argument, 7, os.O_TRUNC, os.O_TRUNC)],
        ]


REFUSED_EVENTS = (
    "socket.connect socket.__new__ subprocess.Popen pty.spawn shutil.rmtree ctypes.dlopen ctypes.dlsym os.system "
    "os.exec os.fork os.forkpty os.posix_spawn os.spawn os.kill os.killpg os.remove os.rename os.link os.symlink "
    "os.mkdir os.rmdir os.truncate os.chmod os.chown os.utime os.setxattr os.removexattr"
).split()


@pytest.mark.parametrize("event", REFUSED_EVENTS)
def test_events_that_pythons_hook_refuses(event):
    with pytest.raises(PermissionError) as refusal:
        isolation._refuse(event, ())
    assert refusal.value.errno == errno.EPERM and refusal.value.strerror == f"{event}: a reward worker may not"


@pytest.mark.parametrize(
    "event", ["import", "compile", "exec", "os.listdir", "os.scandir", "os.getxattr", "pickle.find_class"]
)
def test_events_that_it_lets_pass(event):
    assert isolation._refuse(event, ()) is None


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        (None, False), (os.O_RDONLY, False), (os.O_RDONLY | os.O_CLOEXEC, False),
        (os.O_WRONLY, True), (os.O_RDWR, True), (os.O_RDONLY | os.O_CREAT, True), (os.O_RDONLY | os.O_TRUNC, True),
    ],
)  # fmt: skip
def test_files_that_it_lets_open(flags, refused):
    with pytest.raises(PermissionError) if refused else contextlib.nullcontext():
        isolation._refuse("open", ("file", "r", flags))


class Library:
    """Stands where libseccomp is, and keeps what it is told; `failing` says of which call."""

    def __init__(self, failing: str = "", context: object = 7):
        self.told, self.failing, self.context = [], failing, context

    def __getattr__(self, name):
        def call(*arguments):
            if name == "seccomp_syscall_resolve_name":
                return -1 if arguments[0] == b"clone3" else len(self.told)
            self.told.append((name, *arguments))
            if name == "seccomp_init":
                return self.context
            return -errno.EACCES if name == self.failing else 0

        setattr(self, name, call)
        return call


def test_the_kernels_filter(monkeypatch):
    """All is allowed but for the rules, in every thread; a call that a kernel does not know is left out."""
    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: {"libseccomp.so.2": library}[name])
    isolation._filter_system_calls()
    first, every_thread, *rules, load, release = library.told
    assert (first, every_thread) == (("seccomp_init", 0x7FFF0000), ("seccomp_attr_set", 7, 4, 1))
    assert (load, release) == (("seccomp_load", 7), ("seccomp_release", 7))
    wanted = [(name, found) for name, found in isolation._rules() if name != "clone3"]
    assert len(rules) == len(wanted)
    for number, ((call, context, action, resolved, count, array), (name, found)) in enumerate(
        zip(rules, wanted, strict=True)
    ):
        refusal = errno.ENOSYS if name == "openat2" else errno.EPERM
        assert (call, context, action, resolved, count) == (
            "seccomp_rule_add_array", 7, 0x50000 | refusal, number + 2, len(found),
        )  # fmt: skip
        assert [bytes(one) for one in array] == [bytes(one) for one in found]
    # Pointers, which an int would cut; and the structure of libseccomp's.
    pointer, number = ctypes.c_void_p, ctypes.c_uint32
    assert library.seccomp_init.restype is pointer and library.seccomp_init.argtypes == [number]
    assert library.seccomp_attr_set.argtypes == [pointer, ctypes.c_int, number]
    assert library.seccomp_syscall_resolve_name.argtypes == [ctypes.c_char_p]
    rule = [pointer, number, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(isolation._Condition)]
    assert library.seccomp_rule_add_array.argtypes == rule
    assert library.seccomp_load.argtypes == library.seccomp_release.argtypes == [pointer]
    kinds = [ctypes.c_uint, ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64]
    assert [kind for _, kind in isolation._Condition._fields_] == kinds


@pytest.mark.parametrize("failing", ["seccomp_attr_set", "seccomp_rule_add_array", "seccomp_load"])
def test_a_filter_that_the_kernel_does_not_take(failing, monkeypatch):
    library = Library(failing)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    with pytest.raises(OSError) as failure:
        isolation._filter_system_calls()
    assert failure.value.errno == errno.EACCES and failure.value.strerror == os.strerror(errno.EACCES)
    assert [told[0] for told in library.told[-2:]] == [failing, "seccomp_release"]


def test_a_filter_for_which_there_is_no_memory(monkeypatch):
    library = Library(context=None)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    with pytest.raises(OSError) as failure:
        isolation._filter_system_calls()
    assert failure.value.errno == errno.ENOMEM and [told[0] for told in library.told] == ["seccomp_init"]


THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
IN_A_WORKER = """(lambda os, resource, signal, logging, threading, worker: {})(
    *map(__import__, ("os", "resource", "signal", "logging", "threading")),
    __import__("sys").modules["lens_openrlhf.rewards.worker"],
)"""


@pytest.fixture
def own_worker(monkeypatch):
    """A worker of a parent that ignores and blocks signals; gives what an expression has for a value there."""
    for name, value in (("WORKERS", "1"), ("MEMORY_GB", "2"), ("ISOLATION", "auto")):
        monkeypatch.setenv(f"LENS_VERIFIER_{name}", value)
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    shutdown()
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGALRM)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        pool.run_in_worker(len, ((),), None)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    yield lambda expression: pool.run_in_worker(eval, (IN_A_WORKER.format(expression),), None)
    shutdown()


def test_limits_of_a_worker(own_worker):
    """Memory, core files, processes, signals, threads of libraries; and what it may have in memory."""
    for limit, value in (("AS", 2 << 30), ("CORE", 0), ("NPROC", 0)):
        assert own_worker(f"resource.getrlimit(resource.RLIMIT_{limit})") == (value, value), limit
    assert own_worker("[signal.getsignal(x) == signal.SIG_DFL for x in (signal.SIGTERM, signal.SIGALRM)]") == [True] * 2
    assert own_worker("len(signal.pthread_sigmask(signal.SIG_BLOCK, []))") == 0
    assert own_worker(f"[os.environ[name] for name in {THREADS}]") == ["1"] * 3
    assert own_worker("logging.getLogger('math_verify').level") == logging.ERROR
    assert own_worker("logging.getLogger().level") == logging.WARNING
    watching = "any(x.daemon and x.name.endswith('(_die_with_parent)') for x in threading.enumerate())"
    assert own_worker(watching) is True
    budget, peak = own_worker("(worker._memory_budget, worker._peak_memory())")
    assert abs(budget - (1 << 29) - peak) < 1 << 25
    # It has graded an answer in a box by a number before its first task, which thus does not wait for what that loads.
    read = "[f.cache_info().misses for f in (worker.grading.parse_label, worker.grading.answer.find)]"
    assert own_worker(read) == [1, 1]
    assert own_worker("worker.grading.read(chr(92) + 'boxed{' + chr(92) + 'frac{1}{2}}', '0.5').outcome") == "correct"
    assert own_worker(read) == [1, 1]


def test_a_worker_ends_when_its_parent_has(monkeypatch):
    parents, told = iter([5, 5, 1]), []
    monkeypatch.setattr(worker, "os", SimpleNamespace(getppid=lambda: next(parents), _exit=told.append))
    monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=lambda seconds: told.append(f"slept {seconds:g}")))
    worker._die_with_parent(5)
    assert told == ["slept 1", "slept 1", 1]


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
