"""Builds lens_openrlhf._C (always) and lens_openrlhf._C_cuda (where nvcc is).

Both are written against torch's stable ABI and the limited Python API, so one build serves every torch
from 2.10 on. The CUDA library neither needs a GPU nor a CUDA build of torch to compile and link.

  LENS_BUILD_CUDA=0|1    leave the CUDA library out, or fail when it cannot be built (default: build if nvcc is found)
  TORCH_CUDA_ARCH_LIST   architectures, default "8.0;9.0;10.0;12.0+PTX"
  MAX_JOBS               parallel nvcc threads, default: number of cores
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
DEFAULT_CUDA_ARCHS = "8.0;9.0;10.0;12.0+PTX"
# 2.10, the first version with a stable parallel_for: bytes are major, minor, patch.
TORCH_TARGET_VERSION = "0x020a000000000000"
PYTHON_LIMITED_API = "0x030a0000"


def find_torch():
    """The torch of the environment that is installed into, or None.

    pip builds in an isolated environment that has no torch. Its sysconfig still names the target's
    site-packages; taking torch from there avoids downloading a second torch of several gigabytes.
    """
    try:
        import torch
    except ImportError:
        sys.path += [path for name in ("platlib", "purelib") if (path := sysconfig.get_path(name)) not in sys.path]
        try:
            import torch
        except ImportError:
            return None
    return torch


def find_nvcc() -> str | None:
    candidates = [
        os.path.join(os.environ[var], "bin", "nvcc") for var in ("CUDA_HOME", "CUDA_PATH") if var in os.environ
    ]
    candidates += [shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    return next((path for path in candidates if path and os.path.exists(path)), None)


def want_cuda(nvcc: str | None) -> bool:
    switch = os.environ.get("LENS_BUILD_CUDA")
    if switch not in (None, "0", "1"):
        raise SystemExit(f"LENS_BUILD_CUDA={switch!r}: expected 0 or 1")
    if switch == "1" and nvcc is None:
        raise SystemExit(
            "LENS_BUILD_CUDA=1, but nvcc was found neither on PATH nor in CUDA_HOME: install the CUDA toolkit"
        )
    if switch == "0" or nvcc is None:
        reason = "LENS_BUILD_CUDA=0" if switch == "0" else "nvcc not found"
        print(f"lens_openrlhf: building without the CUDA library ({reason})")
        return False
    return True


def gencode_flags(arch_list: str) -> list[str]:
    flags = []
    for arch in arch_list.replace(" ", ";").split(";"):
        if not arch:
            continue
        number = arch.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


class BuildExtensions(build_ext):
    def build_extension(self, ext):
        if ext.name.endswith("_cuda"):
            self.build_cuda(ext)
        else:
            super().build_extension(ext)

    def build_cuda(self, ext):
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [find_nvcc(), "-shared", "-o", str(target), *ext.sources, "-std=c++17", "-O3"]
        command += ["--threads", os.environ.get("MAX_JOBS", str(os.cpu_count()))]
        command += gencode_flags(os.environ.get("TORCH_CUDA_ARCH_LIST", DEFAULT_CUDA_ARCHS))
        # Fused multiply-adds would make the GPU's bits depend on the compiler's choices.
        command += ["--fmad=false", "-Xptxas", "-v,-warn-spills", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
        command += [f"-D{name}={value}" for name, value in ext.define_macros]
        command += [f"-I{path}" for path in ext.include_dirs + [sysconfig.get_path("include")]]
        print("lens_openrlhf:", " ".join(command), flush=True)
        log = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(log.stdout, flush=True)
        if log.returncode:
            raise SystemExit("nvcc failed (output above); LENS_BUILD_CUDA=0 installs without the CUDA library")
        # The tests read the compiler's resource report.
        report = ROOT / "build" / "ptxas.txt"
        report.parent.mkdir(exist_ok=True)
        report.write_text(log.stdout)


torch = find_torch()
extensions = []
if torch is not None:
    from torch.utils.cpp_extension import include_paths, library_paths

    macros = [("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION), ("Py_LIMITED_API", PYTHON_LIMITED_API)]
    headers = [str(path) for path in sorted(ROOT.glob("csrc/**/*.h")) + sorted(ROOT.glob("csrc/**/*.cuh"))]
    headers += [str(path) for path in sorted(ROOT.glob("csrc/**/*.inc"))]
    extensions.append(
        Extension(
            "lens_openrlhf._C",
            sources=["csrc/cpu/ops.cpp"],
            depends=headers,
            include_dirs=[str(ROOT / "csrc"), str(ROOT / "csrc" / "cpu")],
            library_dirs=library_paths(),
            libraries=["torch", "torch_cpu", "c10"],
            define_macros=macros,
            # Contraction off: the same bits on every instruction set.
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-ffp-contract=off",
                "-fvisibility=hidden",
                "-Wall",
                "-Wextra",
                # Vectors wider than the baseline's registers are never passed between functions.
                "-Wno-psabi",
                # GCC 12 warns of its own AVX-512 header.
                "-Wno-maybe-uninitialized",
            ]
            + [f"-isystem{path}" for path in include_paths()],
            py_limited_api=True,
        )
    )
    if want_cuda(find_nvcc()):
        extensions.append(
            Extension(
                "lens_openrlhf._C_cuda",
                sources=["csrc/cuda/ops.cu"],
                depends=headers,
                include_dirs=[str(ROOT / "csrc"), *include_paths()],
                define_macros=[*macros, ("USE_CUDA", "1")],
                py_limited_api=True,
            )
        )

setup(
    ext_modules=extensions,
    cmdclass={"build_ext": BuildExtensions},
    # Asked for only where there is none: otherwise pip would fetch a second torch to build with.
    setup_requires=[] if torch is not None else ["torch>=2.10"],
)
