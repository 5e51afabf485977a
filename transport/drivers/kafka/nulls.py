"""Sending messages without key and value, or with a header without a value.

Kafka takes a message without key and value, and a header without a value. The client writes both,
but its `send` refuses them:

- It raises ValueError where key and value are both None.
- It raises TypeError for a header whose value is None. If that check were passed, its batch would
  fail on the length of that value, after the record is in it.

Look here when such a message is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from kafka import KafkaProducer
from kafka.serializer import Serializer

from transport.drivers.base import Outgoing


def hand_over(producer: KafkaProducer, message: Outgoing) -> Any:
    """Return the client's future for a message; raise the error if the client refuses it."""
    headers = message.headers
    options: dict[str, Any] = {
        "partition": message.partition,
        "timestamp_ms": message.timestamp_ms,
    }
    has_content = message.key is not None or message.value is not None
    if has_content and (not headers or all(data is not None for _, data in headers)):
        options["headers"] = list(headers) if headers else None
        return producer.send(message.topic, message.value, message.key, **options)
    # The client checks the value and the headers first, and then asks its serializer for the value.
    # The serializer fills in what the check would have refused.
    with _serializing(producer, _Filler(message)):
        return producer.send(message.topic, b"", message.key, headers=_Headers(), **options)


class _Headers(list[Any]):
    """Headers that are falsy, so that the client does not add up their sizes, which would fail."""

    def __bool__(self) -> bool:
        return False


class _Filler(Serializer):  # type: ignore[misc]
    """Gives the client the value and the headers of a message, whatever they are."""

    def __init__(self, message: Outgoing) -> None:
        self._message = message

    def serialize(self, topic: str, headers: _Headers, data: object) -> bytes | None:
        headers.extend(self._message.headers)
        return self._message.value


@contextlib.contextmanager
def _serializing(producer: KafkaProducer, serializer: Serializer) -> Iterator[None]:
    # `config`: the only place where the client reads its serializer; it is read for each message.
    before = producer.config["value_serializer"]
    producer.config["value_serializer"] = serializer
    try:
        yield
    finally:
        producer.config["value_serializer"] = before
