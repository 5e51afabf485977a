"""The values that the parts of the transport exchange: partitions, records, metadata, headers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import attrs
from typing_extensions import TypeVar

# The types of keys and values. Without a type they are bytes, so `Message` means
# `Message[bytes, bytes]`. Read-only objects are covariant: a function of a `Message[str, object]`
# takes a `Message[str, Order]`.
K = TypeVar("K", default=bytes)
V = TypeVar("V", default=bytes)
K_co = TypeVar("K_co", default=bytes, covariant=True)
V_co = TypeVar("V_co", default=bytes, covariant=True)

# A header may have no value. None is not the same as an empty value.
Headers: TypeAlias = Sequence[tuple[str, bytes | None]]
HeadersArg: TypeAlias = Headers | Mapping[str, bytes | None] | Mapping[str, bytes] | None

# The broker's rule (org.apache.kafka.common.internals.Topic).
_TOPIC_NAME = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")


def is_topic_name(name: str) -> bool:
    """Return whether the broker allows a topic of this name."""
    return _TOPIC_NAME.fullmatch(name) is not None


class TP(NamedTuple):
    """A partition, as its topic's name and its number; equal to any tuple of the two."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


class Record(Protocol):
    """One record as the broker's client returns it; key and value are bytes.

    Attributes:
        timestamp: milliseconds since 1970. None or less than 0: the record has no time.
        timestamp_type: 0 or None: the producer's clock. 1: the broker's.
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


class OffsetAndTimestamp(NamedTuple):
    """The place of a record in its partition, and its timestamp in seconds since 1970."""

    offset: int
    timestamp: float


class RecordMetadata(NamedTuple):
    """The place of a written message. It is a tuple because that is three times as fast to make.

    Attributes:
        offset: its offset in the partition; -1: the broker does not return it with `acks=0`.
        timestamp: the stored timestamp, in seconds since 1970.
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
    """The present identity of this consumer in its group.

    Attributes:
        topic_ids: the topic's identity for each partition of which it is known. An offset that is
            committed with it counts only for that topic, not for a later one of the same name.
        of_gone_topics: partitions whose topic was deleted, as far as the client knows, even if
            another topic has its name now. No offset can be committed for them.
        notes: the library's note that is committed with an offset, by topic.
        texts: the program's text that is committed with an offset, by partition.
    """

    group_id: str
    generation_id: int
    member_id: str
    group_instance_id: str | None = None
    topic_ids: Mapping[TP, object] = attrs.field(factory=dict, eq=False, repr=False)
    of_gone_topics: frozenset[TP] = attrs.field(default=frozenset(), eq=False, repr=False)
    notes: Mapping[str, str] = attrs.field(factory=dict, eq=False, repr=False)
    texts: Mapping[TP, str] = attrs.field(factory=dict, eq=False, repr=False)
