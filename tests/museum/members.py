"""Members of a group, and their work and commits, for which a test can wait. For both brokers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import trio
from kafka import KafkaProducer

from tests.lanes import Place
from tests.scripted import Function, replace
from transport import TP, App, Message, Topic
from transport.drivers.memory import MemoryBroker


class Member(App):
    """An app that tracks its partitions by the hooks. The hook for revocations enters `guard`."""

    guard: Callable[[], Any] | None = None

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.owned: set[TP] = set()
        self._turned = trio.Event()

    async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
        self._turn(self.owned | assigned)

    async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
        self._turn(self.owned - revoked)
        if self.guard is not None:
            async with self.guard():
                pass

    async def owns(self, count: int) -> set[TP]:
        """Wait until the member owns `count` partitions, and return them."""
        while len(self.owned) != count:
            await self._turned.wait()
        return set(self.owned)

    def _turn(self, owned: set[TP]) -> None:
        self.owned = set(owned)
        self._turned.set()
        self._turned = trio.Event()


def member(place: Place, kind: type[Member] = Member, **settings: Any) -> Member:
    """Return a member of the group of the place, which learns of rebalances quickly."""
    return place.app(kind, **settings)


async def send(app: App, tps: Iterable[TP], count: int) -> None:
    """Send `count` records to each of the partitions."""
    for tp in sorted(tps):
        for _ in range(count):
            await app.producer.send(tp.topic, None, b"value", tp.partition)
    await app.producer.flush()


@attrs.define
class Work:
    """The messages that handlers have done, and an event for the time when all are done.

    Attributes:
        expected: partition and offset of every record.
    """

    expected: set[tuple[TP, int]]
    done: set[tuple[TP, int]] = attrs.field(factory=set)
    complete: trio.Event = attrs.field(factory=trio.Event)

    async def handle(
        self, app: App, topic: Topic, seconds: float = 0.0, commits: bool = False
    ) -> None:
        """Handle messages of the topic, `seconds` for each; `commits`: commit after each ack."""
        async for message in topic.noack():
            await trio.sleep(seconds)
            message.ack()
            if commits:
                await app.consumer.commit()
            self.note(message)

    def note(self, message: Message) -> None:
        self.done.add((message.tp, message.offset))
        if self.done >= self.expected:
            self.complete.set()


def every(tps: Iterable[TP], offsets: Iterable[int]) -> set[tuple[TP, int]]:
    offsets = list(offsets)
    return {(tp, offset) for tp in tps for offset in offsets}


class Commits:
    """A recorder of the commits of a scripted member from now on.

    Attributes:
        tried: the offsets that were passed to the client, in order.
    """

    def __init__(self, app: App) -> None:
        self.tried: list[dict[TP, int]] = []
        self._made: dict[TP, int] = {}
        self._turned = trio.Event()
        replace(app, "commit", self._commit)

    async def _commit(self, make: Function, offsets: Mapping[TP, int], *others: Any) -> None:
        self.tried.append(dict(offsets))
        await make(offsets, *others)
        self._made.update(offsets)
        self._turned.set()
        self._turned = trio.Event()

    async def reach(self, tp: TP, offset: int) -> None:
        """Wait until `offset` of the partition is committed."""
        while self._made.get(tp, -1) < offset:
            await self._turned.wait()


async def leave_a_gap(place: Place, tp: TP) -> None:
    """Write offsets without a message: aborted records and a marker on Kafka, a gap in memory."""
    driver = place.app().driver
    if place.url.startswith("memory://"):
        broker: MemoryBroker = driver._attach()  # type: ignore[attr-defined]
        broker.gap(tp, 4)
    else:
        servers = place.url.removeprefix("kafka://").split(",")
        await trio.to_thread.run_sync(_abort_a_transaction, servers, tp)


def _abort_a_transaction(servers: list[str], tp: TP) -> None:
    producer = KafkaProducer(
        bootstrap_servers=servers, transactional_id=f"of {tp}", retry_backoff_ms=5
    )
    try:
        producer.init_transactions()
        producer.begin_transaction()
        for _ in range(3):
            producer.send(tp.topic, b"aborted", partition=tp.partition)
        producer.flush()
        producer.abort_transaction()  # adds a marker after the three records
    finally:
        producer.close()
