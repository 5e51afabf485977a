"""`codec_for`, which chooses the codec for the `key_type` or `value_type` of a topic."""

from __future__ import annotations

from typing import Any

from transport.arguments import shown, wrong_type
from transport.codecs.codec import Codec, CodecArg, TopicType
from transport.codecs.kinds import without_none
from transport.codecs.models import is_of_pydantic, model_codec
from transport.codecs.scalars import BY_TYPE
from transport.codecs.structured import JSON, foreign_class, structured_codec

_EXPECTED = "bytes, str or another type, a Codec such as JSON, or a type of a schema registry"


def codec_for(kind: CodecArg[Any], part: str = "value", topic: str = "") -> Codec[Any] | None:
    """Return the codec for a topic's `key_type` or `value_type`; None: bytes stay as they are.

    str, int, float, bool and UUID have the bytes of Java's serializers. All other types are JSON.

    Args:
        part: "key" or "value".
        topic: the topic's name, for types that depend on it.

    Raises TypeError: `kind` is no type, or neither msgspec nor pydantic supports it.
    """
    kind = without_none(kind)
    if kind is None or kind is bytes:
        return None
    if isinstance(kind, Codec):
        return kind
    if isinstance(kind, TopicType):
        return kind.codec(topic, part)
    if kind is Any:
        return JSON
    name = f"{part}_type"
    if isinstance(kind, type) and (scalar := BY_TYPE.get(kind)) is not None:
        return scalar
    if kind in (bytearray, memoryview):
        raise TypeError(f"{name} must be bytes, not {shown(kind)}: records are decoded as bytes")
    try:
        if is_of_pydantic(kind):
            return model_codec(kind)
        foreign = foreign_class(kind)
        if foreign is not None and is_of_pydantic(foreign):
            return model_codec(kind)
        return structured_codec(kind)
    except TypeError as error:
        if not isinstance(kind, type) and not hasattr(kind, "__args__"):
            raise wrong_type(name, _EXPECTED, kind) from error
        raise TypeError(
            f"{name} cannot be {shown(kind)}: {error}. Use another type, or a Codec"
        ) from error
