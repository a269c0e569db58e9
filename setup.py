"""Builds lens_openrlhf._C (always) and lens_openrlhf._C_cuda (where nvcc is).

Both are written against torch's stable ABI and the limited Python API, so one build serves every torch
from 2.10 on (the CUDA library: every torch for the CUDA major version of its nvcc). The CUDA library neither needs a
GPU nor a CUDA build of torch to compile and link.

  LENS_BUILD_CUDA=0|1    leave the CUDA library out, or fail when it cannot be built (default: build if nvcc is found)
  TORCH_CUDA_ARCH_LIST   architectures, default "8.0;9.0;10.0;12.0+PTX"
  MAX_JOBS               parallel nvcc threads, default: number of cores
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
DEFAULT_CUDA_ARCHS = "8.0;9.0;10.0;12.0+PTX"
# The first version with a stable parallel_for; in the macro, bytes are major, minor, patch.
MINIMUM_TORCH = (2, 10)
TORCH_TARGET_VERSION = "0x{:02x}{:02x}000000000000".format(*MINIMUM_TORCH)
PYTHON_LIMITED_API = "0x030a0000"
# What the CUDA library calls lies in these. A CPU build of torch has no libtorch_cuda.so.
TORCH_LIBRARIES = ("torch_cuda", "torch_cpu")


def check_writable(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SystemExit(
            f"{folder} cannot be written to ({error.strerror}), and what is built goes there: copy the project to a "
            "folder of your own and install it from that"
        ) from None


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


def check_torch(version: str) -> None:
    if tuple(int(number) for number in re.findall(r"\d+", version)[:2]) < MINIMUM_TORCH:
        raise SystemExit(
            f"torch {version} is too old: lens_openrlhf needs {'.'.join(map(str, MINIMUM_TORCH))} or later"
        )


def find_nvcc() -> str | None:
    candidates = [
        os.path.join(os.environ[var], "bin", "nvcc") for var in ("CUDA_HOME", "CUDA_PATH") if var in os.environ
    ]
    candidates += [shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    return next((path for path in candidates if path and shutil.which(path)), None)


def cuda_version(nvcc: str) -> str:
    """The CUDA release that `nvcc` compiles for, such as 13.0."""
    output = subprocess.run([nvcc, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    found = re.search(r"release (\d+\.\d+)", output)
    if found is None:
        raise SystemExit(
            f"{nvcc} --version names no CUDA release: mend that toolkit, name another with CUDA_HOME, or set "
            f"LENS_BUILD_CUDA=0 to install without the CUDA library; it said {output.strip()!r}"
        )
    return found[1]


def check_cuda_version(nvcc: str, torch) -> None:
    """Refuse an nvcc of another CUDA major version than torch's: its runtime would ask for a driver that torch does not
    need, and fail at the first call. A CPU build of torch cannot tell; extension.py looks again before it loads."""
    version = cuda_version(nvcc)
    major = version.split(".")[0]
    if torch.version.cuda is None:
        print(f"lens_openrlhf: warning: torch is a CPU build; the CUDA library will serve one for CUDA {major} only")
    elif torch.version.cuda.split(".")[0] != major:
        raise SystemExit(
            f"{nvcc} compiles for CUDA {version}, but torch {torch.__version__} is for CUDA {torch.version.cuda}, and "
            "the major versions must agree: name a fitting CUDA toolkit with CUDA_HOME, install a torch for CUDA "
            f"{major}, or set LENS_BUILD_CUDA=0 to install without the CUDA library"
        )


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


def architectures(given: str) -> list[str]:
    """What TORCH_CUDA_ARCH_LIST names, such as ["8.0", "9.0+PTX"]."""
    names = [name for name in re.split("[ ,;]", given) if name]
    if not names or not all(re.fullmatch(r"\d+\.\d+[af]?(\+PTX)?", name) for name in names):
        raise SystemExit(f'TORCH_CUDA_ARCH_LIST={given!r}: expected numbers such as "8.0;9.0+PTX"')
    return names


def gencode_flags(names: list[str]) -> list[str]:
    flags = []
    for arch in names:
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
        scratch = Path(self.build_temp) / "cuda"
        scratch.mkdir(parents=True, exist_ok=True)
        nvcc = find_nvcc()
        names = architectures(os.environ.get("TORCH_CUDA_ARCH_LIST", DEFAULT_CUDA_ARCHS))
        command = [nvcc, "-shared", "-o", str(target), *ext.sources, self.built_for(scratch, nvcc, names)]
        command += ["-std=c++17", "-O3", "--threads", os.environ.get("MAX_JOBS", str(os.cpu_count()))]
        command += gencode_flags(names)
        # Fused multiply-adds would make the GPU's bits depend on the compiler's choices.
        command += ["--fmad=false", "-Xptxas", "-v,-warn-spills", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
        command += [f"-D{name}={value}" for name, value in ext.define_macros]
        command += [f"-I{path}" for path in ext.include_dirs + [sysconfig.get_path("include")]]
        command += self.torch_libraries(scratch)
        print("lens_openrlhf:", " ".join(command), flush=True)
        log = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(log.stdout, flush=True)
        if log.returncode:
            raise SystemExit("nvcc failed (output above); LENS_BUILD_CUDA=0 installs without the CUDA library")

    def built_for(self, scratch: Path, nvcc: str, names: list[str]) -> str:
        """A source whose one string says what the library was built for. lens_openrlhf/advantages/cuda_library.py reads
        it from the file, without loading that."""
        source = scratch / "built_for.cpp"
        text = f"lens_openrlhf CUDA library: CUDA {cuda_version(nvcc)}, architectures {';'.join(names)}"
        source.write_text(
            f'extern "C" {{ extern const char lens_openrlhf_built_for[]; }}\n'
            f'const char lens_openrlhf_built_for[] = "{text}";\n'
        )
        return str(source)

    def torch_libraries(self, scratch: Path) -> list[str]:
        """Linker flags by which the CUDA library names torch's libraries as needed.

        Python keeps the symbols of torch to torch, so a library finds none of them unless it names where they lie.
        Empty libraries of the same names stand in for torch's here, as a CPU build of torch lacks one of them; when
        the CUDA library is loaded, torch's own are there already.
        """
        source = scratch / "empty.c"
        source.write_text("")
        objects = self.compiler.compile([str(source)], output_dir=str(scratch), extra_preargs=["-fPIC"])
        for name in TORCH_LIBRARIES:
            library = f"lib{name}.so"
            self.compiler.link_shared_object(
                objects, library, output_dir=str(scratch), extra_postargs=[f"-Wl,-soname,{library}"]
            )
        # Some compilers drop a needed library that defines nothing, unless told not to.
        return ["-Xlinker", "--no-as-needed", f"-L{scratch}", *(f"-l{name}" for name in TORCH_LIBRARIES)]


check_writable(ROOT)
torch = find_torch()
extensions = []
if torch is not None:
    check_torch(torch.__version__)
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
    nvcc = find_nvcc()
    if want_cuda(nvcc):
        check_cuda_version(nvcc, torch)
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
