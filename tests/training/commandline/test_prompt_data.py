"""Which data a run's options name, how it is read, and what is said where it is not here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lens_openrlhf.inputs import MATH_VERIFY_FILE, OptionError
from lens_openrlhf.prompts import Labels
from lens_openrlhf.training.commandline import model_shape, prompt_data
from lens_openrlhf.training.commandline.prompt_data import Data, check_evaluation_prompts, check_prompts

GRADED = {"reward.remote_url": ["other.py", str(MATH_VERIFY_FILE)], "data.label_key": "label"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(model_shape, "find", lambda name: (None, name == "here"))


@pytest.fixture
def asked(monkeypatch) -> list[Data]:
    """The files that are looked at, each with a warning of its own."""
    found = []

    def check(data):
        found.append(data)
        return f"warning {len(found)}" if data.name != "quiet.jsonl" else ""

    monkeypatch.setattr(prompt_data, "_check_file", check)
    return found


def file(name: str, rows: int = 1, **more) -> tuple[int, int]:
    """Write a file of prompts; returns what tells its content."""
    Path(name).write_text("".join(json.dumps({"input": f"{n} + 1", "label": "2", **more}) + "\n" for n in range(rows)))
    return os.stat(name).st_mtime_ns, os.stat(name).st_size


PLAIN = Data(
    **dict(option="--data.prompt_dataset", name="a.jsonl", stamp=None, keys=(("input", "--data.input_key"),)),
    **dict(input_key="input", label_key=None, limit=10**8, chat=False, model=None, allow_code=False),
)
LABELLED = (("input", "--data.input_key"), ("label", "--data.label_key"))


@pytest.mark.parametrize(
    ("changes", "data"),
    [
        ({}, {}),
        ({"data.input_key": "q"}, {"input_key": "q", "keys": (("q", "--data.input_key"),)}),
        ({"data.max_samples": 7, "model.allow_remote_code": True}, {"limit": 7, "allow_code": True}),
        ({"data.label_key": "label"}, {"keys": LABELLED}),
        (GRADED, {"keys": LABELLED, "label_key": "label"}),
        ({**GRADED, "train.agent_func_path": "agent.py"}, {"keys": LABELLED}),
        ({**GRADED, "reward.remote_url": None}, {"keys": LABELLED}),
        ({"data.input_template": "{}!"}, {}),
        (
            {"data.apply_chat_template": True, "actor.model_name_or_path": "here", "data.input_template": "{}{}"},
            {"chat": True, "model": "here"},
        ),
        ({"data.apply_chat_template": True, "actor.model_name_or_path": "elsewhere"}, {"chat": True}),
        (
            {
                **{"data.apply_chat_template": True, "actor.model_name_or_path": "here"},
                "data.max_images_per_prompt": 1,
            },
            {"chat": True},
        ),
        ({"actor.model_name_or_path": "here"}, {}),
    ],
)
def test_what_the_options_say_of_training_data(args, asked, changes, data):
    stamp = file("a.jsonl")
    assert check_prompts(args({**changes, "data.prompt_dataset": "a.jsonl"})) == ["warning 1"]
    assert asked == [PLAIN._replace(stamp=stamp, **data)]


def test_evaluation_data_is_looked_at_whole_and_by_its_columns(args, asked):
    stamp = file("a.jsonl")
    assert check_evaluation_prompts(args({"eval.split_by": ["level"]})) == asked == []
    changes = {**GRADED, "eval.dataset": "a.jsonl", "data.max_samples": 3}
    assert check_evaluation_prompts(args({**changes, "eval.split_by": ["level", "type"]})) == ["warning 1"]
    assert check_evaluation_prompts(args(changes)) == ["warning 2"]
    expected = PLAIN._replace(option="--eval.dataset", stamp=stamp, limit=None, label_key="label", keys=LABELLED)
    keys = (LABELLED[0], ("level", "--eval.split_by"), ("type", "--eval.split_by"), LABELLED[1])
    assert asked == [expected._replace(keys=keys), expected]
    changes["data.label_key"] = None
    assert check_evaluation_prompts(args(changes)) == ["warning 3"], "labels are asked for where a run trains"


def test_several_places_and_what_openrlhf_reads_alone(args, asked):
    """A folder and a name of the hub's are left to it, and a split stands behind an @."""
    file("a.jsonl"), file("quiet.jsonl"), Path("folder").mkdir()
    names = "a.jsonl@train, folder, somebody/prompts, quiet.jsonl, a.jsonl"
    assert check_prompts(args({"data.prompt_dataset": names})) == ["warning 1", "warning 3"]
    assert [data.name for data in asked] == ["a.jsonl", "quiet.jsonl", "a.jsonl"]


