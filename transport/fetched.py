"""The contract for fetched records, which stay encoded until they are read.

The ledger needs offsets and counts, and the headers of batches have them. So records are decoded
only when a lane has its turn, a portion at a time. Nothing here knows trio or Kafka.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from transport.types import Record
from transport.weights import weight_of

# Most records in a portion. Each lane holds one decoded portion.
PORTION = 64


class Portion(NamedTuple):
    """Decoded records of one partition.

    Attributes:
        records: at least one, in offset order.
        weight: the bytes that all of them take in memory together.
        freed: the bytes of the fetch that are in memory no more now that these are decoded. The
            rest is free when all of the fetch is read.
    """

    records: Sequence[Record]
    weight: int
    freed: int = 0


class Fetched(Protocol):
    """One partition's share of a fetch. It never changes, and each lane reads it by itself.

    Attributes:
        first: no record in it has an offset below this one.
        end: the offset after all of it, past gaps and markers. The next fetch begins there.
        count: the number of its records, as their batches claim. `read` may bring fewer, or end
            with an error.
        weight: the bytes that it takes in memory as it is.
    """

    @property
    def first(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def weight(self) -> int: ...

    def read(self) -> Iterator[Portion]:
        """Decode the records, a portion of at most `PORTION` at a time.

        Raises UnreadableBatch where it reaches a batch that it cannot decode, after all good
        records before it.
        """


class FetchedRecords:
    """A `Fetched` of records that need no decoding.

    Args:
        records: at least one, in offset order.
        end: None: the offset after the last record.
    """

    __slots__ = ("_portions", "count", "end", "first", "weight")

    def __init__(self, records: Sequence[Record], end: int | None = None) -> None:
        self.first = records[0].offset
        self.end = records[-1].offset + 1 if end is None else end
        self.count = len(records)
        parts = [records[at : at + PORTION] for at in range(0, len(records), PORTION)]
        self._portions = [
            Portion(part, weight, freed=weight)
            for part, weight in zip(parts, map(weight_of, parts), strict=True)
        ]
        self.weight = sum(portion.weight for portion in self._portions)

    def read(self) -> Iterator[Portion]:
        """Return the records in portions; see `Fetched.read`."""
        return _one_by_one(deque(self._portions))


def _one_by_one(portions: deque[Portion]) -> Iterator[Portion]:
    """Yield the portions, and keep none of those that were yielded in memory."""
    while portions:
        yield portions.popleft()
