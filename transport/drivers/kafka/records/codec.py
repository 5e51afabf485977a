"""The contract of an implementation of the record codec, and the choice of one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from transport.drivers.kafka.records.compiled_code import compiled_code
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


def codec_for(name: str) -> tuple[Codec, str]:
    """Return the implementation for a `record_codec`, and the reason for the choice.

    Args:
        name: "compiled", "pure", or "auto" for the best that there is.

    Raises:
        ValueError: "compiled" was asked for, and there is no compiled code.
    """
    from transport.drivers.kafka.records.compiled import CompiledCodec
    from transport.drivers.kafka.records.pure import PureCodec

    if name == "pure":
        return PureCodec(), "record_codec asks for it"
    code, found = compiled_code()
    if code is not None:
        return CompiledCodec(code, found), "its compiled code is installed"
    if name == "compiled":
        raise ValueError(
            f'record_codec="compiled" needs the compiled record code of aiokafka: {found}. Install'
            ' it, or set record_codec="auto"'
        )
    return PureCodec(), found
