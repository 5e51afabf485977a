"""The names and the attributes of spans.

Look here for what a span says about its message, handler and broker. The names follow the semantic
conventions of OpenTelemetry for messaging and for Kafka.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from transport.app import App
from transport.types import TP, RecordMetadata

# The version of the semantic conventions that the names here come from.
SCHEMA = "https://opentelemetry.io/schemas/1.37.0"
# Attributes of the conventions.
COUNT = "messaging.batch.message_count"
OFFSET = "messaging.kafka.offset"
_PARTITION = "messaging.destination.partition.id"
_KEY = "messaging.kafka.message.key"
_TOMBSTONE = "messaging.kafka.message.tombstone"
_SIZE = "messaging.message.body.size"
# Attributes of this library.
CANCELLED = "kafka_nursery.cancelled"
FAILED = "kafka_nursery.failed_messages"
_HANDLER = "kafka_nursery.handler"

# The most bytes of a key that a span shows.
_MOST_KEY = 128

Attributes = dict[str, str | int | bool]


class SpanAttributes:
    """The names and the attributes of the spans of one app.

    Args:
        keys: whether spans show the keys of messages.
    """

    def __init__(self, *, keys: bool) -> None:
        self._keys = keys
        self._of_app: Attributes = {}
        self._group: Attributes = {}
        self._sending: dict[str, tuple[str, Attributes]] = {}
        self._processing: dict[tuple[TP, str | None], tuple[str, Attributes]] = {}

    def open(self, app: App) -> None:
        """Note the app whose messages the spans are about."""
        self._sending.clear()
        self._processing.clear()
        self._of_app = {
            "messaging.system": "kafka",
            "messaging.client.id": app.settings.client.client_id,
            **_server(app.transport.url),
        }
        self._group = {"messaging.consumer.group.name": app.id}

    def of_sending(self, topic: str) -> tuple[str, Attributes]:
        """Return the name and the attributes of the spans of messages that are sent to a topic."""
        if (known := self._sending.get(topic)) is None:
            known = self._sending[topic] = f"send {topic}", self._of_operation("send", topic)
        return known

    def of_processing(self, tp: TP, handler: str | None) -> tuple[str, Attributes]:
        """Return the name and the attributes of the spans of a partition and a handler."""
        place = tp, handler
        if (known := self._processing.get(place)) is None:
            attributes = {
                **self._of_operation("process", tp.topic),
                **self._group,
                _PARTITION: str(tp.partition),
            }
            if handler is not None:
                attributes[_HANDLER] = handler
            known = self._processing[place] = f"process {tp.topic}", attributes
        return known

    def _of_operation(self, operation: str, topic: str) -> Attributes:
        return {
            **self._of_app,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": topic,
        }

    def of_content(self, key: bytes | None, value: bytes | None) -> Attributes:
        """Return the attributes of a key and a value, both encoded."""
        about: Attributes = {_TOMBSTONE: True} if value is None else {_SIZE: len(value)}
        if self._keys and key is not None and len(key) <= _MOST_KEY:
            text = key.decode("utf-8", "replace")
            if text.isprintable() and "\ufffd" not in text:
                about[_KEY] = text
        return about


def of_place(written: RecordMetadata) -> Attributes:
    """Return the attributes of the partition and the offset of a written message."""
    return {_PARTITION: str(written.partition), OFFSET: written.offset}


def _server(urls: Iterable[str]) -> Attributes:
    """Return the address of the broker, if the URLs name only one."""
    hosts = [urlsplit(url[:]).netloc.rpartition("@")[2] for url in urls]
    if len(hosts) != 1 or not hosts[0] or "," in hosts[0]:
        return {}
    place = urlsplit(f"//{hosts[0]}")
    about: Attributes = {"server.address": place.hostname or ""}
    if place.port is not None:
        about["server.port"] = place.port
    return about
