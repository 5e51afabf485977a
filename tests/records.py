"""Records for tests that need no broker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import attrs

from transport.fetched import Fetched, FetchedRecords, Portion
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


class Encoded:
    """What a fetch brought, in portions of one record each or more, as tests choose them.

    Args:
        portions: the offsets in each portion; an error in place of one is raised there.
        end: None: the offset after the last record.
        count: how many records its headers claim; None: as many as there are.
        weight: of all of it, encoded, and of each decoded record.

    Attributes:
        decoded: how many portions were read, by anybody.
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
    """Return all records of some fetches."""
    return [record for each in several for portion in each.read() for record in portion.records]
