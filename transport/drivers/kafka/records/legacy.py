"""Decoding the formats 0 and 1, of Kafka before 0.11, by the client's own code, with bounds."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from kafka.record.legacy_records import LegacyRecordBatch

from transport.drivers.kafka.decompression import TooLarge, decompress
from transport.drivers.kafka.records.pure import PureRecord
from transport.types import Record
from transport.weights import HEADER_BYTES

# The length and the magic byte, at the same place as in format 2, and then the attributes.
_FIELDS = struct.Struct(">8xi4xbb")
LEAST_SIZE = LegacyRecordBatch.LOG_OVERHEAD + LegacyRecordBatch.RECORD_OVERHEAD_V0


def is_compressed(data: bytes, at: int) -> bool:
    """Return whether the batch at a position contains several messages."""
    _, _, attributes = _FIELDS.unpack_from(data, at)
    return bool(attributes & LegacyRecordBatch.CODEC_MASK)


def legacy_records(data: bytes, at: int, end: int, limit: int) -> Iterator[Record]:
    """Decode a batch in format 0 or 1. Raises some Exception if it is damaged.

    Args:
        limit: most bytes that the batch may decompress to.
    """
    batch = _LegacyBatch(memoryview(data)[at:end], data[at + 16])
    batch.limit = limit
    if not batch.validate_crc():
        raise ValueError("the batch does not match its crc")
    for record in batch:
        if not record.validate_crc():
            raise ValueError("the message does not match its crc")
        # Not the client's own record, which keeps the bytes of the whole batch in memory.
        yield PureRecord(
            record.offset, record.timestamp, record.timestamp_type, record.key, record.value, []
        )


class _LegacyBatch(LegacyRecordBatch):  # type: ignore[misc]
    # `_decompress`, `_read_key_value`: the client decompresses a batch here.
    # `_read_all_headers`: the client finds all messages of a batch here, before it decodes one.
    limit: int
    _buffer: Any

    def _decompress(self, key_offset: int) -> bytes:
        _, data = self._read_key_value(key_offset)
        if data is None:
            raise ValueError("a compressed message without a value")
        return decompress(self.compression_type, memoryview(data), self.limit)

    def _read_all_headers(self) -> list[tuple[Any, int]]:
        found: list[tuple[Any, int]] = []
        at, most = 0, self.limit // HEADER_BYTES
        while at < len(self._buffer):
            if len(found) > most:
                raise TooLarge(
                    f"a batch with more than {most} messages takes more memory than"
                    f" max_decompressed_bytes allows, which is {self.limit}"
                )
            header = self._read_header(at)
            found.append((header, at))
            at += self.LOG_OVERHEAD + header[1]
        return found
