"""What both libraries ask of torch and of Python: only what is promised, from libraries that they name.

Nothing here needs a CUDA build of torch: a stand-in has the symbols of its libtorch_cuda.so.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.cpp_extension import include_paths

from lens_openrlhf.advantages import extension

from .test_cuda_library import ROOT, library_path, needs_nvcc

TORCH_LIBRARIES = Path(torch.__file__).parent / "lib"
LIBRARIES = ["_C", pytest.param("_C_cuda", marks=needs_nvcc)]
NEEDED = {"_C": {"libtorch_cpu.so"}, "_C_cuda": {"libtorch_cpu.so", "libtorch_cuda.so"}}
# cudart is linked statically; libtorch.so and libc10.so come with libtorch_cpu.so.
ALLOWED = r"libtorch(_cpu)?\.so|libc10\.so|(libstdc\+\+|libm|libgcc_s|libc|libdl|libpthread|librt)\.so\.\d+|ld-linux.*"
STABLE_HEADERS = ("torch/csrc/stable/c/shim.h", "torch/csrc/inductor/aoti_torch/c/shim.h")


def output(*command: str | Path) -> str:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout


def needed(library: str) -> set[str]:
    return set(re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-dW", library)))


def asked_of_torch(library: str) -> set[str]:
    """The undefined symbols that neither the system's libraries, by version, nor Python have."""
    names = re.findall(r"^\s+U (\S+)$", output("nm", "-D", "--undefined-only", library), re.MULTILINE)
    return {name for name in names if "@" not in name and not re.match(r"_?Py|_ZN?K?St", name)}


def defined(library: Path) -> set[str]:
    return set(re.findall(r" [TWDB] (\S+)$", output("nm", "-D", "--defined-only", library), re.MULTILINE))


def declared() -> set[str]:
    """The functions of torch's stable C interface."""
    folder = Path(include_paths()[0])
    return {name for header in STABLE_HEADERS for name in re.findall(r"\b(\w+)\s*\(", (folder / header).read_text())}


@pytest.mark.parametrize("name", LIBRARIES)
def test_it_names_the_libraries_that_it_needs(name):
    found = needed(library_path(name))
    assert NEEDED[name] <= found, "Python keeps torch's symbols to torch: who names no library finds none"
    assert [other for other in found - NEEDED[name] if not re.fullmatch(ALLOWED, other)] == []


@pytest.mark.parametrize("name", LIBRARIES)
def test_it_asks_torch_for_stable_symbols_alone(name):
    symbols = asked_of_torch(library_path(name))
    assert "aoti_torch_dtype_float32" in symbols and len(symbols) > 20
    assert symbols - declared() == set()


@pytest.mark.parametrize("name", LIBRARIES)
def test_this_torch_has_what_it_asks_for(name):
    libraries = [TORCH_LIBRARIES / library for library in sorted(NEEDED[name])]
    there = set().union(*(defined(library) for library in libraries if library.exists()))
    missing = asked_of_torch(library_path(name)) - there
    if name == "_C_cuda" and torch.version.cuda is None:  # what is left is CUDA's, by its name
        missing = {symbol for symbol in missing if "cuda" not in symbol}
    assert missing == set()


@pytest.mark.parametrize("name", LIBRARIES)
def test_it_passes_torchs_and_pythons_abi_audit(name):
    audit = pytest.importorskip("torch_abi_audit", reason="torch-abi-audit is published for Python 3.11 and later")
    found = audit.inspect_extension(Path(library_path(name)))
    assert found.error is None
    assert found.torch.stable and found.torch.unstable_symbols == () and found.torch.unknown_shim_symbols == ()
    assert found.cpython.intent and found.cpython.compliant, found.cpython.violations
    oldest = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert found.torch.min_torch_version == f"{oldest[1]}.0", (
        "what pyproject allows is what the libraries can load under"
    )


LOAD = """
import ctypes, sys
ctypes.CDLL(sys.argv[1])
import torch
torch.version.cuda = sys.argv[2]
from lens_openrlhf.advantages import extension, segment_mean
assert extension.cuda_problem is None, extension.cuda_problem
names = extension.operators()
assert "lens_openrlhf::segment_mean" in names and all(map(extension.on_cuda, names))
print(segment_mean(-torch.ones(3), torch.tensor([0, 3])).mean_logprob.item())
"""


@needs_nvcc
@pytest.mark.skipif(torch.version.cuda is not None, reason="a CUDA build of torch: every other test loads the library")
def test_the_cuda_library_loads_beside_libtorch_cuda(tmp_path):
    """A libtorch_cuda.so that has the symbols which a CPU build of torch lacks, with nothing behind them, is enough."""
    library = library_path("_C_cuda")
    missing = asked_of_torch(library) - defined(TORCH_LIBRARIES / "libtorch_cpu.so")
    assert missing, "then the CUDA library would not need libtorch_cuda.so"
    source, stand_in = tmp_path / "stand_in.c", tmp_path / "libtorch_cuda.so"
    source.write_text("".join(f"int {name}() {{ return 1; }}\n" for name in sorted(missing)))
    output("cc", "-shared", "-fPIC", "-Wl,-soname,libtorch_cuda.so", "-o", stand_in, source)
    major = extension.built_for(library).cuda[0]
    done = subprocess.run([sys.executable, "-c", LOAD, stand_in, f"{major}.9"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "-1.0", done.stderr
