"""The verb `tail`: print the messages of a topic, without a group and without a commit."""

from __future__ import annotations

import collections
import itertools
import math
import re
import sys
from collections.abc import Callable, Collection
from typing import Annotated

import attrs
from cyclopts import Parameter

from transport.command_line.connection import Connection
from transport.command_line.moments import BEGINNING, END, moment_of
from transport.command_line.output import Json, print_json, print_line
from transport.command_line.reader import Isolation, Reader, reading
from transport.command_line.record_lines import Shown, bytes_text, shown
from transport.command_line.types import Types, ValueType
from transport.command_line.usage import UsageError
from transport.types import TP

_LAST = 10


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Filter:
    """The options that choose messages. A message must pass each that is given."""

    key: Annotated[
        str | None, Parameter(name="--key", help="Only messages with exactly this key.")
    ] = None
    header: Annotated[
        tuple[str, ...],
        Parameter(
            name="--header",
            negative="",
            help="Only messages with this header, as NAME or NAME=VALUE. May be repeated.",
        ),
    ] = ()
    grep: Annotated[
        str | None,
        Parameter(name="--grep", help="Only messages whose key or value matches this pattern."),
    ] = None

    def compiled(self) -> Callable[[Shown], bool] | None:
        """Return a function that says whether a message passes. None: each one does.

        Raises UsageError.
        """
        tests: list[Callable[[Shown], bool]] = []
        if (key := self.key) is not None:
            tests.append(lambda each: each.text("key") == key)
        for wanted in self.header:
            tests.append(_header_test(wanted))
        if self.grep is not None:
            try:
                search = re.compile(self.grep).search
            except re.error as error:
                raise UsageError(f"--grep {self.grep!r} is no pattern: {error}") from None
            tests.append(lambda each: bool(search(each.text("key")) or search(each.text("value"))))
        return (lambda each: all(test(each) for test in tests)) if tests else None


def _header_test(wanted: str) -> Callable[[Shown], bool]:
    name, equals, value = wanted.partition("=")

    def test(each: Shown) -> bool:
        return any(
            there == name and (not equals or bytes_text(content) == value)
            for there, content in each.record.headers
        )

    return test


async def tail(
    topic: str,
    /,
    *,
    count: Annotated[int | None, Parameter(name=("--count", "-n"))] = None,
    first: Annotated[str | None, Parameter(name="--from")] = None,
    last: Annotated[str | None, Parameter(name="--until")] = None,
    follow: Annotated[bool, Parameter(name=("--follow", "-f"), negative="")] = False,
    partition: Annotated[tuple[int, ...], Parameter(name=("--partition", "-p"), negative="")] = (),
    isolation: Isolation = "read_committed",
    filter: Filter = Filter(),
    types: Types = Types(),
    json: Json = False,
    connection: Connection = Connection(),
) -> None:
    """Print messages of a topic. This joins no group and commits nothing.

    Without --from, these are the last 10 messages, or the last of those that pass a filter.

    Example: kafka-nursery tail orders --from 10m --grep anna --follow

    Parameters
    ----------
    topic:
        The topic.
    count:
        The most messages. With --from the first ones, otherwise the last ones.
    first:
        Where to begin: beginning, end, an offset (120), a number before the end (-5), an age
        (10m), or a time (2026-11-27T18:00:00Z).
    last:
        Where to end, as for --from. The message at this place is not printed.
    follow:
        Continue with new messages.
    partition:
        Only this partition. May be repeated.
    isolation:
        Whether messages of open and aborted transactions are left out.
    """
    if follow and last is not None:
        raise UsageError("--follow has no end: leave out --until")
    if count is not None and count < 0:
        raise UsageError(f"--count takes 0 or more, not {count}")
    if count is not None:
        count = min(count, sys.maxsize)
    passes = filter.compiled()
    end = END if last is None else moment_of("--until", last)
    printer = _Printer(types.of(topic), passes, is_json=json)
    most = _LAST if count is None else count
    begin = moment_of("--from", first) if first else most if passes is None else BEGINNING
    opened = reading(connection.reader(isolation), topic, begin, end, partition, follows=follow)
    async with opened as reader:
        if first is None:
            await printer.print_last(reader, most)
            count = None
        if first is not None or follow:
            await printer.print_first(reader, count)


@attrs.define(eq=False)
class _Printer:
    """Prints the messages of a reader that pass a filter.

    Args:
        types: of keys and values.
        passes: the filter; None: each message passes.
    """

    types: tuple[ValueType, ValueType]
    passes: Callable[[Shown], bool] | None
    is_json: bool = attrs.field(kw_only=True)

    async def print_first(self, reader: Reader, count: int | None) -> None:
        """Print messages as they come: the first ones, or all if `count` is None."""
        left = math.inf if count is None else count
        while left > 0 and (reader.follows or not reader.is_at_end):
            for _, each in await self._take(reader):
                if each is not None and left > 0:
                    self._print(each)
                    left -= 1
            sys.stdout.flush()

    async def print_last(self, reader: Reader, count: int) -> None:
        """Read up to the end, and print the last messages in the order of time."""
        kept: dict[TP, collections.deque[Shown]] = {}
        found: collections.Counter[TP] = collections.Counter()
        again: Collection[TP] = ()
        while again or not reader.is_at_end:
            while not reader.is_at_end:
                for tp, each in await self._take(reader):
                    found[tp] += 1
                    if each is not None:
                        kept.setdefault(tp, collections.deque(maxlen=count)).append(each)
            again = await reader.go_back(found, count)
            for tp in again:
                kept.pop(tp, None)
                del found[tp]
        every = sorted(itertools.chain(*kept.values()), key=lambda each: each.time or 0.0)
        for each in every[-count:] if count else ():
            self._print(each)
        sys.stdout.flush()

    async def _take(self, reader: Reader) -> list[tuple[TP, Shown | None]]:
        """Return the next messages. None: the message does not pass the filter."""
        taken: list[tuple[TP, Shown | None]] = []
        for tp, record in await reader.take():
            each = await shown(tp, record, *self.types)
            taken.append((tp, each if self.passes is None or self.passes(each) else None))
        return taken

    def _print(self, each: Shown) -> None:
        if self.is_json:
            print_json(each.as_json())
        else:
            print_line(*each.as_text())
