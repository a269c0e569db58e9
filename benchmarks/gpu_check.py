"""Whether all of this runs on the GPU at hand, and how fast: one command, in at most 8 minutes.

    python3 benchmarks/gpu_check.py                     # or `make gpu-check`
    python3 benchmarks/gpu_check.py --stages bits,suite --no-build
    python3 benchmarks/gpu_check.py --device cpu        # a rehearsal, on small sizes

It needs torch, a compiler and what is in the repository, no network and no installation; docs/gpu.md says what each
stage shows. Each runs in a process of its own with a time limit, and what it finds is on disk at once: results.jsonl
and report.txt in the output folder, with a log for each stage. A stage that fails or lacks something is named and the
next one goes on. The exit status is 0 if no stage failed, 1 if one did or there was no time for it, 2 if nothing could
begin.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_stages import STAGES, Stage, process  # noqa: E402
from benchmarks.gpu_stages.rows import FAILED, MISSING, PASSED, RESULTS, STAGE, Rows, read, table  # noqa: E402

SECONDS = 480
PATIENCE = {"cuda": 1, "cpu": 4}  # times a stage's limit; a rehearsal has few cores, and others may use them
MACHINE = Stage("machine", 60, "what this machine is")
REPORT = "report.txt"


class Check:
    """The stages, one after the other, in an output folder."""

    def __init__(self, device: str, out: Path, seconds: float):
        self.device, self.out, self.deadline = device, out, time.monotonic() + seconds
        out.mkdir(parents=True, exist_ok=True)
        for name in (RESULTS, REPORT):
            (out / name).unlink(missing_ok=True)
        # torch is imported once, in a server that stages are forked from; it has not touched the GPU then.
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload(["torch"])

    def say(self, text: str = "") -> None:
        print(text, flush=True)
        with open(self.out / REPORT, "a") as file:
            file.write(text + "\n")

    def run(self, stage: Stage) -> dict:
        """Run a stage and show what it found; the row that says how it ended."""
        path, start = self.out / RESULTS, time.monotonic()
        before, limit = len(read(path)), min(stage.seconds * PATIENCE[self.device], self.deadline - start)
        if limit <= 0:
            Rows(path, stage.name).add(STAGE, result=FAILED, seconds=0.0, reason="no time was left for it")
        else:
            child = self.processes.Process(target=process.main, args=(stage.name, self.device, str(self.out)))
            child.start()
            try:
                child.join(limit)
            finally:
                late = child.is_alive()
                end(child)
            found = [row for row in read(path)[before:] if row["what"] == STAGE]
            if not found:
                reason = (
                    f"ended after {limit:.0f} s, its time limit" if late else f"its process died ({child.exitcode})"
                )
                seconds = time.monotonic() - start
                Rows(path, stage.name).add(STAGE, result=FAILED, seconds=seconds, reason=reason)
        *found, ended = read(path)[before:]
        self.say(f"\n{stage.name}: {stage.proves}")
        for line in table(found):
            self.say(line)
        self.say(f"  {verdict(ended)} after {ended['seconds']} s")
        return ended


def end(child: multiprocessing.Process) -> None:
    """End a stage and all that it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:  # it and its group have ended; or it has no group yet
        child.kill()
    child.join()


def verdict(row: dict) -> str:
    return row["result"] + (f": {row['reason']}" if "reason" in row else "")


def chosen(names: str | None) -> list[Stage]:
    known = {stage.name: stage for stage in STAGES}
    wanted = [name for name in names.split(",") if name] if names else list(known)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise SystemExit(f"--stages {names}: expected some of {','.join(known)}")
    return [stage for stage in STAGES if stage.name in wanted]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", metavar="A,B", help="these alone (--list names them)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu_check", help="folder for the results")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a rehearsal on small sizes")
    parser.add_argument("--no-build", action="store_true", help="take the extension as it was built before")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for all stages together (default: {SECONDS})")
    parser.add_argument("--list", action="store_true", help="name the stages and end")
    options = parser.parse_args()
    if options.list:
        for stage in STAGES:
            print(f"{stage.name:<12}{stage.proves}")
        return 0
    stages = [stage for stage in chosen(options.stages) if not (options.no_build and stage.name == "build")]
    # For what the stages start: the repository's own package, wherever another may be installed.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # Of stages that were ended.
    quiet = "ignore:resource_tracker:UserWarning"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), quiet]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    check = Check(options.device, options.out.resolve(), options.seconds)
    if check.run(MACHINE)["result"] != PASSED:
        return 2
    ended = {stage.name: check.run(stage) for stage in stages}
    check.say(f"\nall stages, in {check.out}")
    for line in table([{"stage": "", "name": name, "result": row["result"], "seconds": row["seconds"],
                        "reason": row.get("reason", "")} for name, row in ended.items()]):  # fmt: skip
        check.say(line)
    return 0 if all(row["result"] in (PASSED, MISSING) for row in ended.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
