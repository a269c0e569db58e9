"""What is given to commands: models, places, and files of rows. Refusals word by word, and what is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest

from lens_openrlhf import inputs
from lens_openrlhf.inputs import OptionError

QWEN = {"model_type": "qwen2", "max_position_embeddings": 64, "num_attention_heads": 2}
ROWS = [{"prompt": "1 + 1 =", "label": "2"}, {"prompt": "é", "label": None}]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder to stand in, no hub, and an empty cache of it."""
    import datasets.config
    import huggingface_hub.constants as constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    return tmp_path


def refusal(function, *arguments, **keywords) -> str:
    with pytest.raises(OptionError) as caught:
        found = function(*arguments, **keywords)
        if hasattr(found, "__next__"):
            list(found)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# models


def model(name: str, **files: object) -> str:
    """A folder with JSON files; `__` in a name is a dot."""
    for file, content in {"config__json": QWEN, **files}.items():
        path = Path(name) / file.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return name


@pytest.mark.parametrize(
    "name", ["absent", "a/b/c", "./a/b", "../b", "~/absent", "~absent/x", "/absent/x", "/absent", "a/b/"]
)
def test_folders_that_are_not_there(name):
    for keywords in ({}, {"allow_code": True}, {"quick": True}):
        assert refusal(inputs.check_model, "--model", name, **keywords) == f"--model {name}: no such folder"


def test_folders_without_a_model():
    Path("some/folder").mkdir(parents=True)
    Path("some/folder/config.json").mkdir()
    told = "--model some/folder: the folder has no config.json, so it is not a Hugging Face model"
    assert refusal(inputs.check_model, "--model", "some/folder") == told
    assert refusal(inputs.check_model, "--model", "some/folder", allow_code=True) == told


def test_a_folder_in_the_home_is_found(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    model("m")
    assert inputs._model_folder("--model", "~/m") == place / "m" and inputs.check_model("--model", "~/m") is None
    assert inputs._model_folder("--model", "some/name") is None


def test_a_config_that_transformers_does_not_know():
    name = model("m", config__json={"model_type": "no_such_kind"})
    told = refusal(inputs.check_model, "--model", name)
    assert told.startswith("--model m: config.json is none of a model that transformers knows (")
    assert "no_such_kind" in told and told.endswith("); copy the model again")
    assert inputs.check_model("--model", name, quick=True) is None
    assert inputs.check_model("--model", name, allow_code=True) is None


def test_a_config_at_which_transformers_says_nothing(monkeypatch):
    from transformers import AutoConfig

    def fail(folder, trust_remote_code):
        assert (folder, trust_remote_code) == (Path("m"), False)
        raise KeyError

    monkeypatch.setattr(AutoConfig, "from_pretrained", fail)
    assert refusal(inputs.check_model, "--model", model("m")) == (
        "--model m: config.json is none of a model that transformers knows (KeyError); copy the model again"
    )


@pytest.mark.parametrize("quick", [False, True])
def test_names_of_the_hub_are_asked_for(quick, monkeypatch):
    """With code allowed, too; the reason is the first line of what was said."""
    import huggingface_hub
    from transformers import AutoConfig

    asked = []

    def fail(name, trust_remote_code):
        asked.append((name, trust_remote_code))
        raise ValueError("one\ntwo")

    def snapshot(name, allow_patterns):
        assert (name, allow_patterns) == ("some/name", ["*config*.json", "custom_generate/generate.py"])
        return model("snapshot")

    monkeypatch.setattr(AutoConfig, "from_pretrained", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    told = (
        "--model some/name: neither a folder here nor a model that could be loaded from the hub (one); give the path "
        "of a downloaded model, or check the name and the network"
    )
    for allow_code in (False, True):
        assert refusal(inputs.check_model, "--model", "some/name", allow_code, quick=quick) == told
    assert asked == [("some/name", False), ("some/name", True)]

    def gone(name, allow_patterns):
        raise OSError("  ")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", gone)
    assert "from the hub (OSError); give" in refusal(inputs.check_model, "--model", "some/name")


def brings(place: str, option: str = "--model m", code: str = "--model.allow_remote_code") -> str:
    return (
        f"{option}: brings code of its own ({place}), which would run with your rights; read it and give {code} if you "
        "trust it, or take it out of a copy of the model (transformers has code for most)"
    )


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"config__json": {**QWEN, "auto_map": {"A": "b.C"}}}, 'config.json: auto_map {"A": "b.C"}'),
        ({"my_config_1__json": {"x": [{"custom_pipelines": 3}]}}, "my_config_1.json: custom_pipelines 3"),
        ({"a_config__json": [[{"auto_map": "x" * 300}]]}, f'a_config.json: auto_map "{"x" * 199}'),
        ({"custom_generate/generate__py": ""}, "custom_generate/generate.py"),
        ({"z_config__json": {"auto_map": 1}, "b_config__json": {"auto_map": 2}}, "b_config.json: auto_map 2"),
    ],
)
def test_models_that_bring_code(files, named):
    name = model("m", **files)
    assert refusal(inputs.check_model, "--model", name) == brings(named)
    assert refusal(inputs.check_model, "--model", name, quick=True) == brings(named)
    assert refusal(inputs.check_model, "--model", name, code_option="--code") == brings(named, code="--code")
    assert inputs.check_model("--model", name, allow_code=True) is None


