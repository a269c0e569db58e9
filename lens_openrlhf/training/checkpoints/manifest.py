"""The manifest of a checkpoint: size and SHA-256 of every file, so that a damaged or half-written one is not loaded.

It says nothing about who wrote the files: whoever can change them can change the manifest. Checkpoints are pickles, and
loading one runs what is in it (docs/security.md).
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NAME = "manifest.json"
CHUNK_BYTES = 1 << 20
MAX_THREADS = 8  # one a file; hashing leaves the interpreter's lock


class ManifestError(ValueError):
    """A folder that is not what its manifest says, naming the file."""


def write(folder: str | Path) -> None:
    """Write `folder`/manifest.json, whole or not at all, over every file in the folder, however deep.

    Files must not change meanwhile, or `check` will fail. About 1.3 GB/s a core, where the disk keeps up.

    Raises:
        ManifestError: something in the folder is neither a file nor a folder, such as a link.
        OSError: a file that cannot be read, or the manifest not written.
    """
    folder = Path(folder)
    files = dict(_files(folder))
    digests = _digests(folder, files)
    listed = {name: {"size": size, "sha256": digests[name]} for name, size in files.items()}
    beside = folder / f".{NAME}.{os.getpid()}"
    try:
        with open(beside, "w") as file:
            file.write(json.dumps({"files": listed}, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, folder / NAME)
    finally:
        beside.unlink(missing_ok=True)


def has_one(folder: Path) -> bool:
    """Whether a manifest was written for the folder."""
    return (folder / NAME).exists()


def check(folder: str | Path) -> None:
    """Whether `folder` holds the files of its manifest and no others; names and sizes first, as they take no time.

    Raises:
        ManifestError: naming the first file that is missing, new, or changed.
        OSError: a file that cannot be read.
    """
    folder = Path(folder)
    listed = _read(folder)
    files = dict(_files(folder))
    for name in sorted(listed.keys() | files.keys()):
        if name not in files:
            raise ManifestError(f"{folder / name}: is missing, but {NAME} lists it")
        if name not in listed:
            raise ManifestError(f"{folder / name}: is not listed in {NAME}; it was added later")
        if files[name] != listed[name]["size"]:
            raise ManifestError(f"{folder / name}: has {files[name]} bytes, and {NAME} says {listed[name]['size']}")
    digests = _digests(folder, files)
    for name in files:
        if digests[name] != listed[name]["sha256"]:
            raise ManifestError(f"{folder / name}: has other contents than when {NAME} was written (SHA-256)")


def _read(folder: Path) -> dict[str, dict]:
    path = folder / NAME
    try:
        files = json.loads(path.read_bytes())["files"]
        if not all(set(entry) == {"size", "sha256"} for entry in files.values()):
            raise ValueError("an entry without size and sha256")
        return files
    except FileNotFoundError:
        raise ManifestError(f"{folder}: has no {NAME}; it is written last, so the checkpoint is not whole") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError(f"{path}: is no manifest ({error})") from None


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Relative name and size of every file but the manifest, in order."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found = path.lstat()
        if stat.S_ISREG(found.st_mode):
            if name != NAME and not name.startswith(f".{NAME}."):
                yield name, found.st_size
        elif not stat.S_ISDIR(found.st_mode):
            raise ManifestError(f"{path}: is neither a file nor a folder; a checkpoint has nothing else")


def _digests(folder: Path, names: dict[str, int]) -> dict[str, str]:
    """SHA-256 of each file, the largest first, so that none is left for the end."""
    largest_first = sorted(names, key=names.__getitem__, reverse=True)
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as threads:
        digests = threads.map(lambda name: _digest(folder / name), largest_first)
        return dict(zip(largest_first, digests, strict=True))


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    chunk = memoryview(bytearray(CHUNK_BYTES))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(chunk):
            digest.update(chunk[:count])
    return digest.hexdigest()
