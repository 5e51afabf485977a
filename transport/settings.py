"""What an app can be told, with the defaults and their reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from transport.arguments import MOST_SECONDS, choice, function, instance, seconds, setting, whole
from transport.drivers.settings import ClientSettings
from transport.partitioner import Partitioner, java_partitioner
from transport.probe import Points
from transport.scheduler import RoundRobin, SchedulingStrategy
from transport.synonyms import told_of

_duration = setting(seconds, most=MOST_SECONDS)
_size = setting(whole, least=1)


def _sensor(name: str, value: Any) -> None:
    instance(name, value, Points, "a Sensor, such as Monitor(), or None")


def _client(name: str, value: Any) -> None:
    instance(name, value, ClientSettings, "a ClientSettings")


@attrs.frozen(kw_only=True)
class Settings:
    """The settings of an app; durations in seconds, sizes in bytes.

    Attributes:
        commit_interval: the time between two commits of the acked offsets.
        commit_livelock_soft_timeout: a warning follows when an offset has not moved for this long
            while acks go on.
        stuck_interval: the time between two searches for stuck partitions.
        stuck_fetch_timeout: polling that stands still for this long counts as stuck.
        stuck_response_timeout: a broker that has not answered for this long counts as stuck.
        stuck_highwater_timeout: messages that are known to exist and have not arrived for this long
            count as stuck.
        stuck_ack_timeout: a handler that has not acked for this long counts as stuck.
        stuck_commit_timeout: offsets that are not committed for this long, beyond
            `commit_interval`, count as stuck.
        lag_interval: with a monitor, the ends of the logs that are not fetched from are asked for
            once in this time. So the lag in a snapshot is as old as this, at most, and the time of
            an answer.
        buffer_size: the most messages of one topic object that may be delivered and not acked. With
            as many fetched, its partitions are paused until half of them are acked.
        buffer_bytes: the most memory of messages that are fetched and not acked, over all topics.
            With as much held, nothing more is fetched until half of it is acked, except for topic
            objects that hold nothing. A fetch counts as its bytes until it is decoded, a decoded
            message as its bytes and 512 more, and each header as its bytes and 160.
        grace: the time that the orderly end may take.
        send_buffer_messages, send_buffer_bytes: the most that may be accepted and not delivered;
            beyond that `send` waits.
        on_task_error: "fail" or "go_on". What `Consumer.on_task_error` does after its commit.
        pattern_interval: the time between two searches for topics that match a pattern.
        partitioner: a function of a key and a number of partitions that returns the key's
            partition.
        monitor: a `Sensor`, such as `Monitor()`, that receives the events of the app. None: there
            is no monitor.
        scheduler: a function that makes a `SchedulingStrategy`, which decides the turns of the
            partitions of a topic object.
        transactions: "member" or "partition". The messages that a handler sends and the offset of
            its message are committed in one transaction, of the whole member or of each partition.
            None: there are no transactions.
        transaction_attempts: after this many aborted transactions in a row the app fails.
        client: the settings of the broker's client. `App` takes them as keyword arguments, too.
    """

    commit_interval: float = attrs.field(default=1.0, validator=_duration)
    commit_livelock_soft_timeout: float = attrs.field(default=300.0, validator=_duration)
    lag_interval: float = attrs.field(default=1.0, validator=_duration)
    stuck_interval: float = attrs.field(default=30.0, validator=_duration)
    stuck_fetch_timeout: float = attrs.field(default=120.0, validator=_duration)
    stuck_response_timeout: float = attrs.field(default=180.0, validator=_duration)
    stuck_highwater_timeout: float = attrs.field(default=180.0, validator=_duration)
    stuck_ack_timeout: float = attrs.field(default=300.0, validator=_duration)
    stuck_commit_timeout: float = attrs.field(default=300.0, validator=_duration)
    buffer_size: int = attrs.field(default=16384, validator=_size)
    buffer_bytes: int = attrs.field(default=64 << 20, validator=_size)
    grace: float = attrs.field(default=20.0, validator=_duration)
    send_buffer_messages: int = attrs.field(default=50_000, validator=_size)
    send_buffer_bytes: int = attrs.field(default=32 << 20, validator=_size)
    pattern_interval: float = attrs.field(default=10.0, validator=_duration)
    on_task_error: str = attrs.field(
        default="fail", validator=setting(choice, choices=("fail", "go_on"))
    )
    partitioner: Partitioner = attrs.field(
        default=java_partitioner,
        validator=setting(function, expected="a function of a key and a number of partitions"),
    )
    scheduler: Callable[[], SchedulingStrategy[Any]] = attrs.field(
        default=RoundRobin,
        validator=setting(function, expected="a function that makes a SchedulingStrategy"),
    )
    transactions: str | None = attrs.field(
        default=None, validator=setting(choice, choices=(None, "member", "partition"))
    )
    transaction_attempts: int = attrs.field(default=10, validator=_size)
    monitor: Points | None = attrs.field(default=None, validator=setting(_sensor, optional=True))
    client: ClientSettings = attrs.field(factory=ClientSettings, validator=setting(_client))

    @property
    def metadata_max_age(self) -> float:
        """The client's; see `ClientSettings`."""
        return self.client.metadata_max_age

    def __attrs_post_init__(self) -> None:
        if self.transactions is not None and not self.client.is_member:
            raise ValueError("transactions need a group, whose membership is their fence")
        if self.transactions is not None and self.client.acks not in ("all", -1):
            raise ValueError(f'transactions need acks="all", not {self.client.acks!r}')
        if self.transactions is not None and not self.client.is_idempotent:
            raise ValueError("transactions need enable_idempotence, which client_options turn off")


def settings_from(group_id: str, options: Mapping[str, Any]) -> Settings:
    """Return the settings in an app's keyword arguments, its own and its client's.

    Raises TypeError: the text names each unknown setting and what to write instead.
    """
    mine = {field.name for field in attrs.fields(Settings)} - {"client"}
    theirs = {field.name for field in attrs.fields(ClientSettings)} - {
        "group_id",
        "transactional_id",
    }
    if unknown := sorted(set(options) - mine - theirs):
        told = "; ".join(told_of(name, mine | theirs) for name in unknown)
        raise TypeError(f"unknown settings: {told}")
    client = ClientSettings(
        group_id=group_id, **{name: value for name, value in options.items() if name in theirs}
    )
    return Settings(
        client=client, **{name: value for name, value in options.items() if name in mine}
    )
