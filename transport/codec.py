"""Codecs: the conversion of keys and values to bytes and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs

from transport.arguments import function, setting, wrong_type
from transport.errors import TransportError
from transport.message import Message


class DecodeError(TransportError):
    """A key or value cannot be decoded by its topic's type; the text has partition and offset.

    Attributes:
        message: the message. It is unacked; ack it to skip it.
    """

    def __init__(self, text: str, message: Message) -> None:
        super().__init__(text)
        self.message = message


@attrs.frozen
class Codec:
    """A pair of functions that encode and decode. None stays None without a call (a tombstone)."""

    encode: Callable[[Any], bytes] = attrs.field(validator=setting(function))
    decode: Callable[[bytes], Any] = attrs.field(validator=setting(function))


TEXT = Codec(str.encode, bytes.decode)
JSON = Codec(lambda value: json.dumps(value, separators=(",", ":")).encode(), json.loads)
"""Values that are JSON in UTF-8."""

CodecArg = Codec | type[bytes] | type[str] | None


def codec_for(kind: CodecArg, name: str = "a key or value type") -> Codec | None:
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
