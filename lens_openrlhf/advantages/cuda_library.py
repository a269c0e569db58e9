"""What a CUDA library was built for, and whether that fits the torch, the driver and the card at hand.

A library says it in a string that setup.py puts into it and that is read from the file: loading it to ask would be too
late.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from dataclasses import dataclass

import torch

REBUILD = "run `pip install -e .` in the project's folder"
_BUILT_FOR = re.compile(rb"lens_openrlhf CUDA library: CUDA (\d+)\.(\d+), architectures ([\w.;+]+)")


@dataclass(frozen=True)
class BuiltFor:
    cuda: tuple[int, int]  # the release of the nvcc that built it
    architectures: tuple[
        str, ...
    ]  # as TORCH_CUDA_ARCH_LIST names them: "9.0" is machine code, "+PTX" serves newer cards

    def runs_on(self, capability: tuple[int, int]) -> bool:
        """Whether a card of this compute capability can run one of the architectures as it is."""
        for name in self.architectures:
            major, minor, only, _ = _parts(name)
            same = (major, minor) == capability
            # Machine code serves later minors, too; an "a" or "f" binds it closer, "f" to its family.
            if same or (only != "a" and major == capability[0] and minor <= capability[1]):
                return True
        return False

    def compiles_for(self, capability: tuple[int, int]) -> bool:
        """Whether the driver can compile it for a card of this compute capability."""
        parts = map(_parts, self.architectures)
        return any(ptx and not only and (major, minor) <= capability for major, minor, only, ptx in parts)


def _parts(name: str) -> tuple[int, int, str, bool]:
    found = re.fullmatch(r"(\d+)\.(\d+)([af]?)(\+PTX)?", name)
    assert found, name  # setup.py lets no other through
    return int(found[1]), int(found[2]), found[3], bool(found[4])


def built_for(library: str) -> BuiltFor | None:
    """What the file `library` says of itself; None if it says nothing."""
    with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = _BUILT_FOR.search(content)
        if found is None:
            return None
        return BuiltFor((int(found[1]), int(found[2])), tuple(found[3].decode().split(";")))


def unfit_for_torch(library: str | None) -> str | None:
    """Why this torch cannot use the CUDA library of this path (None: there is none), and the remedy; None if it can."""
    wanted, version = torch.version.cuda, f"torch {torch.__version__}"
    if wanted is None:
        kind = "for ROCm" if torch.version.hip else "a CPU build"
        return f"{version} is {kind}: install a torch for CUDA, then {REBUILD}"
    major = int(wanted.split(".")[0])
    if library is None:
        return f"the CUDA library was not built: install the CUDA toolkit {major} (nvcc), then {REBUILD}"
    built = built_for(library)
    if built is None:
        return f"{library} does not say which CUDA it was built for: {REBUILD}"
    if built.cuda[0] != major:
        return (
            f"{library} was built for CUDA {_dotted(built.cuda)}, but {version} is for CUDA {wanted}: "
            f"{REBUILD}, with nvcc of CUDA {major} (CUDA_HOME names the toolkit)"
        )
    return None


def unfit_for_device(built: BuiltFor, index: int) -> str | None:
    """Why the card of this number cannot run the library, and the remedy; None if nothing speaks against it."""
    driver = driver_cuda()
    supports = f"the driver supports CUDA {_dotted(driver)}" if driver else ""
    if driver and driver[0] < built.cuda[0]:
        return f"{supports}, the CUDA library needs {built.cuda[0]}.0: update the NVIDIA driver"
    name, capability = device(index)
    if built.runs_on(capability):
        return None
    card, number = f"{name} (compute capability {_dotted(capability)})", _dotted(capability)
    rebuild = f"`TORCH_CUDA_ARCH_LIST={number} pip install -e .` in the project's folder builds it for this card"
    if not built.compiles_for(capability):
        return f"{card} is not among the architectures of the CUDA library ({';'.join(built.architectures)}): {rebuild}"
    if driver and driver < built.cuda:
        newest = _dotted(built.cuda)
        return f"{supports}, but compiles the CUDA library for {card} only from {newest} on: {rebuild}"
    return None


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver supports; None without a driver. Leaves the devices alone."""
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return None
    return None if failed else (version.value // 1000, version.value % 1000 // 10)


def device(index: int) -> tuple[str, tuple[int, int]]:
    """Name and compute capability of a card."""
    return torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
