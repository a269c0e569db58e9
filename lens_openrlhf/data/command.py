"""`lens-openrlhf data`: the paper's training and test sets as parquet files, with a manifest of how they were made."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..commands import Parser, main_of
from ..inputs import OptionError
from ..process import printable

MANIFEST = "manifest.json"
PROBLEM = "{problem}"
# The paper does not give its wording; this one is the field's usual.
TEMPLATE = PROBLEM + "\nPlease reason step by step, and put your final answer within \\boxed{}."
# The source beside MATH, and what the recipe is.
RECIPES = {
    "math+dapo": ("dapo", "MATH train and 17,500 random problems of DAPO"),
    "math+numina": ("numina", "MATH train and the problems of NuminaMath 1.5 that have a verifiable answer"),
}
SPLITS = {"math": ("train", "test"), "dapo": ("train",), "numina": ("train",), "math500": ("test",)}
FROM_HUB = "hub"
DESCRIPTION = """\
Builds a training set and the MATH test set for lens-openrlhf train and evaluate. Labels are checked with Math-Verify,
and problems of the test set are taken out of the training set. An interrupted build goes on with the same command.
"""
ROWS_PER_GROUP = 10_000


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="lens-openrlhf data",
        description=DESCRIPTION,
        epilog="recipes:\n" + "\n".join(f"  {name:<12} {what}" for name, (_, what) in RECIPES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", choices=RECIPES, metavar="RECIPE", help="one of those below")
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="folder of the files (default: data/RECIPE)")
    parser.add_argument("--overwrite", action="store_true", help="replace a set that was made otherwise")
    group = parser.add_argument_group("what is taken")
    group.add_argument("--seed", type=int, default=0, help="of the choice and the order of rows (default: 0)")
    group.add_argument(
        "--dapo_problems", type=int, metavar="N", help="problems of DAPO (default: 17500, or all where fewer are left)"
    )
    group.add_argument(
        "--template",
        default=TEMPLATE,
        help=f"the prompt around each problem, which takes the place of {PROBLEM} (default: {TEMPLATE!r})",
    )
    group = parser.add_argument_group(
        "sources",
        "Each a .parquet or .jsonl file, a folder of such, a hub snapshot, what save_to_disk wrote, or a hub name.",
    )
    group.add_argument("--math", metavar="PATH", help="MATH, train and test (default: EleutherAI/hendrycks_math)")
    group.add_argument("--dapo", metavar="PATH", help="DAPO (default: BytedTsinghua-SIA/DAPO-Math-17k)")
    group.add_argument("--numina", metavar="PATH", help="NuminaMath 1.5 (default: AI-MO/NuminaMath-1.5)")
    group.add_argument(
        "--math500",
        nargs="?",
        const=FROM_HUB,
        metavar="PATH",
        help="write math500.parquet, too; without PATH from HuggingFaceH4/MATH-500",
    )
    group.add_argument(
        "--revision",
        nargs="+",
        default=[],
        metavar="SOURCE=REVISION",
        help="of the hub's data, as math=main (default: pinned commits)",
    )
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, checked as far as they tell; `sources` is {option: where from, or None for the hub}.

    Raises:
        OptionError: values that cannot work.
        SystemExit: --help.
    """
    arguments = _parser().parse_args(argv)
    arguments.command = list(argv)
    second, _ = RECIPES[arguments.recipe]
    arguments.sources = {}
    for option in SPLITS:
        given = getattr(arguments, option)
        if option in ("math", second) or (option == "math500" and given):
            arguments.sources[option] = None if given == FROM_HUB else given
        elif given:
            raise OptionError(f"--{option} {given}: the recipe {arguments.recipe} takes nothing of it")
    arguments.revisions = {}
    for word in arguments.revision:
        option, _, revision = word.partition("=")
        if option not in arguments.sources or not revision:
            known = ", ".join(f"{name}=REVISION" for name in arguments.sources)
            raise OptionError(f"--revision {word}: expected one of {known}")
        arguments.revisions[option] = revision
    if arguments.seed < 0:
        raise OptionError(f"--seed {arguments.seed}: a seed is 0 or more")
    if arguments.dapo_problems is not None:
        if second != "dapo":
            raise OptionError(f"--dapo_problems {arguments.dapo_problems}: the recipe {arguments.recipe} takes none")
        if arguments.dapo_problems < 1:
            raise OptionError(f"--dapo_problems {arguments.dapo_problems}: at least 1 is needed")
    if arguments.template.count(PROBLEM) != 1:
        raise OptionError(
            f"--template {arguments.template!r}: must hold {PROBLEM}, the place of the problem, exactly once"
        )
    arguments.out = arguments.out or Path("data") / arguments.recipe
    return arguments


