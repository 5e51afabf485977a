"""JSON, and the types that msgspec checks and converts while it decodes JSON.

These are msgspec's Structs, dataclasses, attrs classes, TypedDicts, NamedTuples and enums, the
builtin types, and their unions and generics.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from transport.codecs.codec import Codec
from transport.codecs.kinds import instances_of, named

JSON: Codec[Any] = Codec(
    msgspec.json.Encoder().encode, msgspec.json.Decoder().decode, expected="JSON", identity=Any
)
"""Values that are JSON in UTF-8."""


def structured_codec(kind: Any) -> Codec[Any]:
    """Return the codec of JSON for a type of msgspec. The decoder is made here, once.

    Raises TypeError: msgspec does not support the type.
    """
    if (foreign := foreign_class(kind)) is not None:
        raise TypeError(f"msgspec does not support the class {foreign.__name__}")
    return Codec(
        msgspec.json.Encoder().encode,
        msgspec.json.Decoder(kind).decode,
        expected=named(kind),
        instances=instances_of(kind),
        identity=kind,
    )


def foreign_class(kind: Any) -> type | None:
    """Return a class in a type that msgspec does not support, or None.

    Raises TypeError: msgspec does not support the type for another reason.
    """
    for each in _inside(msgspec.inspect.type_info(kind), set()):
        if isinstance(each, msgspec.inspect.CustomType):
            return each.cls
    return None


def _inside(info: Any, seen: set[int]) -> Iterator[Any]:
    """Yield the description of a type, and those of all types in it, once each."""
    if isinstance(info, tuple):
        for each in info:
            yield from _inside(each, seen)
    elif isinstance(info, (msgspec.inspect.Type, msgspec.inspect.Field)) and id(info) not in seen:
        seen.add(id(info))
        yield info
        for name in info.__struct_fields__:
            yield from _inside(getattr(info, name), seen)
