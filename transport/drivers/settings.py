"""What a broker's client can be told, in our names and units; refused at once where it is wrong."""

from __future__ import annotations

import ssl
from collections.abc import Container, Mapping
from typing import Any

import attrs
from attrs.converters import optional as optional_converter
from attrs.validators import ge, gt, in_, optional

from transport.drivers.secret import secretive
from transport.types import TP

_duration = gt(0.0)
_size = gt(0)


def _by_tp(offsets: Mapping[TP, int | None]) -> dict[TP, int | None]:
    return {TP(*tp): offset for tp, offset in offsets.items()}


def _names(options: Mapping[str, object]) -> str:
    """What may be shown: the values may be passwords."""
    return f"<{', '.join(sorted(options))}>"


_ACKS: Container[Any] = ("all", -1, 0, 1)


@attrs.frozen
class ClientSettings:
    """What a client is built with; durations in seconds, sizes in bytes.

    Attributes:
        auto_offset_reset: "earliest", "latest" or "error": where to start without a committed
            offset, or with one outside the log.
        assignment: "cooperative" or "eager".
        client_only: read all partitions of the topics without a group: nothing is shared with
            anybody, and no commit reaches the broker.
        partitions: read just these of the topics' partitions, each from the offset given here, or,
            where that is None, from the group's committed one. Nothing is shared; the group keeps
            the commits, and must have no members.
        session_timeout: so long a member may be silent before the group goes on without it.
        max_poll_interval: so long its polling may stand still, in a rebalance for example.
        drain_timeout: bound of a rebalance (see `rebalance_bound`).
        isolation: "read_committed" or "read_uncommitted".
        fetch_max_bytes: most bytes of one fetch from one broker.
        max_decompressed_bytes: a batch that decompresses to more ends the reading with
            UnreadableBatch. What was fetched of a partition is unpacked up to about as much at a
            time, where a message counts as 512 bytes at least.
        request_timeout: for one request to a broker.
        connect_timeout: for finding a broker, and a topic that is not there yet.
        commit_timeout: for the broker's answer to a commit.
        metadata_max_age: producers and consumers ask the broker for the partitions of their topics
            at least so often. Added partitions are found within this time and two seconds.
        acks: "all", 1 or 0 brokers that have a message before it counts as delivered.
        delivery_timeout: from the sending of a message to its outcome.
        ssl_context: for TLS, in place of the certificates among `client_options`.
        transactional_id: of a producer that writes in transactions; set by the app.
        transaction_timeout: so long a transaction may stay open before the broker aborts it; so
            long a reader may have to wait after a crash.
        client_options: handed to the client library as they are; they win. repr() shows their
            names alone.

    Raises:
        ValueError: a value that cannot be, or `max_poll_interval` leaves no room for a rebalance.
    """

    client_id: str = "kafka-nursery"
    group_id: str | None = None
    group_instance_id: str | None = None
    auto_offset_reset: str = attrs.field(
        default="earliest", validator=in_(("earliest", "latest", "error"))
    )
    assignment: str = attrs.field(default="cooperative", validator=in_(("cooperative", "eager")))
    client_only: bool = False
    partitions: Mapping[TP, int | None] | None = attrs.field(
        default=None, converter=optional_converter(_by_tp)
    )
    session_timeout: float = attrs.field(default=45.0, validator=_duration)
    heartbeat_interval: float = attrs.field(default=3.0, validator=_duration)
    max_poll_interval: float = attrs.field(default=300.0, validator=_duration)
    drain_timeout: float | None = attrs.field(default=None, validator=optional(_duration))
    isolation: str = attrs.field(
        default="read_committed", validator=in_(("read_committed", "read_uncommitted"))
    )
    fetch_max_bytes: int = attrs.field(default=50 << 20, validator=_size)
    max_partition_fetch_bytes: int = attrs.field(default=1 << 20, validator=_size)
    max_decompressed_bytes: int = attrs.field(default=64 << 20, validator=_size)
    request_timeout: float = attrs.field(default=30.0, validator=_duration)
    connect_timeout: float = attrs.field(default=10.0, validator=_duration)
    commit_timeout: float = attrs.field(default=10.0, validator=_duration)
    metadata_max_age: float = attrs.field(default=300.0, validator=_duration)
    acks: int | str = attrs.field(default="all", validator=in_(_ACKS))
    linger: float = attrs.field(default=0.005, validator=ge(0.0))
    max_batch_size: int = attrs.field(default=64 << 10, validator=ge(0))
    max_request_size: int = attrs.field(default=1 << 20, validator=_size)
    compression_type: str | None = attrs.field(
        default=None, validator=in_((None, "gzip", "snappy", "lz4", "zstd"))
    )
    delivery_timeout: float = attrs.field(default=120.0, validator=_duration)
    ssl_context: ssl.SSLContext | None = attrs.field(default=None, repr=False)
    transactional_id: str | None = None
    transaction_timeout: float = attrs.field(default=60.0, validator=_duration)
    client_options: Mapping[str, object] = attrs.field(
        factory=dict, converter=secretive, repr=_names
    )

    def __attrs_post_init__(self) -> None:
        if self.client_only and self.partitions is not None:
            raise ValueError("client_only reads all partitions: name none")
        if any(offset is not None and offset < 0 for offset in (self.partitions or {}).values()):
            raise ValueError("an offset is 0 or more")
        if self._most <= 0:
            raise ValueError(
                "max_poll_interval must be longer than commit_timeout and heartbeat_interval"
                f" together and a second, not {self.max_poll_interval!r} s: a rebalance waits for"
                " handlers and a commit, and the client leaves the group when it does not poll"
            )

    @property
    def is_member(self) -> bool:
        """Whether the consumer shares its topics with the others of its group."""
        return not self.client_only and self.partitions is None

    @property
    def rebalance_bound(self) -> float:
        """Seconds that a drain may take: half of max_poll_interval unless set.

        Below max_poll_interval by a commit, a heartbeat and a second for the gap since the
        last poll, for the client counts from the last poll and leaves the group by itself.
        """
        return min(self.drain_timeout or self.max_poll_interval / 2, self._most)

    @property
    def _most(self) -> float:
        return self.max_poll_interval - self.commit_timeout - self.heartbeat_interval - 1.0
