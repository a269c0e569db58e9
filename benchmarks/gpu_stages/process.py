"""A stage in a process of its own."""

from __future__ import annotations

import importlib
import os
import time
import traceback
from pathlib import Path

from . import ROOT
from .rows import FAILED, MISSING, PASSED, RESULTS, STAGE, Missing, Rows


def main(name: str, kind: str, folder: str) -> None:
    """Run a stage on a device ("cuda" or "cpu"). Its rows go to `folder`, and what it prints to a log there."""
    os.setsid()  # so that it can be ended together with what it starts
    log = os.open(Path(folder) / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.chdir(ROOT)
    if kind == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a rehearsal is one on a GPU machine, too
    rows, start = Rows(Path(folder) / RESULTS, name), time.perf_counter()
    result, reason = PASSED, None
    try:
        from .device import device_of

        importlib.import_module(f".{name}", __package__).run(device_of(kind), rows)
        if rows.failed:
            result, reason = FAILED, ", ".join(rows.failed)
    except Missing as missing:
        result, reason = MISSING, str(missing)
    except BaseException as error:  # whatever it is, the next stage still runs
        traceback.print_exc()
        result, reason = FAILED, f"{type(error).__name__}: {str(error).strip()[:300]}"
    rows.add(STAGE, result=result, seconds=time.perf_counter() - start, reason=reason)
