"""The kernel tests and the emulator itself under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .build import HERE, MODULE_VARIABLE, ROOT, build, compiler


@pytest.fixture(scope="module")
def sanitized():
    """run(*command) -> a finished Python process in which the sanitizers are on."""
    libraries = []
    for name in ("libasan.so", "libubsan.so"):
        path = subprocess.run([compiler(), f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        assert Path(path).is_absolute(), f"{compiler()} comes without {name}: install GCC's sanitizer libraries"
        libraries.append(path)
    environment = {
        **os.environ,
        MODULE_VARIABLE: str(build(sanitized=True)),
        # Python itself is not built for the sanitizers, so they have to come first.
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }

    def run(*command: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, *command], env=environment, cwd=ROOT, capture_output=True, text=True)

    return run


def test_kernels_are_clean(sanitized):
    done = sanitized("-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", str(HERE / "test_kernels.py"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_the_emulator_is_clean(sanitized):
    tests = ["-k", "sound or no_device_accepts", str(HERE / "test_emulator.py")]
    done = sanitized("-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *tests)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("example", ["write_past_the_end", "vector_across_the_end"])
def test_the_sanitizers_are_on(sanitized, example):
    program = f"from tests.simt.build import load\nload().run_example({example!r}, [0.0] * 64, [0.0] * 254, block=64)\n"
    done = sanitized("-c", program)
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr
