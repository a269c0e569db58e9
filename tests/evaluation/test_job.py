"""What of an evaluation is tried before vLLM starts: its folder, its model, its prompts."""

from __future__ import annotations

import hashlib
import json
import os

import datasets
import pytest

from lens_openrlhf.evaluation import job
from lens_openrlhf.evaluation.options import DEFAULTS
from lens_openrlhf.evaluation.prompts import Prompt, check_labels, load, make_prompts, split_columns
from lens_openrlhf.inputs import OptionError
from lens_openrlhf.prompts import Row

CONFIG = {
    "settings": {"model": "m", "samples": 4, "seed": 0, "k": [1], "gpu_memory_utilization": 0.5, "split_by": []},
    "matched": {"data_fingerprint": "sha256 1", "torch": "2"},
    "prompts": 3,
}
CONFIG["settings"]["allow_remote_code"] = False


def changed(group: str, **values: object) -> dict:
    return CONFIG | {group: CONFIG[group] | values}


@pytest.fixture
def there(tmp_path):
    """A folder of the evaluation CONFIG."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.mark.parametrize(
    "now",
    [
        CONFIG,
        changed("settings", k=None),
        changed("settings", gpu_memory_utilization=0.25),
        changed("settings", allow_remote_code=True),
        changed("settings", out="elsewhere"),
        CONFIG | {"prompts": 4, "command": ["other"]},
    ],
)
def test_an_evaluation_goes_on_where_its_answers_would_be_the_same(there, now):
    job._check_out(there, now)


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (changed("settings", samples=5), "--samples 4, and now it is 5"),
        (changed("settings", model="n"), "model 'm', and now it is 'n'"),
        (changed("settings", seed=None), "--seed 0, and now it is None"),
        (changed("settings", temperature=1.0), "--temperature None, and now it is 1.0"),
        (changed("settings", split_by=["level"]), "--split_by [], and now it is ['level']"),
        (changed("matched", data_fingerprint="sha256 2"), "data_fingerprint 'sha256 1', and now it is 'sha256 2'"),
        (changed("matched", k=1), "--k None, and now it is 1"),
        (CONFIG | {"matched": {"torch": "2"}}, "data_fingerprint 'sha256 1', and now it is None"),
    ],
)
def test_another_evaluations_folder_is_refused(there, now, told):
    with pytest.raises(OptionError) as caught:
        job._check_out(there, now)
    assert str(caught.value) == (
        f"--out {there}: holds an evaluation with {told}; repeat the former settings, or name another folder"
    )


def test_a_folder_that_is_empty_or_not_there_is_free(tmp_path):
    job._check_out(tmp_path / "absent", CONFIG)
    job._check_out(tmp_path, CONFIG)
    (tmp_path / "x").touch()
    with pytest.raises(OptionError, match=f"--out {tmp_path}: is not empty and no evaluation; name another folder"):
        job._check_out(tmp_path, CONFIG)


def test_a_model_is_known_by_its_files_or_its_revision(tmp_path):
    assert job._model_fingerprint("user/model", "abc") == "revision abc"
    assert job._model_fingerprint("user/model", None) == "revision None"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").touch()
    for name, size in (("b", 3), ("a", 5)):
        (tmp_path / name).write_bytes(bytes(size))
        os.utime(tmp_path / name, ns=(size, size * 10))
    digest = hashlib.sha256(repr([("a", 5, 50), ("b", 3, 30)]).encode()).hexdigest()
    assert job._model_fingerprint(str(tmp_path), "abc") == f"files sha256 {digest}"


def test_rows_of_a_file_and_its_digest(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"p{i}", "gold": i or None}) + "\n" for i in (1, 2, 0)))
    fingerprint = f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    two = [Row("line 1", {"prompt": "p1", "gold": 1}), Row("line 2", {"prompt": "p2", "gold": 2})]
    keys = {"prompt": "--input_key", "gold": "--label_key"}
    assert load(str(path), 2, keys) == (two, fingerprint), "the digest is of the whole file"
    rows, again = load(str(path), None)
    assert rows == [*two, Row("line 3", {"prompt": "p0", "gold": None})] and again == fingerprint
    with pytest.raises(OptionError, match=f"--data {path}: line 3 has no 'gold', the key of --label_key"):
        load(str(path), None, keys)
    with pytest.raises(OptionError, match=f"--data {path}@test: a file has no splits; leave @test out"):
        load(f"{path}@test", None)


def test_rows_of_a_folder(tmp_path, monkeypatch):
    """Its only split needs no name; one of several does."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "only"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    datasets.enable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.WARNING)
    rows, fingerprint = load(str(folder), None)
    assert datasets.are_progress_bars_disabled() and datasets.logging.get_verbosity() == datasets.logging.CRITICAL
    assert rows == [Row("row 1", {"prompt": "a"}), Row("row 2", {"prompt": "b"})]
    assert fingerprint.startswith("revision ") and len(fingerprint) > 20
    assert load(f"{folder}@train", 1) == (rows[:1], fingerprint)
    with pytest.raises(
        OptionError, match=f"--data {folder}@test: there is no split 'test'; write {folder}@SPLIT with "
    ):
        load(f"{folder}@test", None)
    for name in ("./absent", "~/absent", "/absent"):
        with pytest.raises(OptionError, match=f"--data {name}: no such file or folder"):
            load(name, None)
    odd = tmp_path / "a,b"
    odd.mkdir()
    with pytest.raises(OptionError, match=r"a folder with one of \* , \? @ \[ \] in its path cannot be read"):
        load(str(odd), None)


