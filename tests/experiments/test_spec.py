"""Specs: what is refused of a file for its form alone."""

from __future__ import annotations

import pytest

from lens_openrlhf.experiments import spec
from lens_openrlhf.experiments.compare import main
from lens_openrlhf.experiments.spec import SpecError

STRUCTURE = [
    ({"arm": {}}, ["unknown key 'arm'", "did you mean arms?"]),
    ({"name": None}, ["name is missing"]),
    ({"seeds": None}, ["seeds is missing"]),
    ({"arms": None}, ["arms is missing"]),
    ({"name": 3}, ["name is 3", "text"]),
    ({"profile": ["tiny"]}, ["profile is ['tiny']"]),
    ({"keep_models": "yes"}, ["keep_models is 'yes'", "true or false"]),
    ({"seeds": [1, 2, 1]}, ["seeds: 1 stands there twice"]),
    ({"seeds": []}, ["seeds is empty"]),
    ({"seeds": 3}, ["seeds is 3", "list of whole numbers"]),
    ({"seeds": [1, "2"]}, ["seeds is", "whole numbers"]),
    ({"seeds": [True]}, ["seeds is [True]"]),
    ({"seeds": [-1]}, ["seeds: -1 is too small: expected at least 0"]),
    ({"k": [0]}, ["k: 0 is too small: expected at least 1"]),
    ({"k": [1.5]}, ["k is [1.5]"]),
    ({"split_by": "level"}, ["split_by is 'level'", "list of columns"]),
    ({"parallel": 0}, ["parallel is 0"]),
    ({"parallel": True}, ["parallel is True", "how many runs at once, at least 1"]),
    ({"gpus": "4"}, ["gpus is '4'", "how many GPUs the profile is for, at least 1"]),
    ({"gpus": 0}, ["gpus is 0"]),
    ({"paper": 3}, ["paper is 3", "one of the paper's tables"]),
    ({"paper": "table 4"}, ["paper is 'table 4'", "expected one of table 1, Llama-3.1-8B-Instruct; table 1, Qwen"]),
    ({"keep_models": 1}, ["keep_models is 1"]),
    ({"k": 4}, ["k is 4: expected a list of whole numbers"]),
    ({"k": [2, 2]}, ["k: 2 stands there twice"]),
    ({"k": [-1]}, ["k: -1 is too small: expected at least 1"]),
    ({"split_by": [1]}, ["split_by is [1]"]),
    ({"split_by": ["level", "type", "type"]}, ["split_by: type stands there twice"]),
    ({"allow_unfair": "eval.top_p"}, ["allow_unfair is 'eval.top_p': expected a list of options"]),
    ({"allow_unfair": ["a", "b", "b"]}, ["allow_unfair: b stands there twice"]),
    ({"name": "x" * 31}, ["name: 'xxx", "at most 30 letters"]),
    ({"arms": None, "seeds": None, "name": None}, ["name is missing"]),
    ({"arms": {"A": {}, "b": {}, "a": {}}}, ["'A' and 'a'"]),
    ({"zzz": 1}, ["unknown key 'zzz' (keys are: name, profile, gpus, paper, options, arms, seeds, k, split_by, "]),
    ({"arms": {}}, ["arms is {}"]),
    ({"arms": ["GRPO"]}, ["arms is ['GRPO']"]),
    ({"arms": {1: {}}}, ["label 1 is no text", "quotes"]),
    ({"arms": {False: {}}}, ["label False is no text"]),
    ({"arms": {"GRPO": {}, "grpo": {}}}, ["'GRPO' and 'grpo'", "case"]),
    ({"arms": {"GRPO": 3}}, ["arm 'GRPO' is 3"]),
    ({"arms": {"GRPO": {"algo.lens.alpha": False}}}, ["arm 'GRPO': algo.lens.alpha", "null"]),
    ({"arms": {"GRPO": {"algo": {"lens.alpha": 1}}}}, ["arm 'GRPO': algo", "dotted names"]),
    ({"arms": {"GRPO": {"actor.adam.betas": []}}}, ["arm 'GRPO': actor.adam.betas"]),
    *(
        ({"arms": {"GRPO": {"actor.adam.betas": [0.9, wrong]}}}, ["arm 'GRPO': actor.adam.betas is [0.9, "])
        for wrong in (None, True, [0.9], {"a": 1})
    ),
    ({"options": ["eval.at_end"]}, ["options is ['eval.at_end']"]),
    *(
        ({"arms": {label: {}}}, [f"arm {label!r}", "folder name"])
        for label in ("", ".", "..", "a/b", ".hidden", "end.", "end ", " a", "a\\b", "a:b", "a*", "a\nb", "x" * 31)
    ),
    ({"name": "../up"}, ["name: '../up'", "folder name"]),
]


