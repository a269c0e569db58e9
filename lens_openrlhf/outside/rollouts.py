"""Rollouts of any framework, a row a response, from .jsonl and .parquet files, and the same rows with more columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..inputs import OptionError, rows_of_file

SUFFIXES = (".jsonl", ".parquet")
# By what is read: the columns looked for where no option names one.
USUAL = {
    "prompt": ("prompt_id", "prompt"),
    "step": ("step",),
    "correctness": ("correctness",),
    "reward": ("reward",),
    "logprobs": ("logprobs",),
    "mean_logprob": ("mean_logprob",),
    "confidence": ("confidence",),
    "length": ("length", "tokens"),
    "entropies": ("entropies",),
    "self_certainty": ("self_certainty",),
}
EXTRA = "extra "  # before the names of what else is read, which are an estimator's own
LISTS = ("logprobs", "entropies", "self_certainty")
LOGPROB_TOLERANCE = 1e-3  # a log-probability up to that is rounding


@dataclass(frozen=True)
class Rollouts:
    """N responses in the order of the files, T tokens.

    Attributes:
        files: where they are from.
        columns: {what was read: column}.
        prompt: [N] int64, a number for each prompt.
        recurs: whether a prompt keeps its number from step to step.
        step: [N] int64; all 1 where no column says.
        correctness, reward: [N] float64.
        mean_logprob: [N] float64, anything where the response has no token; None where tokens has logprobs.
        length: [N] int64.
        tokens: [T] float64 by name, see LISTS.
        extras: [N] float64 by name, what else an estimator reads of every response.
    """

    files: Sequence[Path]
    columns: Mapping[str, str]
    prompt: np.ndarray
    recurs: bool
    step: np.ndarray
    correctness: np.ndarray
    reward: np.ndarray
    mean_logprob: np.ndarray | None
    length: np.ndarray
    tokens: Mapping[str, np.ndarray]
    extras: Mapping[str, np.ndarray]


def labels(paths: Sequence[Path]) -> list[str | int]:
    """The distinct labels of the files, where they have a column `label` of texts or whole numbers."""
    found: dict[str | int, None] = {}
    for path in paths:
        if path.suffix == ".parquet":
            if "label" not in pq.read_schema(path).names:
                continue
            values = pq.read_table(path, columns=["label"])["label"].to_pylist()
        else:
            values = [row.get("label") for _, row in rows_of_file("ROLLOUTS", path)]
        found.update(dict.fromkeys(value for value in values if type(value) in (str, int)))
    return list(found)


def find_files(places: Sequence[str]) -> list[Path]:
    """The files; a run folder stands for its samples/step-*.parquet.

    Raises:
        OptionError: what is neither a file of a known kind nor a run folder.
    """
    files = []
    for place in places:
        path = Path(place)
        if path.is_dir():
            found = sorted(path.glob("samples/step-*.parquet"))
            if not found:
                raise OptionError(f"{place}: a folder without samples/step-*.parquet; name a run folder, or files")
            files += found
        elif path.suffix not in SUFFIXES:
            raise OptionError(f"{place}: expected a {' or '.join(SUFFIXES)} file, or a run folder")
        elif not path.is_file():
            raise OptionError(f"{place}: no such file")
        else:
            files.append(path)
    if doubled := [path for path in files if files.count(path) > 1]:
        raise OptionError(f"{doubled[0]}: is named twice; its responses would count double")
    return files


def _names(path: Path) -> list[str]:
    """The columns of a file; of .jsonl those of the first row."""
    if path.suffix == ".jsonl":
        return list(next((row for _, row in rows_of_file("ROLLOUTS", path)), {}))
    try:
        return pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise OptionError(f"{path}: cannot be read as parquet ({str(error).splitlines()[0]})") from None


def choose(
    path: Path, given: Mapping[str, str | None], token_needs: Collection[str], extras: Collection[str]
) -> dict[str, str]:
    """{what: column} to read, from the options `given`, and otherwise the usual names that the file has.

    Raises:
        OptionError: a column that is missing, with what could be named instead.
    """
    there = _names(path)
    if not there:
        raise OptionError(f"{path}: has no rows")
    for what, column in given.items():
        if column is not None and column not in there:
            raise OptionError(f"--{what} {column}: {path} has no such column; it has {', '.join(there)}")
    found = {what: given.get(what) or next((name for name in USUAL[what] if name in there), None) for what in USUAL}

    def need(problem: str, remedy: str) -> None:
        raise OptionError(f"{path}: {problem} (columns: {', '.join(there)}); {remedy}")

    if not found["prompt"]:
        need("no column says which responses share a prompt", "name it with --prompt COLUMN")
    if not found["correctness"] and not found["reward"]:
        need("no column has the outcome", "name it with --correctness COLUMN or --reward COLUMN")
    # An option decides which of the three forms is read, else the first that is there.
    forms = ("logprobs", "mean_logprob", "confidence")
    form = next((f for f in forms if given.get(f)), None) or next((f for f in forms if found[f]), None)
    if form is None:
        need("no column has log-probabilities", "name it with --logprobs, --mean_logprob or --confidence COLUMN")
    if form != "logprobs" and not found["length"]:
        need(f"{found[form]} is a response's, but no column has its number of tokens", "name it with --length COLUMN")
    if form == "logprobs" and given.get("length"):
        raise OptionError(
            f"--length {given['length']}: the lists in {found['logprobs']} have their length; leave it out"
        )
    for what in token_needs:
        if not found[what]:
            need(f"no column has the {what} that the estimator needs of every token", f"name it with --{what} COLUMN")
    if "logprobs" in token_needs and form != "logprobs":
        raise OptionError(
            f"--{form} {found[form]}: the estimator needs the log-probability of every token; name their column with "
            "--logprobs COLUMN"
        )
    for what in extras:
        if what not in there:
            need(f"no column is named {what}, which the estimator needs of every response", "add it to the rows")
        found[EXTRA + what] = what
    wanted = ["prompt", "step", "correctness", "reward", form, *token_needs, *(EXTRA + what for what in extras)]
    wanted += [] if form == "logprobs" else ["length"]
    return {what: found[what] for what in dict.fromkeys(wanted) if found[what]}


def _refuse_whole_answers(path: Path, column: str) -> None:
    """A run of `--algo.lens.confidence sequence` keeps the probability of whole answers."""
    try:
        options = json.loads((path.parent.parent / "config.json").read_text())["options"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if isinstance(options, dict) and options.get("algo.lens.confidence") == "sequence":
        raise OptionError(
            f"{path}: the run had --algo.lens.confidence sequence, so its column {column} is the probability of whole "
            "answers, where a mean token's is needed; there is no way back from it"
        )


class _File:
    """The columns of one file that are read, and where its rows are."""

    def __init__(self, path: Path, columns: Mapping[str, str]):
        self.path, self.columns = path, columns
        if missing := [name for name in columns.values() if name not in _names(path)]:
            raise OptionError(f"{path}: has no column {missing[0]}; all files need the same columns")
        wanted = list(dict.fromkeys(columns.values()))
        if path.suffix == ".jsonl":
            self.data: dict[str, Any] = {name: [] for name in wanted}
            for _, row in rows_of_file("ROLLOUTS", path):
                for name in wanted:
                    self.data[name].append(row.get(name))
            self.rows = len(self.data[wanted[0]])
        else:
            try:
                table = pq.read_table(path, columns=wanted)
            except (OSError, pa.ArrowException) as error:
                raise OptionError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
            self.data = {name: table[name].combine_chunks() for name in wanted}
            self.rows = len(table)

    def fail(self, row: int, what: str, problem: str) -> None:
        raise OptionError(f"{self.path}: row {row + 1}, column {self.columns[what]}: {problem}")

    def check(self, what: str, bad: np.ndarray, problem: Callable[[int], str]) -> None:
        """Refuse the first row where `bad` [N] holds."""
        if bad.any():
            row = int(bad.argmax())
            self.fail(row, what, problem(row))

    def _arrow(self, what: str, kind: pa.DataType, is_kind: Callable[[pa.DataType], bool], expected: str) -> pa.Array:
        data = self.data[self.columns[what]]
        if isinstance(data, pa.Array):
            if not is_kind(data.type) and not pa.types.is_null(data.type):
                raise OptionError(f"{self.path}: column {self.columns[what]} is {data.type}, expected {expected}")
            return data.cast(kind)
        try:
            return pa.array(data, kind)
        except (pa.ArrowException, TypeError, OverflowError):
            for row, value in enumerate(data):
                try:
                    pa.array([value], kind)
                except (pa.ArrowException, TypeError, OverflowError):
                    self.fail(row, what, f"{json.dumps(value)[:80]}, expected {expected}")
            raise

    def numbers(self, what: str) -> np.ndarray:
        """[N] float64, NaN where there is nothing."""
        if isinstance(data := self.data[self.columns[what]], list):
            self.data[self.columns[what]] = [float(v) if isinstance(v, bool) else v for v in data]
        return self._arrow(what, pa.float64(), _is_number, "numbers").to_numpy(zero_copy_only=False)

    def whole(self, what: str, least: int) -> np.ndarray:
        """[N] int64."""
        values = self.numbers(what)
        self.check(
            what,
            ~((values == np.floor(values)) & (values >= least)),
            lambda row: f"{_shown(values[row])}, expected a whole number of at least {least}",
        )
        return values.astype(np.int64)

    def lists(self, what: str) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of every token [T] float64, and how many each row has [N] int64."""
        column = self._arrow(what, pa.large_list(pa.float64()), _is_list_of_numbers, "lists of numbers")
        self.check(what, column.is_null().to_numpy(zero_copy_only=False), lambda row: "is empty, expected a list")
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
        return column.flatten().to_numpy(zero_copy_only=False), lengths

    def check_tokens(self, what: str, bad: np.ndarray, lengths: np.ndarray, problem: str, values: np.ndarray) -> None:
        if bad.any():
            token = int(bad.argmax())
            row = int(np.searchsorted(np.cumsum(lengths), token, side="right"))
            place = token - int(lengths[:row].sum())
            self.fail(row, what, f"token {place + 1} of the list is {_shown(values[token])}; {problem}")

    def keys(self, what: str) -> list:
        """[N] what tells prompts apart; of chats and other nested values their JSON."""
        data = self.data[self.columns[what]]
        keys = []
        for row, value in enumerate(data if isinstance(data, list) else data.to_pylist()):
            if value is None or value != value:  # NaN is not equal to itself
                self.fail(row, what, "is empty or NaN; every response needs its prompt")
            keys.append(value if isinstance(value, str | int) else json.dumps(value, sort_keys=True, default=str))
        return keys


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)


