"""What a reward worker may not do: use the network, start or touch other processes, or change files.

Math-Verify and SymPy read text that a model or a data set wrote, and SymPy's parser evaluates Python. Nothing is known
that gets through; if something did, this is what it would meet. In the kernel it is a seccomp filter, which any user
may set and containers allow. Where that cannot be had, Python's audit hook stops Python code, though not machine code.
Neither can be taken off again.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import resource
import sys
from collections.abc import Iterator
from typing import Any, Literal

logger = logging.getLogger(__name__)

Level = Literal["kernel", "python", "off"]
MODES = ("auto", "python", "off")  # auto: the kernel's filter, or Python's hook where there is none

_NETWORK = "socket socketpair connect bind listen accept accept4 io_uring_setup"
_PROCESSES = (
    "fork vfork clone clone3 execve execveat kill tkill rt_sigqueueinfo rt_tgsigqueueinfo ptrace process_vm_readv "
    "process_vm_writev pidfd_open pidfd_getfd pidfd_send_signal unshare setns"
)
_FILES = (
    "creat openat2 truncate ftruncate unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat mkdir "
    "mkdirat rmdir mknod mknodat chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat setxattr lsetxattr "
    "fsetxattr removexattr lremovexattr fremovexattr utime utimes utimensat futimesat mount umount2 chroot pivot_root"
)
# Events of Python's audit hook. `open` is looked at apart.
_EVENTS = (
    *("socket.", "subprocess.", "pty.", "shutil.", "ctypes.dlopen", "ctypes.dlsym"),
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.kill", "os.remove", "os.rename", "os.link"),
    *("os.symlink", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.chown", "os.utime"),
    *("os.setxattr", "os.removexattr"),
)

# From seccomp.h, whose numbers are libseccomp's interface.
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_ALL_THREADS = 4
_NOT_EQUAL, _MASKED_EQUAL = 1, 7


class _Condition(ctypes.Structure):
    """Of a system call's argument: with _MASKED_EQUAL, argument & first == second."""

    _fields_ = [
        ("argument", ctypes.c_uint),
        ("comparison", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    ]


def isolate(mode: str) -> Level:
    """Isolate this process, all its threads and what it may start. Returns what is in force.

    Args:
        mode: one of MODES.
    """
    if mode == "off":
        return "off"
    # For those whom it binds: not for root.
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    if mode == "auto":
        try:
            _filter_system_calls()
            return "kernel"
        except OSError as error:
            logger.debug("no seccomp filter: %s", error)
    sys.addaudithook(_refuse)
    return "python"


def _rules() -> Iterator[tuple[str, tuple[_Condition, ...]]]:
    """System calls that are refused, and when."""
    for name in f"{_NETWORK} {_PROCESSES} {_FILES}".split():
        yield name, ()
    yield "tgkill", (_Condition(0, _NOT_EQUAL, os.getpid()),)
    for name, flags in (("open", 1), ("openat", 2)):
        for access in (os.O_WRONLY, os.O_RDWR):
            yield name, (_Condition(flags, _MASKED_EQUAL, os.O_ACCMODE, access),)
        for flag in (os.O_CREAT, os.O_TRUNC):
            yield name, (_Condition(flags, _MASKED_EQUAL, flag, flag),)


def _filter_system_calls() -> None:
    """Raises OSError where libseccomp is missing or the kernel takes no filter."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Condition)),
    ]
    library.seccomp_load.argtypes = library.seccomp_release.argtypes = [ctypes.c_void_p]

    def succeed(status: int) -> None:
        if status < 0:
            raise OSError(-status, os.strerror(-status))

    context = library.seccomp_init(_ALLOW)
    if not context:
        raise OSError(errno.ENOMEM, "seccomp_init failed")
    try:
        succeed(library.seccomp_attr_set(context, _ALL_THREADS, 1))
        for name, conditions in _rules():
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number < 0:  # another architecture's, or unknown to this libseccomp
                continue
            array = (_Condition * len(conditions))(*conditions)
            # With "not implemented" the C library falls back to calls whose arguments can be looked at.
            refusal = errno.ENOSYS if name in ("clone3", "openat2") else errno.EPERM
            succeed(library.seccomp_rule_add_array(context, _ERRNO | refusal, number, len(conditions), array))
        succeed(library.seccomp_load(context))
    finally:
        library.seccomp_release(context)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        flags = arguments[2] or 0
        refused = flags & os.O_ACCMODE != os.O_RDONLY or flags & (os.O_CREAT | os.O_TRUNC)
    else:
        refused = event.startswith(_EVENTS)
    if refused:
        raise PermissionError(errno.EPERM, f"{event}: a reward worker may not")
