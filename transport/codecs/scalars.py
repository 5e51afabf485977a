"""Codecs of single values: the bytes of Java's serializers, and numbers as text.

Java's clients, Kafka Streams and Kafka Connect write keys and values with these serializers. The
same key must have the same bytes in all programs, because the bytes choose the partition.
"""

from __future__ import annotations

import struct
import uuid
from typing import Any, TypeVar

from transport.codecs.codec import Codec

T = TypeVar("T", int, float)

TEXT: Codec[str] = Codec(str.encode, bytes.decode, expected="a str", instances=(str,))
"""Text in UTF-8: Java's StringSerializer. The type `str` stands for it."""


def _number(layout: str, expected: str, instances: tuple[type, ...]) -> Codec[T]:
    packed = struct.Struct(layout)

    def encode(value: T) -> bytes:
        if type(value) is bool:
            raise TypeError("a bool is not a number")
        try:
            return packed.pack(value)
        except (struct.error, OverflowError) as error:
            raise ValueError(f"it does not fit into {packed.size} bytes") from error

    def decode(data: bytes) -> T:
        if len(data) != packed.size:
            raise ValueError(f"it must have {packed.size} bytes, not {len(data)}")
        value: T = packed.unpack(data)[0]
        return value

    return Codec(encode, decode, expected=expected, instances=instances)


SHORT: Codec[int] = _number(">h", "an int of 2 bytes", (int,))
"""Whole numbers in 2 bytes, big-endian: Java's ShortSerializer."""

INTEGER: Codec[int] = _number(">i", "an int of 4 bytes", (int,))
"""Whole numbers in 4 bytes, big-endian: Java's IntegerSerializer."""

LONG: Codec[int] = _number(">q", "an int of 8 bytes", (int,))
"""Whole numbers in 8 bytes, big-endian: Java's LongSerializer. The type `int` stands for it."""

FLOAT: Codec[float] = _number(">f", "a float of 4 bytes", (float, int))
"""Floating-point numbers in 4 bytes: Java's FloatSerializer."""

DOUBLE: Codec[float] = _number(">d", "a float of 8 bytes", (float, int))
"""Floating-point numbers in 8 bytes: Java's DoubleSerializer. The type `float` stands for it."""


def _encode_bool(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def _decode_bool(data: bytes) -> bool:
    if data not in (b"\x00", b"\x01"):
        raise ValueError("it must be one byte, 0 or 1")
    return data == b"\x01"


BOOLEAN: Codec[bool] = Codec(
    _encode_bool, _decode_bool, expected="a bool of 1 byte", instances=(bool,)
)
"""A byte, 1 or 0: Java's BooleanSerializer. The type `bool` stands for it."""

UUID_TEXT: Codec[uuid.UUID] = Codec(
    lambda value: str(value).encode(),
    lambda data: uuid.UUID(data.decode()),
    expected="a UUID",
    instances=(uuid.UUID,),
)
"""A UUID as text of 36 characters: Java's UUIDSerializer. The type `uuid.UUID` stands for it."""


def _encode_decimal(value: int) -> bytes:
    if type(value) is bool:
        raise TypeError("a bool is not a number")
    return b"%d" % value


def _decode_decimal(data: bytes) -> int:
    if not data.lstrip(b"-").isdigit():
        raise ValueError("it must have digits only, after a minus at most")
    return int(data)


DECIMAL_TEXT: Codec[int] = Codec(
    _encode_decimal,
    _decode_decimal,
    expected="an int as decimal text",
    instances=(int,),
)
"""Whole numbers of any size as decimal text, as console tools show them."""

BY_TYPE: dict[Any, Codec[Any]] = {
    str: TEXT,
    int: LONG,
    float: DOUBLE,
    bool: BOOLEAN,
    uuid.UUID: UUID_TEXT,
}
"""The codecs of the types that are not JSON."""
