"""Every layout of a source gives the same rows, and what cannot be read is named."""

from __future__ import annotations

import json
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import datasets
import pyarrow.parquet as pq
import pytest

from lens_openrlhf.data.problems import KINDS
from lens_openrlhf.data.sources import open_source
from lens_openrlhf.inputs import OptionError

from . import rows

BOTH = ("train", "test")


def texts(source, split) -> set[str]:
    return {problem.text for problem in map(source.kind.read, source.rows(split)) if not isinstance(problem, str)}


def saved_to_disk(folder: Path) -> Path:
    splits = {"train": rows.MATH_TRAIN, "test": rows.MATH_TEST}
    datasets.DatasetDict({s: datasets.Dataset.from_list(r) for s, r in splits.items()}).save_to_disk(str(folder))
    return folder


@pytest.mark.parametrize("layout", [rows.math_snapshot, rows.math_files, saved_to_disk])
def test_layouts_of_math(tmp_path, layout):
    source = open_source("math", str(layout(tmp_path / "math")), None, BOTH)
    assert texts(source, "train") == {row["problem"] for row in rows.MATH_TRAIN}
    assert texts(source, "test") == {row["problem"] for row in rows.MATH_TEST}
    assert source.revision is None and all(source.fingerprint()[split] for split in BOTH)


def test_one_file_is_enough_where_one_split_is_wanted(sources):
    dapo = open_source("dapo", str(sources.dapo), None, ("train",))
    assert len(list(dapo.rows("train"))) == 3 * len(rows.DAPO)
    assert dapo.record() == {
        "origin": str(sources.dapo),
        "revision": None,
        "files": {"train": {"dapo-math-17k.parquet": dapo.fingerprint()["train"][0]}},
    }
    assert len(texts(open_source("math500", str(sources.math500), None, ("test",)), "test")) == 3


def test_file_with_a_strange_name(tmp_path):
    file = rows.write_jsonl(tmp_path / "a [copy] of 100% *.jsonl", rows.DAPO)
    assert len(texts(open_source("dapo", str(file), None, ("train",)), "train")) == len(rows.DAPO)


class Hub(BaseHTTPRequestHandler):
    """The hub as far as downloading a snapshot goes; `repositories` is {name: {revision: folder}}."""

    repositories: dict[str, dict[str, Path]]

    def answer(self, content: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        for name, revisions in self.repositories.items():
            for revision, folder in revisions.items():
                files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
                if path == f"/api/datasets/{name}/revision/main":
                    info = {"id": name, "sha": revision, "siblings": [{"rfilename": file} for file in files]}
                    return self.answer(json.dumps(info).encode())
                if path == f"/api/datasets/{name}/tree/{revision}":
                    tree = [
                        {
                            "type": "file",
                            "path": place,
                            "size": file.stat().st_size,
                            "oid": sha1(place.encode()).hexdigest(),
                        }
                        for place, file in files.items()
                    ]
                    return self.answer(json.dumps(tree).encode(), **{"Content-Type": "application/json"})
                for place, file in files.items():
                    if path == f"/datasets/{name}/resolve/{revision}/{place}":
                        etag = f'"{sha1(place.encode()).hexdigest()}"'
                        return self.answer(file.read_bytes(), **{"X-Repo-Commit": revision, "ETag": etag})
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine, and an empty cache for what is downloaded from it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHub", (Hub,), {"repositories": {}}))
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield server
    server.shutdown()
    server.server_close()


def test_hub_at_the_pinned_revision_and_at_others(hub, sources):
    kind, other, mirror = KINDS["math"], "a" * 40, "someone/a-mirror-1.5"
    hub.RequestHandlerClass.repositories |= {
        kind.hub: {kind.revision: sources.snapshot, other: sources.snapshot},
        mirror: {"b" * 40: sources.snapshot},
    }
    source = open_source("math", None, None, BOTH)
    assert (source.origin, source.revision) == (kind.hub, kind.revision)
    assert texts(source, "test") == {row["problem"] for row in rows.MATH_TEST}
    assert source.record()["files"]["train"].keys() == {
        f"{subject}/train-00000-of-00001.parquet" for subject in rows.SUBJECTS
    }
    copy = open_source("math", str(sources.snapshot), None, BOTH)
    assert copy.fingerprint() == source.fingerprint()
    assert open_source("math", None, other, BOTH).revision == other
    found = open_source("math", mirror, None, BOTH)
    assert (found.origin, found.revision) == (mirror, "b" * 40)

    hub.RequestHandlerClass.repositories.clear()  # what is pinned was downloaded, and needs no hub any more
    assert open_source("math", None, None, BOTH).fingerprint() == source.fingerprint()
    with pytest.raises(OptionError, match="--math someone/else: could not be loaded from the hub.*--math PATH"):
        open_source("math", "someone/else", None, BOTH)


def test_hub_that_cannot_be_reached(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    named = rf"--dapo BytedTsinghua-SIA/DAPO-Math-17k at {KINDS['dapo'].revision}: .*network.* --dapo PATH"
    with pytest.raises(OptionError, match=named):
        open_source("dapo", None, None, ("train",))
    with pytest.raises(OptionError, match=r"--dapo open-r1/DAPO-Math-17k-Processed: could not be loaded.*--dapo PATH"):
        open_source("dapo", "open-r1/DAPO-Math-17k-Processed", None, ("train",))


def test_data_that_cannot_work(tmp_path, sources):
    def refused(option, path, named, splits=("train",), revision=None):
        with pytest.raises(OptionError, match=named):
            open_source(option, str(path), revision, splits)

    refused("dapo", tmp_path / "absent.parquet", "absent.parquet: no such file")
    refused("dapo", "absent.parquet", "absent.parquet: no such file")
    refused("dapo", "absent", "absent: no such file")
    csv = tmp_path / "dapo.csv"
    csv.write_text("prompt\n")
    refused("dapo", csv, "dapo.csv.*must be one of .parquet")
    refused("math", sources.dapo, "no split 'test'.*there are: train.*folder with files for train and test", BOTH)
    refused("math", sources.math, "--revision math=main: .*a copy here", BOTH, "main")
    refused(
        "numina",
        sources.dapo,
        r"--numina .*dapo-math-17k.parquet: has no column 'problem'.*its columns are: data_source",
    )
    row = {**rows.math_row("p", "1")}
    del row["type"]
    refused("math500", rows.write_jsonl(tmp_path / "m.jsonl", [row]), "no column 'type' or 'subject'", ("test",))
    empty = rows.write_parquet(tmp_path / "empty.parquet", rows.DAPO)
    pq.write_table(pq.read_table(empty).slice(0, 0), empty)
    refused("dapo", empty, "--dapo .*empty.parquet: there is no row in it")
    (tmp_path / "none.jsonl").write_text("")
    refused("dapo", tmp_path / "none.jsonl", "none.jsonl")
    (tmp_path / "broken.parquet").write_text("no parquet")
    refused("dapo", tmp_path / "broken.parquet", "--dapo .*broken.parquet: cannot be read")
    (tmp_path / "broken.jsonl").write_text('{"prompt": "p", "reward_model": \n{')
    refused("dapo", tmp_path / "broken.jsonl", "--dapo .*broken.jsonl: line 1 is not JSON")
    (tmp_path / "nothing").mkdir()
    refused("dapo", tmp_path / "nothing", "--dapo .*nothing: cannot be read")
