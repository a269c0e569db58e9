"""What an evaluation's folder holds, whole or not at all."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lens_openrlhf.evaluation import folder
from lens_openrlhf.inputs import OptionError

ROW = {
    **{"prompt_id": 0, "sample": 0, "prompt": "p", "label": "l", "response": "r", "tokens": 3, "truncated": True},
    **{"correctness": 0.5, "outcome": "wrong", "answer": "a", "same_as": 1},
}


def test_columns_have_their_types_and_come_in_order(tmp_path):
    folder.write_part(tmp_path, 3, [ROW | {"level": "2", "topic": None}], ["topic", "level"])
    path = tmp_path / "samples" / "part-00003.parquet"
    assert [path.name for path in (tmp_path / "samples").iterdir()] == [path.name]
    schema = pq.read_schema(path)
    assert dict(zip(schema.names, schema.types, strict=True)) == {
        **{"prompt_id": pa.int32(), "sample": pa.int32(), "prompt": pa.string(), "label": pa.string()},
        **{"response": pa.string(), "tokens": pa.int32(), "truncated": pa.bool_(), "correctness": pa.float64()},
        **{"outcome": pa.string(), "answer": pa.string(), "same_as": pa.int32()},
        **{"topic": pa.string(), "level": pa.string()},
    }
    assert schema.names == [*folder.RESERVED, "topic", "level"] and folder.RESERVED == tuple(ROW)
    assert pq.read_table(path).to_pylist() == [ROW | {"topic": None, "level": "2"}]


def test_a_part_that_cannot_be_written_is_not_there(tmp_path):
    with pytest.raises(pa.ArrowInvalid):
        folder.write_part(tmp_path, 0, [ROW | {"tokens": "many"}], [])
    assert list((tmp_path / "samples").iterdir()) == []


def test_answers_are_read_in_the_order_of_prompts_without_their_texts(tmp_path):
    def rows(*pairs: tuple[int, int]) -> list[dict]:
        return [ROW | {"prompt_id": p, "sample": s, "tokens": 10 * p + s, "level": str(p)} for p, s in pairs]

    folder.write_part(tmp_path, 0, rows((10, 1), (2, 0)), ["level"])
    folder.write_part(tmp_path, 1, rows((10, 0), (2, 1)), ["level"])
    (tmp_path / "samples" / ".part-00002.parquet.7").write_text("half of it")
    found = folder.read_samples(tmp_path)
    assert found[["prompt_id", "sample", "tokens", "level"]].to_numpy().tolist() == [
        *([2, 0, 20, "2"], [2, 1, 21, "2"], [10, 0, 100, "10"], [10, 1, 101, "10"]),
    ]
    assert list(found) == [
        *("prompt_id", "sample", "tokens", "truncated", "correctness", "outcome", "same_as", "level"),
    ]
    assert found.index.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("column", list(ROW))
def test_a_part_that_lacks_a_column_is_none(tmp_path, column):
    folder.write_part(tmp_path, 0, [ROW], [])
    path = folder.part_path(tmp_path, 1)
    pd.DataFrame([ROW]).drop(columns=column).to_parquet(path)
    with pytest.raises(OptionError) as caught:
        folder.read_samples(tmp_path)
    assert str(caught.value) == f"{path}: the column {column!r} is missing; it is no part of an evaluation"


def test_a_correctness_that_is_no_number_is_not_wrong(tmp_path):
    folder.write_part(tmp_path, 0, [ROW, ROW | {"correctness": None}, ROW | {"correctness": float("nan")}], [])
    with pytest.raises(OptionError, match="2 answers have a correctness that is no number; sample them again"):
        folder.read_samples(tmp_path)


def test_json_is_written_whole_and_holds_numbers_alone(tmp_path):
    path = tmp_path / "summary.json"
    folder.write_json(path, {"a": [1, None]})
    assert path.read_text() == '{\n  "a": [\n    1,\n    null\n  ]\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        folder.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": [1, None]}
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "JSONDecodeError("),
        ("3", "TypeError("),
        ('{"settings": {}, "matched": {}}', "KeyError('model'))"),
        ('{"settings": {"model": "m"}}', "KeyError('matched'))"),
        ("[" * 100_000, "RecursionError("),
    ],
)
def test_a_record_that_is_none_of_an_evaluation(tmp_path, content, told):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(OptionError) as caught:
        folder.read_config(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/config.json: is not the record of an evaluation ({told}")


def test_the_record_of_an_evaluation_is_read(tmp_path):
    with pytest.raises(OptionError, match=r"no evaluation is there \(no config.json\); name the folder of one"):
        folder.read_config(tmp_path)
    config = {"settings": {"model": "m"}, "matched": {}, "prompts": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert folder.read_config(tmp_path) == config