@pytest.mark.parametrize(
    "name", ["absent.jsonl", "absent.parquet", "/absent", "./absent", "../absent", "a/b/c", ".absent"]
)
def test_what_can_only_be_a_file_is_missed(args, name):
    with pytest.raises(OptionError, match=f"^--data.prompt_dataset {name}: no such "):
        check_prompts(args({"data.prompt_dataset": name}))


@pytest.mark.parametrize("name", ["absent", "somebody/prompts", "somebody/prompts@test", "absent.tar"])
def test_what_may_be_a_name_of_the_hub_is_not(args, name):
    assert check_prompts(args({"data.prompt_dataset": name})) == []


@pytest.mark.parametrize("name", ["mine.py", "folder", "both/mine"])
def test_data_is_not_run(args, name):
    Path("mine.py").touch()
    for folder in ("folder", "both/mine", "other"):
        Path(folder).mkdir(parents=True)
    scripts = {"mine.py": "mine.py", "folder": "folder/folder.py", "both/mine": "both/mine/mine.py"}
    Path(scripts[name]).touch()
    with pytest.raises(OptionError) as caught:
        check_prompts(args({"data.prompt_dataset": name}))
    assert str(caught.value) == (
        f"--data.prompt_dataset {name}: {scripts[name]} is Python code, and data is not run; save it as .jsonl or "
        ".parquet"
    )
    Path("other/mine.py").touch()
    assert check_prompts(args({"data.prompt_dataset": "other"})) == []


@pytest.mark.parametrize(
    ("name", "there"),
    [("a.jsonl", " (there are: input, label)"), ("empty.jsonl", ""), ("folder", ""), ("some/body", "")],
)
def test_labels_have_a_column(args, name, there):
    file("a.jsonl"), Path("empty.jsonl").touch(), Path("folder").mkdir()
    with pytest.raises(OptionError) as caught:
        check_prompts(args({**GRADED, "data.label_key": None, "data.prompt_dataset": name}))
    assert str(caught.value) == (
        "--data.label_key is missing: Math-Verify compares answers with labels; name their column in "
        f"--data.prompt_dataset {name}{there}"
    )


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (None, None),
        ("", None),
        ("{}", None),
        ("Q: {} {{}} [prompt]", None),
        ("{0}{0}", "holds the prompt 2 times"),
        ("none", "holds the prompt 0 times"),
        ("[prompt]", "holds the prompt 0 times"),
        ("{}{}", "is no template [(]IndexError: "),
        ("{name}", "is no template [(]KeyError: 'name'[)]"),
        ("{", "is no template [(]ValueError: "),
        ("{.x}", "is no template [(]AttributeError: "),
        ("{[x]}", "is no template [(]TypeError: "),
    ],
)
def test_a_template_holds_the_prompt_once(args, template, problem):
    changes = {"data.prompt_dataset": "some/body", "data.input_template": template}
    assert check_prompts(args({**changes, "data.apply_chat_template": True})) == []
    if problem is None:
        assert check_prompts(args(changes)) == []
        return
    with pytest.raises(OptionError, match=f"^--data.input_template .*: {problem}.*write {{}} once, where the prompt"):
        check_prompts(args(changes))


