"""Apps on a memory broker that the test creates and can inspect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeVar

import trio

from tests.scripted import scripted
from transport import TP, App
from transport.drivers.memory import MemoryBroker

T = TypeVar("T")

A_WHILE = 60.0  # seconds; long enough for all expected events. The tests' clock jumps over it.


def app_on(
    broker: MemoryBroker, id: str = "group", *, kind: type[App] = App, **settings: Any
) -> App:
    """Return an app of this broker, whose calls the test can replace (`tests.scripted`).

    `kind` may be a subclass with hooks.
    """
    return scripted(kind)(id, broker, **settings)


def broker_with(*tps: TP, records: int = 0, **options: Any) -> MemoryBroker:
    """Return a broker with the topics of these partitions and `records` records in each."""
    broker = MemoryBroker(**options)
    for topic in sorted({tp.topic for tp in tps}):
        broker.create_topic(topic, max(tp.partition for tp in tps if tp.topic == topic) + 1)
    for tp in tps:
        write(broker, tp, records)
    return broker


def write(broker: MemoryBroker, tp: TP, count: int = 1, value: bytes = b"value") -> None:
    """Append records to the log, as another program would."""
    log = broker.log(tp)
    for _ in range(count):
        log.append(None, value, (), broker.clock())
    log.changed.notify()


def committed(broker: MemoryBroker, group: str = "group") -> dict[TP, int]:
    return broker.group(group).offsets


def evict_all(broker: MemoryBroker, group: str = "group") -> None:
    """Remove all members from the group, as if their sessions had expired."""
    members = broker.group(group)
    for name in list(members.members):
        members.leave(name, trio.current_time())


async def take(messages: AsyncIterator[T], count: int) -> list[T]:
    """Return the next `count` messages or batches."""
    return [await anext(messages) for _ in range(count)]


async def nothing_comes(messages: AsyncIterator[Any], seconds: float = A_WHILE) -> bool:
    """Return whether nothing is delivered within `seconds`; the wait is then cancelled."""
    with trio.move_on_after(seconds) as wait:
        await anext(messages)
    return wait.cancelled_caught
