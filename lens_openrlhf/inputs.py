"""What commands are given: the error for what cannot work, models, and files of prompts."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

MATH_VERIFY = "math-verify"  # as a reward: answers checked by Math-Verify
MATH_VERIFY_FILE = Path(__file__).parent / "rewards" / "math_verify_reward.py"  # what it stands for
CODE_OPTION = "--model.allow_remote_code"
# Endings of the files that OpenRLHF loads, with what `datasets` calls the format.
FORMATS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}
READABLE = tuple(FORMATS)
BATCH = 1_000
# In a path: what `datasets` takes for a pattern, and OpenRLHF for separators.
SPECIAL = frozenset("[]*?@,")

# Of a model: the files that settings are read from (transformers takes config.4.2.0.json for config.json where a model
# says so), the keys in them that name code, and the one file that transformers runs because it is there.
SETTINGS = "*config*.json"
CODE_KEYS = ("auto_map", "custom_pipelines")
CUSTOM_GENERATE = "custom_generate/generate.py"


class OptionError(ValueError):
    """An option's value that cannot work, with the remedy."""


def check_model(
    option: str, name: str, allow_code: bool = False, code_option: str = CODE_OPTION, quick: bool = False
) -> None:
    """A folder must hold a model. Anything else is a hub name, which is checked to be one, or in the cache.

    A model that brings code of its own is refused unless `allow_code`; `code_option` is what the user can give. With
    `quick` transformers, whose import takes seconds, is not asked whether it knows a folder's config.

    Raises:
        OptionError
    """
    if not allow_code:
        _check_no_code(option, name, code_option)
    folder = _model_folder(option, name)
    if folder is not None and (allow_code or quick):
        return  # with code its config may be some, which runs where the model does
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(folder or name, trust_remote_code=allow_code)
    except Exception as error:  # a damaged config can make transformers raise nearly anything
        if folder is None:
            raise _no_model(option, name, error) from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OptionError(
            f"{option} {name}: config.json is none of a model that transformers knows ({reason}); copy the model again"
        ) from None


def _model_folder(option: str, name: str) -> Path | None:
    """The folder `name` stands for, None for a hub name."""
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        if not (path / "config.json").is_file():
            raise OptionError(f"{option} {name}: the folder has no config.json, so it is not a Hugging Face model")
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise OptionError(f"{option} {name}: no such folder")
    return None


def _no_model(option: str, name: str, error: Exception) -> OptionError:
    said = str(error).strip().splitlines() or [type(error).__name__]
    return OptionError(
        f"{option} {name}: neither a folder here nor a model that could be loaded from the hub ({said[0]}); give the "
        "path of a downloaded model, or check the name and the network"
    )


def _check_no_code(option: str, name: str, code_option: str, seen: tuple[str, ...] = ()) -> None:
    """Refuse a model whose files name code, in itself or in another model that is loaded for it."""
    folder = _model_folder(option, name)
    of_hub = folder is None
    if folder is None:
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(name, allow_patterns=[SETTINGS, CUSTOM_GENERATE]))
        except (OSError, ValueError) as error:
            raise _no_model(option, name, error) from None

    def refuse(place: str) -> NoReturn:
        raise OptionError(
            f"{option} {name}: brings code of its own ({place}), which would run with your rights; read it and give "
            f"{code_option} if you trust it, or take it out of a copy of the model (transformers has code for most)"
        )

    for path in sorted(folder.glob(SETTINGS)):
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise OptionError(f"{option} {name}: {path.name} cannot be read as JSON ({error})") from None
        for key, value in _code_named(content):
            refuse(f"{path.name}: {key} {json.dumps(value)[:200]}")
        other = _model_named(path.name, content, of_hub)
        if other and other not in (name, *seen):
            _check_no_code(f"{option} {name}: {path.name} names the model", other, code_option, (name, *seen))
    if (folder / CUSTOM_GENERATE).exists():
        refuse(CUSTOM_GENERATE)


def _code_named(content: Any) -> Iterator[tuple[str, Any]]:
    """Entries of a model's settings, at any depth, that name code."""
    values = [content]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            yield from ((key, value[key]) for key in CODE_KEYS if value.get(key))
            values += value.values()
        elif isinstance(value, list):
            values += value


def _model_named(file: str, content: Any, of_hub: bool) -> str | None:
    """Another model that is loaded for this one: vLLM's verifier, or peft's base (a folder with a model is its own)."""
    try:
        if file == "config.json":
            return str(content["speculators_config"]["verifier"]["name_or_path"])
        return str(content["base_model_name_or_path"]) if file == "adapter_config.json" and of_hub else None
    except (KeyError, TypeError):
        return None


