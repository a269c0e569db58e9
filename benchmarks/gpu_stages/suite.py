"""tests/gpu by pytest, but for compute-sanitizer, which is a stage of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from . import ROOT
from .device import Cpu, Cuda
from .rows import Rows, need

DEVICE_VARIABLE = "LENS_GPU_TESTS_DEVICE"  # as tests/gpu/conftest.py reads it


def run(device: Cuda | Cpu, rows: Rows) -> None:
    need("pytest")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "tests/gpu", "-k", "not sanitizer", "-p", "no:cacheprovider"]
            + [f"--junitxml={report}"],
            cwd=ROOT,
            env={**os.environ, DEVICE_VARIABLE: device.kind},
        )
        tests = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    passed = 0
    for test in tests:
        outcome = next((part for part in test if part.tag in ("failure", "error", "skipped")), None)
        if outcome is None:
            passed += 1
        elif outcome.tag == "skipped":
            rows.add(f"skipped: {test.get('name')}", why=outcome.get("message"))
        else:
            rows.check(test.get("name"), False, why=(outcome.get("message") or "")[:300])
    rows.check("tests/gpu", done.returncode == 0 and passed > 0, passed=passed, of=len(tests))
