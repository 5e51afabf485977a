"""Checks and bounds for fetched records as they are decompressed and decoded.

Anyone who may write to a topic chooses the bytes that its readers unpack, so damaged and hostile
data arrives here. The client checks CRCs. Apart from that, the client

- decompresses each batch at once and without a bound: some KB can become GBs;
- decodes all fetched records of all partitions at once, with all headers: a header of two bytes
  takes more than a hundred in memory;
- treats an unknown format as the newest known one;
- raises most errors without the partition and the offset, and then loops for ever in its next poll;
- treats a header name that is not UTF-8 as a broken batch, so no reader gets past it.

A batch that cannot be read ends the reading with `UnreadableBatch`, at each attempt. Good records
before it are delivered first, and nothing is skipped.
"""

from __future__ import annotations

from typing import Any

import kafka.errors
from kafka.consumer.fetcher import Fetcher
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.legacy_records import LegacyRecordBatch
from kafka.record.util import decode_varint

from transport.drivers.kafka.decompression import TooLarge, decompress
from transport.errors import UnreadableBatch
from transport.excerpt import excerpt, excerpt_of_error
from transport.types import TP
from transport.weights import HEADER_BYTES, RECORD_BYTES

KNOWN_FORMATS = (0, 1, 2)
# The least bytes that a header has in a batch.
_LEAST_HEADER = 2


class Room:
    """The memory that the records of one poll may take, over all partitions.

    Args:
        limit: most bytes of a single batch once it is decompressed, and of the headers of a single
            record once they are decoded.
        for_poll: most bytes of all records together.

    Attributes:
        left: what is left for the poll under way. One record may exceed it.
    """

    def __init__(self, limit: int, for_poll: int) -> None:
        self.limit = limit
        self.left = self._for_poll = for_poll

    def renew(self) -> None:
        """Begin a poll: all of the room is free."""
        self.left = self._for_poll


