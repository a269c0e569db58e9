"""The command `lens-openrlhf compare`: arms over seeds on equal terms, and their tables."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..commands import Parser, main_of
from ..inputs import OptionError
from ..process import printable, write_atomically
from . import archive, checks, spec, tables
from .runs import Options, Run, arm_options, runs_of
from .spec import Spec, SpecError
from .state import RESULTS, SPEC, STATE, State, locked

DESCRIPTION = """\
Trains every arm of a spec on every seed, one after another, and compares their final evaluations.
Stopped at any point, the same command goes on where it was; finished runs are never repeated.

  lens-openrlhf compare SPEC.yaml                     train what is missing, then show the tables
  lens-openrlhf compare SPEC.yaml --dry_run           check everything and say what would be run
  lens-openrlhf compare SPEC.yaml --reuse FOLDER      take what another comparison has trained already
  lens-openrlhf compare --table FOLDER                the tables again, from the folder or an archive of it
  lens-openrlhf compare --archive FOLDER FILE.tar.xz  pack records and tables, without models and logs
"""


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="lens-openrlhf compare",
        usage="%(prog)s [-h] [-o FOLDER] [--gpus N] [--reuse FOLDER ...] [--table] [--dry_run] [--archive FOLDER FILE] "
        "[SPEC]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("spec", nargs="?", type=Path, metavar="SPEC", help="YAML file; with --table also what it made")
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="the comparison's folder (default: runs/NAME)")
    parser.add_argument(
        "--reuse",
        action="append",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="another comparison: its finished runs with the same options, seed and inputs are copied, not repeated",
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="size of the spec's profile, for every run (default: 8)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--table", action="store_true", help="only make the tables from what is there")
    what.add_argument("--dry_run", action="store_true", help="only check, and list the runs")
    what.add_argument(
        "--archive", nargs=2, type=Path, metavar=("FOLDER", "FILE"), help="pack a comparison's records into a .tar.xz"
    )
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, checked.

    Raises:
        OptionError: none, or both, of a SPEC and --archive.
        SystemExit: --help.
    """
    arguments = _parser().parse_args(argv)
    if (arguments.spec is None) == (arguments.archive is None):
        raise OptionError("name a SPEC, or a folder and a file with --archive; see lens-openrlhf compare --help")
    return arguments


def folder_of(wanted: Spec, out: Path | None) -> Path:
    return out or Path("runs") / wanted.name


def reused(other: Path, folder: Path) -> State:
    """The comparison to take finished runs from.

    Raises:
        SpecError: a folder without a comparison, or the very one that is trained.
    """
    if not (other / STATE).is_file():
        raise SpecError(f"--reuse {other}: holds no comparison (no {STATE})")
    if other.resolve() == folder.resolve():
        raise SpecError(f"--reuse {other}: is the comparison's own folder, whose finished runs are kept anyway")
    return State(other)


def make_tables(folder: Path) -> str:
    """Write results.json and return the tables as text."""
    results = tables.compute(folder)
    write_atomically(folder / RESULTS, json.dumps(results, indent=2) + "\n")
    return printable(tables.show(results))


def show_tables(path: Path, out: Path | None) -> int:
    """The tables of a spec's folder, of a folder, or of an archive."""
    if path.name.endswith(archive.SUFFIX):
        with archive.unpacked(path) as folder:
            print(make_tables(folder))
        return 0
    folder = path if path.is_dir() else folder_of(spec.read(path), out)
    print(make_tables(folder))
    print(f"\nthe same with every seed: {folder / RESULTS}")
    return 0


def pack(folder: Path, file: Path) -> int:
    print(make_tables(folder))
    size = archive.pack(folder, file)
    print(f"\n{file}: {size / 1e6:.2f} MB; the tables again: lens-openrlhf compare --table {shlex.quote(str(file))}")
    return 0


