"""The verb `tail`: print the messages of a topic, without a group and without a commit."""

from __future__ import annotations

import heapq
import re
import sys
from collections.abc import Callable
from typing import Annotated

import attrs
from cyclopts import Parameter

from transport.command_line.connection import Connection
from transport.command_line.moments import BEGINNING, END, Moment, moment_of
from transport.command_line.output import Json, print_json, print_line
from transport.command_line.reader import Isolation, Reader, reading
from transport.command_line.record_lines import Shown, bytes_text, shown
from transport.command_line.types import Types
from transport.command_line.usage import UsageError

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
    passes = filter.compiled()
    begin = _begin(first, count, passes is not None)
    end = END if last is None else moment_of("--until", last)
    key_type, value_type = types.of(topic)
    show = _show_json if json else _show_text
    window = _Window(show, count, keeps_last=first is None)
    opened = reading(connection.reader(isolation), topic, begin, end, partition, follows=follow)
    async with opened as reader:
        while not window.is_full and (follow or not reader.is_at_end):
            for tp, record in await reader.take():
                each = await shown(tp, record, key_type, value_type)
                if passes is None or passes(each):
                    window.add(each)
            window.end_if(reader)
            sys.stdout.flush()
        window.end()


def _begin(first: str | None, count: int | None, is_filtered: bool) -> Moment | int:
    if first is not None:
        return moment_of("--from", first)
    # The last messages of the topic are among the last of each partition.
    return BEGINNING if is_filtered else _LAST if count is None else count


def _show_json(each: Shown) -> None:
    print_json(each.as_json())


def _show_text(each: Shown) -> None:
    print_line(*each.as_text())


class _Window:
    """Prints messages at once, or keeps the last ones by time until the end of the topic.

    Attributes:
        is_full: whether no more messages are wanted.
    """

    def __init__(
        self, show: Callable[[Shown], None], count: int | None, *, keeps_last: bool
    ) -> None:
        self._show = show
        self._most = count
        self._keeps = keeps_last
        self._kept: list[tuple[float, int, Shown]] = []
        self._added = 0
        self.is_full = not keeps_last and count == 0

    def add(self, each: Shown) -> None:
        if self.is_full:
            return
        self._added += 1
        if not self._keeps:
            self._show(each)
            self.is_full = self._most is not None and self._added >= self._most
            return
        heapq.heappush(self._kept, (each.time or 0.0, self._added, each))
        if len(self._kept) > (_LAST if self._most is None else self._most):
            heapq.heappop(self._kept)

    def end_if(self, reader: Reader) -> None:
        """At the end of the topic, print what was kept. What follows is printed at once."""
        if self._keeps and reader.is_at_end:
            self.end()
            self._most = None

    def end(self) -> None:
        """Print what was kept, in the order of time."""
        for _, _, each in sorted(self._kept, key=lambda kept: kept[:2]):
            self._show(each)
        self._kept.clear()
        self._keeps = False
