"""What commands are given: models and files of rows, and what is said of those that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lens_openrlhf.inputs import (
    OptionError,
    check_model,
    data_file,
    data_names,
    load_tokenizer,
    parquet_columns,
    place_and_split,
    plain_name,
    readable,
    rows_of_file,
    tables,
)

PLAIN = {"model_type": "qwen2"}


def refusal(function, *args, **kwargs) -> str:
    with pytest.raises(OptionError) as refused:
        function(*args, **kwargs)
    return str(refused.value)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """A folder to stand in, which is the home, too; and no hub."""
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return tmp_path


def model(folder: str, files: dict[str, object]) -> str:
    for name, content in {"config.json": PLAIN, **files}.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


# Models.


def test_where_a_model_can_be(place):
    model("here/qwen", {})
    for name in ("here/qwen", "./here/qwen", "~/here/qwen", str(place / "here/qwen")):
        check_model("MODEL", name)
    Path("empty").mkdir()
    Path("here/config.json").mkdir()
    for name in ("empty", "here"):
        said = f"MODEL {name}: the folder has no config.json, so it is not a Hugging Face model"
        assert refusal(check_model, "MODEL", name) == said
    for name in ("absent", "./a/absent", "~/absent", str(place / "absent"), "a/b/absent", "~a/b", ".a/b", "/absent"):
        assert refusal(check_model, "MODEL", name) == f"MODEL {name}: no such folder"
        assert refusal(check_model, "MODEL", name, allow_code=True) == f"MODEL {name}: no such folder"


def test_what_transformers_is_asked(monkeypatch):
    from transformers import AutoConfig

    asked = []
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda name, **given: asked.append((name, given)))
    model("here", {})
    for quick in (False, True):
        for allow_code in (False, True):
            check_model("MODEL", "here", allow_code, quick=quick)
    assert asked == [(Path("here"), {"trust_remote_code": False})]
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *args, **given: asked.append((args, given)) or "here"
    )
    for quick in (False, True):
        check_model("MODEL", "some/model", quick=quick)
    download = (("some/model",), {"allow_patterns": ["*config*.json", "custom_generate/generate.py"]})
    assert asked[1:] == [download, ("some/model", {"trust_remote_code": False})] * 2
    check_model("MODEL", "some/model", allow_code=True)
    assert asked[5:] == [("some/model", {"trust_remote_code": True})]


@pytest.mark.parametrize(
    ("error", "said"), [(KeyError("x\ny"), "'x\\ny'"), (RuntimeError("  a\nb"), "a"), (RuntimeError(), "RuntimeError")]
)
def test_a_config_that_transformers_does_not_take(monkeypatch, error, said):
    from transformers import AutoConfig

    def raises(*_, **__):
        raise error

    model("here", {})
    monkeypatch.setattr(AutoConfig, "from_pretrained", raises)
    assert refusal(check_model, "MODEL", "here") == (
        f"MODEL here: config.json is none of a model that transformers knows ({said}); copy the model again"
    )
    of_hub = (
        f"MODEL some/model: neither a folder here nor a model that could be loaded from the hub ({said}); give the "
        "path of a downloaded model, or check the name and the network"
    )
    assert refusal(check_model, "MODEL", "some/model", allow_code=True) == of_hub
    error = OSError(*error.args)
    monkeypatch.setattr("huggingface_hub.snapshot_download", raises)
    assert refusal(check_model, "MODEL", "some/model") == of_hub.replace("RuntimeError", "OSError").replace(
        "('x\\ny')", "(x)"
    )


CODE = (
    "MODEL {name}: brings code of its own ({place}), which would run with your rights; read it and give {option} if "
    "you trust it, or take it out of a copy of the model (transformers has code for most)"
)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"config.json": PLAIN | {"auto_map": {"A": "b.C"}}}, 'config.json: auto_map {"A": "b.C"}'),
        ({"config.json": PLAIN | {"x": [1, {"y": {"auto_map": "b"}}]}}, 'config.json: auto_map "b"'),
        ({"config.json": PLAIN | {"custom_pipelines": ["b"]}}, 'config.json: custom_pipelines ["b"]'),
        ({"config.json": PLAIN | {"auto_map": "x" * 300}}, 'config.json: auto_map "' + "x" * 199),
        (
            {"b_config.json": {"auto_map": "b"}, "a_config.json": {"auto_map": "a"}, "other.json": {"auto_map": "o"}},
            'a_config.json: auto_map "a"',
        ),
        ({"custom_generate/generate.py": "pass"}, "custom_generate/generate.py"),
    ],
)
def test_code_of_a_models_own_is_named_with_its_place(files, named):
    name = model("here", files)
    option = "--model.allow_remote_code"
    assert refusal(check_model, "MODEL", name) == CODE.format(name=name, place=named, option=option)
    assert refusal(check_model, "MODEL", name, code_option="--trust") == CODE.format(
        name=name, place=named, option="--trust"
    )
    check_model("MODEL", name, allow_code=True)


def test_settings_that_name_no_code():
    empty = {"auto_map": {}, "custom_pipelines": None, "x": {"auto_map": ""}}
    check_model("MODEL", model("here", {"config.json": PLAIN | empty, "my.json": {"auto_map": "a"}}), quick=True)
    model("here", {"generation_config.json": "{"})
    assert refusal(check_model, "MODEL", "here").startswith(
        "MODEL here: generation_config.json cannot be read as JSON (Expecting property name"
    )


def test_models_that_are_loaded_for_another(monkeypatch):
    """vLLM's verifier wherever the model is; peft's base where the model is on the hub, as a folder has its own."""
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: f"hub/{name}")
    from transformers import AutoConfig

    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *_, **__: None)
    code = {"adapter_config.json": {"auto_map": "a.B"}}

    def verified_by(name: str) -> dict:
        return {"config.json": PLAIN | {"speculators_config": {"verifier": {"name_or_path": name}}}}

    model("hub/some/code", code)
    model("hub/some/base", {"adapter_config.json": {"base_model_name_or_path": "some/code"}})
    model("hub/some/speculator", verified_by("some/base"))
    model("here", verified_by("some/code"))
    model("adapter", {"adapter_config.json": {"base_model_name_or_path": "some/code"}})
    for name in ("one", "two"):
        model(f"hub/some/{name}", verified_by({"one": "some/two", "two": "some/one"}[name]))
    place, option = 'adapter_config.json: auto_map "a.B"', "--model.allow_remote_code"
    for name, by in (
        ("some/base", "some/base: adapter_config.json names the model some/code"),
        ("here", "here: config.json names the model some/code"),
        (
            "some/speculator",
            "some/speculator: config.json names the model some/base: adapter_config.json names the model some/code",
        ),
    ):
        assert refusal(check_model, "MODEL", name) == CODE.format(name=by, place=place, option=option)
    for name in ("adapter", "some/one", "some/two"):
        check_model("MODEL", name)
    model("odd", {"config.json": PLAIN | {"speculators_config": {"verifier": ["x"]}}})
    check_model("MODEL", "odd")


def test_a_tokenizer(monkeypatch):
    from transformers import AutoTokenizer

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda name, **given: (name, given))
    for allow_code in (False, True):
        assert load_tokenizer("TOKENIZER", "here", allow_code) == ("here", {"trust_remote_code": allow_code})
    for error, reason in ((ValueError("one\ntwo"), "one"), (KeyError(), "KeyError")):

        def raises(*_, error=error, **__):
            raise error

        monkeypatch.setattr(AutoTokenizer, "from_pretrained", raises)
        assert refusal(load_tokenizer, "TOKENIZER", "here", False) == (
            f"TOKENIZER here: its tokenizer cannot be loaded ({reason}); copy the tokenizer's files again"
        )


# Names of data.


def test_several_places_in_one_option():
    assert data_names(" a , b/c,d ") == ["a", "b/c", "d"] and data_names("a") == ["a"]
    Path("x,y").touch()
    assert data_names(" x,y ") == ["x,y"] and data_names("x,y,z") == ["x", "y", "z"]


def test_a_place_and_its_split():
    Path("me@corp").mkdir()
    Path("me@corp/a.jsonl").touch()
    for name, found in {
        "a/b@train": ("a/b", "train"),
        "a@b@test": ("a@b", "test"),
        "a/b": ("a/b", ""),
        "a/b@": ("a/b", ""),
        "me@corp/a.jsonl": ("me@corp/a.jsonl", ""),
        "me@corp/absent.jsonl": ("me@corp/absent.jsonl", ""),
        "me@corp": ("me@corp", ""),
        "~/me@corp": ("~/me@corp", ""),
        "me@corp@test": ("me@corp", "test"),
    }.items():
        assert place_and_split(name) == found, name


@pytest.mark.parametrize("character", "[]*?@,")
def test_a_path_without_what_others_take_for_patterns(place, character):
    file = Path(f"a{character}b/rows.jsonl")
    file.parent.mkdir()
    file.write_text("rows")
    for path in (file, place / file):
        with plain_name(path) as name:
            assert name.is_symlink() and name.name == "data.jsonl" and name.read_text() == "rows"
            assert not set("[]*?@,") & set(str(name)) and name.parent.name.startswith("lens-")
        assert not name.parent.exists()
    with plain_name(Path(f"rows.j{character}")) as name:
        assert name.name == "data"
    with plain_name(place / "rows.jsonl") as name:
        assert name == place / "rows.jsonl"


def test_files_of_data(place):
    endings = (".json", ".jsonl", ".csv", ".parquet", ".arrow")
    for ending in endings:
        Path(f"rows{ending}").touch()
        for name in (f"rows{ending}", f"~/rows{ending}"):
            assert data_file("DATA", name) == Path(name).expanduser()
        assert refusal(data_file, "DATA", f"no{ending}") == f"DATA no{ending}: no such file"
    Path("folder.csv").mkdir()
    Path("folder.old").mkdir()
    Path("away.csv").symlink_to("nowhere")
    Path("rows.txt").touch()
    for name, said in {
        "folder.csv": "is a folder; name a file, such as prompts.jsonl",
        "away.csv": "is no file that can be read; name a file, such as prompts.jsonl",
        "rows.txt": f"is none of {', '.join(endings)}, which can be read; unpack it, or save it as one of these",
    }.items():
        assert refusal(data_file, "DATA", name) == f"DATA {name}: {said}"
    for name in ("folder.old", ".", "some/set", "absent", "absent.txt"):
        assert data_file("DATA", name) is None


# Rows.


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("  one\ntwo"), "one"),
        (ValueError(), "ValueError"),
        (OSError(2, "No such file", "/x"), "No such file"),
        (caused(ValueError("failed"), KeyError("why")), "'why'"),
        (caused(ValueError("failed"), KeyboardInterrupt()), "failed"),
        (StopIteration(), "there is no row in it"),
        (caused(RuntimeError("generator"), StopIteration()), "there is no row in it"),
    ],
)
def test_what_goes_wrong_in_reading_is_one_line(error, said):
    def read(*kind):
        with readable("DATA a.csv", *kind):
            raise error

    assert refusal(read) == f"DATA a.csv: cannot be read ({said}); mend it, or name another"
    assert refusal(read, "csv") == f"DATA a.csv: cannot be read as csv ({said}); mend it, or name another"


def test_what_is_a_refusal_already_stays_one():
    def read():
        with readable("DATA", "csv"):
            raise OptionError("no")

    assert refusal(read) == "no"
    with pytest.raises(KeyboardInterrupt), readable("DATA"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("ending", ["csv", "parquet", "arrow", "jsonl"])
def test_tables_of_a_thousand_rows(place, ending):
    path = place / f"a [b]/rows.{ending}"
    path.parent.mkdir()
    frame = pandas.DataFrame({"a": range(2001), "b": [f"x{n}" for n in range(2001)]})
    if ending == "csv":
        frame.to_csv(path, index=False)
    elif ending == "parquet":
        frame.to_parquet(path)
    elif ending == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        table = pa.Table.from_pandas(frame)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    found = list(tables("DATA", path))
    assert [len(table) for table in found] == [1000, 1000, 1]
    assert [row["b"] for table in found for row in table.to_pylist()] == list(frame["b"])
    of_one = next(tables("DATA", path, ["a"])).column_names
    assert of_one == (["a"] if ending == "parquet" else ["a", "b"])
    rows = list(rows_of_file("DATA", path))
    word = "line" if ending == "jsonl" else "row"
    assert [place for place, _ in rows] == [f"{word} {n}" for n in range(1, 2002)]
    assert [row["a"] for _, row in rows] == list(range(2001))


def test_files_without_rows_and_damaged_ones(place):
    Path("a.csv").write_text("a,b\n")
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), "a.parquet")
    for name in ("a.csv", "a.parquet"):
        assert list(rows_of_file("DATA", Path(name))) == []
    Path("a.jsonl").touch()
    said = refusal(list, tables("DATA a.jsonl", Path("a.jsonl")))
    assert said == "DATA a.jsonl: cannot be read as json (there is no row in it); mend it, or name another"
    Path("b.parquet").write_bytes(b"none")
    assert refusal(list, rows_of_file("DATA", Path("b.parquet"))).startswith(
        "DATA b.parquet: cannot be read as parquet ("
    )


def test_columns_of_parquet_files_alone(place):
    pq.write_table(pa.table({"b": [1], "a": [2]}), "rows.parquet")
    assert parquet_columns("DATA", Path("rows.parquet")) == ["b", "a"]
    assert parquet_columns("DATA", Path("absent.jsonl")) == []
    Path("rows.parquet").write_bytes(b"no parquet")
    assert refusal(parquet_columns, "DATA", Path("rows.parquet")).startswith(
        "DATA rows.parquet: cannot be read as parquet (Parquet magic bytes not found"
    )


def found(ending: str, text: str) -> list[tuple[str, dict]]:
    path = Path(f"rows.{ending}")
    path.write_text(text)
    return list(rows_of_file("DATA", path))


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ('{"a": 1}\n\n  \n{"a": 2}\n', ["line 1", "line 4"]),
        ('{"a": 1}\n{"a": 2}', ["line 1", "line 2"]),
        ("", []),
        ("\n \n", []),
    ],
)
def test_lines_of_json(text, places):
    for ending in ("jsonl", "json"):
        assert found(ending, text) == [(place, {"a": n}) for n, place in enumerate(places, 1)]


def test_json_as_a_whole():
    assert found("json", '[{"a": 1},\n {"a": 2}]') == [("row 1", {"a": 1}), ("row 2", {"a": 2})]
    assert found("json", '{"a":\n 1}') == [("row 1", {"a": 1})] and found("json", "[]") == []
    no_object = 'is no object, such as {"prompt": …, "label": …}'
    for ending, text, said in (
        ("json", "null", f"row 1 {no_object}"),
        ("json", '[{"a": 1}, 5]', f"row 2 {no_object}"),
        ("jsonl", '{"a": 1}\n\n[]\n', f"line 3 {no_object}"),
        ("json", '{"a": 1}\n"x"\n', f"line 2 {no_object}"),
        ("json", '[{"a": 1},\n{"a"}]', "line 2 is not JSON (Expecting ':' delimiter)"),
        ("json", '{"a": 1}\n{"a": }\n', "line 2 is not JSON (Expecting value)"),
        ("jsonl", '{"a": 1}\n\n{"a": }\n', "line 3 is not JSON (Expecting value)"),
        ("json", "[" * 100_000, "is not JSON that can be read (it is too deep)"),
        ("json", '[{"a": 1}, {"a": "\\ud83d"}]', "row 2 has \\ud83d, half of a character, which is no text; mend it"),
        ("jsonl", '{"a": 1}\n{"\\udc00": 1}', "line 2 has \\udc00, half of a character, which is no text; mend it"),
    ):
        assert refusal(found, ending, text) == f"DATA rows.{ending}: {said}"
    assert refusal(found, "jsonl", "[" * 100_000).startswith("DATA rows.jsonl: line 1 is not JSON (maximum recursion")