ROWS = [
    Row("line 1", {"q": "12", "gold": "5", "level": 3, "topic": None}),
    Row("line 2", {"q": "1", "gold": 6, "source": "s", "type": "t"}),
]


def test_columns_to_split_by():
    assert split_columns(ROWS, None, ("prompt",)) == ["level", "source", "type"]
    assert split_columns(ROWS, ["topic", "level", "topic"], ("prompt",)) == ["topic", "level"]
    assert split_columns(ROWS, [], ()) == [] and split_columns(ROWS[:1], None, ()) == ["level"]
    there = "q, gold, level, topic, source, type"
    with pytest.raises(OptionError, match=f"^--split_by x: the data has no such column; there are: {there}$"):
        split_columns(ROWS, ["level", "x"], ())
    with pytest.raises(OptionError, match="^--split_by gold: the samples have a column of that name already; rename"):
        split_columns(ROWS, ["level", "gold"], ("prompt", "gold"))


class Tokenizer:
    """A token a character; a chat says who speaks."""

    name_or_path = "a tokenizer"

    def __call__(self, text, add_special_tokens, verbose):
        assert add_special_tokens is False and verbose is False
        return {"input_ids": [ord(c) for c in text]}

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        assert tokenize is False and add_generation_prompt is True
        return "".join(f"<{one['role']}>{one['content']}" for one in messages)


def made(rows=ROWS, splits=("level", "topic"), template=None, chat=False, limit=None) -> list[Prompt]:
    return make_prompts(rows, "d.jsonl", "q", "gold", splits, template, Tokenizer(), chat, limit)


def test_prompts_are_made_of_rows():
    assert made() == [
        Prompt(0, "12", (49, 50), "5", {"level": "3", "topic": None}),
        Prompt(1, "1", (49,), 6, {"level": None, "topic": None}),
    ]
    assert [prompt.text for prompt in made(template="{x} {} {")] == ["{x} 12 {", "{x} 1 {"]
    assert [prompt.text for prompt in made(chat=True)] == ["<user>12", "<user>1"]
    assert [prompt.text for prompt in made(template="Q{}", chat=True)] == ["<user>Q12", "<user>Q1"]


def test_a_prompt_leaves_room_for_an_answer():
    assert len(made(limit=3)) == 2
    with pytest.raises(OptionError) as caught:
        made(limit=2)
    assert str(caught.value) == (
        "--data d.jsonl: the prompt of line 1 has 2 tokens, and the model takes 2 for prompt and answer; shorten or "
        "drop it"
    )
    with pytest.raises(OptionError) as caught:
        made([Row("line 9", {"q": [], "gold": 1})])
    assert str(caught.value) == (
        "--data d.jsonl: the 'q' of line 9 is a list; it must be text, or a list of messages with "
        "--apply_chat_template and without --prompt_template"
    )
    with pytest.raises(OptionError, match="^--data d.jsonl: to the tokenizer the prompt of line 9 is empty$"):
        made([*ROWS, Row("line 9", {"q": "", "gold": 1})])


def test_every_label_must_be_one_that_answers_can_be_graded_by(tmp_path):
    """Of a file the command that shows them all; of a data set on the hub there is none."""
    file = tmp_path / "d.jsonl"
    file.touch()
    check_labels(str(file), ROWS, "gold")
    bad = [*ROWS, Row("line 9", {"gold": ["2"]})]
    for data, shown in ((str(file), True), ("user/data@test", False)):
        with pytest.raises(OptionError) as caught:
            check_labels(data, bad, "gold")
        message = str(caught.value)
        assert message.startswith(f"--data {data}: ") and "1 of 3 labels" in message and "line 9" in message
        assert (f"lens-openrlhf grade {file}" in message) == shown, message


def test_defaults_have_a_name_on_the_command_line():
    assert set(job.FREE) <= DEFAULTS.keys()
