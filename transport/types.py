"""The values that travel through the transport."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import attrs

# A header may have no value. None is not the same as an empty value.
Headers: TypeAlias = Sequence[tuple[str, bytes | None]]
HeadersArg: TypeAlias = Headers | Mapping[str, bytes | None] | Mapping[str, bytes] | None

# The broker's own rule (org.apache.kafka.common.internals.Topic).
_TOPIC_NAME = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")


def is_topic_name(name: str) -> bool:
    """Whether the broker allows a topic of this name."""
    return _TOPIC_NAME.fullmatch(name) is not None


class TP(NamedTuple):
    """A topic and one of its partitions; equal to any tuple of the two."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


class Record(Protocol):
    """One record as the broker's client gives it; key and value are still bytes.

    `timestamp` is in milliseconds since 1970, below 0 or None where there is none;
    `timestamp_type` is 0 or None for the producer's clock and 1 for the broker's.
    """

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def timestamp(self) -> int | None: ...
    @property
    def timestamp_type(self) -> int | None: ...


class RecordMetadata(NamedTuple):
    """Where a message was written. A tuple, which takes a third of the time to make.

    Attributes:
        offset: its offset in the partition; -1 where the broker was not asked to answer
            (`acks=0`).
        timestamp: seconds since 1970, as stored.
    """

    topic: str
    partition: int
    offset: int
    timestamp: float

    @property
    def tp(self) -> TP:
        return TP(self.topic, self.partition)


@attrs.frozen
class GroupMetadata:
    """The identity of this consumer in its group, at this moment.

    Attributes:
        topic_ids: the identity of the topic that each of its partitions belongs to, where it is
            known. An offset that is committed with it counts for that topic alone.
        of_gone_topics: partitions whose topic was deleted, as far as the client knows, even if
            another topic has its name now. Nothing can be committed for them.
        notes: the metadata of the offsets that the consumer commits, by topic.
    """

    group_id: str
    generation_id: int
    member_id: str
    group_instance_id: str | None = None
    topic_ids: Mapping[TP, object] = attrs.field(factory=dict, eq=False, repr=False)
    of_gone_topics: frozenset[TP] = attrs.field(default=frozenset(), eq=False, repr=False)
    notes: Mapping[str, str] = attrs.field(factory=dict, eq=False, repr=False)
