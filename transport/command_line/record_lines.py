"""The form in which records are printed and read back: lines of JSON, and lines of text.

A line of JSON loses nothing: `send` makes the same record from it. Its fields:

- `topic`, `partition`, `offset`, `timestamp` (seconds since 1970; null: none)
- `key` and `value`: the text of UTF-8, or the value of the type; null: there is none
- `key_base64` and `value_base64` instead, for bytes that are not text or do not fit the type
- `headers`: pairs of a name and a text, null, or {"base64": ...}
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

from transport.command_line.moments import shown_time
from transport.command_line.output import printable
from transport.command_line.types import ValueType
from transport.errors import TransportError
from transport.types import TP, Headers, Record


@attrs.frozen
class Shown:
    """One record, with its key and value decoded as far as they fit their types."""

    tp: TP
    record: Record
    fields: Mapping[str, Any]

    @property
    def time(self) -> float | None:
        """Seconds since 1970."""
        timestamp = self.record.timestamp
        return None if timestamp is None or timestamp < 0 else timestamp / 1000

    def as_json(self) -> dict[str, Any]:
        return {
            "topic": self.tp.topic,
            "partition": self.tp.partition,
            "offset": self.record.offset,
            "timestamp": self.time,
            **self.fields,
            "headers": [[name, _text_or_base64(value)] for name, value in self.record.headers],
        }

    def as_text(self) -> list[tuple[str, str]]:
        """Return the parts of a line, each with its style."""
        time = "-" if self.time is None else shown_time(self.time)
        parts = [
            (f"{self.tp}@{self.record.offset}\t{time}\t", "dim"),
            (self.text("key"), "cyan"),
            ("\t", ""),
            (self.text("value"), ""),
        ]
        for name, value in self.record.headers:
            parts.append((f"\t{printable(name)}=", "dim"))
            parts.append((bytes_text(value), "dim"))
        return parts

    def text(self, part: str) -> str:
        """Return the key or the value as one printable text."""
        if part not in self.fields:
            return bytes_text(self.record.key if part == "key" else self.record.value)
        value = self.fields[part]
        if value is None:
            return "null"
        if not isinstance(value, str):
            value = msgspec.json.encode(value).decode()
        return printable(value)


async def shown(tp: TP, record: Record, key_type: ValueType, value_type: ValueType) -> Shown:
    """Return a record with its key and value decoded. A checkpoint only to load a schema.

    Raises TransportError: a schema cannot be loaded.
    """
    key = await _field("key", record.key, key_type)
    return Shown(tp, record, {**key, **await _field("value", record.value, value_type)})


async def _field(name: str, data: bytes | None, kind: ValueType) -> dict[str, Any]:
    if data is None:
        return {name: None}
    try:
        value = data.decode() if kind.is_bytes else await kind.decode(data)
        if value is not None:
            msgspec.json.encode(value)  # bytes in it are lost, but tail shows what it can
            return {name: value}
    except TransportError:
        raise
    except Exception:  # noqa: BLE001 - a codec may raise any error for bytes that do not fit
        pass
    return {f"{name}_base64": base64.b64encode(data).decode()}


def bytes_text(data: bytes | None) -> str:
    """Return bytes as one printable text, with escapes for those that are not text."""
    if data is None:
        return "null"
    return printable(data.decode(errors="backslashreplace"))


def _text_or_base64(data: bytes | None) -> Any:
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


@attrs.frozen
class Unsent:
    """A record that is to be sent."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None
    timestamp: float | None = None


async def unsent_of(line: str, key_type: ValueType, value_type: ValueType) -> Unsent:
    """Return the record of a line of JSON. Raises ValueError, TypeError: the line is wrong."""
    try:
        fields = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a line of JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError("not an object of JSON")
    return Unsent(
        await _bytes_of("key", fields, key_type),
        await _bytes_of("value", fields, value_type),
        _headers_of(fields.get("headers")),
        fields.get("partition"),
        fields.get("timestamp"),
    )


async def _bytes_of(name: str, fields: Mapping[str, Any], kind: ValueType) -> bytes | None:
    encoded = fields.get(f"{name}_base64")
    if encoded is not None:
        return _unbased(encoded)
    value: Any = fields.get(name)
    if kind.is_bytes and value is not None and not isinstance(value, str):
        raise ValueError(f"the {name} is not text: name its type with --{name}-type, such as json")
    return await kind.encode(value)


def _headers_of(pairs: Any) -> Headers:
    if not isinstance(pairs, list | None):
        raise ValueError("headers must be a list of pairs")
    return [_header_of(each) for each in pairs or ()]


def _header_of(pair: Any) -> tuple[str, bytes | None]:
    if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
        raise ValueError("each of headers must be a pair of a name and a text")
    name, value = pair
    if isinstance(value, dict):
        return name, _unbased(value.get("base64"))
    if value is not None and not isinstance(value, str):
        raise ValueError(f"the header {name!r} is not text")
    return name, None if value is None else value.encode()


def _unbased(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise ValueError(f"not base64: {text!r}") from None
