"""`Status`: the state of an app at one moment, as values that become JSON."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator

import attrs

from nurseries import Node
from transport.consuming.consumer import Consumer
from transport.consuming.host import Host
from transport.consuming.stuck import StuckCase
from transport.handling.handler import Handler
from transport.inspecting.partition_state import state_of


@attrs.frozen
class PartitionStatus:
    """The state of an assigned partition.

    Attributes:
        position, highwater, committed, lag, waiting, unacked: see `PartitionState`.
        is_paused: the program has paused it.
        stuck: where and why it is stuck, by the last search. None: it is not stuck.
    """

    topic: str
    partition: int
    position: int | None
    highwater: int | None
    committed: int | None
    lag: int | None
    waiting: int
    unacked: int
    is_paused: bool
    stuck: str | None

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


@attrs.frozen
class HandlerStatus:
    """The state of a handler. The counts begin when the handler starts.

    Attributes:
        topic: the topic's name, or the pattern of its topics.
        concurrency: the most messages, or batches, that are handled at once.
        running: how many are handled at this moment.
        waiting: how many messages it has taken in advance, also those that wait for a retry.
        handled, filtered, failed, dead_letters, skipped: see `Handler.counts`.
    """

    name: str
    topic: str
    concurrency: int
    running: int
    waiting: int
    handled: int
    filtered: int
    failed: int
    dead_letters: int
    skipped: int


@attrs.frozen
class Status:
    """The state of an app at one moment.

    Attributes:
        app: the app's id, which is the consumer group.
        pid: the process.
        at: the time, in seconds since 1970.
        client: the name and version of the broker's client.
        has_crashed: the app ends, or has ended, because of an error.
        has_stopped: nothing more is delivered, because of `App.stop`, a signal, or the end.
        topics: the topics that it reads.
        is_member: it has partitions, or its group has none for it. False: it has not joined yet, or
            was removed from the group. None: it reads no topic.
        is_polled: whether the client is polled. False: its thread, or the polling task, hangs.
        generation: the group's generation; -1: there is none.
        in_flight: how many messages are accepted for sending and have no outcome.
        tree: the services and tasks, each with the functions in which it waits.
    """

    app: str
    pid: int
    at: float
    client: str
    has_crashed: bool
    has_stopped: bool
    topics: tuple[str, ...]
    is_member: bool | None
    is_polled: bool
    generation: int
    in_flight: int
    partitions: tuple[PartitionStatus, ...]
    handlers: tuple[HandlerStatus, ...]
    tree: Node


def status_of(
    app: Host, handlers: Iterable[Handler], tree: Node, *, client: str, has_crashed: bool
) -> Status:
    """Return the state of an app now. Costs O(partitions + unacked messages)."""
    consumer = app.consumer
    topics = tuple(sorted(app.conductor.wanted))
    return Status(
        app=app.id,
        pid=os.getpid(),
        at=time.time(),
        client=client,
        has_crashed=has_crashed,
        has_stopped=app.conductor.has_ended,
        topics=topics,
        is_member=consumer.is_member if topics else None,
        is_polled=all(each.case is not StuckCase.NO_FETCH for each in consumer.stuck),
        generation=consumer.assignment.generation,
        in_flight=app.producer.in_flight,
        partitions=tuple(_partitions(consumer)),
        handlers=tuple(_handler(handler) for handler in handlers),
        tree=tree,
    )


def _partitions(consumer: Consumer) -> Iterator[PartitionStatus]:
    stuck = {each.tp: f"{each.case.value}: {each.why}" for each in consumer.stuck}
    for tp, ledger in consumer.assignment.items():
        state = state_of(ledger, consumer.ends.end_of(ledger))
        yield PartitionStatus(
            topic=tp.topic,
            partition=tp.partition,
            is_paused=tp in consumer.flow.paused,
            stuck=stuck.get(tp),
            **attrs.asdict(state),
        )


def _handler(handler: Handler) -> HandlerStatus:
    topic, counts = handler.plan.topic, handler.counts
    return HandlerStatus(
        name=handler.plan.name,
        topic=topic.name if topic.pattern is None else topic.pattern.pattern,
        concurrency=handler.plan.concurrency,
        running=handler.running,
        waiting=handler.waiting,
        **attrs.asdict(counts),
    )
