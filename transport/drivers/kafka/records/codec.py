"""The contract of an implementation of the record codec, and the layout of a batch."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from transport.types import Record

# The header of a batch in format 2: base offset, length, leader epoch, magic byte, CRC, attributes,
# last offset delta, first and latest timestamp, producer id, its epoch and sequence, record count.
HEADER = struct.Struct(">qiibIhiqqqhii")
# The beginning of a batch in any format: the offset and the length.
LEGACY_HEADER = struct.Struct(">qi")
MAGIC_AT = 16
# The minimum size of a record: its length, its attributes and five numbers.
LEAST_RECORD = 7
# The sizes of the parts at the beginning that the length and the CRC do not cover.
BEFORE_LENGTH_COUNTS = 12
BEFORE_CRC_COUNTS = 21

CODEC_BITS = 0x07
LOG_APPEND_TIME = 0x08
TRANSACTIONAL = 0x10
CONTROL = 0x20


class Run(NamedTuple):
    """Some records of a batch in format 2, decompressed, one behind the other.

    Attributes:
        data: the bytes that contain them.
        at, end: the positions in `data` where they begin and end.
        total: the number of records. Any other number in the bytes is an error.
        base_offset, attributes, first_timestamp, max_timestamp: of the batch.
        limit: most bytes that the headers of a single record may take in memory.
    """

    data: bytes
    at: int
    end: int
    total: int
    base_offset: int
    attributes: int
    first_timestamp: int
    max_timestamp: int
    limit: int


class Codec(Protocol):
    """A decoder of records.

    Attributes:
        name: the name that `driver_version` shows.
    """

    @property
    def name(self) -> str: ...

    def whole(self, fetch: memoryview, at: int, end: int) -> list[Record]:
        """Decode a small batch that is not compressed, header included, in the bytes of a fetch.

        Raises some Exception if the batch is damaged. It has so few bytes that no bound on headers
        is needed.
        """

    def records(self, run: Run) -> Iterator[Record]:
        """Decode a run of records one by one. Raises some Exception if it is damaged."""
