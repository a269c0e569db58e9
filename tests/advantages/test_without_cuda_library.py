"""Where the CUDA library is missing or does not fit, the package imports, the CPU computes, CUDA tensors get a reason.

Each case is a copy of the package in a process of its own. What a CUDA build of torch would say of itself is staged;
the rest is real: the libraries, what loading them says, and the dispatcher, which is asked for the CUDA kernel.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lens_openrlhf.advantages import cuda_library, extension, lens_advantages, ops
from lens_openrlhf.advantages.cuda_library import BuiltFor, built_for

from .test_cuda_library import ROOT, library_path, needs_nvcc

ASK = """
import sys
import torch
torch.version.cuda = sys.argv[1] or None
# An editable install finds what the copy lacks.
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in str(finder)]
import lens_openrlhf
from lens_openrlhf.advantages import extension, segment_mean
assert lens_openrlhf.__path__[0].startswith(sys.argv[2]), lens_openrlhf.__path__
assert segment_mean(-torch.ones(3), torch.tensor([0, 3])).mean_logprob.item() == -1
cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
for name in extension.operators():
    operator = getattr(torch.ops.lens_openrlhf, name.split("::")[1]).default
    arguments = [torch.zeros(2) if "Tensor" in str(a.type) else 0 for a in operator._schema.arguments]
    try:
        operator.redispatch(cuda, *arguments)
    except RuntimeError as error:
        print(error)
    else:
        raise AssertionError(name)
from lens_openrlhf import doctor
print(*(f"{f.ok} {f.state}: {f.remedy}" for f in doctor._extension() if f.name == "extension _C_cuda"))
"""


@pytest.fixture
def package(tmp_path):
    """A copy of the package that has the CPU's library, and the folder that it lies in."""
    to = tmp_path / "copy" / "lens_openrlhf"
    shutil.copytree(ROOT / "lens_openrlhf", to, ignore=shutil.ignore_patterns("__pycache__", "*.so", "static"))
    shutil.copy(library_path("_C"), to)
    return to


def ask(package: Path, cuda: str) -> list[str]:
    """What the CUDA kernel of every operator says under a torch for this CUDA, and doctor's finding."""
    command = [sys.executable, "-W", "ignore", "-c", ASK, cuda, str(package.parent)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(package.parent)}, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def check(said: list[str], *parts: str) -> None:
    """All kernels and doctor say the same, in one line each."""
    *kernels, finding = said
    assert len(kernels) == len(extension.operators())
    for line in kernels:
        assert line.startswith("lens_openrlhf cannot take CUDA tensors: "), line
        assert all(part in line for part in parts), line
        assert finding == f"False CUDA tensors are refused: {line.split(': ', 1)[1]}"


def test_a_library_that_was_never_built(package):
    check(ask(package, "13.0"), "was not built", "install the CUDA toolkit 13 (nvcc)", "pip install -e .")


def test_a_cpu_build_of_torch(package):
    *kernels, finding = ask(package, "")
    assert len(kernels) == len(extension.operators())
    assert all("is a CPU build: install a torch for CUDA" in line for line in kernels)
    assert finding == "True not built: "


@needs_nvcc
def test_a_library_for_another_cuda(package):
    shutil.copy(library_path("_C_cuda"), package)
    major = built_for(library_path("_C_cuda")).cuda[0]
    said = ask(package, f"{major - 1}.8")
    check(said, f"was built for CUDA {major}.", f"is for CUDA {major - 1}.8", f"with nvcc of CUDA {major - 1}")


@needs_nvcc
def test_a_library_that_does_not_say_what_it_is_for(package):
    library = Path(library_path("_C_cuda"))
    (package / library.name).write_bytes(library.read_bytes().replace(b"CUDA library: CUDA", b"CUDA library: ROCm"))
    check(ask(package, "13.0"), "does not say which CUDA it was built for: run `pip install -e .`")


@needs_nvcc
@pytest.mark.skipif(
    torch.version.cuda is not None, reason="a CUDA build of torch has the libtorch_cuda.so to be missed"
)
def test_a_library_that_cannot_be_loaded(package):
    shutil.copy(library_path("_C_cuda"), package)
    major = built_for(library_path("_C_cuda")).cuda[0]
    check(ask(package, f"{major}.0"), "cannot be loaded beside torch", "libtorch_cuda.so: cannot open", "doctor")


