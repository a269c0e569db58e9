"""Where the CUDA library is missing or does not fit, the package imports, the CPU computes, CUDA tensors get a reason.

Each case is a copy of the package in a process of its own. What a CUDA build of torch would say of itself is staged;
the rest is real: the libraries, what loading them says, and the dispatcher, which is asked for the CUDA kernel.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
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
    [((13, 0), (8, 0)), ((13, 0), (8, 9)), ((13, 2), (9, 0)), ((14, 0), (12, 1)), ((13, 0), (13, 0))],
)
def test_a_card_that_fits(monkeypatch, driver, capability):
    stage(monkeypatch, driver, capability)
    assert cuda_library.unfit_for_device(BUILT, 0) is None


@pytest.mark.parametrize(
    ("driver", "capability", "built", "said"),
    [
        (None, (9, 0), BUILT, "there is no NVIDIA driver (libcuda.so.1): install one"),
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


def built_file(folder, text):
    """A library that says so of itself, among other things."""
    path = folder / "library.so"
    path.write_bytes(b"\x7fELF" + 100 * b"\0" + text.encode() + b"\0more")
    return str(path)


SAYS = "lens_openrlhf CUDA library: CUDA {}, architectures {}"


def test_a_library_is_read_for_what_it_says(tmp_path):
    said = built_for(built_file(tmp_path, SAYS.format("13.10", "8.0;9.0a;12.0+PTX")))
    assert said == BuiltFor((13, 10), ("8.0", "9.0a", "12.0+PTX"))
    assert built_for(built_file(tmp_path, "nothing of it")) is None


@pytest.mark.parametrize(
    ("architecture", "runs", "compiles"),
    [
        ("9.0", [(9, 0), (9, 1)], []),
        ("8.6", [(8, 6), (8, 9)], []),
        ("9.0a", [(9, 0)], []),
        ("10.0f", [(10, 0), (10, 3)], []),
        ("9.0+PTX", [(9, 0), (9, 1)], [(9, 0), (9, 1), (10, 0), (10, 3), (12, 1)]),
        ("9.0a+PTX", [(9, 0)], []),
        ("8.6+PTX", [(8, 6), (8, 9)], [(8, 6), (8, 9), (9, 0), (9, 1), (10, 0), (10, 3), (12, 1)]),
    ],
)
def test_which_cards_an_architecture_serves(architecture, runs, compiles):
    cards = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (9, 1), (10, 0), (10, 3), (12, 1)]
    built = BuiltFor((13, 0), (architecture,))
    assert [card for card in cards if built.runs_on(card)] == runs
    assert [card for card in cards if built.compiles_for(card)] == compiles
    # And it is found beside others.
    for others in (("7.5", architecture), (architecture, "7.5")):
        assert all(BuiltFor((13, 0), others).runs_on(card) for card in [*runs, (7, 5)])


@pytest.mark.parametrize(
    ("cuda", "hip", "library", "said"),
    [
        (None, None, "13.0", "torch T is a CPU build: install a torch for CUDA, then R"),
        (None, "7.0", "13.0", "torch T is for ROCm: install a torch for CUDA, then R"),
        ("13.2", None, None, "the CUDA library was not built: install the CUDA toolkit 13 (nvcc), then R"),
        ("13.2", None, "?", "L does not say which CUDA it was built for: R"),
        (
            "13.2",
            None,
            "12.9",
            "L was built for CUDA 12.9, but torch T is for CUDA 13.2: R, with nvcc of CUDA 13 (CUDA_HOME names the "
            "toolkit)",
        ),
        ("13.2", None, "13.0", None),
        ("12.9", None, "12.9", None),
    ],
)
def test_whether_a_library_goes_with_this_torch(monkeypatch, tmp_path, cuda, hip, library, said):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    path = library and built_file(tmp_path, SAYS.format(library, "9.0") if library != "?" else "?")
    words = {"T": torch.__version__, "R": "run `pip install -e .` in the project's folder", "L": path}
    expected = said and " ".join(words.get(word, word) for word in said.split(" "))
    if expected:
        expected = expected.replace("R,", f"{words['R']},")
    assert cuda_library.unfit_for_torch(path) == expected


@pytest.mark.parametrize(
    ("answer", "version"), [((0, 13020), (13, 2)), ((0, 12090), (12, 9)), ((0, 9000), (9, 0)), ((3, 13020), None)]
)
def test_the_drivers_cuda(monkeypatch, answer, version):
    failed, number = answer

    def get(place):
        place._obj.value = number
        return failed

    asked = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: asked.append(name) or SimpleNamespace(cuDriverGetVersion=get))
    assert cuda_library.driver_cuda() == version and asked == ["libcuda.so.1"]


def test_without_a_driver_there_is_none(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert cuda_library.driver_cuda() is None


def test_a_card_is_asked_by_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, index))
    assert cuda_library.device(3) == ("card 3", (9, 3))
    monkeypatch.setattr(cuda_library, "driver_cuda", lambda: (13, 0))
    said = cuda_library.unfit_for_device(BuiltFor((13, 0), ("10.0",)), 3)
    assert said == (
        "card 3 (compute capability 9.3) is not among the architectures of the CUDA library (10.0): "
        "`TORCH_CUDA_ARCH_LIST=9.3 pip install -e .` in the project's folder builds it for this card"
    )


def test_an_old_driver_that_need_not_compile_is_enough(monkeypatch):
    stage(monkeypatch, (13, 0), (9, 0))
    assert cuda_library.unfit_for_device(BuiltFor((13, 1), ("9.0",)), 0) is None
    stage(monkeypatch, (13, 1), (13, 0))
    assert cuda_library.unfit_for_device(BuiltFor((13, 1), ("12.0+PTX",)), 0) is None


def test_what_is_known_of_a_device(monkeypatch, tmp_path):
    library = built_file(tmp_path, SAYS.format("13.0", "9.0"))
    asked = []
    monkeypatch.setattr(extension, "unfit_for_device", lambda built, index: asked.append((built, index)) or "too old")
    monkeypatch.setattr(extension, "find", lambda name: library if name == "_C_cuda" else None)
    monkeypatch.setattr(extension, "cuda_problem", None)
    assert extension.device_problem(torch.device("cpu")) is None and not asked
    assert extension.device_problem(torch.device("cuda:2")) == "too old"
    assert extension.device_problem(torch.device("cuda")) == "too old"
    assert asked == [(BuiltFor((13, 0), ("9.0",)), 2), (BuiltFor((13, 0), ("9.0",)), 0)]
    monkeypatch.setattr(extension, "find", lambda name: None)
    assert extension.device_problem(torch.device("cuda")) is None
    monkeypatch.setattr(extension, "cuda_problem", "was not built")
    assert extension.device_problem(torch.device("cuda")) == "was not built"
    assert extension.device_problem(torch.device("cpu")) is None


def test_an_extension_that_is_not_there_or_cannot_be_loaded(monkeypatch):
    def broken(name):
        raise ImportError(f"{name}: undefined symbol")

    monkeypatch.setattr(extension, "importlib", SimpleNamespace(util=importlib.util, import_module=broken))
    with pytest.raises(ImportError) as caught:
        extension._load()
    remedy = "run `pip install -e .` in the project's folder; `lens-openrlhf doctor` looks further"
    beside = f"cannot be loaded beside torch {torch.__version__}"
    assert str(caught.value) == f"{extension.find('_C')} {beside} (lens_openrlhf._C: undefined symbol): {remedy}"
    monkeypatch.setattr(extension, "unfit_for_torch", lambda library: None)
    said = f"{extension.find('_C_cuda')} {beside} (lens_openrlhf._C_cuda: undefined symbol): {remedy}"
    assert extension._load_cuda() == said
    monkeypatch.setattr(extension, "unfit_for_torch", lambda library: f"unfit {library}")
    assert extension._load_cuda() == f"unfit {extension.find('_C_cuda')}"
    assert extension.find("_D") is None
    monkeypatch.setattr(extension, "find", lambda name: None)
    with pytest.raises(ImportError, match="^lens_openrlhf's extension is not built: run `pip install -e .` in the pr"):
        extension._load()


@pytest.mark.parametrize("level", ["avx1024", ""])
def test_an_instruction_set_that_there_is_not(monkeypatch, level):
    monkeypatch.setenv("LENS_CPU_LEVEL", level)
    expected = f"^LENS_CPU_LEVEL={level!r}: expected baseline, avx2, avx512, or leave it unset$"
    with pytest.raises(ImportError, match=expected):
        extension._load()
    for known in ("baseline", "avx2", "avx512"):
        monkeypatch.setenv("LENS_CPU_LEVEL", known)
        extension._load()
    monkeypatch.delenv("LENS_CPU_LEVEL")
    extension._load()
    assert "LENS_CPU_LEVEL" not in os.environ


def test_operators_are_this_projects():
    names = ["lens_openrlhf::group_advantages", "lens_openrlhf::lens_advantages", "lens_openrlhf::segment_mean"]
    assert [name for name in sorted(extension.operators()) if "of_tomorrow" not in name] == names
