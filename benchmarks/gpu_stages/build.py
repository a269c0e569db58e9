"""The extension, compiled in place: both libraries on a GPU machine, the CPU's alone in a rehearsal."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import torch

from . import ROOT
from .device import Cpu, Cuda
from .rows import Rows, need

ENDED = "setup.py ended with"


def run(device: Cuda | Cpu, rows: Rows) -> None:
    need("setuptools")
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    environment = {**os.environ, "LENS_BUILD_CUDA": "0"}
    if device.kind == "cuda":
        command += ["--force", "--parallel", "2"]
        architecture = "{}.{}".format(*torch.cuda.get_device_capability())
        environment |= {"LENS_BUILD_CUDA": "1", "TORCH_CUDA_ARCH_LIST": architecture}
        rows.add("architecture", value=architecture)
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(done.stdout, flush=True)
    if done.returncode:
        raise RuntimeError(f"{ENDED} {done.returncode}: {done.stdout.strip()[-300:]}")
    for library in sorted((ROOT / "lens_openrlhf").glob("_C*.so")):
        rows.add("library", name=library.name, kib=library.stat().st_size // 1024)
    for kernel in resources(done.stdout):
        rows.add("kernel", **kernel)


def resources(report: str) -> list[dict[str, object]]:
    """Registers and spilled bytes of each kernel, from what ptxas says."""
    found = []
    for part in report.split("Compiling entry function '")[1:]:
        registers, spilled = re.search(r"Used (\d+) registers", part), re.search(r"(\d+) bytes spill stores", part)
        if registers:
            name = part.split("'")[0]
            found.append(
                {
                    "name": name,
                    "registers": int(registers[1]),
                    "spilled_bytes": int(spilled[1]) if spilled else 0,
                }
            )
    return found
