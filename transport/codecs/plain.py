"""The conversion of objects to dicts and other plain values, and back, for formats with schemas."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable
from typing import Any, Literal

import attrs
import msgspec

from transport.codecs.kinds import instances_of, named
from transport.codecs.models import adapter_of, is_of_pydantic
from transport.codecs.structured import foreign_class

# The values that Avro has types for, beside those that JSON has.
_OF_AVRO = (
    bytes,
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    uuid.UUID,
)


@attrs.frozen
class Plain:
    """The conversion of the values of one type.

    Attributes:
        to_plain: returns a value as dicts, lists and single values.
        from_plain: returns the object. Raises ValueError: the plain value does not fit the type.
        expected, instances: as in `Codec`.
        schema: returns the JSON Schema of the type.
    """

    to_plain: Callable[[Any], Any]
    from_plain: Callable[[Any], Any]
    expected: str
    instances: tuple[type, ...]
    schema: Callable[[], dict[str, Any]]


def plain_of(kind: Any, *, is_json: bool) -> Plain:
    """Return the conversion for a type. Raises TypeError: the type is not supported.

    Args:
        is_json: whether the plain values are those of JSON. Otherwise they are those of Avro, which
            also has bytes, times and decimals.
    """
    expected, instances = named(kind), instances_of(kind)
    if kind is Any or kind is dict:
        return Plain(_same, _same, expected, instances, lambda: msgspec.json.schema(kind))
    if is_of_pydantic(kind):
        adapter = adapter_of(kind)
        mode: Literal["json", "python"] = "json" if is_json else "python"

        def dump(value: Any) -> Any:
            return adapter.dump_python(value, mode=mode, by_alias=True, warnings="error")

        return Plain(dump, adapter.validate_python, expected, instances, adapter.json_schema)
    if (foreign := foreign_class(kind)) is not None:
        raise TypeError(f"msgspec does not support the class {foreign.__name__}")
    natives = () if is_json else _OF_AVRO

    def to_plain(value: Any) -> Any:
        return msgspec.to_builtins(value, builtin_types=natives)

    def from_plain(value: Any) -> Any:
        return msgspec.convert(value, kind, builtin_types=natives)

    return Plain(to_plain, from_plain, expected, instances, lambda: msgspec.json.schema(kind))


def _same(value: Any) -> Any:
    return value
