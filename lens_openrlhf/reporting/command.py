"""`lens-openrlhf report`: runs and comparisons as one page, or as a page that follows a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from ..commands import Parser, check_out, main_of
from ..process import complain
from .runs import ReportError, Run, check_same_data, find_runs

PACKAGES = ("plotly", "pyarrow", "scipy", "torch")


def _number(least: int, most: int = 10**9) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or len(text) > 10 or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from {least} to {most}")
        return int(text)

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="lens-openrlhf report",
        description="Figures and tables of training runs as one HTML page that needs no network.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="run folder, or the folder of a comparison; several are compared",
    )
    parser.add_argument("-o", "--output", type=Path, help="the page's file (default: report.html)")
    parser.add_argument("--watch", action="store_true", help="serve the page on 127.0.0.1, following the runs")
    parser.add_argument("--port", type=_number(1, 65535), help="with --watch: port to serve on (default: a free one)")
    parser.add_argument(
        "--sample_steps",
        type=_number(0),
        default=8,
        metavar="N",
        help="steps of each run whose answers can be read on the page, evenly apart (default: 8)",
    )
    parser.add_argument(
        "--allow_different_data",
        action="store_true",
        help="show runs together that were evaluated on different data",
    )
    return parser


def _check_packages() -> None:
    for name in PACKAGES:
        try:
            import_module(name)
        except ImportError as error:
            raise ReportError(
                f"the report needs {name}, which cannot be imported ({error}): run `make setup`, or "
                "pip install 'lens_openrlhf[report]'"
            ) from None


def _warnings(runs: Sequence[Run], allow: bool) -> list[str]:
    different = check_same_data(runs)
    if different and not allow:
        raise ReportError(
            f"different evaluation data: {different}. Their Pass@k cannot be compared; report them apart, or go "
            "on with --allow_different_data"
        )
    return [f"Different evaluation data: {different}. Differences of Pass@k may be the data's."] if different else []


def _report(args: argparse.Namespace) -> int:
    if args.watch and args.output:
        raise ReportError("--watch serves the page and writes no file: leave out -o, or --watch")
    if args.port and not args.watch:
        raise ReportError("--port has no effect without --watch")
    _check_packages()
    import torch

    from . import page

    torch.set_num_threads(1)  # thousands of small operations, for each of which threads would have to meet

    if args.watch:
        from .live import serve

        return serve(args.runs, lambda runs: _warnings(runs, args.allow_different_data), args.sample_steps, args.port)
    output = args.output or Path("report.html")
    check_out(output)
    runs = find_runs(args.runs)
    if not runs:
        raise ReportError(f"{', '.join(map(str, args.runs))}: the comparison has no runs yet")
    data = page.report_data(runs, sample_steps=args.sample_steps, warnings=_warnings(runs, args.allow_different_data))
    text = page.page(data)
    try:
        page.write(output, text)
    except OSError as error:
        raise ReportError(f"-o {output}: cannot be written ({error.strerror})") from None
    for problem in data["problems"]:
        more = f" (and {len(problem['where']) - 1} more)" if len(problem["where"]) > 1 else ""
        complain(f"{problem['where'][0]}{more}: {problem['what']}")
    counts = [f"{n} {what}{'' if n == 1 else 's'}" for n, what in ((len(data["arms"]), "arm"), (len(runs), "run"))]
    print(f"{output}: {', '.join(counts)}, {len(text) / 1e6:.1f} MB")
    return 0


def _run(args: argparse.Namespace) -> int:
    try:
        return _report(args)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ReportError(f"{error.filename}: {error.strerror}") from None


main = main_of(lambda argv: _parser().parse_args(argv), _run)
