"""Every layout of a source gives the same rows, and what cannot be read is named."""

from __future__ import annotations

import json
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import datasets
import pyarrow as pa
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


def refusal(option, path, splits=("train",), revision=None) -> str:
    with pytest.raises(OptionError) as caught:
        open_source(option, str(path), revision, splits)
    return str(caught.value)


def write(path: Path, found: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        return rows.write_jsonl(path, found)
    if path.suffix == ".json":
        path.write_text(json.dumps(found))
        return path
    if path.suffix == ".parquet":
        return rows.write_parquet(path, found)
    table = pa.Table.from_pylist(found)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    return path


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".json", ".jsonl"])
def test_rows_in_the_order_of_the_files_with_the_columns_that_matter(ending, tmp_path):
    """Of JSON all columns, which cost nothing; a file without rows is as good as none."""
    write(tmp_path / f"train-a{ending}", rows.NUMINA[:2])
    write(tmp_path / f"train-c{ending}", rows.NUMINA[2:3])
    if ending == ".parquet":
        pq.write_table(pq.read_table(tmp_path / "train-a.parquet").slice(0, 0), tmp_path / "train-b.parquet")
    elif ending != ".arrow":
        (tmp_path / f"train-b{ending}").write_text("" if ending == ".jsonl" else "[]")
    source = open_source("numina", str(tmp_path), None, ("train",))
    wanted = ["problem", "answer", "question_type", "problem_is_valid", "solution_is_valid"]
    expected = rows.NUMINA[:3]
    if not ending.startswith(".json"):
        expected = [{name: row[name] for name in wanted} for row in expected]
    assert list(source.rows("train")) == expected
    names = [file.name for file in source.splits["train"]]
    assert names == sorted(names) and names[0] == f"train-a{ending}" and names[-1] == f"train-c{ending}"
    for file in source.splits["train"]:
        assert file.shown == f"--numina {file.path}" and file.path == tmp_path / file.name
        assert file.sha256 == sha256(file.path.read_bytes()).hexdigest() and file.is_json is ending.startswith(".json")
    assert source.fingerprint() == {"train": [file.sha256 for file in source.splits["train"]]}
    assert source.record() == {
        "origin": str(tmp_path),
        "revision": None,
        "files": {"train": {file.name: file.sha256 for file in source.splits["train"]}},
    }


def readme(folder: Path, configs: dict[str, str]) -> Path:
    """A data set of configs, {name: file of its train split}."""
    lines = ["---", "configs:"]
    for name, file in configs.items():
        lines += [f"- config_name: {name}", "  data_files:", "  - split: train", f"    path: {file}"]
        rows.write_jsonl(folder / file, rows.DAPO[:1])
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder


@pytest.mark.parametrize(
    ("configs", "files"),
    [
        ({"one": "a.jsonl", "default": "b.jsonl", "all": "c.jsonl"}, ["b.jsonl"]),
        ({"one": "a.jsonl", "all": "c.jsonl"}, ["c.jsonl"]),
        ({"one": "a.jsonl", "two": "b.jsonl"}, ["a.jsonl", "b.jsonl"]),
    ],
)
def test_which_configs_hold_everything(configs, files, tmp_path):
    for name in ("plain", "strange [x]"):
        source = open_source("dapo", str(readme(tmp_path / name, configs)), None, ("train",))
        assert [file.path for file in source.splits["train"]] == [tmp_path / name / file for file in files]


def test_folders_with_strange_names(tmp_path):
    for name in ("a [copy]", "me@here", "x,y", "50% *?"):
        source = open_source("math", str(rows.math_files(tmp_path / name / "data")), None, BOTH)
        assert texts(source, "train") == {row["problem"] for row in rows.MATH_TRAIN}
        (file,) = source.splits["test"]
        assert file.path == tmp_path / name / "data" / "math_test.jsonl" and file.name == "math_test.jsonl"


def test_a_single_split_serves_whatever_its_name(tmp_path):
    write(tmp_path / "a" / "validation.jsonl", rows.DAPO[:1])
    assert list(open_source("dapo", str(tmp_path / "a"), None, ("train",)).splits) == ["train"]
    write(tmp_path / "a" / "test.jsonl", rows.DAPO[:1])
    told = refusal("dapo", tmp_path / "a")
    assert told == (
        f"--dapo {tmp_path}/a: has no split 'train' (there are: validation, test); DAPO is read from a folder with "
        "files "
        "for train"
    )


@pytest.mark.parametrize(
    ("given", "revision", "asked", "origin"),
    [
        (None, None, (KINDS["dapo"].hub, KINDS["dapo"].revision), KINDS["dapo"].hub),
        (KINDS["dapo"].hub, None, (KINDS["dapo"].hub, KINDS["dapo"].revision), KINDS["dapo"].hub),
        (None, "main", (KINDS["dapo"].hub, "main"), KINDS["dapo"].hub),
        ("some/copy", None, ("some/copy", None), "some/copy"),
        ("some/copy", "v1", ("some/copy", "v1"), "some/copy"),
    ],
)
def test_what_the_hub_is_asked_for(given, revision, asked, origin, tmp_path, monkeypatch):
    def snapshot(name, repo_type, revision, allow_patterns):
        assert (name, revision) == asked and repo_type == "dataset"
        assert allow_patterns == ["README.md", "*.parquet", "*.jsonl", "*.json", "*.arrow"]
        return str(rows.write_jsonl(tmp_path / "link" / "resolved" / "train.jsonl", rows.DAPO).parent)

    (tmp_path / "link").symlink_to(tmp_path)  # as the hub's cache may be one
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    source = open_source("dapo", given, revision, ("train",))
    assert (source.origin, source.revision, source.kind) == (origin, "resolved", KINDS["dapo"])
    assert list(source.record()["files"]["train"]) == ["train.jsonl"] and list(source.rows("train")) == rows.DAPO


