"""Starts worker processes without the parent's program, and reads what they send, which is not trusted."""

from __future__ import annotations

import builtins
import io
import pickle
import threading
from multiprocessing import connection, context, popen_spawn_posix, spawn
from typing import Any

from pebble.common.types import ResultStatus

# The standard spawn makes a worker import the parent's __main__: from a Ray actor every worker would load Ray, and a
# script without `if __name__ == "__main__"` would run again in every worker.
_launching = threading.local()
_standard_preparation = spawn.get_preparation_data


def _preparation_data(name: str) -> dict:
    data = _standard_preparation(name)
    if getattr(_launching, "without_main", False):
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


spawn.get_preparation_data = _preparation_data


class _ProcessWithoutMain(context.SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> popen_spawn_posix.Popen:
        _launching.without_main = True
        try:
            return popen_spawn_posix.Popen(process_obj)
        finally:
            _launching.without_main = False


class Messages(pickle.Unpickler):
    """Reads what pebble's workers send, and no other class: a pickle can run code where it is read, and a worker whose
    text had run code could send any."""

    CLASSES = {
        "pebble.pool.process": ("Acknowledgement", "TaskResult", "TaskProblem"),
        "pebble.common.types": ("Result", "ResultStatus", "RemoteException.rebuild_exception"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if name in self.CLASSES.get(module, ()):
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):
            return self._status
        found = getattr(builtins, name, None) if module == "builtins" else None
        if isinstance(found, type) and issubclass(found, Exception):
            return found
        raise pickle.PicklingError(f"a worker sent {module}.{name}")  # pebble ends the pool at this

    @staticmethod
    def _status(kind: Any, name: str) -> ResultStatus:
        """A status as some releases of Python 3.11 (Debian's 3.11.2) pickle it: getattr(ResultStatus, name)."""
        if kind is not ResultStatus or name not in list(ResultStatus.__members__):
            raise pickle.PicklingError(f"a worker sent getattr({kind!r}, {name!r})")
        return ResultStatus[name]


class WorkerContext(context.SpawnContext):
    """Starts workers without the parent's __main__, and reads their messages as Messages."""

    Process = _ProcessWithoutMain

    def Pipe(self, duplex: bool = True) -> tuple[connection.Connection, connection.Connection]:
        reader, writer = super().Pipe(duplex)
        # Of this object alone: the worker's own end is a new one, and the parent can be trusted.
        own: Any = reader
        own.recv = lambda: Messages(io.BytesIO(reader.recv_bytes())).load()
        return reader, writer
