"""Decompression by Kafka's codecs, with a bound on the size.

A codec returns its output in pieces, or states the size beforehand. So the output never takes more
memory than the bound and one piece.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import lz4.frame
import snappy
import zstandard

# The most bytes of one piece.
PIECE = 1 << 20
# The Java client's snappy format: a header, and then blocks, each after its length.
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER = 16


Pieces = Callable[[memoryview, int], Iterator[bytes]]


class TooLarge(Exception):
    """The content takes more memory than the limit allows."""


def decompress(codec: int, data: memoryview, limit: int) -> bytes:
    """Return the decompressed data.

    Args:
        codec: the codec's number in a batch's attributes.
        limit: most bytes that the data may decompress to.

    Raises:
        TooLarge: the data decompresses to more than `limit` bytes.
        ValueError: the codec is unknown, or the data is truncated. For other damage, the error of
            the codec.
    """
    if codec not in _CODECS:
        raise ValueError(f"the batch is compressed by the unknown codec {codec}")
    pieces: list[bytes] = []
    size = 0
    for piece in _CODECS[codec](data, limit):
        size += len(piece)
        if size > limit:
            raise TooLarge(_too_large(data, limit))
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(data: memoryview, limit: int) -> str:
    return (
        f"{len(data)} bytes decompress to more than max_decompressed_bytes allows, which is {limit}"
    )


def _gzip(data: memoryview, limit: int) -> Iterator[bytes]:
    rest = bytes(data)
    while rest:
        stream = zlib.decompressobj(wbits=31)
        while not stream.eof:
            piece = stream.decompress(rest, PIECE)
            rest = stream.unconsumed_tail
            if not piece and not rest and not stream.eof:
                raise ValueError("the gzip data is truncated")
            yield piece
        rest = stream.unused_data.lstrip(b"\0")


def _lz4(data: memoryview, limit: int) -> Iterator[bytes]:
    rest: bytes | None = bytes(data)
    while rest:
        stream = lz4.frame.LZ4FrameDecompressor()
        while not stream.eof:
            piece = stream.decompress(rest, max_length=PIECE)
            rest = b""
            if not piece and stream.needs_input:
                raise ValueError("the lz4 data is truncated")
            yield piece
        rest = stream.unused_data


def _zstd(data: memoryview, limit: int) -> Iterator[bytes]:
    with zstandard.ZstdDecompressor().stream_reader(
        io.BytesIO(data), read_across_frames=True
    ) as stream:
        while piece := stream.read(PIECE):
            yield piece


def _snappy(data: memoryview, limit: int) -> Iterator[bytes]:
    blocks = _xerial_blocks(data) if data[: len(_XERIAL)] == _XERIAL else [data]
    for block in blocks:
        if _snappy_size(block) > limit:
            raise TooLarge(_too_large(data, limit))
        yield snappy.decompress(bytes(block))


def _xerial_blocks(data: memoryview) -> Iterator[memoryview]:
    at = _XERIAL_HEADER
    while at < len(data):
        (size,) = struct.unpack_from(">i", data, at)
        at += 4
        if size < 0 or at + size > len(data):
            raise ValueError("the snappy data is truncated")
        yield data[at : at + size]
        at += size


def _snappy_size(block: memoryview) -> int:
    """Return the size that a block states at its beginning; snappy never writes more than that."""
    size = 0
    for index, byte in enumerate(block[:5]):
        size |= (byte & 0x7F) << (7 * index)
        if not byte & 0x80:
            return size
    raise ValueError("the snappy data does not begin with its size")


_CODECS: dict[int, Pieces] = {1: _gzip, 2: _snappy, 3: _lz4, 4: _zstd}
