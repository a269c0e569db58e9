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
    ({"seeds": [-1]}, ["seeds: -1 is too small"]),
    ({"k": [0]}, ["k: 0 is too small"]),
    ({"k": [1.5]}, ["k is [1.5]"]),
    ({"split_by": "level"}, ["split_by is 'level'", "list of columns"]),
    ({"parallel": 0}, ["parallel is 0"]),
    ({"parallel": True}, ["parallel is True"]),
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