def test_models_that_bring_none():
    model("m", tokenizer_config__json={"auto_map": {}, "custom_pipelines": None}, other__json={"auto_map": 1})
    model("m", adapter_config__json={"base_model_name_or_path": "some/absent"})  # which the folder is whole without
    Path("m/auto_map.py").touch()
    assert inputs.check_model("--model", "m") is None


def test_settings_that_cannot_be_read():
    name = model("m", b_config__json="{")
    told = refusal(inputs.check_model, "--model", name)
    assert told.startswith("--model m: b_config.json cannot be read as JSON (Expecting property name")


def speculator(verifier: object) -> dict:
    return {**QWEN, "speculators_config": {"verifier": {"name_or_path": verifier}}}


def test_models_that_name_others():
    model("code", tokenizer_config__json={"auto_map": 1})
    model("m", config__json=speculator("./code"))
    model("between", config__json=speculator("./m"))
    told = brings("tokenizer_config.json: auto_map 1", "--model m: config.json names the model ./code")
    assert refusal(inputs.check_model, "--model", "m") == told
    assert refusal(inputs.check_model, "--model", "between") == brings(
        "tokenizer_config.json: auto_map 1",
        "--model between: config.json names the model ./m: config.json names the model ./code",
    )
    model("a", config__json=speculator("./b"))
    model("b", config__json=speculator("./a"))
    assert inputs.check_model("--model", "./a") is None  # in a circle, and none has code
    for nothing in ({}, {"speculators_config": 1}, {"speculators_config": {"verifier": None}}):
        assert inputs._model_named("config.json", nothing, of_hub=True) is None
    base = {"base_model_name_or_path": "x", **speculator("y")}
    assert inputs._model_named("config.json", base, of_hub=False) == "y"
    assert inputs._model_named("adapter_config.json", base, of_hub=True) == "x"
    assert inputs._model_named("adapter_config.json", base, of_hub=False) is None
    assert inputs._model_named("other_config.json", base, of_hub=True) is None


@pytest.mark.parametrize(("error", "reason"), [(ValueError("one\ntwo"), "one"), (KeyError(), "KeyError")])
def test_tokenizers(error, reason, monkeypatch):
    from transformers import AutoTokenizer

    asked = []

    def load(model, trust_remote_code):
        asked.append((model, trust_remote_code))
        if model == "bad":
            raise error
        return "tokenizer"

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", load)
    assert inputs.load_tokenizer("--model", "good", True) == "tokenizer"
    assert refusal(inputs.load_tokenizer, "--model", "bad", False) == (
        f"--model bad: its tokenizer cannot be loaded ({reason}); copy the tokenizer's files again"
    )
    assert asked == [("good", True), ("bad", False)]


# places


def test_several_places():
    Path("a,b").touch()
    assert inputs.data_names(" a , b/c,d ") == ["a", "b/c", "d"] and inputs.data_names("a") == ["a"]
    assert inputs.data_names(" a,b ") == ["a,b"] and inputs.data_names("a,b,c") == ["a", "b", "c"]


def test_places_with_a_split(monkeypatch, place):
    monkeypatch.setenv("HOME", str(place))
    Path("x@y").touch()
    Path("x@").touch()
    for name, found in {
        "some/data@test": ("some/data", "test"),
        "some/data": ("some/data", ""),
        "a@b@c": ("a@b", "c"),
        "a@b/c": ("a@b/c", ""),
        "x@y": ("x@y", ""),
        "~/x@y": ("~/x@y", ""),
        "x@z": ("x", "z"),
        "": ("", ""),
    }.items():
        assert inputs.place_and_split(name) == found, name


@pytest.mark.parametrize("sign", sorted(inputs.SPECIAL))
def test_a_plain_name_for_a_strange_one(sign, place):
    path = place / f"a{sign}" / "rows.jsonl"
    path.parent.mkdir()
    path.write_text("rows")
    with inputs.plain_name(path) as plain:
        assert inputs.SPECIAL.isdisjoint(str(plain)) and plain.name == "data.jsonl" and plain.read_text() == "rows"
        assert plain.parent.name.startswith("lens-")
    assert not plain.parent.exists() and path.exists()
    with inputs.plain_name(Path(f"a{sign}/rows.jsonl")) as plain:
        assert plain.read_text() == "rows"
    with inputs.plain_name(place / f"rows.a{sign}") as plain:
        assert plain.name == "data"


