"""The outcomes of one report, without an object for each written message.

Most messages are written, many of them one after the other in one batch. Only the offset differs in
their metadata, and few programs read it. So the metadata is made when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import attrs

from transport.drivers.base import Outcome, Outgoing
from transport.types import RecordMetadata

_new = tuple.__new__


@attrs.frozen(eq=False)
class Place:
    """The place of messages that were written one after the other in one batch.

    Attributes:
        offset: of the first message; -1: the broker was not asked for an answer (`acks=0`).
        step: the difference between one offset and the next.
        timestamp: seconds since 1970, as stored, of a message without a timestamp of its own.
        has_own_times: a message with a timestamp of its own is stored with it.
    """

    topic: str
    partition: int
    offset: int
    step: int
    timestamp: float
    has_own_times: bool

    def of(self, message: Outgoing, at: int) -> RecordMetadata:
        """Return the metadata of the message with the number `at`, counted from 0."""
        own_ms, timestamp = message.timestamp_ms, self.timestamp
        if own_ms is not None and self.has_own_times:
            timestamp = own_ms / 1000
        # A call with keyword arguments takes twice as long.
        offset = self.offset + at * self.step
        return _new(RecordMetadata, (self.topic, self.partition, offset, timestamp))


@attrs.frozen(eq=False)
class Written:
    """Messages that were written one after the other, in this order."""

    messages: Sequence[Outgoing]
    place: Place

    def pairs(self) -> Iterator[tuple[Outgoing, Outcome]]:
        """Return each message with its metadata."""
        return ((each, self.place.of(each, at)) for at, each in enumerate(self.messages))


class Outcomes(Sequence[tuple[Outgoing, Outcome]]):
    """A report: a sequence of pairs of a message and its outcome.

    Attributes:
        written: the messages that were written, by batch.
        others: the pairs of all other messages.
    """

    def __init__(self) -> None:
        self.written: list[Written] = []
        self.others: list[tuple[Outgoing, Outcome]] = []
        self._length = 0  # the number of messages in `written`

    def add_written(self, messages: Sequence[Outgoing], place: Place) -> None:
        self.written.append(Written(messages, place))
        self._length += len(messages)

    def __len__(self) -> int:
        return self._length + len(self.others)

    def __iter__(self) -> Iterator[tuple[Outgoing, Outcome]]:
        for written in self.written:
            yield from written.pairs()
        yield from self.others

    @overload
    def __getitem__(self, at: int) -> tuple[Outgoing, Outcome]: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[tuple[Outgoing, Outcome]]: ...
    def __getitem__(
        self, at: int | slice
    ) -> tuple[Outgoing, Outcome] | Sequence[tuple[Outgoing, Outcome]]:
        return list(self)[at]
