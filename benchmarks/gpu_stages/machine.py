"""What the results were measured on."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from datetime import datetime, timezone
from importlib import metadata

import torch

from . import ROOT
from .device import Cpu, Cuda
from .rows import Rows

PACKAGES = ("triton", "cupy-cuda13x", "numpy", "pytest", "transformers", "trl", "openrlhf", "deepspeed", "ray", "vllm")


def run(device: Cuda | Cpu, rows: Rows) -> None:
    if device.kind == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"{why_no_cuda()}; --device cpu rehearses without a GPU")
    rows.add("card", found=card() if device.kind == "cuda" else f"none: a rehearsal on {os.cpu_count()} CPU cores")
    rows.add("torch", found=f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}")
    rows.add("nvcc", found=nvcc())
    rows.add("python", found=f"{platform.python_version()}, {platform.platform()}")
    rows.add("packages", found=", ".join(f"{name} {version(name)}" for name in PACKAGES))
    rows.add("date", found=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"))
    rows.add("commit", found=commit())


def why_no_cuda() -> str:
    if torch.version.cuda is None:
        return f"no GPU: torch {torch.__version__} is a build for the CPU"
    driver = output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    if driver is None:
        return "no GPU: nvidia-smi is not on PATH or finds none, so there is no driver"
    try:
        torch.cuda.init()
    except Exception as error:
        return f"no GPU: torch {torch.__version__} cannot use {driver}: {error}"
    return f"no GPU: torch {torch.__version__} sees none of {driver}"


def card() -> str:
    facts = torch.cuda.get_device_properties(0)
    query = "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem,power.limit"
    driver = output("nvidia-smi", query, "--format=csv,noheader", "--id=0") or "unknown"
    memory = f"{facts.total_memory / 2**30:.0f} GiB, {facts.multi_processor_count} multiprocessors"
    return f"{facts.name}, {memory}, capability {facts.major}.{facts.minor}; driver, clocks, power limit: {driver}"


def nvcc() -> str:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    path = shutil.which("nvcc") or shutil.which(f"{home}/bin/nvcc")
    found = re.search(r"release ([\d.]+)", output(path, "--version") or "") if path else None
    return found[1] if found else "not found"


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "-"


def commit() -> str:
    name = output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    if name is None:
        return "unknown: no git, or no repository"
    changed = output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return f"{name}, with changes" if changed else name


def output(*command: str) -> str | None:
    """What a command prints, or None if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
