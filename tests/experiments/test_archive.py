"""The archive: small, the same bytes every time, and enough for the tables."""

from __future__ import annotations

import io
import json
import lzma
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest

from lens_openrlhf.experiments import archive as archive_module
from lens_openrlhf.experiments.compare import main
from lens_openrlhf.experiments.spec import SpecError

from ..e2e.conftest import ROOT
from .folders import write_comparison
from .test_tables import RUNS, TABLE


@pytest.fixture
def packed(tmp_path):
    """A comparison with one failed run and what large things there may be, and its archive."""
    folder = write_comparison(tmp_path / "c", RUNS)
    (folder / "runs/LENS/seed-1/model").mkdir()
    (folder / "runs/LENS/seed-1/model/model.safetensors").write_bytes(bytes(1000))
    shutil.copytree(folder / "runs/LENS/seed-1", folder / "runs/LENS/seed-1.unfinished-1")
    assert main(["--archive", str(folder), str(tmp_path / "known.tar.xz")]) == 0
    return folder, tmp_path / "known.tar.xz"


def test_it_holds_records_of_finished_runs_alone(packed):
    with tarfile.open(packed[1]) as tar:
        names = tar.getnames()
    per_run = ["config.json", "eval.jsonl", "metrics.jsonl", "samples/step-000001.parquet"]
    runs = [f"known/runs/{arm}/seed-{seed}/{name}" for arm in RUNS for seed in (1, 2) for name in per_run]
    assert names == ["known/compare.json", "known/results.json", *runs, "known/spec.yaml"]


def test_the_tables_come_from_the_archive_and_from_its_unpacked_folder(packed, tmp_path, capsys):
    folder, archive = packed
    shutil.rmtree(folder)
    capsys.readouterr()
    assert main(["--table", str(archive)]) == 0
    assert TABLE in capsys.readouterr().out
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path)
    assert main(["--table", str(tmp_path / "known")]) == 0
    assert TABLE in capsys.readouterr().out


def test_the_same_records_give_the_same_bytes(packed, tmp_path, capsys):
    folder, archive = packed
    before = archive.read_bytes()
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    (folder / "spec.yaml").chmod(0o600)
    moved = folder.rename(tmp_path / "elsewhere")
    assert main(["--archive", str(moved), str(archive)]) == 0
    with tarfile.open(archive) as tar:
        assert {(entry.mtime, entry.uid, entry.gid, entry.mode) for entry in tar} == {(0, 0, 0, 0o644)}
    # config.json names the run's folder, but not where on the machine it lay.
    assert archive.read_bytes() == before


def test_it_does_not_tell_where_things_lay(packed, tmp_path):
    with tarfile.open(packed[1]) as tar:
        config = json.load(tar.extractfile("known/runs/LENS/seed-2/config.json"))
        assert config["options"]["logger.run_dir"] == "./runs/LENS/seed-2"
        for entry in tar:
            content = tar.extractfile(entry).read().decode()
            assert str(Path.home()) + "/" not in content and str(tmp_path) not in content