def read_manifest(out: Path) -> dict[str, Any] | None:
    """The manifest of a set that is there; None for a folder that is new or empty.

    Raises:
        OptionError: a folder, or something else, that holds no set.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise OptionError(f"--out {out}: is no folder; name another one")
    there = sorted(path.name for path in out.iterdir())
    if not there:
        return None
    try:
        manifest = json.loads((out / MANIFEST).read_text())
        ours = {MANIFEST, *manifest["files"]}
        manifest["inputs"], manifest["counts"], manifest["notes"]
    except FileNotFoundError:
        raise OptionError(f"--out {out}: is not empty and holds no set of this command; name another folder") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise OptionError(f"--out {out}: {MANIFEST} is not the manifest of a set ({error!r})") from None
    if stray := [name for name in there if name not in ours]:
        raise OptionError(
            f"--out {out}: holds {stray[0]}, which is not of this command; move it, or name another folder"
        )
    return manifest


def _check_same(out: Path, there: dict[str, Any], inputs: dict[str, Any]) -> None:
    """The set that is there was made from `inputs`, and its files are what they were.

    Raises:
        OptionError: what differs.
    """
    from .sources import digest

    remedy = "name another folder with --out, or replace it with --overwrite"
    for name in dict.fromkeys([*inputs, *there["inputs"]]):
        value = inputs.get(name)
        if (old := there["inputs"].get(name)) != value:
            shown = f"{old!r} and now it is {value!r}" if isinstance(value, str | int | None) else "other data than now"
            raise OptionError(f"--out {out}: holds a set that was made with {name} {shown}; {remedy}")
    for name, file in there["files"].items():
        if not (out / name).is_file() or digest(out / name) != file["sha256"]:
            raise OptionError(f"--out {out}: {name} is not what {MANIFEST} says (sha256); {remedy}")


def write(path: Path, problems: Sequence[Any], template: str, is_test: bool) -> dict[str, Any]:
    """Write a set as parquet; returns what the manifest says of the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from .sources import digest

    columns = {"prompt": pa.string(), "label": pa.string(), "source": pa.string(), "level": pa.int32()}
    schema = pa.schema([*columns.items(), *([("type", pa.string())] if is_test else [])])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(problems), ROWS_PER_GROUP):
            rows = [
                {
                    "prompt": template.replace(PROBLEM, problem.text),
                    "label": problem.label,
                    "source": problem.source,
                    "level": problem.level,
                    "type": problem.type or None,
                }
                for problem in problems[start : start + ROWS_PER_GROUP]
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return {"rows": len(problems), "sha256": digest(path)}


def table(counts: Mapping[str, Any]) -> Iterator[str]:
    """What became of the rows: a line for each reason, a column for each source."""
    reasons = sorted(
        dict.fromkeys(reason for one in counts.values() for reason in one["dropped"]),
        key=lambda reason: (reason.startswith("a label"), reason.startswith(("a duplicate", "also"))),
    )
    lines = [("", *counts)]
    lines.append(("rows", *(f"{one['rows']:,}" for one in counts.values())))
    for reason in reasons:
        numbers = [one["dropped"].get(reason) for one in counts.values()]
        lines.append((f"- {reason}", *(f"{number:,}" if number else "" for number in numbers)))
    for name in ("left", "used"):
        lines.append((name, *(f"{one[name]:,}" for one in counts.values())))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()


def summary(out: Path, manifest: Mapping[str, Any]) -> str:
    """The table, what is not as in the paper, and the files."""
    lines = [*table(manifest["counts"]), ""]
    lines += [f"note: {note}" for note in manifest["notes"]]
    for name, file in manifest["files"].items():
        lines.append(f"{out / name}: {file['rows']:,} rows, sha256 {file['sha256'][:16]}…")
    lines.append(f"{out / MANIFEST}: how they were made")
    return "\n".join(lines)


def make(arguments: argparse.Namespace) -> str:
    """Build the set, or find it there; returns what to say of it.

    Raises:
        OptionError, OSError
    """
    import pyarrow

    from ..process import cache_folder, git_commit, versions
    from . import labels, recipes, sources

    out = arguments.out
    there = read_manifest(out)
    beside, former = (out.absolute().with_name(f".{out.absolute().name}.{what}") for what in ("unfinished", "former"))
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    except OSError as error:
        raise OptionError(f"--out {out}: cannot be written ({error})") from None
    try:
        found = {
            option: sources.open_source(option, given, arguments.revisions.get(option), SPLITS[option])
            for option, given in arguments.sources.items()
        }
        inputs = {
            "recipe": arguments.recipe,
            "seed": arguments.seed,
            "dapo_problems": arguments.dapo_problems,
            "template": arguments.template,
            **{option: source.fingerprint() for option, source in found.items()},
            **labels.versions(),
            "pyarrow": pyarrow.__version__,
        }
        if there and not arguments.overwrite:
            _check_same(out, there, inputs)
            return f"{summary(out, there)}\nnothing to do: the set was there already"
        made = recipes.build(found, arguments.seed, arguments.dapo_problems, cache_folder() / "labels")
        manifest = {
            "command": arguments.command,
            "inputs": inputs,
            "sources": {option: source.record() for option, source in found.items()},
            "counts": {name: vars(counts) for name, counts in made.counts.items()},
            "bad_labels": made.bad_labels,
            "notes": made.notes,
            "files": {
                f"{name}.parquet": write(beside / f"{name}.parquet", problems, arguments.template, name != "train")
                for name, problems in made.files.items()
            },
            "versions": versions(),
            "git_commit": git_commit(),
        }
        (beside / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        if there:
            shutil.rmtree(former, ignore_errors=True)
            os.replace(out, former)
        os.replace(beside, out)
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return summary(out, manifest)


def _run(arguments: argparse.Namespace) -> int:
    from ..process import interrupt_once
    from ..rewards.pool import MAX_WORKERS, Settings

    interrupt_once()
    # All cores, as nothing else runs here.
    os.environ.setdefault("LENS_VERIFIER_WORKERS", str(min(MAX_WORKERS, len(os.sched_getaffinity(0)))))
    try:
        Settings.from_env()
    except ValueError as error:
        raise OptionError(str(error)) from None
    print(printable(make(arguments)))
    return 0


main = main_of(parse, _run, "interrupted; the same command goes on, with the labels that were checked")