@pytest.mark.parametrize(
    ("option", "name", "told"),
    [
        ("--eval.dataset", "{cache}/demo/x.jsonl", "the profile makes it when the run starts"),
        (
            "--eval.dataset",
            "d/math+dapo/x.parquet",
            "no such file; make it with `lens-openrlhf data math+dapo`, or name",
        ),
        ("--eval.dataset", "math+numina/x", "no such file; make it with `lens-openrlhf data math+numina`, or name ano"),
        ("--eval.dataset", "math+other/x.parquet", "no such file"),
        ("--eval.dataset", "x", "no such folder"),
        (
            "--actor.model_name_or_path",
            "some/x",
            "is fetched from the hub when the run starts, or name the folder of a",
        ),
        ("--actor.model_name_or_path", "/some/x", "no such folder"),
        ("--actor.model_name_or_path", "/some/x.y", "no such file"),
    ],
)
def test_what_brings_a_thing_that_is_not_here(option, name, told, tmp_path):
    name = name.format(cache=tmp_path / "cache" / "lens_openrlhf")
    assert prompt_data.not_here(option, name).startswith(f"{option} {name}: {told}")


def test_rows_are_counted_again_once_a_file_has_changed():
    file("a.jsonl", rows=3)
    path = Path("a.jsonl")
    assert prompt_data.count_rows(path) == 3
    path.write_text("\n {} \n\n{}\n\t\n")
    assert prompt_data.count_rows(path) == 2, "of lines with something on them"
    file("a.jsonl", rows=4)
    assert prompt_data.count_rows(path) == 4
    Path("a.json").write_text("[{}, {}]")
    assert prompt_data.count_rows(Path("a.json")) == 2
    Path("a.json").write_text("[{}, {}")
    assert prompt_data.count_rows(Path("a.json")) is None
    Path("a.txt").write_text("{}\n")
    assert prompt_data.count_rows(Path("a.txt")) is None


def checked(**changes) -> str:
    stamp = os.stat(changes.get("name", "a.jsonl"))
    return prompt_data._check_file(PLAIN._replace(stamp=(stamp.st_mtime_ns, stamp.st_size), **changes))


def test_every_row_that_is_used_is_read():
    file("a.jsonl", rows=2)
    with open("a.jsonl", "a") as more:
        more.write('{"input": "", "label": "2"}\n')
    assert checked(limit=2) == ""
    with pytest.raises(
        OptionError, match="^--data.prompt_dataset a.jsonl: line 3 has no 'input', the key of --data.in"
    ):
        checked(limit=3)
    with pytest.raises(OptionError, match="line 3 has no 'input'"):
        checked(limit=None)
    with pytest.raises(OptionError, match="line 1 has no 'level', the key of --eval.split_by"):
        checked(keys=(("level", "--eval.split_by"),))
    file("a.jsonl", input=["a list"])
    with pytest.raises(OptionError, match="the 'input' of line 1 is a list; it must be text, or a list of messages"):
        checked()
    assert checked(chat=True) == ""
    assert checked(input_key="label") == ""


@pytest.mark.parametrize(("share", "refused"), [(0.0, False), (0.01, False), (0.0101, True)])
def test_a_hundredth_of_bad_labels_is_told_and_more_is_refused(monkeypatch, share, refused):
    from lens_openrlhf import rewards

    file("a.jsonl", rows=3)
    asked = []

    class Counted(Labels):
        def problem(self, *given):
            asked.append((*given, self._rows))
            return share, "a few" if share else ""

    monkeypatch.setattr(prompt_data, "Labels", Counted)
    monkeypatch.setattr(rewards, "shutdown", lambda: asked.append("shut down"))
    if refused:
        with pytest.raises(OptionError, match="^a few$"):
            checked(label_key="label", limit=1000 + int(share * 1e6))
    else:
        assert checked(label_key="label", limit=1000 + int(share * 1e6)) == ("a few" if share else "")
    names = prompt_data.Names(
        **dict(chat="--data.apply_chat_template", template="--data.input_template"),
        reward="--reward.remote_url FILE.py",
    )
    assert asked == [("--data.prompt_dataset a.jsonl", "label", names, Path("a.jsonl"), 20.0, 3), "shut down"]


def test_a_verifier_that_fails_is_shut_down_too(monkeypatch):
    from lens_openrlhf import rewards

    file("a.jsonl", rows=4)
    ended = []

    class Failing(Labels):
        def problem(self, *given):
            raise OptionError("no verifier")

    monkeypatch.setattr(prompt_data, "Labels", Failing)
    monkeypatch.setattr(rewards, "shutdown", lambda: ended.append(True))
    with pytest.raises(OptionError, match="^no verifier$"):
        checked(label_key="label")
    assert ended == [True]