def load_tokenizer(option: str, model: str, allow_code: bool) -> Any:
    """The tokenizer of a model that is on this machine, or can be fetched.

    Raises:
        OptionError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, trust_remote_code=allow_code)
    except Exception as error:  # a damaged file can make the tokenizers' library raise nearly anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OptionError(
            f"{option} {model}: its tokenizer cannot be loaded ({reason}); copy the tokenizer's files again"
        ) from None


def data_names(names: str) -> list[str]:
    """The places in an option that takes several, with commas between them; one may have a comma in its own name."""
    return [names.strip()] if os.path.exists(names.strip()) else [name.strip() for name in names.split(",")]


def place_and_split(name: str) -> tuple[str, str]:
    """NAME@SPLIT in its parts, the second empty where there is none; a path may have an @ in its own name."""
    place, at, split = name.rpartition("@")
    if not at or "/" in split or os.path.exists(os.path.expanduser(name)):
        return name, ""
    return place, split


@contextlib.contextmanager
def plain_name(path: Path) -> Iterator[Path]:
    """The path, or, where SPECIAL is in it, a link to it that has none of these and the same ending."""
    if SPECIAL.isdisjoint(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="lens-") as folder:
        link = Path(folder) / f"data{path.suffix if SPECIAL.isdisjoint(path.suffix) else ''}"
        link.symlink_to(path.absolute())
        yield link


def data_file(option: str, name: str) -> Path | None:
    """The file here that `name` stands for; None for a folder or a hub name.

    Raises:
        OptionError: no such file, or a file of a kind that is not read.
    """
    path = Path(os.path.expanduser(name))
    if path.suffix in READABLE:
        if not os.path.lexists(path):
            raise OptionError(f"{option} {name}: no such file")
        if not os.path.isfile(path):
            kind = "a folder" if os.path.isdir(path) else "no file that can be read"
            raise OptionError(f"{option} {name}: is {kind}; name a file, such as prompts.jsonl")
        return path
    if os.path.exists(path) and not os.path.isdir(path):
        raise OptionError(
            f"{option} {name}: is none of {', '.join(READABLE)}, which can be read; unpack it, or save it as one of "
            "these"
        )
    return None


@contextlib.contextmanager
def readable(shown: str, kind: str = "") -> Iterator[None]:
    """What goes wrong in reading becomes an OptionError that begins with `shown`, the option and the file."""
    kind = kind and f" as {kind}"
    try:
        yield
    except OptionError:
        raise
    # A damaged file can make its reader raise nearly anything. pyarrow's errors have texts of many lines; `datasets`
    # says no more than that it failed, and stops an iteration that has not begun where a file has no rows.
    except Exception as error:
        if isinstance(error.__cause__, Exception):
            error = error.__cause__
        reason = "there is no row in it" if isinstance(error, StopIteration) else str(error).strip()
        reason = getattr(error, "strerror", None) or reason or type(error).__name__
        raise OptionError(
            f"{shown}: cannot be read{kind} ({reason.splitlines()[0]}); mend it, or name another"
        ) from None


def tables(shown: str, path: Path, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """The rows of a file as `datasets` reads them, as pyarrow tables of at most BATCH rows; of parquet only `columns`.

    Raises:
        OptionError: a file that cannot be read, or has neither columns nor rows.
    """
    import datasets
    import pyarrow.parquet as pq

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    kind = FORMATS[path.suffix]
    options = {"columns": columns} if columns and kind == "parquet" else {}
    with readable(shown, kind):
        if kind == "parquet" and not pq.read_metadata(path).num_rows:
            return  # `datasets` would take them in batches of 0
        rows = datasets.load_dataset(kind, data_files=glob.escape(str(path)), split="train", streaming=True, **options)
        yield from rows.with_format("arrow").iter(batch_size=BATCH)


def parquet_columns(option: str, path: Path) -> list[str]:
    """The names of a .parquet file's columns; none of another file's.

    Raises:
        OptionError: a file that cannot be read.
    """
    if path.suffix != ".parquet":
        return []
    import pyarrow.parquet as pq

    with readable(f"{option} {path}", "parquet"):
        return pq.read_schema(path).names


def rows_of_file(option: str, path: Path, wanted: Collection[str] = ()) -> Iterator[tuple[str, dict]]:
    """Where each row of a local file is, for messages, and the row; of a .parquet file that has all columns of
    `wanted`, these alone.

    Raises:
        OptionError: a file that cannot be read, with the place.
    """
    if FORMATS[path.suffix] == "json":
        yield from json_rows(f"{option} {path}", path)
        return
    number = 0
    columns = list(wanted) if wanted and set(wanted) <= set(parquet_columns(option, path)) else None
    for table in tables(f"{option} {path}", path, columns):
        for row in table.to_pylist():
            number += 1
            yield f"row {number}", row


def json_rows(shown: str, path: Path) -> Iterator[tuple[str, dict]]:
    """The same of a .jsonl file, or of a .json file, which holds a list or lines as well. pyarrow's reader says no
    lines, and ends the process at a file that holds `null` alone."""
    with readable(shown), open(path, "rb") as file:
        if path.suffix == ".json":
            content = file.read()
            file.seek(0)
            try:
                rows = json.loads(content) if content.strip() else []
            except RecursionError:
                raise OptionError(f"{shown}: is not JSON that can be read (it is too deep)") from None
            except json.JSONDecodeError as error:
                if error.msg != "Extra data":
                    raise OptionError(f"{shown}: line {error.lineno} is not JSON ({error.msg})") from None
            else:
                halves = _may_have_halves(content)
                for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
                    yield f"row {number}", _checked(f"{shown}: row {number}", row, halves)
                return
        for number, line in enumerate(file, 1):
            if not line.strip():  # as the last one often is; OpenRLHF leaves them out, too
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise OptionError(f"{shown}: line {number} is not JSON ({getattr(error, 'msg', error)})") from None
            yield f"line {number}", _checked(f"{shown}: line {number}", row, _may_have_halves(line))


def _may_have_halves(text: bytes) -> bool:
    """Whether JSON may hold half of a character (U+D800 to U+DFFF): most does not, and looking for them takes long."""
    return b"\\ud" in text or b"\\uD" in text or b"\xed" in text


def _checked(place: str, row: Any, halves: bool) -> dict:
    """A row of JSON, which must be an object, of texts; `halves` says whether halves of characters may be in it."""
    if not isinstance(row, dict):
        raise OptionError(f'{place} is no object, such as {{"prompt": …, "label": …}}')
    try:
        if halves:
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("unicode_escape").decode()
        raise OptionError(f"{place} has {half}, half of a character, which is no text; mend it") from None
    return row
