"""Rows of prompts and labels, checked before anything expensive: for all commands alike."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .inputs import OptionError

PLAIN_NUMBER = re.compile(r"-?\d{1,15}(?:\.\d{1,6})?", re.ASCII)  # which Math-Verify has exactly; most labels are
NAMED = 5  # rows of bad labels that a message names


@dataclass(frozen=True)
class Row:
    """One row of the data and where it stands ("line 5"), for messages."""

    place: str
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Names:
    """What a command calls its options, for messages."""

    chat: str
    template: str
    reward: str


def with_keys(shown: str, rows: Iterable[Row], keys: Mapping[str, str]) -> Iterator[Row]:
    """The rows, each of which has a value for every one of `keys`, {key: option that names it}.

    Args:
        shown: option and data, with which messages begin.
    Raises:
        OptionError: naming the place and the key, or that there is no row.
    """
    row = None
    for row in rows:
        for key, option in keys.items():
            if row.values.get(key) in (None, "", []):
                there = "" if key in row.values else f" (there are: {', '.join(map(str, row.values)) or 'none'})"
                raise OptionError(
                    f"{shown}: {row.place} has no {key!r}, the key of {option}; mend the data or name another key"
                    + there
                )
        yield row
    if row is None:
        raise OptionError(f"{shown}: there is no row in it")


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """How a row becomes a prompt.

    fill: puts a text into the command's template; None without one.
    chat: whether prompts go through the chat template of `tokenizer`, which is None where it is not here.
    """

    shown: str
    key: str
    names: Names
    fill: Callable[[str], str] | None = None
    chat: bool = False
    tokenizer: Any = None

    def text(self, row: Row) -> str:
        """The prompt of a row: through the template, then through the tokenizer's chat template. Empty for a chat whose
        tokenizer is not here.

        Raises:
            OptionError: a prompt of another type than these can take, or that the chat template refuses.
        """
        prompt = row.values[self.key]
        if isinstance(prompt, str):
            prompt = self.fill(prompt) if self.fill else prompt
        elif not self.chat or self.fill or not isinstance(prompt, list):
            raise OptionError(
                f"{self.shown}: the {self.key!r} of {row.place} is a {type(prompt).__name__}; it must be text, or a "
                f"list of messages with {self.names.chat} and without {self.names.template}"
            )
        if not self.chat or self.tokenizer is None:
            return prompt if isinstance(prompt, str) else ""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program of the model's, and raises what it likes
            raise OptionError(
                f"{self.shown}: the chat template of {self.tokenizer.name_or_path} does not take the {self.key!r} of "
                f"{row.place} ({type(error).__name__}: {error}); mend the messages, each of which has a role and a "
                "content"
            ) from None


def check_chat_template(option: str, tokenizer: Any) -> None:
    """Raises OptionError where a tokenizer has no chat template."""
    if not tokenizer.chat_template:
        raise OptionError(f"{option}: the tokenizer of {tokenizer.name_or_path} has no chat template; leave it out")


def check_verifier() -> None:
    """Raises OptionError for a variable of the verifier's that cannot be."""
    from .rewards.pool import Settings

    try:
        Settings.from_env()
    except ValueError as error:
        raise OptionError(str(error)) from None


class Labels:
    """Labels, gathered row by row and then checked, each distinct one once."""

    def __init__(self) -> None:
        self._rows = 0
        self._places: dict[str, list[tuple[int, str]]] = {}
        self._no_text: list[tuple[int, str, str]] = []

    def add(self, row: Row, key: str) -> None:
        from .rewards import label_text

        self._rows += 1
        try:
            self._places.setdefault(label_text(row.values[key]), []).append((self._rows, row.place))
        except TypeError as error:
            self._no_text.append((self._rows, row.place, str(error)))

    def problem(
        self, shown: str, key: str, names: Names, path: Path | None, seconds: float | None = None
    ) -> tuple[float, str]:
        """The share of rows whose labels no answer can be graded by, and a line about them; (0, "") for none.

        Args:
            path: the file, for the command that shows them.
            seconds: so long at most; what was found by then is kept, so that another time it goes on.
        """
        from .data import labels
        from .process import cache_folder
        from .rewards import validate_label

        check_verifier()
        verdicts: dict[str, str | None] = {label: None for label in self._places if PLAIN_NUMBER.fullmatch(label)}
        if others := [label for label in self._places if label not in verdicts]:
            verdicts |= labels.check(others, cache_folder() / "labels", seconds)
        checked = len(self._no_text) + sum(len(self._places[label]) for label in verdicts)
        bad: list[tuple[int, str, str | None]] = [(number, place, None) for number, place, _ in self._no_text]
        bad += [(*place, label) for label, why in verdicts.items() if why for place in self._places[label]]
        bad.sort(key=lambda row: row[0])
        if not bad:
            return 0.0, ""
        number, _, label = bad[0]
        if label is not None:
            why = validate_label(label) or verdicts[label]
        else:
            why = next(why for at, _, why in self._no_text if at == number)
        places = [place for _, place, _ in bad[:NAMED]]
        rest = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        of = f"{checked} labels" + (f" that were looked at, of {self._rows}" if checked < self._rows else "")
        command = f"`lens-openrlhf grade {shlex.quote(str(path))} --label_key {shlex.quote(key)}` shows them; "
        return len(bad) / checked, (
            f"{shown}: Math-Verify cannot grade by {len(bad)} of {of} ({', '.join(places)}{rest}); the first: {why}; "
            f"{command if path else ''}mend or drop these rows, or grade with a file of your own ({names.reward})"
        )
