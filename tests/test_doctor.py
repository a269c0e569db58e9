"""`lens-openrlhf doctor` tells the truth and gives remedies."""

from __future__ import annotations

import subprocess
import sys

from lens_openrlhf import doctor


def test_it_finds_this_environment_fit():
    done = subprocess.run([sys.executable, "-m", "lens_openrlhf.cli", "doctor"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
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
    ):
        assert name in done.stdout
    assert "BAD" not in done.stdout


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
