"""Rows of prompts and labels: which are taken, how a row becomes a prompt, and what is said of bad labels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

import lens_openrlhf.rewards
from lens_openrlhf import process, prompts
from lens_openrlhf.data import labels
from lens_openrlhf.inputs import OptionError
from lens_openrlhf.prompts import Labels, Names, Prompting, Row, with_keys

NAMES = Names(chat="--chat", template="--template", reward="--reward")
KEYS = {"prompt": "--input_key", "label": "--label_key"}


def told(function, *arguments) -> str:
    with pytest.raises(OptionError) as refusal:
        function(*arguments)
    return str(refusal.value)


def rows(*values: dict) -> list[Row]:
    return [Row(f"line {number}", row) for number, row in enumerate(values, 1)]


def test_rows_with_their_keys():
    given = rows({"prompt": "p", "label": 0}, {"prompt": [1], "label": False, "more": None})
    assert list(with_keys("--data x", iter(given), KEYS)) == given
    assert list(with_keys("--data x", given[:1], {})) == given[:1]


@pytest.mark.parametrize("empty", [None, "", []])
@pytest.mark.parametrize(("key", "option"), KEYS.items())
def test_rows_whose_value_is_empty(key, option, empty):
    found = with_keys("--data x", rows({"prompt": "p", "label": "1"}, {"prompt": "p", "label": "1", key: empty}), KEYS)
    assert next(found).place == "line 1"
    assert told(next, found) == (
        f"--data x: line 2 has no {key!r}, the key of {option}; mend the data or name another key"
    )


def test_rows_without_a_key():
    assert told(list, with_keys("--data x", rows({"prompt": "p", 5: "l"}), KEYS)) == (
        "--data x: line 1 has no 'label', the key of --label_key; mend the data or name another key (there are: "
        "prompt, 5)"
    )
    assert told(list, with_keys("--data x", rows({}), KEYS)) == (
        "--data x: line 1 has no 'prompt', the key of --input_key; mend the data or name another key (there are: none)"
    )
    assert told(list, with_keys("--data x", [], KEYS)) == "--data x: there is no row in it"


class Tokenizer:
    """Writes down messages as it is asked to; does not take a role x."""

    name_or_path = "some/model"

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        assert (tokenize, add_generation_prompt) == (False, True)
        if any(message["role"] == "x" for message in messages):
            raise ValueError("no x")
        return "".join(f"<{message['role']}>{message['content']}" for message in messages)


CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]


@pytest.mark.parametrize(
    ("prompt", "options", "text"),
    [
        ("p", {}, "p"),
        ("p", {"fill": "<{}>".format}, "<p>"),
        ("p", {"chat": True, "tokenizer": Tokenizer()}, "<user>p"),
        ("p", {"chat": True, "tokenizer": Tokenizer(), "fill": "({})".format}, "<user>(p)"),
        ("p", {"tokenizer": Tokenizer()}, "p"),
        ("p", {"chat": True}, "p"),
        ("p", {"chat": True, "fill": "({})".format}, "(p)"),
        (CHAT, {"chat": True, "tokenizer": Tokenizer()}, "<system>s<user>u"),
        (CHAT, {"chat": True}, ""),
    ],
)
def test_prompts(prompt, options, text):
    assert Prompting(shown="--data x", key="q", names=NAMES, **options).text(Row("row 3", {"q": prompt})) == text


@pytest.mark.parametrize(
    ("prompt", "options", "kind"),
    [
        (CHAT, {}, "list"),
        (CHAT, {"tokenizer": Tokenizer()}, "list"),
        (CHAT, {"chat": True, "fill": str, "tokenizer": Tokenizer()}, "list"),
        (5, {"chat": True, "tokenizer": Tokenizer()}, "int"),
        ({"role": "user"}, {"chat": True}, "dict"),
    ],
)
def test_prompts_of_another_type(prompt, options, kind):
    assert told(Prompting(shown="--data x", key="q", names=NAMES, **options).text, Row("row 3", {"q": prompt})) == (
        f"--data x: the 'q' of row 3 is a {kind}; it must be text, or a list of messages with --chat and without "
        "--template"
    )


def test_prompts_that_a_chat_template_refuses():
    prompting = Prompting(shown="--data x", key="q", names=NAMES, chat=True, tokenizer=Tokenizer())
    assert told(prompting.text, Row("row 3", {"q": [{"role": "x", "content": "c"}]})) == (
        "--data x: the chat template of some/model does not take the 'q' of row 3 (ValueError: no x); mend the "
        "messages, "
        "each of which has a role and a content"
    )


def test_a_chat_template_must_be_there():
    tokenizer = SimpleNamespace(chat_template="{{ messages }}", name_or_path="some/model")
    assert prompts.check_chat_template("--chat", tokenizer) is None
    for nothing in (None, "", {}):
        tokenizer.chat_template = nothing
        assert told(prompts.check_chat_template, "--chat", tokenizer) == (
            "--chat: the tokenizer of some/model has no chat template; leave it out"
        )


def test_a_variable_of_the_verifiers(monkeypatch):
    assert prompts.check_verifier() is None
    monkeypatch.setenv("LENS_VERIFIER_TIMEOUT", "soon")
    refusal = "LENS_VERIFIER_TIMEOUT='soon' is not a positive float"
    assert told(prompts.check_verifier) == refusal
    assert told(Labels().problem, "--data x", "label", NAMES, None) == refusal


@pytest.fixture
def verdicts(monkeypatch):
    """What the check of labels says, {label: reason}, and what it was asked; it does not reach what is not there."""
    known: dict[str, str | None] = {}
    asked = []

    def check(given, cache, seconds):
        asked.append((list(given), cache, seconds))
        return {label: known[label] for label in given if label in known}

    monkeypatch.setattr(labels, "check", check)
    monkeypatch.setattr(process, "cache_folder", lambda: Path("/cache"))
    monkeypatch.setattr(
        lens_openrlhf.rewards, "validate_label", lambda label: f"{label} in words" if label != "2e5" else None
    )
    return SimpleNamespace(known=known, asked=asked)


def gathered(*given: object) -> Labels:
    found = Labels()
    for row in rows(*({"gold": label} for label in given)):
        found.add(row, "gold")
    return found


def test_labels_that_are_good(verdicts):
    verdicts.known |= {r"\pi": None, "x": None}
    assert gathered(5, "-5", 0.5, r"\pi", "x", r"\pi", "5").problem("--data x", "gold", NAMES, None) == (0.0, "")
    assert verdicts.asked == [([r"\pi", "x"], Path("/cache/labels"), None)]
    assert Labels().problem("--data x", "gold", NAMES, None) == (0.0, "")


@pytest.mark.parametrize(
    ("label", "plain"),
    [
        ("5", True), ("-0", True), ("1" * 15, True), ("1" * 16, False), ("0.123456", True), ("0.1234567", False),
        ("5.", False), (".5", False), ("+5", False), ("1e5", False), ("5 ", False), ("٣", False), ("1,000", False),
        ("", False),
    ],
)  # fmt: skip
def test_numbers_that_are_known_to_be_good(label, plain, verdicts, monkeypatch):
    verdicts.known[label] = "bad"
    monkeypatch.setattr(lens_openrlhf.rewards, "validate_label", lambda label: None)
    found = gathered(label).problem("--data x", "gold", NAMES, None, 20.0)
    assert verdicts.asked == ([] if plain else [([label], Path("/cache/labels"), 20.0)])
    assert found[0] == (0.0 if plain else 1.0)


def test_bad_labels_are_named_by_row(verdicts):
    """In the order of the rows, whatever is wrong with them; each row of a label that comes again."""
    verdicts.known |= {"???": "unread", r"\pi": None, "2e5": "two readings"}
    found = gathered("1", "???", None, r"\pi", "2e5", "???", [3], "7", "8", "9")
    assert found.problem("--data x", "gold", NAMES, Path("a b.jsonl")) == (
        0.5,
        "--data x: Math-Verify cannot grade by 5 of 10 labels (line 2, line 3, line 5, line 6, line 7); the first: "
        "??? in "
        "words; `lens-openrlhf grade 'a b.jsonl' --label_key gold` shows them; mend or drop these rows, or grade "
        "with a "
        "file of your own (--reward)",
    )


def test_more_bad_labels_than_are_named(verdicts):
    verdicts.known["2e5"] = "two readings"
    assert gathered(*["2e5"] * 7, "1").problem("--data x", "gold", NAMES, None) == (
        7 / 8,
        "--data x: Math-Verify cannot grade by 7 of 8 labels (line 1, line 2, line 3, line 4, line 5 and 2 more); "
        "the first: "
        "two readings; mend or drop these rows, or grade with a file of your own (--reward)",
    )


def test_the_first_bad_label_may_be_no_text(verdicts):
    verdicts.known["???"] = "unread"
    assert gathered("1", True, "???", None).problem("--data x", "a key", NAMES, Path("f")) == (
        0.75,
        "--data x: Math-Verify cannot grade by 3 of 4 labels (line 2, line 3, line 4); the first: the label True is "
        "not "
        "text; `lens-openrlhf grade f --label_key 'a key'` shows them; mend or drop these rows, or grade with a file "
        "of "
        "your own (--reward)",
    )


def test_labels_that_were_not_reached(verdicts):
    """The share is of those that were looked at."""
    verdicts.known["???"] = "unread"
    assert gathered("1", "???", "x", "x", "y", None).problem("--data x", "gold", NAMES, None, 0.5) == (
        2 / 3,
        "--data x: Math-Verify cannot grade by 2 of 3 labels that were looked at, of 6 (line 2, line 6); the first: "
        "??? in "
        "words; mend or drop these rows, or grade with a file of your own (--reward)",
    )
    assert verdicts.asked == [(["???", "x", "y"], Path("/cache/labels"), 0.5)]
