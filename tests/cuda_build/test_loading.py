"""The CUDA library beside the torch that it is for: it loads, registers its kernels, and says what a machine lacks."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lens_openrlhf import doctor
from lens_openrlhf.advantages import cuda_library, extension, lens_advantages, reference, segment_mean

from ..advantages.test_cuda_library import library_path
from ..advantages.test_without_cuda_library import ask, check, package  # noqa: F401  (a fixture)

without_driver = pytest.mark.skipif(
    cuda_library.driver_cuda() is not None, reason="a driver is here: tests/gpu has what can be seen then"
)


def test_it_is_loaded():
    assert extension.cuda_problem is None and extension._refusal is None
    assert sys.modules["lens_openrlhf._C_cuda"].__file__ == library_path("_C_cuda")
    built = cuda_library.built_for(library_path("_C_cuda"))
    assert str(built.cuda[0]) == torch.version.cuda.split(".")[0]


def test_it_is_loaded_by_a_process_that_asks_for_nothing_but_the_package():
    """Every symbol is looked up at once, and nothing else has loaded a library before."""
    code = "import lens_openrlhf.advantages.extension as e; print(e.cuda_problem)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"LD_BIND_NOW": "1"})
    assert done.returncode == 0 and done.stdout.strip() == "None", done.stderr


def test_its_kernels_are_registered():
    names = extension.operators()
    assert {"lens_openrlhf::segment_mean", "lens_openrlhf::group_advantages"} <= set(names)
    for name in names:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU"), name
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA"), name
        assert re.search(r"^CUDA: registered at csrc/cuda/ops\.cu:", torch._C._dispatch_dump(name), re.MULTILINE), name


def test_its_symbols_are_torchs_own():
    """The names that it finds are those of the torch that is imported."""
    folder = Path(torch.__file__).parent / "lib"
    for line in Path("/proc/self/maps").read_text().splitlines():
        found = re.search(r"(/\S*/lib(torch|c10)\w*\.so)$", line)
        assert not found or Path(found[1]).parent == folder.resolve(), line
    stream = ctypes.CDLL(library_path("_C_cuda")).aoti_torch_get_current_cuda_stream
    own = ctypes.CDLL(str(folder / "libtorch_cuda.so")).aoti_torch_get_current_cuda_stream
    assert ctypes.cast(stream, ctypes.c_void_p).value == ctypes.cast(own, ctypes.c_void_p).value


def test_the_cpu_operators_equal_the_reference():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 3000, (64,), generator=generator)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    values = -torch.rand(int(cu_seqlens[-1]), generator=generator)
    correctness = (torch.rand(64, generator=generator) < 0.2).double()
    arguments = values, cu_seqlens, correctness, torch.arange(0, 65, 8)
    expected = reference.lens_advantages(*arguments)
    for name, found in lens_advantages(*arguments)._asdict().items():
        torch.testing.assert_close(found, getattr(expected, name), rtol=1e-8, atol=1e-10, equal_nan=True)


@without_driver
def test_a_cuda_tensor_without_a_driver():
    """torch says it, before anything of ours is asked."""
    with pytest.raises(RuntimeError, match="NVIDIA driver"):
        segment_mean(-torch.ones(3, device="cuda"), torch.tensor([0, 3], device="cuda"))


@without_driver
def test_the_kernel_itself_without_a_driver():
    """The dispatcher is told that the tensors were CUDA's: the kernel's first question to torch ends in an error."""
    operator = torch.ops.lens_openrlhf.segment_mean.default
    cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    with pytest.raises(RuntimeError, match="device_guard.* failed"):
        operator.redispatch(cuda, -torch.ones(3), torch.tensor([0, 3]), None)


@without_driver
def test_doctor_without_a_driver():
    torchs, *_ = doctor._torch()
    assert "0 GPUs" in torchs.state and "no GPU is visible" in torchs.remedy and not torchs.needed
    assert doctor._torch_builds() == []
    assert [finding.remedy for finding in doctor._extension()] == ["", ""]
    assert "(in use)" in doctor._extension()[1].state


def test_a_library_for_another_cuda_is_refused(package):  # noqa: F811
    """This library, with another CUDA release in what it says of itself, is not loaded."""
    library = Path(library_path("_C_cuda"))
    major = cuda_library.built_for(str(library)).cuda[0]
    content = library.read_bytes()
    other = content.replace(b"CUDA library: CUDA %d." % major, b"CUDA library: CUDA %d." % (major - 1))
    assert other != content
    (package / library.name).write_bytes(other)
    said = ask(package, torch.version.cuda)
    check(said, f"was built for CUDA {major - 1}.", f"is for CUDA {torch.version.cuda}", f"nvcc of CUDA {major}")


def test_a_library_that_cannot_be_loaded(package):  # noqa: F811
    """This library, with a name among those that it needs which nobody has."""
    library = Path(library_path("_C_cuda"))
    content = library.read_bytes()
    assert content.count(b"libtorch_cuda.so\0") == 1
    (package / library.name).write_bytes(content.replace(b"libtorch_cuda.so\0", b"libtorch_none.so\0"))
    check(ask(package, torch.version.cuda), "cannot be loaded beside torch", "libtorch_none.so", "doctor")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
def test_setup_takes_this_nvcc_for_this_torch():
    done = subprocess.run(
        [sys.executable, "setup.py", "--name"], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0 and "warning" not in done.stdout, done.stderr
