"""What an app can be told, with the defaults and their reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from attrs.validators import gt, in_, instance_of, optional

from transport.drivers.settings import ClientSettings
from transport.partitioner import Partitioner, java_partitioner
from transport.scheduler import RoundRobin, SchedulingStrategy
from transport.sensor import Sensor


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

    commit_interval: float = attrs.field(default=1.0, validator=gt(0))
    commit_livelock_soft_timeout: float = attrs.field(default=300.0, validator=gt(0))
    stuck_interval: float = attrs.field(default=30.0, validator=gt(0))
    stuck_fetch_timeout: float = attrs.field(default=120.0, validator=gt(0))
    stuck_response_timeout: float = attrs.field(default=180.0, validator=gt(0))
    stuck_highwater_timeout: float = attrs.field(default=180.0, validator=gt(0))
    stuck_ack_timeout: float = attrs.field(default=300.0, validator=gt(0))
    stuck_commit_timeout: float = attrs.field(default=300.0, validator=gt(0))
    buffer_size: int = attrs.field(default=16384, validator=gt(0))
    grace: float = attrs.field(default=20.0, validator=gt(0))
    send_buffer_messages: int = attrs.field(default=50_000, validator=gt(0))
    send_buffer_bytes: int = attrs.field(default=32 << 20, validator=gt(0))
    pattern_interval: float = attrs.field(default=10.0, validator=gt(0))
    on_task_error: str = attrs.field(default="fail", validator=in_(("fail", "go_on")))
    partitioner: Partitioner = java_partitioner
    scheduler: Callable[[], SchedulingStrategy[Any]] = RoundRobin
    transactions: str | None = attrs.field(
        default=None, validator=in_((None, "member", "partition"))
    )
    transaction_attempts: int = attrs.field(default=10, validator=gt(0))
    monitor: Sensor | None = attrs.field(default=None, validator=optional(instance_of(Sensor)))
    client: ClientSettings = attrs.field(factory=ClientSettings)

    @property
    def metadata_max_age(self) -> float:
        """The client's; see `ClientSettings`."""
        return self.client.metadata_max_age

    def __attrs_post_init__(self) -> None:
        if self.transactions is not None and not self.client.is_member:
            raise ValueError("transactions need a group, whose membership is their fence")


def settings_from(group_id: str, options: Mapping[str, Any]) -> Settings:
    """Settings out of an app's keyword arguments, its own and its client's, in one namespace.

    Raises TypeError naming what is unknown.
    """
    mine = {field.name for field in attrs.fields(Settings)} - {"client"}
    theirs = {field.name for field in attrs.fields(ClientSettings)} - {
        "group_id",
        "transactional_id",
    }
    if unknown := sorted(set(options) - mine - theirs):
        raise TypeError(f"unknown settings: {', '.join(unknown)}")
    client = ClientSettings(
        group_id=group_id, **{name: value for name, value in options.items() if name in theirs}
    )
    return Settings(
        client=client, **{name: value for name, value in options.items() if name in mine}
    )