def bound_unpacking(consumer: Any, limit: int, waiting: int) -> None:
    """Check and bound the records that a new KafkaConsumer unpacks.

    Args:
        limit: most bytes that a batch may decompress to, and that a record's headers may take in
            memory. One poll brings half as much, and a record that exceeds it. The rest of a
            partition is fetched again; partitions that had no turn wait as they came, undecoded.
        waiting: the most bytes of fetches that wait because their partitions were paused. The rest
            is dropped, and fetched again after the resume.
    """
    # `_fetcher`, `PartitionRecords`, `_parse_fetched_data`: where what was fetched is unpacked.
    # `fetched_records`, `_append`: where a poll takes it, one partition after the other.
    # `_paused_completed_fetches`: what waits for a resume; of each partition at most one fetch, so
    # with many partitions there is no bound.
    fetcher, room = consumer._fetcher, Room(limit, max(1, limit // 2))
    parse, fetched, append = fetcher._parse_fetched_data, fetcher.fetched_records, fetcher._append

    def parse_naming_the_place(fetch: Any) -> Any:
        try:
            return parse(fetch)
        except kafka.errors.CorruptRecordError as error:  # the broker has found out by itself
            tp = TP(*fetch.topic_partition)
            raise UnreadableBatch(f"{tp} offset {fetch.fetched_offset}: {error}") from error

    def records_of(*args: Any, **options: Any) -> BoundedRecords:
        return BoundedRecords(room, *args, **options)

    def fetched_records(*args: Any, **options: Any) -> Any:
        room.renew()
        try:
            return fetched(*args, **options)
        finally:
            _drop_beyond(waiting, fetcher._paused_completed_fetches)

    def append_within(drained: Any, part: Any, max_records: int, update_offsets: bool) -> int:
        count: int = append(drained, part, max_records, update_offsets)
        return max_records if room.left <= 0 else count  # the poll asks for no more, then

    fetcher._parse_fetched_data = parse_naming_the_place
    fetcher.PartitionRecords = records_of
    fetcher.fetched_records = fetched_records
    fetcher._append = append_within


def _drop_beyond(most: int, fetches: dict[Any, Any]) -> None:
    """Drop the last waiting fetches. No position has passed them, so they are fetched again."""
    size = 0
    for tp, fetch in list(fetches.items()):
        size += len(fetch.partition_data.records or b"")
        if size > most:
            del fetches[tp]


class BoundedRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """What was fetched of one partition."""

    def __init__(
        self, room: Room, fetch_offset: int, tp: Any, records: Any, **options: Any
    ) -> None:
        self._error: UnreadableBatch | None = None
        super().__init__(fetch_offset, tp, _Batches(records, room, fetch_offset), **options)

    def take(self, n: int | None = None) -> Any:
        if self._error is not None:
            raise self._error  # the client would wait for records that never come
        try:
            records = super().take(n)
        except Exception as error:
            place = f"{TP(*self.topic_partition)} offset {self.next_fetch_offset}"
            self._error = UnreadableBatch(f"{place}: {_told(error)}")
            raise self._error from error
        # `_next_inline_exception`: what ended the reading after these records.
        if isinstance(self._next_inline_exception, _NoRoom):
            self.drain()  # the rest is fetched again, from `next_fetch_offset` on
        return records


class _NoRoom(Exception):
    """The poll has no room left; the next record is not read."""


class _Batches:
    """The batches in a fetch, one after the other, as the client's PartitionRecords asks."""

    def __init__(self, records: Any, room: Room, first: int) -> None:
        self._records = records
        self._room = room
        self._first = first

    def next_batch(self) -> Any:
        """The next one; None, the end, also where as much as is allowed was given out."""
        if self._room.left <= 0:
            return None
        batch = self._records.next_batch()
        if batch is None:
            return None
        if batch.magic not in KNOWN_FORMATS:
            raise ValueError(f"a batch of the unknown format {batch.magic} (its magic byte)")
        bounded = _as(_Batch if batch.magic == 2 else _LegacyBatch, batch)
        bounded.room, bounded.first = self._room, self._first
        bounded.look_ahead()
        return bounded


def _told(error: Exception) -> str:
    if isinstance(error, (ValueError, TooLarge, kafka.errors.KafkaError)):
        return excerpt(str(error))
    return excerpt_of_error(error)


def _as(kind: Any, batch: Any) -> Any:
    """The same batch as one of a subclass, without copying what is in it."""
    other = kind.__new__(kind)
    for name in kind.__base__.__slots__:
        setattr(other, name, getattr(batch, name))
    return other


class _Batch(DefaultRecordBatch):  # type: ignore[misc]
    # `_buffer`, `_pos`, `_decompressed`, `_maybe_uncompress`: where a batch is decompressed.
    # `_next_record_index`, `_num_records`, `_read_msg`: where it is read, a record at a time.
    # `_offset`, `_size_in_bytes`, `_headers`: a record's own, without the properties' calls.
    room: Room
    first: int  # the offset that was fetched from: records below it are not handed out
    may_burst: bool  # a record in here can have more headers than there is room for
    _buffer: Any
    _pos: int
    _decompressed: bool
    _next_record_index: int
    _num_records: int

    def _maybe_uncompress(self) -> None:
        if not self._decompressed and self.compression_type != self.CODEC_NONE:
            data = memoryview(self._buffer)[self._pos :]
            self._buffer = decompress(self.compression_type, data, self.room.limit)
            self._pos = 0
            self.look_ahead()
        self._decompressed = True

    def look_ahead(self) -> None:
        """Most batches are too small for any record in them to have too many headers."""
        self.may_burst = len(self._buffer) // _LEAST_HEADER * HEADER_BYTES > self.room.limit

    def __next__(self) -> Any:
        room = self.room
        if room.left <= 0 and self._next_record_index < self._num_records:
            raise _NoRoom
        if self.may_burst and self._next_record_index < self._num_records:
            self._check_headers()
        try:
            record = super().__next__()
        except kafka.errors.CorruptRecordError as error:
            if not isinstance(error.__context__, UnicodeDecodeError):
                raise
            # Kafka accepts any bytes as a header's name. Read the record again as other clients do.
            self._buffer = _Lenient(self._buffer)
            record = super().__next__()
        if record._offset >= self.first:
            room.left -= RECORD_BYTES + record._size_in_bytes
            if record._headers:
                room.left -= HEADER_BYTES * len(record._headers)
        return record

    def _check_headers(self) -> None:
        """Read how many headers the next record has, before they are decoded."""
        at, buffer = self._pos, self._buffer
        try:
            for _ in ("length", "attributes", "timestamp", "offset"):
                _, at = decode_varint(buffer, at)
            for _ in ("key", "value"):
                size, at = decode_varint(buffer, at)
                at += max(size, 0)
            count, _ = decode_varint(buffer, at)
        except (ValueError, IndexError):
            return  # it is broken, which is for the client to find
        if count * HEADER_BYTES > self.room.limit:
            raise TooLarge(
                f"a record with {count} headers takes more memory than max_decompressed_bytes"
                f" allows, which is {self.room.limit}"
            )


class _Lenient(bytearray):
    """Bytes whose parts decode to U+FFFD where they are no UTF-8."""

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        return _Lenient(part) if isinstance(key, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


class _LegacyBatch(LegacyRecordBatch):  # type: ignore[misc]
    # `_decompress`, `_read_key_value`: the same in the formats of old.
    # `_read_all_headers`: where the client looks at all messages in a batch, before the first.
    room: Room
    first: int
    _buffer: Any

    def _decompress(self, key_offset: int) -> bytearray:
        _, data = self._read_key_value(key_offset)
        if data is None:
            raise ValueError("a compressed message without a value")
        return decompress(self.compression_type, memoryview(data), self.room.limit)

    def look_ahead(self) -> None:
        """These formats have no headers."""

    def _read_all_headers(self) -> list[tuple[Any, int]]:
        found: list[tuple[Any, int]] = []
        at, most = 0, self.room.limit // HEADER_BYTES
        while at < len(self._buffer):
            if len(found) > most:
                raise TooLarge(
                    f"a batch with more than {most} messages takes more memory than"
                    f" max_decompressed_bytes allows, which is {self.room.limit}"
                )
            header = self._read_header(at)
            found.append((header, at))
            at += self.LOG_OVERHEAD + header[1]
        return found

    def __iter__(self) -> Any:
        room = self.room
        for record in super().__iter__():
            yield record
            if record.offset >= self.first:
                room.left -= RECORD_BYTES + record.size_in_bytes
                if room.left <= 0:
                    raise _NoRoom