def test_of_json_alone_places_are_shortened(tmp_path, monkeypatch):
    """The comparison's own, the checkout's and the home folder's, in this order: one may lie in another."""
    assert archive_module.CHECKOUT == ROOT
    home = tmp_path / "home"
    checkout = home / "checkout"
    monkeypatch.setattr(archive_module, "CHECKOUT", checkout)
    monkeypatch.setenv("HOME", str(home))
    folder = write_comparison(tmp_path / "c", {"GRPO": {1: {"scores": [[1]]}}}) / "runs" / "GRPO" / "seed-1"
    run_folder = checkout / "runs" / "known" / "runs" / "GRPO" / "seed-1"
    texts = {
        "own": f"{run_folder}/x",
        "checkout": [f"{checkout}/a.py"],
        "home": f"{home}/models/m",
        "elsewhere": "/data/x",
    }
    content = json.dumps({"options": {"logger.run_dir": str(run_folder)}} | texts)
    (folder / "config.json").write_text(content)
    (folder / "metrics.jsonl").write_text(content)
    assert json.loads(archive_module._content(folder / "config.json")) == {
        "options": {"logger.run_dir": "./runs/GRPO/seed-1"},
        "own": "./runs/GRPO/seed-1/x",
        "checkout": ["./a.py"],
        "home": "~/models/m",
        "elsewhere": "/data/x",
    }
    assert archive_module._content(folder / "metrics.jsonl").decode() == content
    # compare.json names no run folder.
    (folder.parents[2] / "compare.json").write_text(json.dumps(texts))
    assert json.loads(archive_module._content(folder.parents[2] / "compare.json")) == {
        "own": "./runs/known/runs/GRPO/seed-1/x",
        "checkout": ["./a.py"],
        "home": "~/models/m",
        "elsewhere": "/data/x",
    }


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"options": 3}',
        '{"options": {"logger.run_dir": 3}}',
        '{"options": {"logger.run_dir": "a"}}',
        "[" * 10**5,
    ],
)
def test_a_record_that_is_none_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(SpecError) as caught:
        archive_module._content(tmp_path / "config.json")
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: is not a record of a run or a comparison (")


def test_an_archive_is_replaced_as_a_whole(packed, tmp_path, monkeypatch):
    folder, file = packed
    before = file.read_bytes()

    def crash(*_):
        raise OSError("disk full")

    monkeypatch.setattr(archive_module, "_content", crash)
    with pytest.raises(OSError, match="disk full"):
        archive_module.pack(folder, file)
    assert file.read_bytes() == before
    monkeypatch.undo()
    assert archive_module.pack(folder, file) == len(before)
    assert [path.name for path in tmp_path.iterdir() if "known" in path.name] == ["known.tar.xz"]


def test_a_name_that_is_no_archives(packed, tmp_path, capsys):
    assert main(["--archive", str(packed[0]), str(tmp_path / "known.zip")]) == 2
    assert ".tar.xz" in capsys.readouterr().err and not (tmp_path / "known.zip").exists()


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_a_file_that_is_no_archive(tmp_path, content, capsys):
    (tmp_path / "x.tar.xz").write_bytes(content)
    assert main(["--table", str(tmp_path / "x.tar.xz")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def made(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:xz", format=tarfile.PAX_FORMAT) as tar:
        for entry, content in entries:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **pax: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.pax_headers = kind, link, pax
    return info


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([(entry("../outside"), b"x")], "outside"),
        ([(entry("/tmp/outside"), b"x"), (entry("known/spec.yaml"), b"")], "arms"),  # it lands inside
        ([(entry("c/link", tarfile.SYMTYPE, "/etc"), b""), (entry("c/link/x"), b"x")], "neither a file nor a folder"),
        ([(entry("c/link", tarfile.LNKTYPE, "/etc/passwd"), b"")], "neither a file nor a folder"),
        ([(entry("c/fifo", tarfile.FIFOTYPE), b"")], "neither a file nor a folder"),
        ([(entry("c/device", tarfile.CHRTYPE), b"")], "neither a file nor a folder"),
        ([(entry("c/spec.yaml", comment="x" * (2 << 20)), b"x")], "a header of"),
        ([(entry("c/zeros"), bytes(3 << 20))], "more than 0.002 GB"),
        ([(entry(f"c/{i}"), b"") for i in range(21)], "or 20 files"),
    ],
)
def test_a_hostile_archive_leaves_nothing_outside(tmp_path, monkeypatch, capsys, entries, told):
    monkeypatch.setattr(archive_module, "MAX_BYTES", 2 * 10**6)
    monkeypatch.setattr(archive_module, "MAX_FILES", 20)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    archive = made(tmp_path / "x.tar.xz", *entries)
    assert main(["--table", str(archive)]) == 2
    assert told in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tmp", "x.tar.xz"]
    assert not list((tmp_path / "tmp").iterdir()) and not Path("/tmp/outside").exists()


def test_a_sparse_file_counts_as_what_it_unpacks_to(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(archive_module, "MAX_BYTES", 10**6)
    sparse = entry("c/sparse", **{"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "c/sparse",
                   "GNU.sparse.map": "0,1", "GNU.sparse.size": str(10**12)})  # fmt: skip
    assert main(["--table", str(made(tmp_path / "x.tar.xz", (sparse, b"x")))]) == 2
    assert "more than 0.001 GB" in capsys.readouterr().err


def test_an_archive_of_something_else(tmp_path, capsys):
    with tarfile.open(tmp_path / "x.tar.xz", "w:xz") as tar:
        tar.add(__file__, "folder/file.py")
    assert main(["--table", str(tmp_path / "x.tar.xz")]) == 2
    assert "no spec.yaml in it" in capsys.readouterr().err


def test_an_archive_of_two_comparisons(tmp_path, capsys):
    file = made(tmp_path / "x.tar.xz", (entry("a/spec.yaml"), b""), (entry("b/spec.yaml"), b""))
    assert main(["--table", str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {file}: holds no comparison")


def test_what_an_archive_may_unpack_to(tmp_path, monkeypatch):
    """Up to the limits, and then no byte and no file more."""
    assert (archive_module.MAX_BYTES, archive_module.MAX_FILES) == (30 * 10**9, 200_000)
    monkeypatch.setattr(archive_module, "MAX_BYTES", 3000)
    monkeypatch.setattr(archive_module, "MAX_FILES", 3)
    monkeypatch.setattr(archive_module._Bounded, "_check", lambda self, offset: None)

    def files(*sizes: int) -> list:
        return [(entry(f"c/d{i}/e"), b"x" * size) for i, size in enumerate(sizes)]

    place = tmp_path / "place"
    archive_module._extract(made(tmp_path / "x.tar.xz", *files(1000, 0, 2000)), str(place))
    found = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert found == {"c/d0/e": b"x" * 1000, "c/d1/e": b"", "c/d2/e": b"x" * 2000}
    for number, sizes in enumerate([(1000, 0, 2001), (1, 1, 1, 0)]):
        with pytest.raises(tarfile.ReadError, match="more than 3e-06 GB or 3 files"):
            archive_module._extract(made(tmp_path / "x.tar.xz", *files(*sizes)), str(tmp_path / str(number)))


def test_how_far_an_archive_is_read(tmp_path, monkeypatch):
    assert archive_module.MAX_HEADER_BYTES == 2**20
    monkeypatch.setattr(archive_module, "MAX_BYTES", 2**21)
    with lzma.open(tmp_path / "x", "wb") as file:
        file.write(bytes(2**22))
    with archive_module._Bounded(tmp_path / "x") as file:
        assert len(file.read(2**20)) == 2**20 and file.read(0) == b""
        for size in (2**20 + 1, -1, None):
            with pytest.raises(tarfile.ReadError, match=f"a header of {size} bytes"):
                file.read(size)
        assert file.tell() == 2**20
        assert file.seek(2**21) == 2**21 and len(file.read(1)) == 1
        for reach in (lambda: file.read(1), lambda: file.seek(2**21 + 1)):
            with pytest.raises(tarfile.ReadError, match="more than 0.00209715 GB unpacked"):
                reach()
        assert file.seek(-1, io.SEEK_CUR) == 2**21


def test_folders_of_an_archive_are_made(tmp_path):
    file = made(tmp_path / "x.tar.xz", (entry("c/empty/", tarfile.DIRTYPE), b""), (entry("c/spec.yaml"), b"x"))
    with archive_module.unpacked(file) as folder:
        assert folder.name == "c" and (folder / "empty").is_dir() and (folder / "spec.yaml").read_bytes() == b"x"
    assert not folder.exists()


def test_an_archive_that_is_not_there(tmp_path, capsys):
    assert main(["--table", str(tmp_path / "absent.tar.xz")]) == 2
    assert "absent.tar.xz: cannot be read as .tar.xz (" in capsys.readouterr().err