def test_an_operator_that_the_library_lacks_is_refused(monkeypatch):
    """As when the package was updated and the CUDA library was not. The refusal is this process's own registration."""
    namespace = torch.library.Library("lens_openrlhf", "FRAGMENT")
    namespace.define("of_tomorrow(Tensor x) -> Tensor")
    assert not extension.on_cuda("lens_openrlhf::of_tomorrow")
    monkeypatch.setattr(extension, "unfit_for_torch", lambda library: None)
    loads = SimpleNamespace(util=importlib.util, import_module=lambda name: None)
    monkeypatch.setattr(extension, "importlib", loads)
    problem = extension._load_cuda()
    assert "older than the package and lacks lens_openrlhf::of_tomorrow" in problem and "pip install" in problem
    refusal = extension._refuse_cuda(problem)
    assert extension.on_cuda("lens_openrlhf::of_tomorrow")
    operator = torch.ops.lens_openrlhf.of_tomorrow.default
    with pytest.raises(RuntimeError, match="older than the package"):
        operator.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA), torch.zeros(1))
    refusal._destroy()
    namespace._destroy()


# Drivers and cards cannot be had here; what answers for them is replaced.


def stage(monkeypatch, driver, capability):
    monkeypatch.setattr(cuda_library, "driver_cuda", lambda: driver)
    monkeypatch.setattr(cuda_library, "device", lambda index: ("A card", capability))


BUILT = BuiltFor((13, 0), ("8.0", "9.0", "12.0+PTX"))


@pytest.mark.parametrize(
    ("driver", "capability"),
    [((13, 0), (8, 0)), ((13, 0), (8, 9)), ((13, 2), (9, 0)), ((14, 0), (12, 1)), ((13, 0), (13, 0)), (None, (9, 0))],
)
def test_a_card_that_fits(monkeypatch, driver, capability):
    stage(monkeypatch, driver, capability)
    assert cuda_library.unfit_for_device(BUILT, 0) is None


@pytest.mark.parametrize(
    ("driver", "capability", "built", "said"),
    [
        ((12, 8), (9, 0), BUILT, "supports CUDA 12.8, the CUDA library needs 13.0: update the NVIDIA driver"),
        ((13, 0), (7, 5), BUILT, "A card (compute capability 7.5) is not among the architectures"),
        ((13, 0), (10, 0), BUILT, "(8.0;9.0;12.0+PTX): `TORCH_CUDA_ARCH_LIST=10.0 pip install -e .`"),
        ((13, 0), (9, 0), BuiltFor((13, 0), ("10.0", "12.0")), "is not among the architectures"),
        ((13, 0), (12, 1), BuiltFor((13, 0), ("12.0a",)), "is not among the architectures"),
        ((13, 0), (13, 0), BuiltFor((13, 1), ("12.0+PTX",)), "only from 13.1 on: `TORCH_CUDA_ARCH_LIST=13.0"),
    ],
)
def test_a_card_or_driver_that_does_not_fit(monkeypatch, driver, capability, built, said):
    stage(monkeypatch, driver, capability)
    assert said in cuda_library.unfit_for_device(built, 0)


def test_a_device_that_fails_is_explained(monkeypatch):
    """A raw operator's own error is what CUDA says; the remedy is added where there is one."""
    on_device = torch.empty(0)

    def fail(*arguments):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    with pytest.raises(RuntimeError, match="^CUDA error: no kernel image") as plain:
        ops._run(fail, on_device)
    assert plain.value.__cause__ is None
    monkeypatch.setattr(extension, "device_problem", lambda device: "A card is too old: buy another")
    with pytest.raises(RuntimeError, match="cannot run on cpu: A card is too old: buy another$") as explained:
        ops._run(fail, on_device)
    assert "no kernel image" in str(explained.value.__cause__)


def test_an_error_on_the_cpu_stays_what_it_is():
    with pytest.raises(RuntimeError, match="expected a contiguous tensor") as error:
        ops._run(torch.ops.lens_openrlhf.segment_mean, torch.zeros(6)[::2], torch.tensor([0, 3]), None)
    assert error.value.__cause__ is None
    assert lens_advantages(-torch.ones(2), torch.tensor([0, 1, 2]), torch.eye(2)[0], torch.tensor([0, 2])) is not None


@needs_nvcc
def test_a_library_says_what_it_was_built_for():
    built = built_for(library_path("_C_cuda"))
    release = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    assert f"release {'.'.join(map(str, built.cuda))}," in release
    assert built.architectures and all(built.runs_on(cuda_library._parts(name)[:2]) for name in built.architectures)
    assert built_for(library_path("_C")) is None
