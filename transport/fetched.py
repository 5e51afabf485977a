"""The contract of a fetch, whose records stay encoded until a lane reads them.

The ledger needs only offsets and counts, and the headers of the batches have these. So a lane
decodes records only when it needs them, one portion at a time. Nothing here knows trio or Kafka.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from transport.types import Record
from transport.weights import weight_of

# The most records in a portion. Each lane holds one decoded portion.
PORTION = 64


class Portion(NamedTuple):
    """Decoded records of one partition.

    Attributes:
        records: at least one, in offset order.
        weight: the bytes that they take in memory together.
        freed: the bytes of the encoded fetch that decoding this portion freed. The rest of the
            fetch is freed when all of it is read.
    """

    records: Sequence[Record]
    weight: int
    freed: int = 0


class Fetched(Protocol):
    """The records of one partition that one poll returned. Immutable; each lane reads it anew.

    Attributes:
        first: a lower bound of its records' offsets.
        end: the offset after all of it, past gaps and markers. The next fetch begins there.
        count: the number of records that the headers of its batches claim. `read` may return
            another number, or end with an error.
        weight: the bytes that it takes in memory, encoded.
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
        """Decode the records, in portions of at most `PORTION`.

        Raises UnreadableBatch at a batch that cannot be decoded, after all records before it.
        """


class FetchedRecords:
    """A `Fetched` of records that are already decoded.

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
    """Yield the portions, and drop the reference to each, so that its records can be freed."""
    while portions:
        yield portions.popleft()
