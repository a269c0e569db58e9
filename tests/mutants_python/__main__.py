"""Plants bugs in the Python code, one at a time, and runs the tests that run the changed line: each must be noticed.

    make mutants-python ARGS="--number 300 --seed 7"

mutmut changes only bodies of undecorated functions, so neither defaults nor tables nor dataclasses, and draws no
seeded sample; cosmic-ray starts a cold pytest for each mutant (half a minute of imports here) and chooses no tests.
coverage.py, by which tests could be chosen, saves nothing from the verifier's workers, which may not open files for
writing and are killed. So these are our own: `operators` (what is changed), `blocks` (which test runs what), `harness`
(a warm process that forks) and `campaign` (the sample, its trial and the rates).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from .campaign import Campaign, Failing, load, save, table
from .harness import Project

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".mutants"
LENS = Project(
    root=ROOT,
    package="lens_openrlhf",
    planted=(
        *("advantages", "training", "run_folder", "cpu_runtime", "evaluation", "experiments", "rewards", "data"),
        *("outside", "reporting", "prompts.py", "inputs.py", "process.py"),
    ),
    left_out=("e2e", "simt", "fuzz", "gpu", "cuda_build", "mutants_python"),
    warm=(
        *("torch", "torch._dynamo", "transformers", "datasets", "ray", "sympy", "math_verify", "scipy.stats"),
        *("plotly", "hypothesis"),
    ),
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make mutants-python", description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=300, help="how many to plant (300)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (0)")
    parser.add_argument("--only", default="", metavar="PATH", help="sources whose path begins so")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="mutants tried at once (a CPU each)")
    parser.add_argument("--list", action="store_true", help="print the last run's survivors again")
    args = parser.parse_args(argv)
    if args.number < 1 or args.workers < 1:
        parser.error("--number and --workers: expected at least 1")
    results_path = FOLDER / "results.jsonl"
    if args.list:
        if not results_path.exists():
            parser.error(f"--list: {results_path} is missing; run without it first")
        return report(load(results_path))
    campaign = Campaign(LENS, FOLDER, Path(__file__).parent / "equivalent.toml", args.workers)
    begin = time.monotonic()
    try:
        mutants = campaign.sample(args.number, args.seed, args.only)
        campaign.record()
        recorded = time.monotonic()
        results = []
        for result in campaign.run(mutants):
            results.append(result)
            print(f"{len(results):4} {result.seconds:5.0f} s  {result.by or 'SURVIVED'}", flush=True)
            if result.by is None:
                print(result.shown(), flush=True)
            save(results, results_path)
    except Failing as failing:
        print(f"error: fails without a mutant: {failing}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    minutes = (recorded - begin) / 60, (time.monotonic() - recorded) / 60
    print(f"\nseed {args.seed}: {minutes[0]:.0f} minutes to record the tests, {minutes[1]:.0f} for the mutants\n")
    return report(results)


def report(results: list) -> int:
    print(table(results))
    survivors = sorted((r for r in results if r.by is None), key=lambda r: (r.file, r.line))
    for result in survivors:
        print(f"\n{result.shown()}")
    return 1 if survivors else 0


if __name__ == "__main__":
    # Two workers that each wait for threads of the other would take ten times as long.
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    sys.exit(main())
