"""Helpers for the contract tests: clients, unique names, and tasks that serve rebalances."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NoReturn

import attrs
import kafka.errors
import trio
from kafka import KafkaAdminClient

from tests.records import read
from transport.drivers.base import (
    ConsumerClient,
    Driver,
    Outcome,
    Outgoing,
    ProducerClient,
    Rebalance,
    RebalanceKind,
    Reset,
)
from transport.drivers.kafka import KafkaDriver
from transport.drivers.memory import MemoryDriver
from transport.drivers.settings import ClientSettings
from transport.errors import ClientClosed
from transport.types import TP, Headers, Record, RecordMetadata

SETTINGS = ClientSettings(
    # The shortest that a broker with default settings allows. A drain may then take 5 s.
    session_timeout=6.0,
    heartbeat_interval=1.0,
    max_poll_interval=10.0,
    commit_timeout=3.0,
    request_timeout=10.0,
    max_request_size=100_000,
)
PATIENCE = 5.0

Answer = Callable[[Rebalance], Awaitable[Mapping[TP, int] | None]]


@attrs.define(eq=False)
class Member:
    """A consumer with a task that serves its rebalances, and a record of its results.

    Attributes:
        answer: awaited before each release; returns the start offsets for the release.
        told: every rebalance, in order.
        records: the polled records, in order, without those that `take` has returned.
        resets: all resets that the polls have made.
    """

    client: ConsumerClient
    journal: list[tuple[Member, RebalanceKind, frozenset[TP]]]
    answer: Answer | None = None
    told: list[Rebalance] = attrs.field(factory=list)
    assigned: set[TP] = attrs.field(factory=set)
    records: list[tuple[TP, Record]] = attrs.field(factory=list)
    resets: list[Reset] = attrs.field(factory=list)
    positions: dict[TP, int] = attrs.field(factory=dict)
    heard: trio.Event = attrs.field(factory=trio.Event)

    async def poll(self) -> Mapping[TP, Sequence[Record]]:
        batch = {tp: read(several) for tp, several in (await self.client.poll()).items()}
        self.resets += self.client.resets()
        for tp, records in batch.items():
            assert records, "a poll returned a partition without records"
            assert tp in self.assigned, "a poll returned records of an unassigned partition"
            self.records += [(tp, record) for record in records]
            self.positions[tp] = records[-1].offset + 1
        return batch

    async def take(self, count: int) -> list[tuple[TP, Record]]:
        """Poll until there are `count` records; return each record only once."""
        while len(self.records) < count:
            await self.poll()
        taken, self.records = self.records, []
        return taken

    async def located(self, tps: Collection[TP]) -> dict[TP, int]:
        """Poll until all these positions are known, and return them."""
        while len(positions := await self.client.positions(tps)) < len(tps):
            await self.poll_for(0.1)
        return positions

    async def reset(self) -> None:
        """Poll until the driver has reported one more reset of a position."""
        before = len(self.resets)
        while len(self.resets) == before:
            await self.poll_for(0.1)

    async def nothing_comes(self, seconds: float = 0.5) -> None:
        """Poll for this time, and check that no records arrive."""
        before = len(self.records)
        await self.poll_for(seconds)
        assert self.records[before:] == []

    async def poll_on(self) -> NoReturn:
        while True:
            await self.poll()

    async def poll_for(self, seconds: float) -> None:
        over = trio.Event()

        async def interrupt() -> None:
            await trio.sleep(seconds)
            over.set()
            self.client.interrupt()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt)
            while not over.is_set():
                await self.poll()

    def events(self, kind: RebalanceKind) -> list[frozenset[TP]]:
        """Return the partitions of all rebalances of this kind, without empty ones."""
        return [e.partitions for e in self.told if e.kind is kind and e.partitions]

    async def serve(self) -> None:
        while True:
            try:
                rebalance = await self.client.next_rebalance()
            except ClientClosed:
                return
            self.told.append(rebalance)
            self.heard.set()
            self.heard = trio.Event()
            if rebalance.kind is RebalanceKind.ASSIGNED:
                self._note(rebalance)
            seek = await self.answer(rebalance) if self.answer is not None else None
            if rebalance.kind is not RebalanceKind.ASSIGNED:
                self._note(rebalance)
            rebalance.release(seek)
            self.client.interrupt()  # polls that wait for a change of `assigned` return

    def _note(self, rebalance: Rebalance) -> None:
        self.journal.append((self, rebalance.kind, rebalance.partitions))
        if rebalance.kind is RebalanceKind.ASSIGNED:
            self.assigned |= rebalance.partitions
        else:
            self.assigned -= rebalance.partitions


@attrs.define(eq=False)
class Sent:
    """A record of the outcomes that a producer's client reports."""

    outcomes: dict[Outgoing, Outcome] = attrs.field(factory=dict)
    changed: trio.Event = attrs.field(factory=trio.Event)

    def report(self, reports: Sequence[tuple[Outgoing, Outcome]]) -> None:
        for outgoing, outcome in reports:
            assert outgoing not in self.outcomes, "a message was reported twice"
            self.outcomes[outgoing] = outcome
        self.changed.set()
        self.changed = trio.Event()

    async def reported(self, batch: Sequence[Outgoing], within: float = 30.0) -> list[Outcome]:
        """Wait for the outcomes of the messages, and return them."""
        with trio.fail_after(within):
            while not all(outgoing in self.outcomes for outgoing in batch):
                await self.changed.wait()
        return [self.outcomes[outgoing] for outgoing in batch]