def test_a_plain_name_stays(place):
    assert set("[]*?@,") == inputs.SPECIAL
    with inputs.plain_name(place / "a b%") as plain:
        assert plain == place / "a b%"


def test_files_of_data(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    for ending in (".json", ".jsonl", ".csv", ".parquet", ".arrow"):
        (place / f"rows{ending}").touch()
        assert inputs.data_file("--data", f"rows{ending}") == Path(f"rows{ending}")
        assert inputs.data_file("--data", f"~/rows{ending}") == place / f"rows{ending}"
        assert refusal(inputs.data_file, "--data", f"absent{ending}") == f"--data absent{ending}: no such file"
    Path("folder").mkdir()
    Path("folder.jsonl").mkdir()
    Path("dangling.jsonl").symlink_to("nowhere")
    for name in ("folder", "some/data", "absent", "absent.txt", "."):
        assert inputs.data_file("--data", name) is None
    assert refusal(inputs.data_file, "--data", "folder.jsonl") == (
        "--data folder.jsonl: is a folder; name a file, such as prompts.jsonl"
    )
    assert refusal(inputs.data_file, "--data", "dangling.jsonl") == (
        "--data dangling.jsonl: is no file that can be read; name a file, such as prompts.jsonl"
    )
    for name in ("rows.txt", "rows.jsonl.gz", "rows"):
        Path(name).touch()
        assert refusal(inputs.data_file, "--data", name) == (
            f"--data {name}: is none of .json, .jsonl, .csv, .parquet, .arrow, which can be read; unpack it, or save "
            "it as one of these"
        )


# rows


def raised(error: Exception, cause: object = None) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError(" "), "ValueError"),
        (raised(RuntimeError("outer"), KeyError("inner")), "'inner'"),
        (raised(RuntimeError("outer"), KeyboardInterrupt("inner")), "outer"),
        (raised(RuntimeError("outer"), StopIteration()), "there is no row in it"),
        (FileNotFoundError(2, "No such file", "x"), "No such file"),
    ],
)
def test_what_goes_wrong_in_reading(error, reason):
    def read(*kind):
        with inputs.readable("--data x", *kind):
            raise error

    assert refusal(read) == f"--data x: cannot be read ({reason}); mend it, or name another"
    assert refusal(read, "csv") == f"--data x: cannot be read as csv ({reason}); mend it, or name another"


def test_what_is_told_already_is_not_told_twice():
    def read():
        with inputs.readable("--data x"):
            raise OptionError("told")

    assert refusal(read) == "told"
    with inputs.readable("--data x"):
        pass


def written(path: str, rows: list[dict] = ROWS) -> Path:
    frame, path = pandas.DataFrame(rows), Path(path)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        import pyarrow as pa

        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("ending", inputs.READABLE)
def test_rows_of_every_format(ending):
    word = "line" if ending == ".jsonl" else "row"
    for name in (f"rows{ending}", f"a [b] *{ending}"):
        rows = list(inputs.rows_of_file("--data", written(name)))
        assert rows == [(f"{word} 1", {"prompt": "1 + 1 =", "label": "2" if ending != ".csv" else 2.0}), rows[1]]
        assert rows[1][0] == f"{word} 2" and rows[1][1] == ROWS[1]


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
def test_rows_beyond_one_batch(ending):
    rows = [{"n": n, "m": -n} for n in range(2_001)]
    path = written(f"rows{ending}", rows)
    assert [table.num_rows for table in inputs.tables("--data", path)] == [1_000, 1_000, 1]
    assert list(inputs.rows_of_file("--data", path)) == [(f"row {n + 1}", row) for n, row in enumerate(rows)]
    names = [table.column_names for table in inputs.tables("--data", path, ["m"])]
    assert names == [["m"] if ending == ".parquet" else ["n", "m"]] * 3


def test_reading_is_quiet_and_leaves_no_copy(place):
    import datasets

    verbosity = datasets.logging.get_verbosity()
    try:
        datasets.enable_progress_bars()
        datasets.logging.set_verbosity(datasets.logging.INFO)
        assert sum(table.num_rows for table in inputs.tables("--data", written("rows.csv"))) == 2
        assert datasets.are_progress_bars_disabled()
        assert datasets.logging.get_verbosity() == datasets.logging.CRITICAL
    finally:
        datasets.logging.set_verbosity(verbosity)
    assert list(place.rglob("*.arrow")) == []


