"""Codecs: the conversion of keys and values to bytes and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

import attrs

from transport.arguments import function, setting, wrong_type
from transport.errors import TransportError
from transport.message import AnyMessage

T = TypeVar("T")
# Covariant, so that the codec of a type also serves for topics where the value may be None.
T_co = TypeVar("T_co", covariant=True)


class DecodeError(TransportError):
    """A key or value cannot be decoded by its topic's type; the text has partition and offset.

    Attributes:
        message: the message. It is unacked; ack it to skip it.
        part: "key" or "value".
    """

    def __init__(self, text: str, message: AnyMessage, part: str = "value") -> None:
        super().__init__(text)
        self.message = message
        self.part = part


@attrs.frozen
class Codec(Generic[T_co]):
    """A pair of functions that encode and decode keys or values of one type.

    None stays None without a call (a tombstone).
    """

    encode: Callable[[T_co], bytes] = attrs.field(validator=setting(function))
    decode: Callable[[bytes], T_co] = attrs.field(validator=setting(function))


TEXT: Codec[str] = Codec(str.encode, bytes.decode)
JSON: Codec[Any] = Codec(
    lambda value: json.dumps(value, separators=(",", ":")).encode(), json.loads
)
"""Values that are JSON in UTF-8."""

CodecArg: TypeAlias = type[T] | Codec[T] | None
"""The argument `key_type` or `value_type` of a topic with keys or values of this type."""


def codec_for(kind: CodecArg[Any], name: str = "a key or value type") -> Codec[Any] | None:
    """Return the codec for a topic's `key_type` or `value_type`; None: bytes stay as they are.

    Args:
        name: the name of the argument, for the error.

    Raises TypeError: `kind` is not bytes, str, a Codec or None.
    """
    if kind is None or kind is bytes:
        return None
    if kind is str:
        return TEXT
    if isinstance(kind, Codec):
        return kind
    raise wrong_type(name, "bytes, str or a Codec such as JSON", kind)
