"""Payloads: the keys, values and headers of the records that a simulation writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from transport.arguments import data, headers_of, wrong_type
from transport.types import TP, Headers, HeadersArg

Payload: TypeAlias = tuple[bytes | None, bytes | None, Headers]
"""A key, a value and headers."""

PayloadArg: TypeAlias = (
    tuple[bytes | None, bytes | None] | tuple[bytes | None, bytes | None, HeadersArg]
)
"""A key and a value, with or without headers."""

Records: TypeAlias = Callable[[TP, int], PayloadArg]
"""A function of a partition and of a number that returns the payload of that record.

The records that are written to a partition have the numbers 0, 1, 2 and so on.
"""


def payload(name: str, topic: str, value: Any) -> Payload:
    """Check a payload for a topic, and return it.

    Args:
        name: where the payload comes from, for the error.

    Raises:
        TypeError: it is not such a tuple, or a part has a wrong type.
    """
    if not isinstance(value, tuple) or len(value) not in (2, 3):
        raise wrong_type(name, "a tuple of key, value and headers, or of key and value", value)
    key, content, *headers = value
    return (
        data("key", topic, key),
        data("value", topic, content),
        tuple(headers_of(topic, headers[0])) if headers else (),
    )
