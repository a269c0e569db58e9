"""Builds the emulator with the kernels of csrc, or of a changed copy of it, as a Python module.

Two variants: `checked`, in which the emulator sees every load and store, and `sanitized`, in which AddressSanitizer
and UndefinedBehaviorSanitizer watch the kernels and the emulator itself. Objects are kept in build/simt and made anew
when what they are made of changes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / "build" / "simt"
# Which build the tests use: the path of a module made before. For mutants and sanitizers.
MODULE_VARIABLE = "SIMT_MODULE"

COMMON = ["-std=c++17", "-fPIC", "-g1", "-fno-strict-aliasing", "-ffp-contract=off", "-Wall", "-Wextra"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-O1"]
# What runs in the emulator is compiled for it to watch; the emulator itself is not.
WATCHED = {"kernels.cpp", "faults.cpp"}
SOURCES = ("runtime.cpp", "binding.cpp", "kernels.cpp", "faults.cpp")


def compiler() -> str:
    return os.environ.get("CXX", "g++")


def _flags(source: str, sanitized: bool) -> list[str]:
    if sanitized:
        return SANITIZE
    if source in WATCHED:
        return ["-O1", "-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0"]
    return ["-O2"]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def _object(source: str, csrc: Path, sanitized: bool) -> Path:
    import pybind11

    headers = sorted(HERE.glob("*.h")) + sorted((HERE / "include").glob("*.h"))
    if source in ("kernels.cpp", "binding.cpp"):
        headers += [csrc / "lens.h", csrc / "formulas.inc"]
    if source == "kernels.cpp":
        headers += sorted(csrc.glob("*.cuh"))
    flags = COMMON + _flags(source, sanitized)
    digest = hashlib.sha256(" ".join([compiler(), *flags, pybind11.__version__]).encode())
    for path in [HERE / source, *headers]:
        digest.update(path.read_bytes())
    target = CACHE / f"{Path(source).stem}-{digest.hexdigest()[:16]}.o"
    if not target.exists():
        beside = target.with_suffix(f".{os.getpid()}.o")
        includes = [HERE / "include", HERE, csrc, pybind11.get_include(), sysconfig.get_path("include")]
        _run([compiler(), *flags, *(f"-I{path}" for path in includes), "-c", str(HERE / source), "-o", str(beside)])
        beside.replace(target)
    return target


def build(csrc: Path = ROOT / "csrc", sanitized: bool = False) -> Path:
    """The module's path. Raises RuntimeError with the compiler's message if it does not build."""
    CACHE.mkdir(parents=True, exist_ok=True)
    objects = [_object(source, csrc, sanitized) for source in SOURCES]
    digest = hashlib.sha256(" ".join(map(str, objects)).encode()).hexdigest()[:16]
    folder = CACHE / digest
    target = folder / f"simt{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not target.exists():
        folder.mkdir(exist_ok=True)
        beside = target.with_suffix(f".{os.getpid()}")
        _run([compiler(), "-shared", *(SANITIZE if sanitized else []), *map(str, objects), "-o", str(beside), "-ldl"])
        beside.replace(target)
    return target


def load() -> ModuleType:
    """The module that SIMT_MODULE names, or a fresh build of csrc."""
    path = os.environ.get(MODULE_VARIABLE) or str(build())
    spec = importlib.util.spec_from_file_location("simt", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
