"""The conversion of keys and values to bytes and back.

`codec_for` returns the codec of a type. The names in this package stand for bytes that Java's
serializers write: use one as `key_type` or `value_type` where the type alone does not say which.
"""

from transport.codecs.choice import codec_for
from transport.codecs.codec import Codec, CodecArg, TopicType
from transport.codecs.errors import DecodeError, NotLoaded
from transport.codecs.scalars import (
    BOOLEAN,
    DECIMAL_TEXT,
    DOUBLE,
    FLOAT,
    INTEGER,
    LONG,
    SHORT,
    TEXT,
    UUID_TEXT,
)
from transport.codecs.structured import JSON

__all__ = [
    "BOOLEAN",
    "DECIMAL_TEXT",
    "DOUBLE",
    "FLOAT",
    "INTEGER",
    "JSON",
    "LONG",
    "SHORT",
    "TEXT",
    "UUID_TEXT",
    "Codec",
    "CodecArg",
    "DecodeError",
    "NotLoaded",
    "TopicType",
    "codec_for",
]