@pytest.mark.parametrize(
    ("given", "revision", "shown"),
    [("some/copy", None, "--dapo some/copy"), (None, "v1", f"--dapo {KINDS['dapo'].hub} at v1")],
)
def test_a_hub_that_fails(given, revision, shown, monkeypatch):
    def fail(*args, **options):
        raise ConnectionError("one\ntwo")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(OptionError) as caught:
        open_source("dapo", given, revision, ("train",))
    assert str(caught.value) == (
        f"{shown}: could not be loaded from the hub (ConnectionError: one); check the network and the name, or give "
        "a copy "
        "that you have: --dapo PATH"
    )


@pytest.mark.parametrize("name", ["/absent/x", "./x/y", "../x", "~/absent", "absent", "a/b/c", "some/data.jsonl"])
def test_places_that_are_not_there(name):
    assert refusal("dapo", name) == f"--dapo {name}: no such file or folder"


def test_refusals_word_by_word(tmp_path, sources, monkeypatch):
    copy = sources.dapo
    told = f"--revision dapo=v1: --dapo {copy} is a copy here, which has no revisions"
    assert refusal("dapo", copy, revision="v1") == told
    (tmp_path / "x.csv").touch()
    kinds = "the file must be one of .parquet, .jsonl, .json, .arrow"
    assert refusal("dapo", tmp_path / "x.csv") == f"--dapo {tmp_path}/x.csv: {kinds}"
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "train.csv").write_text("prompt,reward_model\n1,2\n")
    assert refusal("dapo", tmp_path / "csv") == f"--dapo {tmp_path}/csv/train.csv: {kinds}"
    assert refusal("math", copy, ("train", "test")) == (
        f"--math {copy}: has no split 'test' (there are: train); MATH is read from a folder with files for train and "
        "test"
    )
    several = tmp_path / "several"
    rows.write_jsonl(several / "train-1.jsonl", rows.DAPO[:1])
    rows.write_jsonl(several / "train-2.jsonl", [{"prompt": "p", "z": 1}])
    told = "has no column 'reward_model', which DAPO has; its columns are: prompt, z"
    assert refusal("dapo", several) == f"--dapo {several}/train-2.jsonl: {told}"
    without = rows.write_jsonl(tmp_path / "m.jsonl", [{"problem": 1, "solution": 2, "level": 3}])
    assert refusal("math500", without, ("test",)) == (
        f"--math500 {tmp_path}/m.jsonl: has no column 'type' or 'subject', which MATH-500 has; its columns are: "
        "problem, "
        "solution, level"
    )
    (tmp_path / "none.jsonl").write_text("\n")
    assert refusal("dapo", tmp_path / "none.jsonl") == f"--dapo {tmp_path}/none.jsonl: there is no row in it"
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "home.jsonl").write_text(json.dumps(rows.DAPO[0]))
    assert open_source("dapo", "~/home.jsonl", None, ("train",)).origin == str(tmp_path / "home.jsonl")


def test_opening_is_quiet(sources):
    verbosity = datasets.logging.get_verbosity()
    try:
        datasets.enable_progress_bars()
        datasets.logging.set_verbosity(datasets.logging.INFO)
        open_source("math", str(sources.snapshot), None, BOTH)
        assert datasets.are_progress_bars_disabled()
        assert datasets.logging.get_verbosity() == datasets.logging.CRITICAL
        datasets.enable_progress_bars()
        datasets.logging.set_verbosity(datasets.logging.INFO)
        open_source("math500", str(sources.math500), None, ("test",))  # JSON, which is not read by `datasets`
        assert datasets.are_progress_bars_disabled()
        assert datasets.logging.get_verbosity() == datasets.logging.CRITICAL
    finally:
        datasets.logging.set_verbosity(verbosity)


def test_columns_are_those_of_the_first_rows(tmp_path):
    """A column may be missing in a row of JSON."""
    first, second = dict(rows.DAPO[0]), dict(rows.DAPO[1])
    del first["reward_model"]
    source = open_source("dapo", str(rows.write_jsonl(tmp_path / "x.jsonl", [first, second])), None, ("train",))
    assert list(source.rows("train")) == [first, second]
    late = rows.write_jsonl(tmp_path / "late.jsonl", [first] * 1_000 + [second])
    assert "has no column 'reward_model'" in refusal("dapo", late)
    assert open_source("dapo", str(rows.write_jsonl(tmp_path / "y.jsonl", [first] * 999 + [second])), None, ("train",))