@attrs.define(eq=False)
class Sender(Sent):
    """A producer and a record of its outcomes."""

    client: ProducerClient = attrs.field(kw_only=True)

    async def send(self, batch: Sequence[Outgoing]) -> list[Outcome]:
        """Send the messages and return their outcomes."""
        for topic in {outgoing.topic for outgoing in batch}:
            await self.client.partition_count(topic, PATIENCE)
        await self.client.send(batch)
        return await self.reported(batch)

    async def fill(self, topic: str, count: int, partitions: int = 4, size: int = 0) -> list[TP]:
        """Write `count` records to the partitions in turn, with their numbers as values."""
        batch = [
            outgoing(topic, partition=n % partitions, value=b"%d" % n + b"." * size)
            for n in range(count)
        ]
        for outcome in await self.send(batch):
            assert isinstance(outcome, RecordMetadata), outcome
        return [TP(topic, number) for number in range(partitions)]


def outgoing(
    topic: str,
    *,
    partition: int | None = None,
    key: bytes | None = None,
    value: bytes | None = b"value",
    headers: Headers = (),
    timestamp_ms: int | None = None,
) -> Outgoing:
    return Outgoing(topic, partition, key, value, headers, timestamp_ms)


@attrs.define(eq=False)
class Rig:
    """A driver under test, and helpers to make clients and topics with it."""

    driver: Driver
    journal: list[tuple[Member, RebalanceKind, frozenset[TP]]] = attrs.field(factory=list)
    _prefix: str = attrs.field(factory=lambda: uuid.uuid4().hex[:12])
    _numbers: itertools.count[int] = attrs.field(factory=itertools.count)

    def name(self) -> str:
        """Return a name that no other test uses."""
        return f"contract-{self._prefix}-{next(self._numbers)}"

    async def topic(self, partitions: int = 4, config: Mapping[str, str] | None = None) -> str:
        """Create a topic, and return its name."""
        name = self.name()
        async with self.sender() as sender:
            await sender.client.create_topic(name, partitions, 1, config or {}, 10.0)
        return name

    async def delete(self, topic: str) -> None:
        """Delete the topic."""
        if isinstance(self.driver, MemoryDriver):
            self.driver._attach().delete_topic(topic)
        else:
            await trio.to_thread.run_sync(
                self._administer, lambda admin: admin.delete_topics([topic])
            )

    async def create_again(self, topic: str, partitions: int = 4) -> None:
        """Delete the topic, and create a new topic of the same name."""
        await self.delete(topic)
        if isinstance(self.driver, MemoryDriver):
            assert self.driver._attach().create_topic(topic, partitions)
        else:
            await trio.to_thread.run_sync(self._administer, partial(_create, topic, partitions))

    async def widen(self, topic: str, partitions: int) -> None:
        """Increase the number of partitions of the topic to `partitions`."""
        if isinstance(self.driver, MemoryDriver):
            broker = self.driver._attach()
            broker.add_partitions(topic, partitions - len(broker.partitions(topic)))
        else:
            call = {topic: partitions}
            await trio.to_thread.run_sync(
                self._administer, lambda admin: admin.create_partitions(call)
            )

    def _administer(self, call: Callable[[KafkaAdminClient], object]) -> None:
        assert isinstance(self.driver, KafkaDriver)
        admin = KafkaAdminClient(bootstrap_servers=list(self.driver.servers))
        try:
            call(admin)
        finally:
            admin.close()

    @asynccontextmanager
    async def sender(self, **settings: object) -> AsyncIterator[Sender]:
        client = self.driver.producer(attrs.evolve(SETTINGS, **settings))
        sender = Sender(client=client)
        await client.open(sender.report)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.keep_deadlines)
                yield sender
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await client.close(PATIENCE)

    @asynccontextmanager
    async def member(
        self, topics: Collection[str], answer: Answer | None = None, **settings: object
    ) -> AsyncIterator[Member]:
        """Open a consumer of these topics, in a group of its own unless `group_id` is set."""
        settings.setdefault("group_id", self.name())
        client = self.driver.consumer(attrs.evolve(SETTINGS, **settings))
        await client.open()
        member = Member(client, self.journal, answer)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(member.serve)
                if topics:
                    await client.subscribe(topics)
                yield member
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await client.close(PATIENCE)


def _create(topic: str, partitions: int, admin: KafkaAdminClient) -> None:
    """Create a topic whose name the broker may still be deleting.

    Requests of members may create the topic meanwhile, with the broker's default of 4 partitions.
    Such a topic counts as the new one.
    """
    while True:
        try:
            answer = admin.create_topics(
                {topic: {"num_partitions": partitions, "replication_factor": 1}},
                wait_for_metadata=True,
            )
        except kafka.errors.TopicAlreadyExistsError:
            if partitions != 4:
                admin.delete_topics([topic])
                continue
            return
        # Until the broker knows the new topic, it may write to the deleted one.
        created = answer["topics"][0]["topic_id"]
        while admin.describe_topics([topic])[0]["topic_id"] != created:
            time.sleep(0.05)
        return


async def until(condition: Callable[[], object], *members: Member) -> None:
    """Let these members poll until the condition, which changes by their polls, is true."""

    async def poll(member: Member) -> None:
        while not condition():
            await member.poll()
        for each in members:
            each.client.interrupt()

    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(poll, member)


def shared(tps: Collection[TP], *members: Member) -> Callable[[], bool]:
    """Return a condition: each partition has one owner, and the members are balanced."""

    def condition() -> bool:
        loads = [len(member.assigned) for member in members]
        owned = [tp for member in members for tp in member.assigned]
        return sorted(owned) == sorted(tps) and max(loads) - min(loads) < 2

    return condition
