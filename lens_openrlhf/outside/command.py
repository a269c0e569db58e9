"""`lens-openrlhf advantages`: what estimators give the responses of a file, whichever framework sampled them."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..commands import Parser, add_fields, check_out, main_of
from ..inputs import OptionError
from ..process import complain, printable

PROG = "lens-openrlhf advantages"
COLUMN_OPTIONS = {
    "prompt": "what tells prompts apart (default: prompt_id, else prompt)",
    "step": "number of the training step; groups are of one step (default: step, where there is one)",
    "correctness": "the verifier's outcome in [0, 1] (default: correctness, else the reward)",
    "reward": "the reward after shaping (default: reward, else the correctness)",
    "logprobs": "lists of the log-probabilities of a response's tokens (default: logprobs)",
    "mean_logprob": "instead of them their mean, with --length (default: mean_logprob)",
    "confidence": "or exp of that mean, as a run's samples have it (default: confidence)",
    "length": "number of tokens of a response (default: length, else tokens)",
    "entropies": "lists of entropies, for estimators that need them (default: entropies)",
    "self_certainty": "lists of KL(uniform || policy), likewise (default: self_certainty)",
}
DESCRIPTION = """\
Computes advantages for responses that are already there: a row a response, in any order, of any framework. Prints how
each estimator spreads its weight over groups by kind, and writes the rows with their advantages.
"""


def _base_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=PROG,
        usage="lens-openrlhf advantages ROLLOUTS... [--estimator NAME...] [--prompt COLUMN] [...] [-o FILE]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "rollouts", nargs="+", metavar="ROLLOUTS", help="a .jsonl or .parquet file, or a run folder (its samples/)"
    )
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="the rows with advantages, .jsonl or .parquet")
    group = parser.add_argument_group("estimators")
    group.add_argument(
        "--estimator", nargs="+", action="extend", metavar="NAME", help="one or more, side by side (default: lens)"
    )
    group.add_argument(
        "--estimator_path",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE.py:NAME",
        help="of a file of your own: a function of a batch, or an Estimator subclass",
    )
    group = parser.add_argument_group("columns")
    for name, help in COLUMN_OPTIONS.items():
        group.add_argument(f"--{name}", metavar="COLUMN", help=help)
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, checked; `estimators` is {name: estimator}, `given` {column option: column or None}.

    Raises:
        OptionError: values that cannot work.
        SystemExit: --help.
    """
    from ..advantages import estimators
    from .estimate import options_outside

    first = Parser(prog=PROG, add_help=False, allow_abbrev=False)
    for option in ("--estimator", "--estimator_path"):
        first.add_argument(option, nargs="+", action="extend", default=[])
    chosen = first.parse_known_args([word for word in argv if word not in ("-h", "--help")])[0]
    names = chosen.estimator or ([] if chosen.estimator_path else ["lens"])
    kinds: dict[str, type[estimators.Estimator]] = {}
    for option, place in [("--estimator", n) for n in names] + [("--estimator_path", p) for p in chosen.estimator_path]:
        try:
            kind = estimators.find(place) if option == "--estimator" else estimators.from_path(place)
        except estimators.EstimatorError as error:
            hint = "; ROLLOUTS come first" if Path(place).exists() and option == "--estimator" else ""
            raise OptionError(f"{option} {error}{hint}") from None
        name = place if option == "--estimator" else place.rpartition(":")[2]
        if name in kinds:
            raise OptionError(f"{option} {place}: an estimator of the name {name} is there already")
        kinds[name] = kind
    parser = _base_parser()
    fields = {name: options_outside(kind) for name, kind in kinds.items()}
    for name, options in fields.items():
        add_fields(parser, f"options of {name}", name, options)
    arguments = parser.parse_args(argv)
    values = vars(arguments)
    arguments.estimators = {}
    for name, kind in kinds.items():
        prefix = f"algo.{name}."
        config = {f.name: values[prefix + f.name] for f in fields[name]}
        try:
            arguments.estimators[name] = estimators.made(kind, config)
        except estimators.EstimatorError as error:
            raise OptionError(str(error)) from None
        except ValueError as error:
            raise OptionError(f"--{prefix}{error}") from None
    arguments.given = {name: values[name] for name in COLUMN_OPTIONS}
    forms = [name for name in ("logprobs", "mean_logprob", "confidence") if values[name]]
    if len(forms) > 1:
        raise OptionError(f"--{forms[1]} {values[forms[1]]}: --{forms[0]} says the same; give one of them")
    return arguments


