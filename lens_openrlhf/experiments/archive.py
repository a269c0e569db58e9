"""A comparison's records in one small file: what tables and figures need, without models and logs."""

from __future__ import annotations

import contextlib
import io
import json
import lzma
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .spec import SpecError
from .state import FINISHED, RESULTS, RUNS, SPEC, STATE, load

SUFFIX = ".tar.xz"
RECORDS = ("config.json", "metrics.jsonl", "eval.jsonl", "samples/*")
CHECKOUT = Path(__file__).parents[2]
# Of what an archive unpacks to: more than the records of a hundred runs of a thousand steps.
MAX_BYTES = 30 * 10**9
MAX_FILES = 200_000
MAX_HEADER_BYTES = 1 << 20


def _files(folder: Path) -> list[Path]:
    """What goes into the archive: the comparison's own files and the records of its finished runs."""
    files = [folder / name for name in (SPEC, STATE, RESULTS)]
    for key, state in load(folder)["runs"].items():
        if state["state"] == FINISHED:
            files += [path for pattern in RECORDS for path in (folder / RUNS / key).glob(pattern)]
    return sorted(path for path in files if path.is_file())


def _content(path: Path) -> bytes:
    """A file's bytes; JSON does not tell where on this machine the comparison, the checkout and the home folder lay."""
    content = path.read_bytes()
    if path.suffix != ".json":
        return content
    places = [(CHECKOUT, "."), (Path(os.path.expanduser("~")), "~")]
    try:
        run_folder = json.loads(content).get("options", {}).get("logger.run_dir")
        if run_folder:  # of a config.json; the folder may have been moved since
            places.insert(0, (Path(run_folder).parents[2], "."))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SpecError(f"{path}: is not a record of a run or a comparison ({error!r}); restore it") from None
    for place, name in places:
        content = content.replace(f"{place}/".encode(), f"{name}/".encode())
    return content


def pack(folder: Path, archive: Path) -> int:
    """Write the archive; the same records give the same bytes. Returns its size in bytes.

    Raises:
        SpecError: a name that does not end in .tar.xz.
    """
    if not archive.name.endswith(SUFFIX):
        raise SpecError(f"{archive}: expected a name that ends in {SUFFIX}")
    beside = archive.with_name(f".{archive.name}.new")
    with lzma.open(beside, "wb", preset=9) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for path in _files(folder):
            content = _content(path)
            entry = tarfile.TarInfo(f"{archive.name.removesuffix(SUFFIX)}/{path.relative_to(folder)}")
            entry.size, entry.mode = len(content), 0o644  # times, owners: 0
            tar.addfile(entry, io.BytesIO(content))
    beside.replace(archive)
    return archive.stat().st_size


class _Bounded(lzma.LZMAFile):
    """A decompressed archive as tarfile reads it; an error where a small file would fill the disk or the memory."""

    def read(self, size: int | None = -1) -> bytes:
        # Contents are read in small pieces, but a header's extension at once, whatever length it claims.
        if size is None or not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self._check(self.tell())
        return super().read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._check(offset)
        return super().seek(offset, whence)

    def _check(self, offset: int) -> None:
        if offset > MAX_BYTES:
            raise tarfile.ReadError(f"more than {MAX_BYTES / 1e9:g} GB unpacked")


def _extract(archive: Path, place: str) -> None:
    """Files and folders alone: a link could lead out of `place`. tarfile's own filter came with Python 3.11.4."""
    with _Bounded(archive) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        size = 0
        for number, member in enumerate(tar, 1):
            if not (member.isfile() or member.isdir()):
                raise tarfile.ReadError(f"{member.name!r} is neither a file nor a folder")
            size += member.size  # of a sparse file more than what is stored
            if size > MAX_BYTES or number > MAX_FILES:
                raise tarfile.ReadError(f"more than {MAX_BYTES / 1e9:g} GB or {MAX_FILES:,} files")
            target = Path(place, member.name.lstrip("/"))
            if ".." in target.parts:
                raise tarfile.ReadError(f"{member.name!r} would lie outside")
            folder = target if member.isdir() else target.parent
            folder.mkdir(parents=True, exist_ok=True)
            if (content := tar.extractfile(member)) is not None:
                with content, open(target, "wb") as out:
                    shutil.copyfileobj(content, out)


@contextlib.contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """The folder in an archive, in a temporary place.

    Raises:
        SpecError: a file that is no archive of a comparison.
    """
    with tempfile.TemporaryDirectory() as place:
        try:
            _extract(archive, place)
        except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
            raise SpecError(f"{archive}: cannot be read as {SUFFIX} ({error})") from None
        specs = list(Path(place).glob(f"*/{SPEC}"))
        if len(specs) != 1:
            raise SpecError(f"{archive}: holds no comparison (there is no {SPEC} in it)")
        yield specs[0].parent
