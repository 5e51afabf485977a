"""One partition's log: records at rising offsets, with gaps where there is none.

Pure: it neither waits nor knows the time. Reading is a slice of a list; a record is
made once, when it is appended, and shared by all who read it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from transport.drivers.memory.change_signal import ChangeSignal
from transport.errors import OffsetOutOfRange
from transport.types import Headers

# What a record weighs besides its content, so that empty records are bounded as well.
FRAME_BYTES = 16


class StoredRecord(NamedTuple):
    """A record in the log; the fields are those of `transport.types.Record`."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int
    timestamp_type: int


class Slice(NamedTuple):
    """What a read found: records, where to go on, and what the records weigh in bytes."""

    records: Sequence[StoredRecord]
    position: int
    weight: int


def content_size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """Bytes of a record's key, value and headers."""
    size = len(key or b"") + len(value or b"")
    for name, content in headers:
        size += len(name) + len(content or b"")
    return size


class Log:
    """Records and gaps from `start` up to, and without, `end`.

    Attributes:
        start: the first offset that may be read.
        end: the offset that the next record gets.
        bell: rung by whoever changed the log, once a batch.
    """

    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self.bell = ChangeSignal()
        self._records: list[StoredRecord] = []
        self._offsets: list[int] = []
        self._weights: list[int] = []  # of each record and all before it, trimmed ones too
        self._trimmed = 0  # weight of the records that were trimmed
        self._open: dict[object, list[int]] = {}  # the offsets of each open transaction
        self._aborted: set[int] = set()

    @property
    def stable_end(self) -> int:
        """The end for who reads what is committed: the first offset of an open transaction."""
        return min((offsets[0] for offsets in self._open.values()), default=self.end)

    def append(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        timestamp_ms: int,
        transaction: object = None,
    ) -> int:
        """Add a record, to an open transaction if one is named; its offset."""
        offset = self.end
        if transaction is not None:
            self._open.setdefault(transaction, []).append(offset)
        weight = content_size(key, value, headers) + FRAME_BYTES
        self._records.append(
            StoredRecord(
                offset,
                key,
                value,
                tuple(headers),  # all readers of the record share them
                timestamp_ms,
                0,
            )
        )
        self._offsets.append(offset)
        self._weights.append(weight + (self._weights[-1] if self._weights else self._trimmed))
        self.end = offset + 1
        return offset

    def end_transaction(self, transaction: object, *, committed: bool) -> None:
        """Write the marker, which takes an offset, behind what the transaction has written here."""
        offsets = self._open.pop(transaction, [])
        if not committed:
            self._aborted.update(offsets)
        self.skip(1)

    def since(self, timestamp_ms: int) -> int:
        """Return the offset of the first record with this or a later timestamp; else the end."""
        late = (record for record in self._records if record.timestamp >= timestamp_ms)
        return next((record.offset for record in late), self.end)

    def skip(self, count: int) -> None:
        """Leave a gap of `count` offsets, as compaction or a marker does."""
        self.end += count

    def trim(self, before: int) -> None:
        """Forget the records below the offset `before`, as retention does."""
        before = min(before, self.end)
        if before <= self.start:
            return
        self.start = before
        gone = bisect_left(self._offsets, before)
        if gone:
            self._trimmed = self._weights[gone - 1]
            del self._records[:gone], self._offsets[:gone], self._weights[:gone]

    def committed_records(self) -> list[StoredRecord]:
        """All that is there for who reads what is committed."""
        end = bisect_left(self._offsets, self.stable_end)
        return [record for record in self._records[:end] if record.offset not in self._aborted]

    def cut_off(self, end: int) -> None:
        """Lose what is from the offset `end` on, as a log does that comes back from an old copy."""
        end = min(end, self.end)
        left = bisect_left(self._offsets, end)
        del self._records[left:], self._offsets[left:], self._weights[left:]
        self._aborted = {offset for offset in self._aborted if offset < end}
        self.start = min(self.start, end)
        self.end = end

    def read(self, offset: int, max_bytes: int, *, committed: bool = False) -> Slice:
        """Records from `offset` on.

        At least one record where there is any, more as long as they weigh no more than
        `max_bytes` together. Where there is none, the way leads past the gap, to the end.

        Args:
            committed: without what was aborted, and only up to the first open transaction.

        Raises:
            OffsetOutOfRange: `offset` is neither in the log nor its end.
        """
        if not self.start <= offset <= self.end:
            raise OffsetOutOfRange(f"offset {offset} is not within [{self.start}, {self.end}]")
        end = self.stable_end if committed else self.end
        first = bisect_left(self._offsets, offset)
        last = bisect_left(self._offsets, end)
        if committed:
            while first < last and self._offsets[first] in self._aborted:
                first += 1
        if first >= last:
            return Slice((), max(offset, end), 0)
        before = self._weights[first - 1] if first else self._trimmed
        beyond = max(bisect_right(self._weights, before + max_bytes, lo=first), first + 1)
        beyond = min(beyond, last)
        records = self._records[first:beyond]
        if committed and self._aborted:
            records = [record for record in records if record.offset not in self._aborted]
        return Slice(
            records=records,
            position=self._offsets[beyond - 1] + 1,
            weight=self._weights[beyond - 1] - before,
        )
