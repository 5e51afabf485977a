"""Batches for tests: valid batches, as producers and brokers write them, and invalid ones."""

from __future__ import annotations

import gzip
import io
import struct

import lz4.frame
import snappy
import zstandard
from kafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from kafka.record.memory_records import MemoryRecordsBuilder
from kafka.record.util import calc_crc32c, encode_varint

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
ENCODE = {1: gzip_encode, 2: snappy_encode, 3: lz4_encode, 4: zstd_encode}


def batch(offset: int, *values: bytes | None, codec: int = 0, magic: int = 2) -> bytes:
    builder = MemoryRecordsBuilder(magic, codec, 1 << 30, offset=offset if magic < 2 else 0)
    for value in values:
        builder.append(1, None, value)
    builder.close()
    data = bytes(builder.buffer())
    if magic < 2 and codec == 0:
        return data
    # In an old format, the offset of a compressed batch is that of its last message.
    return struct.pack(">q", offset if magic == 2 else offset + len(values) - 1) + data[8:]


def raw_batch(
    offset: int,
    count: int,
    records: bytes,
    codec: int = 0,
    *,
    attributes: int = 0,
    last_delta: int | None = None,
    producer: int = -1,
    first_timestamp: int = 1,
    max_timestamp: int = 1,
) -> bytes:
    """Return a batch that contains the bytes in `records`, with a valid CRC."""
    delta = max(count - 1, 0) if last_delta is None else last_delta
    times = first_timestamp, max_timestamp
    rest = struct.pack(">hiqqqhii", codec | attributes, delta, *times, producer, -1, -1, count)
    rest += records
    head = struct.pack(">qiibI", offset, len(rest) + 9, 0, 2, calc_crc32c(rest))
    return head + rest


def raw_record(
    *,
    offset_delta: int = 0,
    key: bytes | None = None,
    value: bytes | None = b"v",
    header: bytes | None = None,
) -> bytes:
    body = bytearray(b"\0\0")  # attributes, timestamp delta
    encode_varint(offset_delta, body.append)
    for part in (key, value):
        encode_varint(-1 if part is None else len(part), body.append)
        body += part or b""
    encode_varint(0 if header is None else 1, body.append)
    if header is not None:
        encode_varint(len(header), body.append)
        body += header
        encode_varint(1, body.append)
        body += b"h"
    record = bytearray()
    encode_varint(len(body), record.append)
    return bytes(record + body)


def with_byte(data: bytes, at: int, byte: int) -> bytes:
    return data[:at] + bytes([byte]) + data[at + 1 :]


def flipped(data: bytes) -> bytes:
    return with_byte(data, len(data) - 1, data[-1] ^ 1)


def zeros(codec: int, size: int, head: bytes = b"", tail: bytes = b"") -> bytes:
    """Return `size` compressed zeros between `head` and `tail`. They are never all in memory."""
    pieces = [head, *[bytes(1 << 20)] * (size >> 20), tail]
    out = io.BytesIO()
    if codec == 1:
        with gzip.GzipFile(fileobj=out, mode="wb") as file:
            for piece in pieces:
                file.write(piece)
    elif codec == 2:
        out.write(b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1))
        for block in map(snappy.compress, filter(None, pieces)):
            out.write(struct.pack(">i", len(block)) + block)
    elif codec == 3:
        frame = lz4.frame.LZ4FrameCompressor()
        out.write(frame.begin())
        for piece in pieces:
            out.write(frame.compress(piece))
        out.write(frame.flush())
    else:
        zstd = zstandard.ZstdCompressor().compressobj()
        for piece in pieces:
            out.write(zstd.compress(piece))
        out.write(zstd.flush())
    return out.getvalue()


def bomb(codec: int, size: int) -> bytes:
    """Return a batch that is valid except for its size: one message of `size` zeros."""
    head = bytearray(b"\0\0\0")  # attributes, the deltas of timestamp and offset
    encode_varint(-1, head.append)
    encode_varint(size, head.append)
    length = bytearray()
    encode_varint(len(head) + size + 1, length.append)
    packed = zeros(codec, size, bytes(length + head), b"\0")  # no headers
    return raw_batch(0, 1, packed, codec)


def record_with_headers(count: int, *, offset_delta: int = 0) -> bytes:
    """Return a record with `count` headers that have an empty name and an empty value."""
    body = bytearray(b"\0\0")
    for number in (offset_delta, -1, -1, count):
        encode_varint(number, body.append)
    body += bytes(2 * count)
    record = bytearray()
    encode_varint(len(body), record.append)
    return bytes(record + body)
