"""Rows of prompts and labels: what is read of them, and what is said of those that cannot be used."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lens_openrlhf.data import labels as checking
from lens_openrlhf.inputs import OptionError
from lens_openrlhf.prompts import (
    PLAIN_NUMBER,
    Labels,
    Names,
    Prompting,
    Row,
    check_chat_template,
    check_verifier,
    with_keys,
)
from lens_openrlhf.rewards import validate_label

pytestmark = pytest.mark.usefixtures("small_pool")

NAMES = Names(chat="--chat", template="--template", reward="--reward FILE.py")
CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]


def refusal(function, *args, **kwargs) -> str:
    with pytest.raises(OptionError) as refused:
        function(*args, **kwargs)
    return str(refused.value)


def rows(*values: dict) -> list[Row]:
    return [Row(f"line {number}", value) for number, value in enumerate(values, 1)]


def test_rows_that_have_every_key_come_as_they_are():
    given = rows({"p": "q", "l": 0, "more": None}, {"p": False, "l": 0.0}, {"p": [[]], "l": " "})
    assert list(with_keys("DATA", given, {"p": "--key", "l": "--label"})) == given
    assert list(with_keys("DATA", given, {})) == given


@pytest.mark.parametrize("nothing", [None, "", []])
def test_a_row_without_a_value_is_named(nothing):
    given = rows({"p": "q", "l": "1"}, {"p": "q", "l": nothing}, {"p": nothing, "l": nothing})
    said = "DATA: line 2 has no 'l', the key of --label; mend the data or name another key"
    assert refusal(list, with_keys("DATA", given, {"p": "--key", "l": "--label"})) == said
    read = with_keys("DATA", given, {"p": "--key", "l": "--label"})
    assert next(read) == given[0] and refusal(next, read) == said
    said = "DATA: line 3 has no 'p', the key of --key; mend the data or name another key"
    assert refusal(list, with_keys("DATA", given, {"p": "--key"})) == said


def test_a_row_without_the_column_says_which_there_are():
    for row, there in (({"a": 1, 2: "b"}, "a, 2"), ({}, "none")):
        said = f"DATA: line 1 has no 'p', the key of --key; mend the data or name another key (there are: {there})"
        assert refusal(list, with_keys("DATA", rows(row), {"p": "--key"})) == said
    assert refusal(list, with_keys("DATA", [], {"p": "--key"})) == "DATA: there is no row in it"


def template(messages, tokenize, add_generation_prompt):
    assert not tokenize and add_generation_prompt
    if messages[0]["role"] == "x":
        raise ValueError("no x")
    return "|".join(f"{message['role']}: {message['content']}" for message in messages)


TOKENIZER = SimpleNamespace(apply_chat_template=template, chat_template="t", name_or_path="qwen")


def prompting(**more) -> Prompting:
    return Prompting(shown="DATA", key="p", names=NAMES, **more)


@pytest.mark.parametrize(
    ("prompt", "more", "text"),
    [
        ("q", {}, "q"),
        ("q", {"fill": "<{}>".format}, "<q>"),
        ("q", {"fill": "<{}>".format, "tokenizer": TOKENIZER}, "<q>"),
        ("q", {"chat": True}, "q"),
        ("q", {"chat": True, "fill": "<{}>".format}, "<q>"),
        ("q", {"chat": True, "tokenizer": TOKENIZER}, "user: q"),
        ("q", {"chat": True, "tokenizer": TOKENIZER, "fill": "<{}>".format}, "user: <q>"),
        (CHAT, {"chat": True, "tokenizer": TOKENIZER}, "system: s|user: u"),
        (CHAT, {"chat": True}, ""),
    ],
)
def test_a_rows_prompt(prompt, more, text):
    assert prompting(**more).text(Row("line 1", {"p": prompt, "l": "1"})) == text


@pytest.mark.parametrize(
    ("prompt", "more", "kind"),
    [
        (CHAT, {}, "list"),
        (CHAT, {"tokenizer": TOKENIZER}, "list"),
        (CHAT, {"chat": True, "fill": "<{}>".format}, "list"),
        ({"role": "user"}, {"chat": True, "tokenizer": TOKENIZER}, "dict"),
        (5, {}, "int"),
    ],
)
def test_a_prompt_that_is_none(prompt, more, kind):
    assert refusal(prompting(**more).text, Row("row 7", {"p": prompt})) == (
        f"DATA: the 'p' of row 7 is a {kind}; it must be text, or a list of messages with --chat and without --template"
    )


def test_messages_that_a_chat_template_does_not_take():
    row = Row("row 7", {"p": [{"role": "x"}]})
    assert refusal(prompting(chat=True, tokenizer=TOKENIZER).text, row) == (
        "DATA: the chat template of qwen does not take the 'p' of row 7 (ValueError: no x); mend the messages, each of "
        "which has a role and a content"
    )
    check_chat_template("--chat", TOKENIZER)
    for none in (None, ""):
        tokenizer = SimpleNamespace(chat_template=none, name_or_path="qwen")
        said = "--chat: the tokenizer of qwen has no chat template; leave it out"
        assert refusal(check_chat_template, "--chat", tokenizer) == said


def test_a_variable_of_the_verifiers_that_cannot_be(monkeypatch):
    check_verifier()
    monkeypatch.setenv("LENS_VERIFIER_TIMEOUT", "soon")
    assert refusal(check_verifier).startswith("LENS_VERIFIER_TIMEOUT='soon' is not a positive float")
    assert refusal(Labels().problem, "DATA", "l", NAMES, None).startswith("LENS_VERIFIER_TIMEOUT='soon'")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        *(
            (text, True)
            for text in ("0", "5", "-5", "007", "1" * 15, "-" + "1" * 15, "5.0", "-0.123456", "1" * 15 + ".5")
        ),
        *(
            (text, False)
            for text in ("", "-", "1" * 16, "5.", ".5", "0.1234567", "+5", "--5", "5 ", "5\n", "1e3", "1,000")
        ),
        *((text, False) for text in ("٣", "½", "5.-1", "0x1", "1/2", "5.1.2")),
    ],
)
def test_numbers_that_need_no_check(text, plain):
    assert bool(PLAIN_NUMBER.fullmatch(text)) == plain


class Checked:
    """In place of the check in workers: what it was asked, and what it says."""

    def __init__(self, monkeypatch, verdicts):
        self.calls = []
        self.verdicts = verdicts
        monkeypatch.setattr(checking, "check", self)

    def __call__(self, labels, cache, seconds):
        self.calls.append((list(labels), cache, seconds))
        return {label: self.verdicts[label] for label in labels if label in self.verdicts}


def gathered(*values: object) -> Labels:
    found = Labels()
    for row in rows(*({"l": value, "other": "5"} for value in values)):
        found.add(row, "l")
    return found


@pytest.fixture
def cache(monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    return Path("/caches/lens_openrlhf/labels")


def test_labels_that_can_be_graded_by(monkeypatch, cache):
    checked = Checked(monkeypatch, {"x": None, "y": None})
    assert gathered("1", 2, "-0.5", 0.25).problem("DATA", "l", NAMES, None) == (0.0, "") and not checked.calls
    assert gathered("x", "1", "y", "x").problem("DATA", "l", NAMES, Path("f"), 20.0) == (0.0, "")
    assert gathered("y").problem("DATA", "l", NAMES, None) == (0.0, "")
    assert checked.calls == [(["x", "y"], cache, 20.0), (["y"], cache, None)]


def test_labels_that_cannot_are_counted_by_rows_and_named_in_their_order(monkeypatch, cache):
    Checked(monkeypatch, {"x": "x is bad", "y": "y is bad", "z": None})
    found = gathered("1", "y", ["3"], "x", "z", "y", None)
    share, told = found.problem("DATA f", "l", NAMES, None)
    assert share == 5 / 7
    assert told == (
        "DATA f: Math-Verify cannot grade by 5 of 7 labels (line 2, line 3, line 4, line 6, line 7); the first: "
        "y is bad; mend or drop these rows, or grade with a file of your own (--reward FILE.py)"
    )
    share, told = gathered("1", ["3"], "x", "1", "x", "x", "x", "x").problem(
        "DATA f", "the key", NAMES, Path("a b.jsonl")
    )
    assert share == 6 / 8
    assert told == (
        "DATA f: Math-Verify cannot grade by 6 of 8 labels (line 2, line 3, line 5, line 6, line 7 and 1 more); the "
        "first: the label ['3'] is not text; `lens-openrlhf grade 'a b.jsonl' --label_key 'the key'` shows them; mend "
        "or drop these rows, or grade with a file of your own (--reward FILE.py)"
    )
    share, told = gathered(*["1"] * 8, "x", ["3"]).problem("DATA f", "l", NAMES, None)
    assert share == 2 / 10 and "2 of 10 labels (line 9, line 10); the first: x is bad; mend" in told


def test_labels_that_time_did_not_allow_are_left_out_of_the_share(monkeypatch, cache):
    Checked(monkeypatch, {"x": "x is bad"})
    share, told = gathered("1", "late", "x", "late", "x", None).problem("DATA", "l", NAMES, None, 1.5)
    assert share == 3 / 4
    assert told.startswith(
        "DATA: Math-Verify cannot grade by 3 of 4 labels that were looked at, of 6 (line 3, line 5, line 6); "
        "the first: x is bad"
    )
    # Where nothing is bad, nothing is said.
    assert gathered("1", "late").problem("DATA", "l", NAMES, None, 1.5) == (0.0, "")


def test_the_reason_of_the_first_is_the_verifiers_own(monkeypatch, cache):
    Checked(monkeypatch, {"{{{": "what the cache has", "fine to read": "what the cache has", "z": None})
    first = gathered("{{{").problem("DATA", "l", NAMES, None)[1]
    assert validate_label("{{{") and f"the first: {validate_label('{{{')}; mend" in first
    Checked(monkeypatch, {r"\frac{1}{2}": "what the cache has"})
    assert "the first: what the cache has; mend" in gathered(r"\frac{1}{2}").problem("DATA", "l", NAMES, None)[1]