@pytest.mark.parametrize(("change", "words"), STRUCTURE, ids=lambda value: str(value)[:40])
def test_a_spec_of_the_wrong_shape(content, write, change, words, tmp_path, capsys):
    path = write(content | change)
    assert main([str(path), "-o", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {path}: ") and not (tmp_path / "out").exists()
    for word in words:
        assert word in message


def test_a_spec_that_says_no_more_than_it_must(write):
    found = spec.read(write("name: x\narms: {a: }\nseeds: [0]\noptions:\nk:\nprofile:\ngpus:\nkeep_models:\n"))
    assert found == spec.Spec(
        **dict(name="x", profile=None, gpus=None, paper=None, options={}, arms={"a": {}}, seeds=[0], k=None),
        **dict(split_by=None, parallel=1, allow_unfair=(), keep_models=False),
    )
    # What is left out means the same.
    assert found == spec.Spec(name="x", options={}, arms={"a": {}}, seeds=[0])


def test_a_spec_that_says_everything(write):
    content = {
        **{"name": "all", "profile": "qwen2.5-3b", "gpus": 1, "paper": "table 1, Qwen-2.5-3B-Base"},
        "options": {"a.flag": True, "a.null": None, "a.list": [1, 0.5, "x y"], "a.text": "", "a.number": 1e-5, 7: 8},
        "arms": {"LENS": {"b.number": 3}, "b": None},
        **{"seeds": [3, 0], "k": [1, 4], "split_by": ["level"], "parallel": 2, "allow_unfair": ["c.d"]},
        "keep_models": True,
    }
    assert spec.read(write(content)) == spec.Spec(
        **{key: value for key, value in content.items() if key not in ("options", "arms")},
        options={
            **{"a.flag": [], "a.null": None, "a.list": ["1", "0.5", "x y"], "a.text": [""], "a.number": ["1e-05"]},
            "7": ["8"],
        },
        arms={"LENS": {"b.number": ["3"]}, "b": {}},
    )


def test_labels_may_have_30_letters(content, write):
    label = "x" * spec.LABEL_LENGTH
    assert spec.LABEL_LENGTH == 30 and list(spec.read(write(content | {"arms": {label: {}}})).arms) == [label]


def test_as_many_values_as_a_spec_may_mean(monkeypatch, write):
    """The file itself, lists and objects are values, too; keys are not."""
    monkeypatch.setattr(spec, "MAX_VALUES", 10)
    text = "name: x\nseeds: [1, 2, 3]\narms: {a: {b: 1}}\nk:\n"
    assert spec.read(write(text)).seeds == [1, 2, 3]
    with pytest.raises(SpecError, match="means more than 10 values, with every alias written out"):
        spec.read(write(text + "profile:\n"))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name: [", "is not YAML"),
        ("- a list", "expected keys"),
        ("", "expected keys"),
        ("name: x\nseeds: [1]\nseeds: [2]\narms: {a: }", "line 3: 'seeds' stands there twice"),
        ("name: x\nseeds: [1]\narms:\n  a: {}\n  b: {}\n  a: {}", "line 6: 'a' stands there twice"),
    ],
)
def test_text_that_is_no_spec(write, text, word, capsys):
    assert main([str(write(text))]) == 2
    assert word in capsys.readouterr().err


def test_a_spec_that_is_not_there(tmp_path, capsys):
    assert main([str(tmp_path / "absent.yaml")]) == 2
    assert "absent.yaml: cannot be read (No such file" in capsys.readouterr().err


def test_labels_with_words_numbers_and_signs_are_good(content, write):
    spec.read(write(content | {"arms": {label: {} for label in ("α=0.25", "LENS (mixed)", "a, b", "_x", "0.25")}}))


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 20))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "more than 100,000 values"),
        ("arms: &a [*a]", "more than 100,000 values"),
        ("? [[1, 2], {3: 4}]\n: 5", "unhashable"),
        ("[" * 10_000, "is not YAML"),
        ("seeds: [" + "1" * 5000 + "]", "is not YAML"),
        ("!!python/object/apply:os.system [touch ran]", "python/object/apply"),
        ("a: 2020-99-99", "is not YAML"),
    ],
)
def test_a_hostile_spec_is_refused_as_quickly_as_another(tmp_path, monkeypatch, text, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        spec.read(tmp_path / "s.yaml")
    assert told in str(caught.value) and len(str(caught.value)) < 1000
    assert not (tmp_path / "ran").exists()
