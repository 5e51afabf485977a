"""A dead letter, as its headers describe it, and the options that choose letters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import attrs
from cyclopts import Parameter

from transport.command_line.record_lines import bytes_text
from transport.command_line.usage import UsageError
from transport.handling.dead_letters import PREFIX
from transport.types import TP, Headers, Record

# A letter keeps these headers when it goes back, so that it still counts its redrives.
_LEFT_OUT = ("stack", "text")


@attrs.frozen
class Letter:
    """A message of a dead-letter topic that a handler of the library has sent.

    Attributes:
        tp: the partition of the letter.
        facts: the headers with the prefix `dead.`, without it.
    """

    tp: TP
    record: Record
    facts: Mapping[str, str]

    @property
    def place(self) -> str:
        """The place of the letter in its topic, such as "0@17"."""
        return place_of(self.tp.partition, self.record.offset)

    @property
    def source(self) -> str:
        """The topic of the message."""
        return self.facts["topic"]

    @property
    def source_partition(self) -> int | None:
        number = self.facts.get("partition", "")
        return int(number) if number.isascii() and number.isdigit() else None

    @property
    def source_place(self) -> str:
        return f"{self.source}-{self.facts.get('partition')}@{self.facts.get('offset')}"

    def headers_to_redrive(self) -> Headers:
        """Return the headers of the message that goes back to its source."""
        left_out = {PREFIX + name for name in _LEFT_OUT}
        return [(name, value) for name, value in self.record.headers if name not in left_out]

    def fields(self) -> dict[str, Any]:
        """Return what a list of letters shows."""
        return {
            "letter": self.place,
            "source": self.source_place,
            "handler": self.facts.get("handler"),
            "error": self.facts.get("error"),
            "text": self.facts.get("text"),
            "attempts": self.facts.get("attempts"),
            "redrives": self.facts.get("redrives"),
        }


def letter_of(tp: TP, record: Record) -> Letter | None:
    """Return the letter in a record; None: the record is no dead letter."""
    facts = {
        name.removeprefix(PREFIX): (value or b"").decode(errors="replace")
        for name, value in record.headers
        if name.startswith(PREFIX)
    }
    return Letter(tp, record, facts) if facts.get("topic") else None


def place_of(partition: int, offset: int) -> str:
    return f"{partition}@{offset}"


def checked_place(text: str) -> tuple[int, int]:
    """Return the partition and the offset of a place such as "0@17". Raises UsageError."""
    match = re.fullmatch(r"(\d+)@(\d+)", text, re.ASCII)
    if match is None:
        raise UsageError(f"a letter is named as PARTITION@OFFSET, such as 0@17, not {text!r}")
    return int(match[1]), int(match[2])


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class LetterFilter:
    """The options that choose letters. A letter must pass each that is given."""

    letter: Annotated[
        tuple[str, ...],
        Parameter(
            name="--letter",
            negative="",
            help="Only this letter, as list names it, such as 0@17. May be repeated.",
        ),
    ] = ()
    source: Annotated[
        str | None, Parameter(name="--source", help="Only letters of messages of this topic.")
    ] = None
    group: Annotated[
        str | None, Parameter(name="--group", help="Only letters of this consumer group.")
    ] = None
    handler: Annotated[
        str | None, Parameter(name="--handler", help="Only letters of this handler.")
    ] = None
    error: Annotated[
        str | None,
        Parameter(
            name="--error",
            help="Only letters whose error, as CLASS: TEXT, matches this pattern.",
        ),
    ] = None
    key: Annotated[
        str | None, Parameter(name="--key", help="Only letters with exactly this key.")
    ] = None
    most_redrives: Annotated[
        int | None,
        Parameter(
            name="--most-redrives",
            help="Only letters that were redriven this often before, or less.",
        ),
    ] = None

    def compiled(self) -> Callable[[Letter], bool]:
        """Return a function that says whether a letter passes. Raises UsageError."""
        tests: list[Callable[[Letter], bool]] = []
        if self.letter:
            places = {place_of(*checked_place(each)) for each in self.letter}
            tests.append(lambda letter: letter.place in places)
        for name, wanted in (
            ("topic", self.source),
            ("group", self.group),
            ("handler", self.handler),
        ):
            if wanted is not None:
                tests.append(_fact_test(name, wanted))
        if self.error is not None:
            try:
                search = re.compile(self.error).search
            except re.error as error:
                raise UsageError(f"--error {self.error!r} is no pattern: {error}") from None
            tests.append(lambda letter: search(_reason(letter)) is not None)
        if (key := self.key) is not None:
            tests.append(lambda letter: bytes_text(letter.record.key) == key)
        if (most := self.most_redrives) is not None:
            tests.append(lambda letter: _redrives(letter) <= most)
        return lambda letter: all(test(letter) for test in tests)


def _fact_test(name: str, wanted: str) -> Callable[[Letter], bool]:
    return lambda letter: letter.facts.get(name) == wanted


def _reason(letter: Letter) -> str:
    return f"{letter.facts.get('error')}: {letter.facts.get('text')}"


def _redrives(letter: Letter) -> int:
    text = letter.facts.get("redrives", "")
    return int(text) if text.isascii() and text.isdigit() else 0
