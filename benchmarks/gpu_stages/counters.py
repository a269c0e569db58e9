"""A few of the profiler's counters of both kernels: are they bound by memory, by issue, or by fetching their code."""

from __future__ import annotations

import csv
import math
import re
import shutil
import subprocess
import sys

from . import ROOT
from .device import Cpu, Cuda
from .rows import Missing, Rows

PROFILER = "ncu"
KERNELS = "regex:segment_mean_kernel|group_advantages_kernel"
# Whole sections rather than metrics by name: names differ between cards and versions, and one that is unknown ends the
# profiler.
SECTIONS = ("SpeedOfLight", "Occupancy", "SchedulerStats", "WarpStateStats", "LaunchStats")
# Column of ours: the profiler's column, as an expression, since their names vary a little.
FIGURES = {
    "us": r"gpu__time_duration\.sum",
    "dram_%": r"(gpu__dram_|dram__)throughput\.avg\.pct_of_peak_sustained_elapsed",
    "occupancy_%": r"sm__warps_active\.avg\.pct_of_peak_sustained_active",
    "issue_active": r"smsp__issue_active\.avg\.per_cycle_active",
    "stall_no_instruction": r"smsp__average_warps?_.*stalled_no_instruction.*\.ratio",
    "stall_long_scoreboard": r"smsp__average_warps?_.*stalled_long_scoreboard.*\.ratio",
    "registers": r"launch__registers_per_thread",
}
TO_MICROSECONDS = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6, "nsecond": 1e-3, "usecond": 1.0, "msecond": 1e3}


def run(device: Cuda | Cpu, rows: Rows) -> None:
    if device.kind == "cpu":
        raise Missing("no GPU to count on")
    found = shutil.which(PROFILER)
    if not found:
        raise Missing(f"{PROFILER} not found on PATH: it comes with the CUDA toolkit")
    command = [found, "--clock-control", "none", "--csv", "--page", "raw", "--kernel-name", KERNELS]
    command += [part for section in SECTIONS for part in ("--section", section)]
    program = [sys.executable, "-m", "benchmarks.gpu_stages.launch", "large"]
    done = subprocess.run(command + program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, flush=True)
    kernels = figures(done.stdout)
    if not kernels:
        raise RuntimeError(f"{PROFILER} ended with {done.returncode} and no figures: {done.stdout.strip()[-300:]}")
    for kernel in kernels:
        rows.add(kernel.pop("kernel"), **kernel)


def figures(output: str) -> list[dict[str, object]]:
    """A dictionary a launch, from the profiler's raw page as CSV (a head, units, launches), among other lines."""
    lines = list(csv.reader(line for line in output.splitlines() if line.startswith('"')))
    if len(lines) < 3:
        return []
    head, units, *launches = lines
    found = []
    for launch in launches:
        named, unit = dict(zip(head, launch, strict=False)), dict(zip(head, units, strict=False))
        row: dict[str, object] = {"kernel": named["Kernel Name"][:60]}
        for name, pattern in FIGURES.items():
            column = next((column for column, text in named.items() if text and re.fullmatch(pattern, column)), None)
            value = _number(named[column]) if column else "not given"
            if name == "us" and isinstance(value, float):
                value *= TO_MICROSECONDS.get(unit[column], math.nan)
            row[name] = value
        found.append(row)
    return found


def _number(text: str) -> float | str:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return text
