"""The settings of an app, with their defaults and their checks.

Look here when an app refuses a setting. `drivers/settings.py` has those of the client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, get_args

import attrs

from transport.arguments import (
    MOST_SECONDS,
    choice,
    function,
    instance,
    seconds,
    setting,
    text,
    whole,
    wrong_value,
)
from transport.drivers.settings import ClientSettings, ClientSettingsArgs
from transport.partitioner import Partitioner, java_partitioner
from transport.probe import Points
from transport.scheduler import RoundRobin, SchedulingStrategy
from transport.synonyms import explanation_of
from transport.tracing import Spans

OnTaskError: TypeAlias = Literal["fail", "go_on"]
TransactionScope: TypeAlias = Literal["member", "partition"]
WebPage: TypeAlias = Literal["local", "remote", "off"]

_duration = setting(seconds, most=MOST_SECONDS)
_size = setting(whole, least=1)


def _sensor(name: str, value: Any) -> None:
    instance(name, value, Points, "a Sensor, such as Monitor(), or None")


def _spans(name: str, value: Any) -> None:
    instance(name, value, Spans, "a Tracing, such as Tracing(), or None")


def _client(name: str, value: Any) -> None:
    instance(name, value, ClientSettings, "a ClientSettings")


def _address(name: str, value: Any) -> None:
    text(name, value)
    host, colon, port = value.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) < 65536):
        raise wrong_value(name, "HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080", value)


@attrs.frozen(kw_only=True)
class Settings:
    """The settings of an app. Durations are in seconds, sizes in bytes.

    Attributes:
        commit_interval: the time between two commits of the acked offsets.
        commit_livelock_soft_timeout: the app warns if a partition's safe offset has not moved for
            this long while later messages are acked.
        stuck_interval: the time between two searches for stuck partitions.
        stuck_fetch_timeout: a partition counts as stuck if the client is not polled for this long.
        stuck_response_timeout: a partition counts as stuck if the broker does not answer for this
            long.
        stuck_highwater_timeout: a partition counts as stuck if messages below its high watermark
            do not arrive for this long.
        stuck_ack_timeout: a partition counts as stuck if its oldest unacked message stays unacked
            for this long.
        stuck_commit_timeout: a partition counts as stuck if its offset is not committed for this
            long beyond `commit_interval`.
        lag_interval: with a monitor, the app asks the broker at this interval for the end offsets
            of partitions from which it does not fetch. The lag in a snapshot is at most as old as
            this interval and the time of an answer.
        buffer_size: the most unacked messages of one topic object. When so many messages are
            fetched and not acked, its partitions are paused until half of them are acked.
        buffer_bytes: the most memory of messages that are fetched and not acked, over all topics.
            At this bound nothing more is fetched until half of it is acked, except for topic
            objects that hold no message. A fetch counts as its bytes until it is decoded. A decoded
            message counts as its bytes and 512 more, and each header as its bytes and 160.
        grace: the time that the app may take to close in order.
        send_buffer_messages, send_buffer_bytes: the most messages and bytes that may be accepted
            and not delivered. At this bound `send` waits.
        on_task_error: "fail" or "go_on": `Consumer.on_task_error` raises the error again after its
            commit, or logs it.
        pattern_interval: the time between two searches for topics that match a pattern.
        partitioner: a function of a key and a number of partitions that returns the key's
            partition.
        monitor: a `Sensor`, such as `Monitor()`, that receives the events of the app. None: there
            is no monitor.
        tracing: a `Tracing` of `transport.monitoring.tracing`, which makes spans of OpenTelemetry
            for messages, with the extra `opentelemetry`. None: there are no spans.
        scheduler: a function that makes a `SchedulingStrategy`, which decides the turns of the
            partitions of a topic object.
        transactions: "member" or "partition". The messages that a handler sends and the offset of
            its message are committed in one transaction, of the whole member or of each partition.
            None: there are no transactions.
        ready_lag: the app is not ready while it is more than this many messages behind, over all
            its partitions; see `App.health`. None: the lag does not count.
        status_socket: the path of a local socket on which `kafka-nursery tree` of the same user
            reads the state of the app. "auto": a path of its own for each process, in the folder of
            the user's sockets. None: there is no socket.
        web: HOST:PORT at which the app serves its page, `/livez`, `/readyz` and `/metrics`, with
            the extra `web`. None: there is no server.
        web_page: "local": the page at `web` answers only programs of this machine. "remote": it
            answers all that can connect to `web`. "off": there is no page.
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
    buffer_bytes: int = attrs.field(default=48 << 20, validator=_size)
    grace: float = attrs.field(default=20.0, validator=_duration)
    send_buffer_messages: int = attrs.field(default=50_000, validator=_size)
    send_buffer_bytes: int = attrs.field(default=32 << 20, validator=_size)
    pattern_interval: float = attrs.field(default=10.0, validator=_duration)
    on_task_error: OnTaskError = attrs.field(
        default="fail", validator=setting(choice, choices=get_args(OnTaskError))
    )
    partitioner: Partitioner = attrs.field(
        default=java_partitioner,
        validator=setting(function, expected="a function of a key and a number of partitions"),
    )
    scheduler: Callable[[], SchedulingStrategy[Any]] = attrs.field(
        default=RoundRobin,
        validator=setting(function, expected="a function that makes a SchedulingStrategy"),
    )
    transactions: TransactionScope | None = attrs.field(
        default=None, validator=setting(choice, choices=(None, *get_args(TransactionScope)))
    )
    transaction_attempts: int = attrs.field(default=10, validator=_size)
    web: str | None = attrs.field(default=None, validator=setting(_address, optional=True))
    web_page: WebPage = attrs.field(
        default="local", validator=setting(choice, choices=get_args(WebPage))
    )
    status_socket: str | None = attrs.field(default=None, validator=setting(text, optional=True))
    ready_lag: int | None = attrs.field(
        default=10_000, validator=setting(whole, least=0, optional=True)
    )
    monitor: Points | None = attrs.field(default=None, validator=setting(_sensor, optional=True))
    tracing: Spans | None = attrs.field(default=None, validator=setting(_spans, optional=True))
    client: ClientSettings = attrs.field(factory=ClientSettings, validator=setting(_client))

    def __attrs_post_init__(self) -> None:
        if self.transactions is not None and not self.client.is_member:
            raise ValueError("transactions need a group: do not set client_only or partitions")
        if self.transactions is not None and self.client.acks not in ("all", -1):
            raise ValueError(f'transactions need acks="all", not {self.client.acks!r}')
        if self.transactions is not None and not self.client.is_idempotent:
            raise ValueError(
                "transactions need enable_idempotence: remove it from client_options, where it is"
                " False"
            )


