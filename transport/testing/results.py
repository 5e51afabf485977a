"""The results of a call of `HandlerClient`: the outcomes, the failures, and what was sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeAlias

import attrs

from transport.arguments import instance
from transport.codecs import Codec, NotLoaded
from transport.codecs.errors import load_and_call
from transport.drivers.memory.log import StoredRecord
from transport.testing.outcomes import Failure
from transport.topic import Topic
from transport.types import TP, Headers, K, V

Outcome: TypeAlias = Literal["handled", "filtered", "skipped", "dead letter"]
"""How a handler has finished a message."""


@attrs.frozen
class Sent(Generic[K, V]):
    """A message that a handler has sent, or a dead letter.

    Attributes:
        topic, partition, offset: its place.
        key, value: decoded by the types of a topic object; None: there is none. Bytes, if they
            cannot be decoded.
        headers: pairs of a name and bytes or None.
        timestamp: in seconds since 1970.
        raw_key, raw_value: the bytes.
    """

    topic: str
    partition: int
    offset: int
    key: K
    value: V
    headers: Headers
    timestamp: float
    raw_key: bytes | None = attrs.field(repr=False)
    raw_value: bytes | None = attrs.field(repr=False)


@attrs.frozen
class Result:
    """What one call of a handler did.

    Attributes:
        outcomes: how each message ended, in the order of the messages.
        acked: whether all messages were acked, and their offsets committed.
        failures: the failed attempts, in order.
        sent: what the handler has sent, in the order of the timestamps. Keys and values are decoded
            by the first topic object of the app for that topic that has types.
        dead_letters: the dead letters of the messages, in the same form.
    """

    outcomes: tuple[Outcome, ...]
    acked: bool
    failures: tuple[Failure, ...]
    sent: tuple[Sent[Any, Any], ...]
    dead_letters: tuple[Sent[Any, Any], ...]

    @property
    def outcome(self) -> Outcome:
        """How the message ended. Raises ValueError: there are several messages."""
        if len(self.outcomes) != 1:
            raise ValueError(f"there are {len(self.outcomes)} messages: use outcomes")
        return self.outcomes[0]

    @property
    def retries(self) -> int:
        """The number of retries: failed attempts after which there was another one."""
        return sum(failure.delay is not None for failure in self.failures)

    def sent_to(self, topic: Topic[K, V]) -> list[Sent[K, V]]:
        """Return what was sent to the topic of a topic object, decoded by its types, in order.

        Raises the error of a codec. TypeError: `topic` is not a topic object.
        """
        instance("topic", topic, Topic, "a topic object, made by app.topic()")
        key, value = topic.channel.codecs
        return [
            attrs.evolve(
                each, key=_decoded(key, each.raw_key), value=_decoded(value, each.raw_value)
            )
            for each in self.sent
            if topic.matches(each.topic)
        ]


async def sent_from(
    record: StoredRecord, tp: TP, topics: Sequence[Topic[Any, Any]]
) -> Sent[Any, Any]:
    """Return a record as what was sent, decoded by a topic object for its topic.

    A checkpoint if a codec has to load a schema.
    """
    codecs = [topic.channel.codecs for topic in topics if topic.matches(tp.topic)]
    key, value = next((each for each in codecs if each != (None, None)), (None, None))
    return Sent(
        tp.topic,
        tp.partition,
        record.offset,
        await _shown(key, record.key),
        await _shown(value, record.value),
        record.headers,
        record.timestamp / 1000,
        record.key,
        record.value,
    )


def _decoded(codec: Codec[Any] | None, data: bytes | None) -> Any:
    return data if codec is None or data is None else codec.decode(data)


async def _shown(codec: Codec[Any] | None, data: bytes | None) -> Any:
    """Return a decoded key or value, or its bytes if the codec cannot decode it."""
    try:
        try:
            return _decoded(codec, data)
        except NotLoaded as missing:
            return await load_and_call(missing, lambda: _decoded(codec, data))
    except Exception:  # noqa: BLE001 - a dead letter has the bytes that could not be decoded
        return data
