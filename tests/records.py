"""Records for tests that need no broker."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from transport.fetched import Fetched, FetchedRecords
from transport.types import Headers, Record


@attrs.frozen
class FakeRecord:
    """A `transport.types.Record` of which mostly the offset matters."""

    offset: int
    key: bytes | None = None
    value: bytes | None = b"value"
    headers: Headers = ()
    timestamp: int = 0
    timestamp_type: int = 0


def records(*offsets: int) -> list[FakeRecord]:
    """One record for each offset."""
    return [FakeRecord(offset) for offset in offsets]


def fetched(*offsets: int) -> FetchedRecords:
    """What a fetch brought: one record for each offset."""
    return FetchedRecords(records(*offsets))


def read(several: Iterable[Fetched]) -> list[Record]:
    """Return all records of some fetches."""
    return [record for each in several for portion in each.read() for record in portion.records]
