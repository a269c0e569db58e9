"""How commands end, and folders that one process holds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from lens_openrlhf.process import Held, explain, holding

# As Ray 2.55 has it, shortened where it goes on in this manner.
LOW = (
    "2 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: 442563df) "
    "was 22.40GB / 23.54GB (0.951700), which exceeds the memory usage threshold of 0.950000; Object store memory "
    "usage: [- objects spillable: 0]; Ray killed 2 worker(s) based on the killing policy: [(Actor(c7bc): job ID=01, "
    "task name=ReferenceModelActor.__init__, required resources={GPU: 0.2}, pid=28100, actual memory used=2.30GB), "
    "(Actor(c7bd): job ID=01000000, task name=LensPolicyModelActor.__init__, pid=28101)]; Top 10 memory users: PID\t"
    "MEM(GB)\tCOMMAND, 28100\t2.30\tray::LensPolicyModelActor.fit, Refer to the documentation on how to address the "
    "out of memory issue: https://docs.ray.io. To disable worker killing, set `RAY_memory_monitor_refresh_ms` to zero."
)
KILLED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: LensPolicyModelActor\n\tpid: 28100\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed."
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LOW, ["22.40 of 23.54 GB", "LensPolicyModelActor and ReferenceModelActor", "--actor.num_gpus_per_node"]),
        (KILLED, ["LensPolicyModelActor has died: ", "killed", "memory"]),
    ],
)
def test_memory_that_ran_out_is_told_in_a_line(text, words):
    line = explain(RuntimeError(text))
    assert all(word in line for word in words) and "\n" not in line and len(line) < 330


def test_a_folder_is_held_by_one(tmp_path):
    with holding(tmp_path / "new" / "folder"):
        with pytest.raises(Held, match=r"^process \d+ on "):
            with holding(tmp_path / "new" / "folder"):
                pass
    with holding(tmp_path / "new" / "folder"):
        pass


def test_a_folder_is_waited_for(tmp_path, capsys):
    with ThreadPoolExecutor(1) as pool, ExitStack() as first:
        first.enter_context(holding(tmp_path))
        second = pool.submit(lambda: holding(tmp_path, wait=True).__enter__())
        while "waiting for process" not in (said := capsys.readouterr().err):
            assert not second.done()
        assert f"is at work in {tmp_path}" in said
        first.close()
        second.result(timeout=60)
