"""Records, fetches and messages to send, for tests that need no broker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import attrs

from transport.fetched import Fetched, FetchedRecords, Portion
from transport.message import Message
from transport.producing.pending import FutureMessage, PendingMessage
from transport.types import Headers, Record


@attrs.frozen
class FakeRecord:
    """A `transport.types.Record` with defaults for all but the offset."""

    offset: int
    key: bytes | None = None
    value: bytes | None = b"value"
    headers: Headers = ()
    timestamp: int = 0
    timestamp_type: int = 0


def records(*offsets: int) -> list[FakeRecord]:
    """Return one record for each offset."""
    return [FakeRecord(offset) for offset in offsets]


def fetched(*offsets: int) -> FetchedRecords:
    """Return a fetch with one record for each offset."""
    return FetchedRecords(records(*offsets))


class Encoded:
    """An encoded fetch whose portions the test chooses.

    Args:
        portions: the offsets in each portion. An error in the place of a portion is raised there.
        first: None: the offset of the first record.
        end: None: the offset after the last record.
        count: the number of records that its headers claim; None: the actual number.
        weight: the weight of the encoded fetch, and of each decoded record.

    Attributes:
        decoded: the number of portions read, by all readers.
    """

    def __init__(
        self,
        *portions: Sequence[int] | Exception,
        first: int | None = None,
        end: int | None = None,
        count: int | None = None,
        weight: int = 100,
    ) -> None:
        offsets = [at for each in portions if not isinstance(each, Exception) for at in each]
        self.first = offsets[0] if first is None else first
        self.end = offsets[-1] + 1 if end is None else end
        self.count = len(offsets) if count is None else count
        self.weight = weight
        self.decoded = 0
        self._portions = portions

    def read(self) -> Iterator[Portion]:
        for each in self._portions:
            if isinstance(each, Exception):
                raise each
            self.decoded += 1
            yield Portion(records(*each), self.weight * len(each))


def read(several: Iterable[Fetched]) -> list[Record]:
    """Return all records of several fetches."""
    return [record for each in several for portion in each.read() for record in portion.records]


def offsets(messages: Iterable[Message]) -> list[int]:
    return [message.offset for message in messages]


def soon(topic: str = "orders", value: bytes = b"v") -> FutureMessage:
    """Return a message to partition 0, for `send_soon` of the producer."""
    return FutureMessage(PendingMessage(topic=topic, value=value, partition=0))