def _is_list_of_numbers(kind: pa.DataType) -> bool:
    types = pa.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and (_is_number(kind.value_type) or types.is_null(kind.value_type))


def _shown(value: float) -> str:
    return "empty or NaN" if np.isnan(value) else repr(float(value))


LOGPROB = "a log-probability is a number of at most 0; leave such responses out, or mend what wrote them"


def _read(
    path: Path, columns: Mapping[str, str], token_needs: Collection[str], extras: Collection[str]
) -> tuple[list, dict[str, np.ndarray]]:
    """The prompts' keys and the checked numbers of one file."""
    file = _File(path, columns)
    if not file.rows:
        raise OptionError(f"{path}: has no rows")
    found: dict[str, np.ndarray] = {}
    found["step"] = file.whole("step", 0) if "step" in columns else np.ones(file.rows, dtype=np.int64)
    if "reward" in columns:
        found["reward"] = file.numbers("reward")
        file.check(
            "reward", ~np.isfinite(found["reward"]), lambda row: f"{_shown(found['reward'][row])}; a reward is finite"
        )
    outcome = "correctness" if "correctness" in columns else "reward"
    correct = found["correctness"] = file.numbers(outcome)
    remedy = "" if outcome == "correctness" else "; name the verifier's outcome with --correctness COLUMN"
    file.check(
        outcome, ~((correct >= 0) & (correct <= 1)), lambda row: f"{_shown(correct[row])}, expected 0 to 1{remedy}"
    )
    found.setdefault("reward", correct)

    if "logprobs" in columns:
        values, lengths = file.lists("logprobs")
        file.check_tokens("logprobs", ~(values <= LOGPROB_TOLERANCE), lengths, LOGPROB, values)
        found["logprobs"], found["length"] = values, lengths
    else:
        lengths = found["length"] = file.whole("length", 0)
        if "mean_logprob" in columns:
            mean, what, top, rule = file.numbers("mean_logprob"), "mean_logprob", LOGPROB_TOLERANCE, LOGPROB
        else:
            _refuse_whole_answers(path, columns["confidence"])
            mean, what, top = file.numbers("confidence"), "confidence", 1.0
            rule = "a mean token probability is in [0, 1] (runs have it with this project's estimators alone)"
        bad = ~(mean <= top) | ((mean < 0) & (what == "confidence"))
        file.check(what, bad & (lengths > 0), lambda row: f"{_shown(mean[row])}; {rule}")
        with np.errstate(divide="ignore"):
            found["mean_logprob"] = mean if what == "mean_logprob" else np.log(mean)
    for what in token_needs:
        if what not in found:
            values, counts = file.lists(what)
            file.check(
                what,
                counts != lengths,
                lambda row, counts=counts: (
                    f"has {counts[row]} numbers for {lengths[row]} tokens "
                    f"({columns.get('logprobs') or columns['length']})"
                ),
            )
            file.check_tokens(what, ~np.isfinite(values), counts, "a finite number is needed", values)
            found[what] = values
    for what in (EXTRA + name for name in extras):
        values = found[what] = file.numbers(what)
        file.check(
            what, ~np.isfinite(values), lambda row, values=values: f"{_shown(values[row])}; a finite number is needed"
        )
    return file.keys("prompt"), found


