"""The prompts and labels that a run trains and is evaluated on, checked row by row before it starts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from tqdm import tqdm

from ...inputs import (
    MATH_VERIFY_FILE,
    READABLE,
    OptionError,
    data_file,
    data_names,
    load_tokenizer,
    place_and_split,
    rows_of_file,
)
from ...process import cache_folder
from ...prompts import Labels, Names, Prompting, Row, check_chat_template, with_keys
from . import model_shape

PROMPTS = "--data.prompt_dataset"
NAMES = Names(chat="--data.apply_chat_template", template="--data.input_template", reward="--reward.remote_url FILE.py")
# Of the labels: with more that cannot be graded by, a run is refused. As many seconds are spent on finding them; what
# was found is kept, so that most data sets are known after a few starts.
MOST_BAD_LABELS = 0.01
LABEL_SECONDS = 20.0
# Folders of the prompt sets that `lens-openrlhf data` makes.
PROMPT_SETS = ("math+dapo", "math+numina")


def not_here(option: str, name: str) -> str:
    """That a model or file is not on this machine, and what brings it."""
    path = Path(name)
    if cache_folder() in path.parents:
        return f"{option} {name}: the profile makes it when the run starts"
    if path.parent.name in PROMPT_SETS:
        return f"{option} {name}: no such file; make it with `lens-openrlhf data {path.parent.name}`, or name another"
    if option == "--actor.model_name_or_path" and not path.is_absolute():
        return f"{option} {name}: is fetched from the hub when the run starts, or name the folder of a downloaded model"
    return f"{option} {name}: no such {'file' if path.suffix else 'folder'}"


def count_rows(path: Path) -> int | None:
    """Rows of a local file of prompts, without reading more than is needed; None for a file that cannot be read, or
    none at all."""
    stat = path.stat()
    return _count_rows(path, (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=64)  # a plan asks for them thrice
def _count_rows(path: Path, stamp: tuple[int, int]) -> int | None:
    if path.suffix == ".jsonl":
        with open(path, "rb") as file:
            return sum(1 for line in file if line.strip())
    if path.suffix == ".parquet":
        from pyarrow.parquet import ParquetFile

        with contextlib.suppress(ValueError), ParquetFile(path) as file:  # ArrowInvalid: no parquet
            return file.metadata.num_rows
    elif path.suffix in READABLE:
        with contextlib.suppress(OptionError):
            return sum(1 for _ in rows_of_file(PROMPTS, path))
    return None


class Data(NamedTuple):
    """A data set of the options, and how its rows become prompts: what a check of them depends on.

    stamp: of a file, so that it is read again after a change.
    """

    option: str
    name: str
    stamp: tuple[int, int] | None
    keys: tuple[tuple[str, str], ...]  # of what every row must have, and the options that name them
    input_key: str
    label_key: str | None  # of labels that Math-Verify compares with
    limit: int | None  # rows that are used
    chat: bool
    model: str | None  # whose chat template the prompts go through; None where it is not here
    allow_code: bool


@lru_cache(maxsize=64)  # a comparison asks for the data of every run
def _check_file(data: Data) -> str:
    """Everything about a file of prompts, row by row; returns a warning, or nothing.

    Raises:
        OptionError
    """
    shown, path = f"{data.option} {data.name}", Path(data.name)
    tokenizer = None
    if data.model:
        tokenizer = load_tokenizer("--actor.model_name_or_path", data.model, data.allow_code)
        check_chat_template(NAMES.chat, tokenizer)
    # What a template makes of a text is looked at by _check_template, once.
    prompting = Prompting(shown=shown, key=data.input_key, names=NAMES, chat=data.chat, tokenizer=tokenizer)
    read = (Row(place, row) for place, row in rows_of_file(data.option, path, dict(data.keys)))
    rows = with_keys(shown, islice(read, data.limit), dict(data.keys))
    labels = Labels()
    bar = tqdm(rows, f"reading {path.name}", unit="row", unit_scale=True, leave=False, disable=None)
    for row in bar:
        prompting.text(row)
        if data.label_key:
            labels.add(row, data.label_key)
    if not data.label_key:
        return ""
    try:
        share, problem = labels.problem(shown, data.label_key, NAMES, path, LABEL_SECONDS)
    finally:
        from ... import rewards

        rewards.shutdown()
    if share > MOST_BAD_LABELS:
        raise OptionError(problem)
    return problem


def _check_template(template: str | None) -> None:
    """OpenRLHF puts a prompt into its template with str.format."""
    if not template:
        return
    prompt = "[prompt]"
    try:
        times = template.format(prompt).count(prompt) - template.count(prompt)
        problem = "" if times == 1 else f"holds the prompt {times} times"
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        problem = f"is no template ({type(error).__name__}: {error})"
    if problem:
        raise OptionError(
            f"{NAMES.template} {template!r}: {problem}; write {{}} once, where the prompt goes, and every other brace "
            "twice, as in \\boxed{{}}"
        )


def _no_label_key(name: str, file: Path | None) -> OptionError:
    """OpenRLHF takes no key for empty labels, by which no answer can be graded."""
    _, row = next(rows_of_file(PROMPTS, file), ("", {})) if file else ("", {})
    return OptionError(
        f"--data.label_key is missing: Math-Verify compares answers with labels; name their column in {PROMPTS} {name}"
        + (f" (there are: {', '.join(map(str, row))})" if row else "")
    )


def _check_dataset(option: str, names: str, args: SimpleNamespace, columns: Sequence[str] = ()) -> list[str]:
    """Raises OptionError for data that cannot be trained on; returns warnings."""
    keys = {args.data.input_key: "--data.input_key"} | {column: "--eval.split_by" for column in columns}
    if args.data.label_key:
        keys[args.data.label_key] = "--data.label_key"
    graded = str(MATH_VERIFY_FILE) in (args.reward.remote_url or []) and not args.train.agent_func_path
    model = args.actor.model_name_or_path
    # Prompts with images go through the model's processor instead.
    renders = args.data.apply_chat_template and not args.data.max_images_per_prompt and model_shape.find(model)[1]
    if not args.data.apply_chat_template:
        _check_template(args.data.input_template)
    warnings = []
    for name in data_names(names):
        name, _ = place_and_split(name)
        path = Path(name)
        for script in (path, path / f"{path.name}.py"):  # what OpenRLHF would load as a script
            if script.suffix == ".py" and os.path.isfile(script):
                raise OptionError(
                    f"{option} {path}: {script} is Python code, and data is not run; save it as .jsonl or .parquet"
                )
        if not os.path.exists(path) and (
            path.suffix in READABLE or path.is_absolute() or name.startswith(".") or name.count("/") > 1
        ):
            raise OptionError(not_here(option, name))
        file = data_file(option, name)
        if graded and not args.data.label_key and option == PROMPTS:
            raise _no_label_key(name, file)
        if file is None:
            continue
        stat = path.stat()
        data = Data(
            option=option,
            name=name,
            stamp=(stat.st_mtime_ns, stat.st_size),
            keys=tuple(keys.items()),
            input_key=args.data.input_key,
            label_key=args.data.label_key if graded else None,
            limit=args.data.max_samples if option == PROMPTS else None,
            chat=args.data.apply_chat_template,
            model=model if renders else None,
            allow_code=args.model.allow_remote_code,
        )
        if warning := _check_file(data):
            warnings.append(warning)
    return warnings


def check_prompts(args: SimpleNamespace) -> list[str]:
    return _check_dataset(PROMPTS, args.data.prompt_dataset, args)


def check_evaluation_prompts(args: SimpleNamespace) -> list[str]:
    if not args.eval.dataset:
        return []
    return _check_dataset("--eval.dataset", args.eval.dataset, args, args.eval.split_by or ())