def test_files_without_rows():
    Path("a.csv").write_text("a,b\n")
    pandas.DataFrame({"a": pandas.Series([], dtype="int64")}).to_parquet("a.parquet")
    for name in ("a.csv", "a.parquet"):
        assert list(inputs.rows_of_file("DATA", Path(name))) == []
    Path("a.jsonl").touch()
    said = refusal(inputs.tables, "DATA a.jsonl", Path("a.jsonl"))
    assert said == "DATA a.jsonl: cannot be read as json (there is no row in it); mend it, or name another"


def test_columns_of_parquet():
    path = written("rows.parquet", [{"a": 1, "b": 2, "c": 3}])
    assert inputs.parquet_columns("--data", path) == ["a", "b", "c"]
    assert inputs.parquet_columns("--data", written("rows.csv")) == []
    for wanted, found in {
        ("a", "c"): {"a": 1, "c": 3},
        ("a", "z"): {"a": 1, "b": 2, "c": 3},
        (): {"a": 1, "b": 2, "c": 3},
    }.items():
        assert list(inputs.rows_of_file("--data", path, wanted)) == [("row 1", found)]
    Path("bad.parquet").write_text("bad")
    for function in (inputs.parquet_columns, inputs.rows_of_file):
        told = refusal(function, "--data", Path("bad.parquet"))
        assert told.startswith("--data bad.parquet: cannot be read as parquet (")
    told = refusal(inputs.rows_of_file, "--data", Path("absent.csv"))
    assert told.startswith("--data absent.csv: cannot be read as csv (")


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("x.jsonl", '{"a": 1}\n\n  \n{"a": 2}', [("line 1", {"a": 1}), ("line 4", {"a": 2})]),
        ("x.jsonl", "", []),
        ("x.json", "", []),
        ("x.json", " \n", []),
        ("x.json", '[{"a": 1},\n {"a": 2}]', [("row 1", {"a": 1}), ("row 2", {"a": 2})]),
        ("x.json", "[]", []),
        ("x.json", '{"a":\n 1}', [("row 1", {"a": 1})]),
        ("x.json", '{"a": 1}\n{"a": 2}\n', [("line 1", {"a": 1}), ("line 2", {"a": 2})]),
        ("x.json", '\n{"a": "\\\\ud83d\\\\ude00"}', [("row 1", {"a": "\N{GRINNING FACE}"})]),
    ],
)
def test_rows_of_json(name, content, rows):
    Path(name).write_text(content.replace("\\\\", "\\"))
    assert list(inputs.json_rows("--data x", Path(name))) == rows


HALF = "{} has {}, half of a character, which is no text; mend it"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.jsonl", '{"a": 1}\n\n{"a": 2\n', "line 3 is not JSON (Expecting ',' delimiter)"),
        ("x.jsonl", '{"a": 1}\n[1]', 'line 2 is no object, such as {"prompt": …, "label": …}'),
        ("x.jsonl", "[" * 100_000, "line 1 is not JSON (maximum recursion depth exceeded while decoding a JSON array"),
        ("x.json", '[{"a": 1},\n5]', 'row 2 is no object, such as {"prompt": …, "label": …}'),
        ("x.json", "null", 'row 1 is no object, such as {"prompt": …, "label": …}'),
        ("x.json", '[{"a": 1},\n{]', "line 2 is not JSON (Expecting property name enclosed in double quotes)"),
        ("x.json", '{"a": 1}\n{"a"', "line 2 is not JSON (Expecting ':' delimiter)"),
        ("x.json", "[" * 100_000, "is not JSON that can be read (it is too deep)"),
        (
            "x.json",
            '[{"a": 1}, {"b": ["\\ude00"]}]',
            "row 2 has \\ude00, half of a character, which is no text; mend it",
        ),
        ("x.jsonl", '{}\n{"\\ud83d": 1}', HALF.format("line 2", "\\ud83d")),
    ],
)
def test_json_that_is_none(name, content, told):
    Path(name).write_text(content)
    said = refusal(inputs.json_rows, "--data x", Path(name))
    assert said.startswith(f"--data x: {told}"), said


def test_json_that_is_not_there():
    assert refusal(inputs.json_rows, "--data x", Path("absent.jsonl")) == (
        "--data x: cannot be read (No such file or directory); mend it, or name another"
    )


@pytest.mark.parametrize(
    ("text", "may"),
    [(b"\\ud83d", True), (b"\\uD83D", True), (b"\xed\xa0", True), (b"\\u0041 ud83d", False), ("é".encode(), False)],
)
def test_where_halves_of_characters_are_looked_for(text, may):
    assert inputs._may_have_halves(text) is may