def read(
    paths: Sequence[Path],
    given: Mapping[str, str | None],
    token_needs: Collection[str] = (),
    extras: Collection[str] = (),
) -> Rollouts:
    """The responses of all files together.

    Args:
        paths: .jsonl or .parquet files.
        given: columns by option ("prompt", "reward", …), None where the usual name will do.
        token_needs: lists that an estimator reads, see LISTS.
        extras: columns of numbers that an estimator reads.

    Raises:
        OptionError: what cannot be read or used: the file, the row (from 1), the column and the remedy.
    """
    columns = choose(paths[0], given, token_needs, extras)
    numbers: dict[Any, int] = {}
    prompt, parts = [], []
    for path in paths:
        keys, found = _read(path, columns, token_needs, extras)
        prompt += [numbers.setdefault(key, len(numbers)) for key in keys]
        parts.append(found)
    together = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    # Our own runs count the prompts of a step from 0, so that a number says nothing from one step to the next.
    recurs = "step" not in columns or columns["prompt"] != "prompt_id" or bool(given.get("prompt"))
    return Rollouts(
        files=paths,
        columns=columns,
        prompt=np.array(prompt, dtype=np.int64),
        recurs=recurs,
        step=together["step"],
        correctness=together["correctness"],
        reward=together["reward"],
        mean_logprob=together.get("mean_logprob"),
        length=together["length"],
        tokens={name: together[name] for name in LISTS if name in together},
        extras={name: together[EXTRA + name] for name in extras},
    )


