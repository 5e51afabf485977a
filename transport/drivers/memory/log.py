"""The log of one partition: records at increasing offsets, with gaps. Pure.

A read is a slice of a list. A record is made once, at its append, and all readers share it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from transport.drivers.memory.change_signal import ChangeSignal
from transport.errors import OffsetOutOfRange
from transport.types import Headers

# The weight of a record besides its content, so that a read of empty records has a bound as well.
FRAME_BYTES = 16


class StoredRecord(NamedTuple):
    """A record in the log, with the fields of `transport.types.Record`."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int
    timestamp_type: int


class Slice(NamedTuple):
    """The result of a read: records, the position of the next read, and the weight in bytes."""

    records: Sequence[StoredRecord]
    position: int
    weight: int


def content_size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """Return the bytes of a record's key, value and headers."""
    size = len(key or b"") + len(value or b"")
    for name, content in headers:
        size += len(name) + len(content or b"")
    return size


class Log:
    """Records and gaps from `start` up to `end`, without `end`.

    Attributes:
        start: the first offset that may be read.
        end: the offset of the next record.
        changed: signals a change of the log. The caller that changes the log calls `notify`, once
            for each batch.
    """

    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self.changed = ChangeSignal()
        self._records: list[StoredRecord] = []
        self._offsets: list[int] = []
        self._weights: list[int] = []  # cumulative, trimmed records included
        self._trimmed = 0  # the weight of the trimmed records
        self._open: dict[object, list[int]] = {}  # the offsets of each open transaction
        self._aborted: set[int] = set()

    @property
    def stable_end(self) -> int:
        """The end for "read_committed" readers: the first offset of an open transaction."""
        return min((offsets[0] for offsets in self._open.values()), default=self.end)

    def append(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        timestamp_ms: int,
        transaction: object = None,
    ) -> int:
        """Add a record, to `transaction` if it is not None, and return its offset."""
        offset = self.end
        if transaction is not None:
            self._open.setdefault(transaction, []).append(offset)
        weight = content_size(key, value, headers) + FRAME_BYTES
        self._records.append(
            StoredRecord(
                offset,
                key,
                value,
                tuple(headers),  # a copy, because all readers share it
                timestamp_ms,
                0,
            )
        )
        self._offsets.append(offset)
        self._weights.append(weight + (self._weights[-1] if self._weights else self._trimmed))
        self.end = offset + 1
        return offset

    def end_transaction(self, transaction: object, *, committed: bool) -> None:
        """Write the marker of a transaction, which takes one offset, at the end of the log."""
        offsets = self._open.pop(transaction, [])
        if not committed:
            self._aborted.update(offsets)
        self.skip(1)

    def first_since(self, timestamp_ms: int) -> StoredRecord | None:
        """Return the first record with this or a later timestamp; None: there is none."""
        late = (record for record in self._records if record.timestamp >= timestamp_ms)
        return next(late, None)

    def since(self, timestamp_ms: int) -> int:
        """Return the offset of the first record with this or a later timestamp, or else the end."""
        record = self.first_since(timestamp_ms)
        return self.end if record is None else record.offset

    def skip(self, count: int) -> None:
        """Leave a gap of `count` offsets, as compaction or a marker does."""
        self.end += count

    def trim(self, before: int) -> None:
        """Delete the records below the offset `before`, as retention does."""
        before = min(before, self.end)
        if before <= self.start:
            return
        self.start = before
        gone = bisect_left(self._offsets, before)
        if gone:
            self._trimmed = self._weights[gone - 1]
            del self._records[:gone], self._offsets[:gone], self._weights[:gone]

    def committed_records(self) -> list[StoredRecord]:
        """Return all records that "read_committed" shows."""
        end = bisect_left(self._offsets, self.stable_end)
        return [record for record in self._records[:end] if record.offset not in self._aborted]

    def cut_off(self, end: int) -> None:
        """Drop the records from the offset `end` on, as after a restart from an old copy."""
        end = min(end, self.end)
        left = bisect_left(self._offsets, end)
        del self._records[left:], self._offsets[left:], self._weights[left:]
        self._aborted = {offset for offset in self._aborted if offset < end}
        self.start = min(self.start, end)
        self.end = end

    def read(self, offset: int, max_bytes: int, *, committed: bool = False) -> Slice:
        """Return records from `offset` on.

        Returns at least one record if there is one, and more up to a total weight of `max_bytes`.
        If there is none, the position of the result is the end.

        Args:
            committed: without aborted records, and only up to the first open transaction.

        Raises:
            OffsetOutOfRange: `offset` is neither in the log nor its end.
        """
        if not self.start <= offset <= self.end:
            raise OffsetOutOfRange(f"offset {offset} is not in the log [{self.start}, {self.end}]")
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
