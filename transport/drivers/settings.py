"""The settings of a broker's client, with the names, units and checks of the transport."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, TypedDict, get_args

import attrs

from transport.arguments import (
    MOST,
    MOST_SECONDS,
    choice,
    flag,
    instance,
    offsets_of,
    seconds,
    setting,
    text,
    whole,
    wrong_value,
)
from transport.drivers.client_options import check_client_options
from transport.drivers.secret import secretive
from transport.types import TP

OffsetReset: TypeAlias = Literal["earliest", "latest", "error"]
Assignor: TypeAlias = Literal["cooperative", "eager"]
Isolation: TypeAlias = Literal["read_committed", "read_uncommitted"]
RecordCodec: TypeAlias = Literal["auto", "compiled", "pure"]
Acks: TypeAlias = Literal["all", -1, 0, 1]
Compression: TypeAlias = Literal["gzip", "snappy", "lz4", "zstd"]
ClientLogLevel: TypeAlias = Literal["debug", "info", "warning", "error", "critical"]

# The client counts in whole milliseconds, in 32 bits.
_duration = setting(seconds, least=0.001, most=MOST_SECONDS)
_size = setting(whole, least=1, most=MOST)
# A member's name. The broker uses the rule of org.apache.kafka.common.internals.Topic.
_INSTANCE_ID = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")


def _by_tp(offsets: Any) -> dict[TP, int | None] | None:
    if offsets is None:
        return None
    checked = offsets_of("partitions", offsets, optional=True)
    if not checked:
        raise wrong_value("partitions", "at least one partition, or None", offsets)
    return checked


def _instance_id(name: str, value: Any) -> None:
    text(name, value)
    if _INSTANCE_ID.fullmatch(value) is None:
        raise wrong_value(name, "up to 249 of letters, digits, '.', '_' and '-'", value)


def _ssl_context(name: str, value: Any) -> None:
    instance(name, value, ssl.SSLContext, "an ssl.SSLContext")


def _secretive(options: Any) -> dict[str, Any]:
    check_client_options("client_options", options)
    return secretive(options)


def _names(options: Mapping[str, object]) -> str:
    """Return the names of the options for `repr()`: the values may be passwords."""
    return f"<{', '.join(sorted(options))}>"


@attrs.frozen
class ClientSettings:
    """The settings of the broker's client; durations in seconds, sizes in bytes.

    `App` takes these as keyword arguments beside its own settings.

    Attributes:
        client_id: the name of this program in the logs and quotas of the broker.
        group_id: the consumer group. The app sets it to its own id.
        group_instance_id: the name of a static member. After a restart within `session_timeout` the
            member gets its partitions back without a rebalance. None: the member is dynamic.
        auto_offset_reset: "earliest", "latest" or "error". Where a new group begins, and where
            reading continues if the position is not in the log. "latest" skips only records from
            before the group began: partitions and topics that are created later are read from their
            beginning. A topic that is added later is read from the first record since the group
            began. With "latest" the start is committed before the first message is delivered.
            "error": `OffsetOutOfRange` ends the app, also for a partition that was added. Each
            reset in a group that has begun logs a warning.
        assignment: "cooperative" or "eager". How the members of the group share the partitions. All
            members of a group must have the same value.
        client_only: read all partitions of the topics without a group. No partition is shared with
            other consumers, and no commit reaches the broker.
        partitions: read exactly these partitions. Each starts at the offset given here or, if that
            is None, at the committed offset of the group. No partition is shared. The group keeps
            the commits, and must have no members.
        session_timeout: a member that sends no heartbeat for this long is removed from the group. A
            member whose heartbeats get no answer for this long gives up its partitions as lost.
        heartbeat_interval: the time between two heartbeats; at best a third of `session_timeout`. A
            member learns of a rebalance by a heartbeat. After each join the first heartbeats follow
            sooner.
        max_poll_interval: a member that does not poll for this long, such as during a rebalance, is
            removed from the group.
        drain_timeout: the time that a rebalance may wait for handlers and their commit. None: half
            of `max_poll_interval`; see `rebalance_bound`.
        isolation: "read_committed" or "read_uncommitted". Whether messages of open and aborted
            transactions are left out.
        fetch_max_bytes: the most bytes of one fetch from one broker. Fetches of partitions that
            were paused meanwhile wait undecoded, and may take as much again.
        max_partition_fetch_bytes: the most bytes of one partition in one fetch. A batch that is
            larger is fetched nevertheless.
        max_decompressed_bytes: a batch that decompresses to more, or a record whose headers take
            more in memory, ends the reading with UnreadableBatch. Each header counts as 160 bytes.
        record_codec: "auto", "compiled" or "pure". The code that decodes and encodes records: the
            compiled code of aiokafka, or Python. "auto": the compiled code if it is installed.
            `Transport.driver_version` shows which one is used. No effect on memory://.
        request_timeout: the time for one request to a broker.
        connect_timeout: the time to find a broker, and a topic that does not exist yet.
        commit_timeout: the time for the broker's answer to a commit.
        metadata_max_age: producers and consumers request the partitions of their topics at least
            this often. Added partitions are found within this time plus two seconds.
        acks: "all", 1 or 0. The brokers that must have a message before it counts as written.
        linger: the time for which a batch waits for more messages before it is sent. A flush ends
            the wait.
        transaction_linger: the linger in transactions. The wait also ends when a task awaits a
            delivery, and at the commit. No later batch of that transaction waits.
        max_batch_size: the most bytes of one batch of a partition. 0: each message is its own
            batch.
        max_request_size: the most bytes of one request, and so of one message.
        compression_type: "gzip", "snappy", "lz4" or "zstd". How batches are compressed. None: no
            compression.
        delivery_timeout: the time from the sending of a message to its outcome.
        ssl_context: for TLS, in place of the certificates among `client_options`.
        transactional_id: the id of a producer that writes in transactions. The app sets it.
        transaction_timeout: the time that a transaction may stay open before the broker aborts it.
            After a crash a reader may have to wait for this long.
        client_log_level: "debug", "info", "warning", "error" or "critical". The level of the logger
            `kafka` of kafka-python while a client of this app is open. A level that the program has
            set is kept. None: the logger is left alone. See docs/logging.md.
        client_options: options of kafka-python for which there is no setting, such as
            `{"client_rack": "r1"}`. An option that has the meaning of a setting, or would have no
            effect, is refused with the reason. memory:// also checks them, but only
            `allow_auto_create_topics` has an effect there. `repr()` shows only their names.

    Raises:
        TypeError, ValueError: a value is not valid, or settings contradict each other, such as a
            `max_poll_interval` that is too short for a rebalance. The text names the setting.
    """

    client_id: str = attrs.field(default="kafka-nursery", validator=setting(text))
    group_id: str | None = attrs.field(default=None, validator=setting(text, optional=True))
    group_instance_id: str | None = attrs.field(
        default=None, validator=setting(_instance_id, optional=True)
    )
    auto_offset_reset: OffsetReset = attrs.field(
        default="earliest", validator=setting(choice, choices=get_args(OffsetReset))
    )
    assignment: Assignor = attrs.field(
        default="cooperative", validator=setting(choice, choices=get_args(Assignor))
    )
    client_only: bool = attrs.field(default=False, validator=setting(flag))
    partitions: Mapping[TP, int | None] | None = attrs.field(default=None, converter=_by_tp)
    session_timeout: float = attrs.field(default=45.0, validator=_duration)
    heartbeat_interval: float = attrs.field(default=1.0, validator=_duration)
    max_poll_interval: float = attrs.field(default=300.0, validator=_duration)
    drain_timeout: float | None = attrs.field(
        default=None,
        validator=setting(seconds, optional=True, least=0.001, most=MOST_SECONDS),
    )
    isolation: Isolation = attrs.field(
        default="read_committed",
        validator=setting(choice, choices=get_args(Isolation)),
    )
    fetch_max_bytes: int = attrs.field(default=16 << 20, validator=_size)
    max_partition_fetch_bytes: int = attrs.field(default=1 << 20, validator=_size)
    max_decompressed_bytes: int = attrs.field(default=64 << 20, validator=_size)
    record_codec: RecordCodec = attrs.field(
        default="auto", validator=setting(choice, choices=get_args(RecordCodec))
    )
    request_timeout: float = attrs.field(default=30.0, validator=_duration)
    connect_timeout: float = attrs.field(default=10.0, validator=_duration)
    commit_timeout: float = attrs.field(default=10.0, validator=_duration)
    metadata_max_age: float = attrs.field(default=300.0, validator=_duration)
    acks: Acks = attrs.field(default="all", validator=setting(choice, choices=get_args(Acks)))
    linger: float = attrs.field(
        default=0.005, validator=setting(seconds, least=0.0, most=MOST_SECONDS)
    )
    transaction_linger: float = attrs.field(
        default=0.1, validator=setting(seconds, least=0.0, most=MOST_SECONDS)
    )
    max_batch_size: int = attrs.field(
        default=128 << 10, validator=setting(whole, least=0, most=MOST)
    )
    max_request_size: int = attrs.field(default=1 << 20, validator=_size)
    compression_type: Compression | None = attrs.field(
        default=None,
        validator=setting(choice, choices=(None, *get_args(Compression))),
    )
    delivery_timeout: float = attrs.field(default=120.0, validator=_duration)
    ssl_context: ssl.SSLContext | None = attrs.field(
        default=None, repr=False, validator=setting(_ssl_context, optional=True)
    )
    transactional_id: str | None = attrs.field(default=None, validator=setting(text, optional=True))
    transaction_timeout: float = attrs.field(default=60.0, validator=_duration)
    client_log_level: ClientLogLevel | None = attrs.field(
        default="critical",
        validator=setting(choice, choices=(None, *get_args(ClientLogLevel))),
    )
    client_options: Mapping[str, object] = attrs.field(
        factory=dict, converter=_secretive, repr=_names
    )

    def __attrs_post_init__(self) -> None:
        if self.client_only and self.partitions is not None:
            raise ValueError("client_only reads all partitions: do not set partitions")
        if self.group_instance_id is not None and not self.is_member:
            raise ValueError(
                "group_instance_id names a member of a group: do not set it with client_only or"
                " partitions, where the consumer is not a member"
            )
        if self.is_member and self.heartbeat_interval >= self.session_timeout:
            raise ValueError(
                f"heartbeat_interval must be less than session_timeout ({self.session_timeout!r}"
                f" s), at best a third of it, not {self.heartbeat_interval!r} s"
            )
        if self.client_options.get("enable_idempotence") and self.acks not in ("all", -1):
            raise ValueError(
                f'enable_idempotence in client_options needs acks="all", not {self.acks!r}'
            )
        if self._most <= 0:
            raise ValueError(
                "max_poll_interval must be longer than commit_timeout plus heartbeat_interval"
                f" plus 1 s, not {self.max_poll_interval!r} s: a rebalance waits for"
                " handlers and a commit, and the client leaves the group when it does not poll"
            )

    @property
    def is_member(self) -> bool:
        """Whether the consumer shares its topics with the other members of its group."""
        return not self.client_only and self.partitions is None

    @property
    def is_idempotent(self) -> bool:
        """Whether a retried message is written only once, according to `client_options`."""
        return self.client_options.get("enable_idempotence") is not False

    @property
    def producer_linger(self) -> float:
        """The seconds for which a batch of a producer with these settings waits for messages."""
        return self.linger if self.transactional_id is None else self.transaction_linger

    @property
    def may_create_topics(self) -> bool:
        """Whether a broker that creates requested topics may create them for this client."""
        return self.client_options.get("allow_auto_create_topics") is not False

    @property
    def rebalance_bound(self) -> float:
        """The seconds that a drain may take: `drain_timeout`, or half of `max_poll_interval`.

        At most `max_poll_interval` less a commit, a heartbeat and one second for the gap since the
        last poll. The client counts from the last poll, and leaves the group by itself.
        """
        return min(self.drain_timeout or self.max_poll_interval / 2, self._most)

    @property
    def _most(self) -> float:
        return self.max_poll_interval - self.commit_timeout - self.heartbeat_interval - 1.0


class ClientSettingsArgs(TypedDict, total=False):
    """The settings of the client that `App` takes as keyword arguments, for type checkers."""

    client_id: str
    group_instance_id: str | None
    auto_offset_reset: OffsetReset
    assignment: Assignor
    client_only: bool
    partitions: Mapping[TP, int | None] | None
    session_timeout: float
    heartbeat_interval: float
    max_poll_interval: float
    drain_timeout: float | None
    isolation: Isolation
    fetch_max_bytes: int
    max_partition_fetch_bytes: int
    max_decompressed_bytes: int
    record_codec: RecordCodec
    request_timeout: float
    connect_timeout: float
    commit_timeout: float
    metadata_max_age: float
    acks: Acks
    linger: float
    transaction_linger: float
    max_batch_size: int
    max_request_size: int
    compression_type: Compression | None
    delivery_timeout: float
    ssl_context: ssl.SSLContext | None
    transaction_timeout: float
    client_log_level: ClientLogLevel | None
    client_options: Mapping[str, object]