def write(out: Path, paths: Sequence[Path], columns: Mapping[str, Sequence]) -> None:
    """The rows of `paths`, one file after the other, with more columns: {name: [N] numbers or lists of numbers}.

    Raises:
        OptionError: rows that have no common form as a parquet table, or a place that cannot be written.
    """
    from ..process import appearing_whole

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with appearing_whole(out) as beside:
            if out.suffix == ".parquet":
                pq.write_table(_table(paths, columns), beside, compression="zstd")
            else:
                _write_lines(beside, paths, columns)
    except OSError as error:
        raise OptionError(f"-o {out}: cannot be written ({error.strerror or error})") from None


def _table(paths: Sequence[Path], columns: Mapping[str, Sequence]) -> pa.Table:
    tables = []
    for path in paths:
        try:
            if path.suffix == ".parquet":
                tables.append(pq.read_table(path))
            else:
                tables.append(pa.Table.from_pylist([row for _, row in rows_of_file("ROLLOUTS", path)]))
        except pa.ArrowException as error:
            raise OptionError(f"{path}: its rows have no common form as a table ({error}); write .jsonl") from None
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise OptionError(f"{paths[0]} and the others have no common form as a table ({error}); write .jsonl") from None
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, pa.array(values))
    return table


def _write_lines(out: Path, paths: Sequence[Path], columns: Mapping[str, Sequence]) -> None:
    number = 0
    with open(out, "w") as file:
        for path in paths:
            for row in _rows(path):
                added = {name: values[number] for name, values in columns.items()}
                added = {name: v.tolist() if isinstance(v, np.ndarray) else float(v) for name, v in added.items()}
                file.write(json.dumps(row | added, default=str) + "\n")
                number += 1


def _rows(path: Path):
    if path.suffix == ".jsonl":
        yield from (row for _, row in rows_of_file("ROLLOUTS", path))
    else:
        for batch in pq.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
