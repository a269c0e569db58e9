"""Where the data come from: the hub, or a file or folder here. Reading goes through the `datasets` library."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..inputs import BATCH, SPECIAL, OptionError, json_rows, readable, tables
from .problems import KINDS, Kind

FORMATS = (".parquet", ".jsonl", ".json", ".arrow")


@dataclass(frozen=True)
class DataFile:
    """A file of a split; `shown` names it in messages, `name` in the manifest."""

    path: Path
    shown: str
    name: str
    sha256: str

    @property
    def is_json(self) -> bool:
        return self.path.suffix in (".json", ".jsonl")


@dataclass(frozen=True)
class Source:
    """A data set that can be read: where it came from, and its files by split.

    origin: a path, or the hub's name. revision: the hub's, as resolved.
    """

    kind: Kind
    origin: str
    revision: str | None
    splits: dict[str, list[DataFile]]

    def rows(self, split: str) -> Iterator[dict[str, Any]]:
        """The rows of a split with the columns that matter, in the order of the files.

        Raises:
            OptionError: a file that cannot be read.
        """
        wanted = {name for names in self.kind.columns for name in names}
        for file in self.splits[split]:
            if file.is_json:
                yield from (row for _, row in json_rows(file.shown, file.path))
                continue
            columns = [name for name in _columns(file) if name in wanted]
            for table in tables(file.shown, file.path, columns) if columns else ():
                yield from table.select([name for name in table.column_names if name in wanted]).to_pylist()

    def record(self) -> dict[str, Any]:
        """For the manifest."""
        files = {split: {file.name: file.sha256 for file in files} for split, files in self.splits.items()}
        return {"origin": self.origin, "revision": self.revision, "files": files}

    def fingerprint(self) -> dict[str, list[str]]:
        """Digests of the files by split: the same wherever they lie and whatever they are called."""
        return {split: [file.sha256 for file in files] for split, files in self.splits.items()}


def _columns(file: DataFile) -> list[str]:
    """Those of a file's first rows; none where there are no rows."""
    if file.path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with readable(file.shown):
            metadata = pq.read_metadata(file.path)
            return metadata.schema.to_arrow_schema().names if metadata.num_rows else []
    if file.is_json:
        return list(dict.fromkeys(name for _, row in islice(json_rows(file.shown, file.path), BATCH) for name in row))
    first = next(tables(file.shown, file.path), None)
    return first.column_names if first is not None and first.num_rows else []


@contextlib.contextmanager
def _plain_folder(path: Path) -> Iterator[Path]:
    """The folder, or, where SPECIAL is in its path, one of links to its files: `datasets` resolves a link to it."""
    if SPECIAL.isdisjoint(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="lens-") as folder:
        plain = Path(folder).resolve()
        for file in filter(Path.is_file, path.rglob("*")):
            link = plain / file.relative_to(path)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
        yield plain


def _files_by_split(path: Path) -> dict[str, list[Path]]:
    """The data files of a folder by split, as `datasets` finds them: by a README's configs, or by their names.

    Of several configs, "default" or "all" holds everything; where there is neither, all of them together do.
    """
    import datasets

    if path.is_file():
        return {"train": [path]}
    splits: dict[str, list[Path]] = {}
    with _plain_folder(path) as plain:
        names = datasets.get_dataset_config_names(str(plain))
        names = next(([name] for name in ("default", "all") if name in names), names)
        for name in names:
            for split, files in datasets.load_dataset_builder(str(plain), name).config.data_files.items():
                found = (path / Path(file).relative_to(plain) for file in files)
                splits.setdefault(str(split), []).extend(found)
    return splits


def _download(option: str, name: str, revision: str | None) -> tuple[Path, str]:
    """A snapshot of a hub data set in the hub's cache, and its revision."""
    from huggingface_hub import snapshot_download

    patterns = ["README.md", *(f"*{suffix}" for suffix in FORMATS)]
    try:
        folder = Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except Exception as error:  # whatever the hub, the network or the disk raise
        raise OptionError(
            f"{option} {name}{f' at {revision}' if revision else ''}: could not be loaded from the hub "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]}); check the network and the name, or give "
            f"a copy that you have: {option} PATH"
        ) from None
    return folder.resolve(), folder.name  # `datasets` names files by the resolved path


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_source(option: str, given: str | None, revision: str | None, wanted: Sequence[str]) -> Source:
    """Find the files of a data set and check them as far as possible without reading them whole.

    Args:
        option: of KINDS.
        given: a file or folder, or a hub name; None for the data set's own place on the hub.
        revision: of the hub; None for the pinned one, or, of another name, for its newest.
        wanted: the splits; where one is wanted, a data set with a single split serves, whatever its name.
    Raises:
        OptionError: data that are missing, empty or unreadable, or lack a split or column.
    """
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    kind = KINDS[option]
    option = f"--{option}"
    origin = given or kind.hub
    path = Path(os.path.expanduser(origin))
    is_here = given is not None and os.path.exists(path)
    if is_here:
        if revision:
            raise OptionError(
                f"--revision {option[2:]}={revision}: {option} {given} is a copy here, which has no revisions"
            )
        if path.is_file() and path.suffix not in FORMATS:
            raise OptionError(f"{option} {given}: the file must be one of {', '.join(FORMATS)}")
        path = path.resolve()
    else:
        if origin.startswith(("/", ".", "~")) or origin.count("/") != 1 or path.suffix in FORMATS:
            raise OptionError(f"{option} {given}: no such file or folder")
        if origin == kind.hub:
            revision = revision or kind.revision
        path, revision = _download(option, origin, revision)
    with readable(f"{option} {origin}"):
        found = _files_by_split(path)
    if len(wanted) == len(found) == 1:
        found = dict(zip(wanted, found.values(), strict=True))
    if missing := [split for split in wanted if split not in found]:
        raise OptionError(
            f"{option} {origin}: has no split {missing[0]!r} (there are: {', '.join(found)}); {kind.name} is read from "
            f"a folder with files for {' and '.join(wanted)}"
        )
    splits: dict[str, list[DataFile]] = {}
    for split in wanted:
        for file in found[split]:
            if file.suffix not in FORMATS:
                raise OptionError(f"{option} {file}: the file must be one of {', '.join(FORMATS)}")
            name = file.name if path.is_file() else str(file.relative_to(path))
            splits.setdefault(split, []).append(DataFile(file, f"{option} {file}", name, digest(file)))
        _check_columns(kind, splits[split])
    return Source(kind, str(path) if is_here else origin, revision, splits)


def _check_columns(kind: Kind, files: Sequence[DataFile]) -> None:
    """Every file with rows has the columns, and there is one."""
    found = {file: columns for file in files if (columns := _columns(file))}
    for file, columns in found.items():
        for names in kind.columns:
            if not set(names) & set(columns):
                raise OptionError(
                    f"{file.shown}: has no column {' or '.join(map(repr, names))}, which {kind.name} has; its columns "
                    f"are: {', '.join(columns)}"
                )
    if not found:
        raise OptionError(f"{files[0].shown}: there is no row in it")
