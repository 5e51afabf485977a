"""What an app can be told, with the defaults and their reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from transport.arguments import MOST_SECONDS, choice, function, instance, seconds, setting, whole
from transport.drivers.settings import ClientSettings
from transport.partitioner import Partitioner, java_partitioner
from transport.scheduler import RoundRobin, SchedulingStrategy
from transport.sensor import Sensor
from transport.synonyms import told_of

_duration = setting(seconds, most=MOST_SECONDS)
_size = setting(whole, least=1)


def _sensor(name: str, value: Any) -> None:
    instance(name, value, Sensor, "a Sensor, such as Monitor(), or None")


def _client(name: str, value: Any) -> None:
    instance(name, value, ClientSettings, "a ClientSettings")


@attrs.frozen(kw_only=True)
class Settings:
    """An app's settings; durations in seconds, sizes in bytes.

    Attributes:
        commit_interval: between two commits of what is acked.
        commit_livelock_soft_timeout: an offset that stands still for so long while acks go on
            is warned of.
        stuck_interval: between two looks for partitions that are stuck.
        stuck_fetch_timeout: so long the polling may stand still before that is warned of.
        stuck_response_timeout: the same for the broker's answers.
        stuck_highwater_timeout: the same for messages that are known of and do not come.
        stuck_ack_timeout: the same for handlers.
        stuck_commit_timeout: the same for commits; `commit_interval` is added.
        buffer_size: most messages of one topic object that are delivered and unacked; with so
            many fetched its partitions are paused until half of them are done.
        buffer_bytes: most that is fetched and not acked, over all topics; with so much held
            nothing more is fetched until half of it is done, but for topic objects that hold
            nothing. A message counts as its bytes and 512 more, each header as its bytes and 160.
        grace: the whole of the orderly end.
        send_buffer_messages, send_buffer_bytes: most that is accepted and not delivered; `send`
            waits beyond that.
        on_task_error: "fail" or "go_on": what `Consumer.on_task_error` does after its commit.
        pattern_interval: between two looks for topics that match a pattern.
        partitioner: a key's partition, given the key and the number of partitions.
        monitor: a `Sensor`, such as `Monitor()`, that is told what happens; None: nobody is.
        scheduler: makes what decides whose turn it is among the partitions of a topic object.
        transactions: "member" or "partition": what a handler sends and the offset of its message
            are committed in one transaction, of the whole member or of each partition; None: not.
        transaction_attempts: so many transactions in a row may be aborted before the app fails.
        client: what the broker's client is built with.
    """

    commit_interval: float = attrs.field(default=1.0, validator=_duration)
    commit_livelock_soft_timeout: float = attrs.field(default=300.0, validator=_duration)
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
    monitor: Sensor | None = attrs.field(default=None, validator=setting(_sensor, optional=True))
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
    """Settings out of an app's keyword arguments, its own and its client's, in one namespace.

    Raises TypeError naming what is unknown, and what to write instead.
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
