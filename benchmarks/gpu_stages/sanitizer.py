"""compute-sanitizer's four tools over every path of the kernels, good data and bad."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from . import ROOT
from .device import Cpu, Cuda
from .rows import Missing, Rows

SANITIZER = "compute-sanitizer"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
FINDINGS = 9  # its exit status where it found something


def run(device: Cuda | Cpu, rows: Rows) -> None:
    if device.kind == "cpu":
        raise Missing("no GPU to watch")
    found = shutil.which(SANITIZER)
    if not found:
        raise Missing(f"{SANITIZER} not found on PATH: it comes with the CUDA toolkit")
    program = [sys.executable, "-m", "benchmarks.gpu_stages.launch", "small"]
    # Freed memory must be freed, or a read of it goes unseen.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    with tempfile.TemporaryDirectory() as folder:
        started = {}
        for tool in TOOLS:
            with open(f"{folder}/{tool}", "w") as log:
                command = [found, "--tool", tool, "--error-exitcode", str(FINDINGS), *program]
                started[tool] = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        for tool, process in started.items():
            status = process.wait()
            output = Path(folder, tool).read_text()
            print(output, flush=True)
            good, says = verdict(status, output)
            rows.check(tool, good, says=says)


def verdict(status: int, output: str) -> tuple[bool, str]:
    """Whether a tool watched the whole program and found nothing, and its summary."""
    summaries = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", output)
    says = summaries[-1] if summaries else "no summary"
    if "calls done" not in output:
        return False, f"the program did not end well ({says}): {output.strip()[-200:]}"
    return status == 0 and bool(re.match(r"0 (errors|hazards)", says)), says
