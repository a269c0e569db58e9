"""Plants bugs in the kernels, one at a time, and runs the ordinary kernel tests on each: every one must be caught.

    python -m tests.simt.mutants [NAME ...]      (make mutants)

Prints each mutant with the test that caught it, the rate, and what cannot be caught on a host and why.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tomllib

from .build import CACHE, HERE, MODULE_VARIABLE, ROOT, build

TIMEOUT_SECONDS = 300
NOTHING_FAILED = "no test failed"
TESTS = HERE / "test_kernels.py"


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    old: str
    new: str
    nth: int = 0  # which occurrence of `old`

    def apply(self, csrc: Path) -> None:
        path = csrc / self.file
        parts = path.read_text().split(self.old)
        if len(parts) < self.nth + 2:
            raise SystemExit(f"mutant {self.name}: {self.file} has no occurrence {self.nth} of {self.old!r}")
        head = self.old.join(parts[: self.nth + 1])
        path.write_text(head + self.new + self.old.join(parts[self.nth + 1 :]))


MUTANTS = [Mutant(**entry) for entry in tomllib.loads((HERE / "mutants.toml").read_text())["mutant"]]

NOT_ON_A_HOST = {
    "a __restrict__ that is not true": "an optimisation licence; both kernels write only to outputs that are new",
    "a __launch_bounds__ below the block size": "a limit of the device; csrc/cuda/ops.cu launches kSegmentThreads",
    "the status set on another stream": "stream order is the driver's; csrc/cuda/ops.cu has one stream for everything",
    "a response that its block reduces twice": "the same bits by the same tree, in order; it costs time alone",
    "a missing __threadfence": "none is needed: blocks share nothing but the status, by atomics, and the boundary "
    "between the two launches orders memory",
}


def failed_test(output: str) -> str:
    match = re.search(r"^(?:FAILED|ERROR) \S*::(\S+)", output, re.MULTILINE)
    return match[1] if match else ""


def try_mutant(mutant: Mutant | None) -> tuple[bool, str, float]:
    """Whether it was caught, by which test or why not, and the seconds it took. None: the kernels as they are."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        csrc = Path(scratch) / "csrc"
        shutil.copytree(ROOT / "csrc", csrc)
        if mutant:
            mutant.apply(csrc)
        try:
            module = build(csrc)
        except RuntimeError as error:
            return False, f"does not compile: {error}", time.monotonic() - start
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", str(TESTS)],
            env={**os.environ, MODULE_VARIABLE: str(module), "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return True, "the tests did not come to an end", time.monotonic() - start
    finally:
        if mutant:
            shutil.rmtree(module.parent)
    # Anything but 0 (all passed) and 1 (a test failed) is a failure of this script.
    if done.returncode not in (0, 1):
        return False, f"pytest ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}", 0.0
    return done.returncode == 1, failed_test(done.stdout) or NOTHING_FAILED, time.monotonic() - start


def main(names: list[str]) -> int:
    chosen = [m for m in MUTANTS if not names or m.name in names]
    unknown = set(names) - {m.name for m in MUTANTS}
    if unknown:
        print(f"error: no such mutant: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    CACHE.mkdir(parents=True, exist_ok=True)
    before = set(CACHE.glob("kernels-*.o"))
    failed, by, _ = try_mutant(None)
    if failed or by != NOTHING_FAILED:
        print(f"error: the tests fail on the kernels as they are: {by}", file=sys.stderr)
        return 2
    survived = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for mutant, (caught, by, seconds) in zip(chosen, pool.map(try_mutant, chosen), strict=True):
            survived += not caught
            print(f"{'caught  ' if caught else 'SURVIVED'} {mutant.name:<56} {seconds:4.0f} s  {by}", flush=True)
    for leftover in set(CACHE.glob("kernels-*.o")) - before:
        leftover.unlink()
    print(f"\n{len(chosen) - survived} of {len(chosen)} planted bugs caught")
    print("not to be caught on a host:")
    for name, reason in NOT_ON_A_HOST.items():
        print(f"  {name}: {reason}")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