def advantages_of(estimator: Any, rollouts: Any) -> list[Any]:
    """The estimator's advantages, step after step: [N] a number each, or an array where it gives one a token.

    Raises:
        OptionError: what the estimator could not do.
    """
    import numpy as np
    import torch

    from ..advantages.estimators import EstimatorError, tokens_of
    from ..advantages.responses import Responses, estimate

    lengths = torch.from_numpy(rollouts.length)
    found: list[Any] = [0.0] * len(lengths)
    for step in np.unique(rollouts.step):
        rows = torch.from_numpy(np.flatnonzero(rollouts.step == step))
        where = tokens_of(rows, lengths) if rollouts.tokens else None
        column = {
            name: torch.from_numpy(values)[rows]
            for name in ("prompt", "correctness", "reward", "mean_logprob", "length")
            if (values := getattr(rollouts, name)) is not None
        }
        responses = Responses(
            group=column["prompt"],
            lengths=column["length"],
            correctness=column["correctness"],
            rewards=column["reward"],
            mean_logprob=column.get("mean_logprob"),
            tokens={name: torch.from_numpy(values)[where] for name, values in rollouts.tokens.items()},
            prompts=column["prompt"] if rollouts.recurs else None,
            step=int(step),
            extras={name: torch.from_numpy(values)[rows] for name, values in rollouts.extras.items()},
        )
        try:
            result = estimate(estimator, responses)
        except EstimatorError as error:
            raise OptionError(f"{error} (step {step})") from None
        if result.per_token:
            parts = np.split(result.advantage.numpy(), np.cumsum(column["length"].numpy())[:-1])
        else:
            parts = result.advantage.tolist()
        for row, part in zip(rows.tolist(), parts, strict=True):
            found[row] = part
    return found


def _warn_of_labels(labels: Sequence[str | int]) -> None:
    """Say of labels that no answer should be graded by: groups may be all wrong for that alone."""
    if not labels:
        return
    from ..rewards import check_labels

    if bad := check_labels(labels):
        complain(
            f"warning: {len(bad)} of {len(labels)} labels cannot be graded by, which may be why groups are all wrong; "
            f"the first: {next(iter(bad.values()))}; lens-openrlhf grade shows them"
        )


def _run(arguments: argparse.Namespace) -> int:
    import numpy as np

    from .files import SUFFIXES, find_files, labels
    from .rollouts import read
    from .summary import table
    from .writing import write

    paths = find_files(arguments.rollouts)
    if arguments.out is not None:
        check_out(arguments.out, SUFFIXES, paths)
    needs = sorted(set().union(*(estimator.needs for estimator in arguments.estimators.values())))
    extras = list(dict.fromkeys(name for estimator in arguments.estimators.values() for name in estimator.extras))
    rollouts = read(paths, arguments.given, needs, extras)
    _warn_of_labels(labels(paths))
    found = {}
    for name, estimator in arguments.estimators.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")  # whatever PYTHONWARNINGS says: they are the command's own lines
            found[name] = advantages_of(estimator, rollouts)
        for message in dict.fromkeys(str(warning.message) for warning in caught):
            complain(f"warning: {message}")
        if any(isinstance(value, np.ndarray) for value in found[name]):
            found[name] = [
                value if isinstance(value, np.ndarray) else np.full(length, value)
                for value, length in zip(found[name], rollouts.length.tolist(), strict=True)
            ]
    print(printable(table(rollouts, found)))
    if arguments.out is not None:
        columns = {f"advantage_{name}" if len(found) > 1 else "advantage": values for name, values in found.items()}
        write(arguments.out, paths, columns)
        print(printable(f"{arguments.out}: {len(rollouts.prompt):,} rows with {', '.join(columns)}"))
    return 0


main = main_of(parse, _run, "interrupted; nothing was written")