def describe(wanted: Spec, arms: Mapping[str, Options], runs: Sequence[Run], state: State) -> str:
    """What a dry run says: where the arms differ, every run in its order, and a command of each arm."""
    rows = [f"{wanted.name}: {len(arms)} arms on {len(wanted.seeds)} seeds, {len(runs)} runs in {state.folder}"]
    names = {name: None for options in arms.values() for name in options}
    differing = [name for name in names if len({str(options.get(name)) for options in arms.values()}) > 1]
    for label, options in arms.items():
        given = [f"{name} {' '.join(options[name])}".strip() for name in differing if name in options]
        rows.append(f"  {label}: {', '.join(given) or 'no option that others lack'}")
    for number, run in enumerate(runs, 1):
        rows.append(f"[{number}/{len(runs)}] {run.key}: {state.of(run).get('state', 'not started')}")
    for run in runs[: len(arms)]:  # the first seed's
        command = shlex.join(["lens-openrlhf", "train", *run.command(state.run_folder(run))])
        rows.append(f"\n{run.key}: {command}")
    return "\n".join(rows)


def compare(path: Path, out: Path | None, dry_run: bool, reuse: Sequence[Path] = (), gpus: int | None = None) -> int:
    """Check a spec, train what is missing and not in the comparisons to `reuse`, show the tables.

    Returns the exit status.

    `gpus` goes before the spec's own.

    Raises:
        SpecError, TableError: before anything expensive where the fault can be known then.
    """
    wanted = spec.read(path)
    if gpus is not None:
        wanted = replace(wanted, gpus=gpus)
    folder = folder_of(wanted, out)
    arms = checks.check(wanted)
    named = runs = runs_of(wanted, arms)
    state = State(folder)
    state.adopt(wanted, arms, named)
    others = [reused(other, folder) for other in reuse]
    todo = [run for run in named if not state.is_finished(run)]
    if todo:
        if not dry_run:
            checks.check_machine(todo)
        runs = runs_of(wanted, arm_options(wanted, make=True))
    if dry_run:  # what would be run is of interest also where something is missing for it
        print(describe(wanted, arms, runs, state), flush=True)
    if todo:
        checks.check_inputs(wanted, [run for run in runs if not state.is_finished(run)], folder)
    state.check_inputs(named, runs)
    if dry_run:
        return 0

    from .runner import Runner, end_strays

    with locked(folder):
        state = State(folder)  # as it is now that nobody else writes it
        end_strays(state)
        state.adopt(wanted, arms, named)
        state.check_inputs(named, runs)
        state.save()
        write_atomically(folder / SPEC, path.read_text())
        for other in others:
            for run, label in state.take_over(other, named):
                print(f"{run.key} is {label}/seed-{run.seed} of {other.folder}")
        todo = [run for run in named if not state.is_finished(run)]
        done = len(runs) - len(todo)
        print(f"{wanted.name}: {len(runs)} runs" + (f", {done} of them finished" if done else "") + f", in {folder}")
        if todo:
            print(f"their logs: {folder}/runs/ARM/seed-SEED/train.log", flush=True)
        runner = Runner(state, runs, wanted.parallel, wanted.keep_models)
        status = runner.run()
        if status == 130:
            words = ["lens-openrlhf", "compare", str(path), *(["-o", str(out)] if out else [])]
            words += [word for other in reuse for word in ("--reuse", str(other))]
            words += [] if gpus is None else ["--gpus", str(gpus)]
            left = sum(not state.is_finished(run) for run in runs)
            print(f"interrupted; {len(runs) - left} of {len(runs)} runs are finished. To go on: {shlex.join(words)}")
            return status
        if not any(state.is_finished(run) for run in runs):
            print("error: no run has finished, so there is no table", file=sys.stderr)
            return 1
        print("\n" + make_tables(folder))
        print(f"\nthe same with every seed: {folder / RESULTS}")
        return status


def _run(arguments: argparse.Namespace) -> int:
    if arguments.archive:
        return pack(*arguments.archive)
    if arguments.table:
        return show_tables(arguments.spec, arguments.out)
    return compare(arguments.spec, arguments.out, arguments.dry_run, arguments.reuse, arguments.gpus)


main = main_of(parse, _run)