class SettingsArgs(ClientSettingsArgs, total=False):
    """The keyword arguments of `App`, for type checkers.

    The fields are those of `Settings` and of `ClientSettings`, which document them.
    """

    commit_interval: float
    commit_livelock_soft_timeout: float
    lag_interval: float
    stuck_interval: float
    stuck_fetch_timeout: float
    stuck_response_timeout: float
    stuck_highwater_timeout: float
    stuck_ack_timeout: float
    stuck_commit_timeout: float
    buffer_size: int
    buffer_bytes: int
    grace: float
    send_buffer_messages: int
    send_buffer_bytes: int
    pattern_interval: float
    on_task_error: OnTaskError
    partitioner: Partitioner
    scheduler: Callable[[], SchedulingStrategy[Any]]
    transactions: TransactionScope | None
    transaction_attempts: int
    ready_lag: int | None
    status_socket: str | None
    web: str | None
    web_page: WebPage
    monitor: Points | None
    tracing: Spans | None


def settings_from(group_id: str, options: Mapping[str, Any]) -> Settings:
    """Return the settings of an app and of its client from the keyword arguments of `App`.

    Raises TypeError: the text names each unknown setting and what to write instead.
    """
    mine = {field.name for field in attrs.fields(Settings)} - {"client"}
    theirs = {field.name for field in attrs.fields(ClientSettings)} - {
        "group_id",
        "transactional_id",
    }
    if unknown := sorted(set(options) - mine - theirs):
        explained = "; ".join(explanation_of(name, mine | theirs) for name in unknown)
        raise TypeError(f"unknown settings: {explained}")
    client = ClientSettings(
        group_id=group_id, **{name: value for name, value in options.items() if name in theirs}
    )
    return Settings(
        client=client, **{name: value for name, value in options.items() if name in mine}
    )
