"""The options `--key-type` and `--value-type`: the codecs that the command line can name."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import attrs
import msgspec
from cyclopts import Parameter

from transport.codecs import JSON, NotLoaded
from transport.codecs.choice import codec_for
from transport.codecs.codec import Codec
from transport.codecs.errors import load_and_call
from transport.command_line.usage import UsageError, checked_arguments

_PLAIN: dict[str, Any] = {"bytes": None, "str": str, "int": int, "float": float, "json": JSON}
_OF_REGISTRY = ("avro", "jsonschema", "protobuf")
_NAMES = "bytes, str, int, float, json, or with --registry: avro, jsonschema, protobuf:MODULE:CLASS"


class ValueType:
    """The keys or the values of a topic, from bytes to what is printed, and back.

    Args:
        name: the text of the option.
        part: "key" or "value".
        registry: the URL of a schema registry; None: there is none.

    Raises UsageError.
    """

    def __init__(self, name: str, part: str, topic: str, registry: str | None) -> None:
        with checked_arguments():
            self._codec: Codec[Any] | None = codec_for(_kind(name, registry), part, topic)
        self._is_text = name == "str"

    @property
    def is_bytes(self) -> bool:
        """Whether the bytes stay as they are."""
        return self._codec is None

    async def decode(self, data: bytes | None) -> Any:
        """Return the value of the bytes. Raises any error: they do not fit the type.

        A checkpoint only if a schema must be loaded.
        """
        if data is None or self._codec is None:
            return data
        return await _called(self._codec.decode, data)

    async def encode_text(self, text: bytes) -> bytes | None:
        """Return the bytes for a text in UTF-8: a number, a text, or JSON, as the type has it.

        Raises TypeError, ValueError. A checkpoint as `decode`.
        """
        if self._codec is None or self._is_text:
            return text
        return await self.encode(msgspec.json.decode(text))

    async def encode(self, value: Any) -> bytes | None:
        """Return the bytes of a value. Raises TypeError, ValueError. A checkpoint as `decode`."""
        if self._codec is None:
            return value.encode() if isinstance(value, str) else value
        if value is None:
            return None
        if self._codec.instances and not isinstance(value, self._codec.instances):
            raise TypeError(f"{value!r} is not {self._codec.expected}")
        return await _called(self._codec.encode, value)  # type: ignore[no-any-return]


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Types:
    """The options for the types of keys and values."""

    key_type: Annotated[str, Parameter(name="--key-type", help=f"The type of keys: {_NAMES}.")] = (
        "bytes"
    )
    value_type: Annotated[
        str, Parameter(name="--value-type", help="The type of values, as for keys.")
    ] = "bytes"
    registry: Annotated[
        str | None, Parameter(name="--registry", help="The URL of a schema registry.")
    ] = attrs.field(default=None, repr=False)

    def of(self, topic: str) -> tuple[ValueType, ValueType]:
        """Return the types of keys and values. Raises UsageError."""
        key = ValueType(self.key_type, "key", topic, self.registry)
        return key, ValueType(self.value_type, "value", topic, self.registry)


async def _called(fn: Any, argument: Any) -> Any:
    try:
        return fn(argument)
    except NotLoaded as missing:
        return await load_and_call(missing, lambda: fn(argument))


def _kind(name: str, registry: str | None) -> Any:
    if name in _PLAIN:
        return _PLAIN[name]
    base, _, place = name.partition(":")
    if base not in _OF_REGISTRY:
        raise UsageError(f"unknown type {name!r}: use {_NAMES}")
    if registry is None:
        raise UsageError(f"the type {base} needs --registry URL, the address of a schema registry")
    try:
        from transport.registry import SchemaRegistry
    except ImportError as error:
        raise UsageError(str(error)) from error
    schemas = SchemaRegistry(registry)
    if base == "avro":
        return schemas.avro(dict, auto_register=False, use_latest_version=True)
    if base == "jsonschema":
        return schemas.json(dict, auto_register=False, use_latest_version=True)
    return schemas.protobuf(_class_at(place), auto_register=False, use_latest_version=True)


def _class_at(place: str) -> Any:
    module, _, name = place.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"protobuf:MODULE:CLASS names a class of protoc: {error}") from error
