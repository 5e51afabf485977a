"""What a broker sends as records, checked and bounded as it is unpacked.

Whoever may write to a topic writes what its readers unpack, so this is where a reader meets what is
broken or hostile. The client checks CRCs, and apart from that

- decompresses whatever a batch holds, at once: some KB can become GBs;
- takes a format that it does not know for the newest one that it knows;
- says for most of what is broken neither the partition nor the offset, and after it goes round
  for ever in its next poll;
- takes a header's name that is not UTF-8 for a broken batch, so that nothing gets past it.

A batch that cannot be read ends the reading with `UnreadableBatch`, as often as it is tried; what
is good before it is delivered first, and nothing is skipped.
"""

from __future__ import annotations

from typing import Any

import kafka.errors
from kafka.consumer.fetcher import Fetcher
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.legacy_records import LegacyRecordBatch

from transport.drivers.kafka.decompression import TooLarge, decompress
from transport.errors import UnreadableBatch
from transport.types import TP

# What a record weighs in memory at least, whatever is in it.
RECORD_BYTES = 512
KNOWN_FORMATS = (0, 1, 2)


def bound_unpacking(consumer: Any, limit: int) -> None:
    """Check and bound what a new KafkaConsumer unpacks.

    Args:
        limit: most bytes that a batch may decompress to. What was fetched of a partition is
            handed out until it takes as much; the rest is fetched again.
    """
    # `_fetcher`, `PartitionRecords`, `_parse_fetched_data`: where what was fetched is unpacked.
    fetcher = consumer._fetcher
    parse = fetcher._parse_fetched_data

    def parse_naming_the_place(fetch: Any) -> Any:
        try:
            return parse(fetch)
        except kafka.errors.CorruptRecordError as error:  # the broker has found out by itself
            tp = TP(*fetch.topic_partition)
            raise UnreadableBatch(f"{tp} offset {fetch.fetched_offset}: {error}") from error

    def records_of(*args: Any, **options: Any) -> BoundedRecords:
        return BoundedRecords(limit, *args, **options)

    fetcher._parse_fetched_data = parse_naming_the_place
    fetcher.PartitionRecords = records_of


class BoundedRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """What was fetched of one partition."""

    def __init__(
        self, limit: int, fetch_offset: int, tp: Any, records: Any, **options: Any
    ) -> None:
        self._most = max(1, limit // RECORD_BYTES)
        self._error: UnreadableBatch | None = None
        super().__init__(fetch_offset, tp, _Batches(records, limit), **options)

    def take(self, n: int | None = None) -> Any:
        if self._error is not None:
            raise self._error  # the client would wait for records that never come
        try:
            records = super().take(self._most if n is None else min(n, self._most))
        except Exception as error:
            place = f"{TP(*self.topic_partition)} offset {self.next_fetch_offset}"
            self._error = UnreadableBatch(f"{place}: {_told(error)}")
            raise self._error from error
        if len(records) == self._most:
            self.drain()
        return records


class _Batches:
    """The batches in a fetch, one after the other, as the client's PartitionRecords asks."""

    def __init__(self, records: Any, limit: int) -> None:
        self._records = records
        self._limit = limit
        self._given = 0
        self._current: Any = None

    def next_batch(self) -> Any:
        """The next one; None, the end, also where as much as is allowed was given out."""
        if self._current is not None:
            self._given += len(self._current._buffer)
            if self._given >= self._limit:
                return None
        self._current = None
        batch = self._records.next_batch()
        if batch is None:
            return None
        if batch.magic not in KNOWN_FORMATS:
            raise ValueError(f"a batch of the unknown format {batch.magic} (its magic byte)")
        self._current = _as(_Batch if batch.magic == 2 else _LegacyBatch, batch)
        self._current.limit = self._limit
        return self._current


def _told(error: Exception) -> str:
    if isinstance(error, (ValueError, TooLarge, kafka.errors.KafkaError)):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _as(kind: Any, batch: Any) -> Any:
    """The same batch as one of a subclass, without copying what is in it."""
    other = kind.__new__(kind)
    for name in kind.__base__.__slots__:
        setattr(other, name, getattr(batch, name))
    return other


class _Batch(DefaultRecordBatch):  # type: ignore[misc]
    # `_buffer`, `_pos`, `_decompressed`, `_maybe_uncompress`: where a batch is decompressed.
    limit: int
    _buffer: Any
    _pos: int
    _decompressed: bool

    def _maybe_uncompress(self) -> None:
        if not self._decompressed and self.compression_type != self.CODEC_NONE:
            data = memoryview(self._buffer)[self._pos :]
            self._buffer = bytearray(decompress(self.compression_type, data, self.limit))
            self._pos = 0
        self._decompressed = True

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except kafka.errors.CorruptRecordError as error:
            if not isinstance(error.__context__, UnicodeDecodeError):
                raise
        # Kafka stores any bytes as a header's name. Read the record again as other clients do.
        self._buffer = _Lenient(self._buffer)
        return super().__next__()


class _Lenient(bytearray):
    """Bytes whose parts decode to U+FFFD where they are no UTF-8."""

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        return _Lenient(part) if isinstance(key, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


class _LegacyBatch(LegacyRecordBatch):  # type: ignore[misc]
    # `_decompress`, `_read_key_value`: the same in the formats of old.
    limit: int

    def _decompress(self, key_offset: int) -> bytes:
        _, data = self._read_key_value(key_offset)
        if data is None:
            raise ValueError("a compressed message without a value")
        return decompress(self.compression_type, memoryview(data), self.limit)
