"""Random histories of a group: members start, work and end; a last member handles the rest.

In each history every record is handled at least once, no committed offset passes an unhandled
record, and two members never work on one partition at once. A seed determines the whole history.
"""

from __future__ import annotations

import random
from collections import defaultdict

import attrs
import pytest
import trio

from tests.apps import app_on, broker_with, committed, write
from tests.effort import SEEDS
from transport import TP, App, Message, Topic
from transport.drivers.memory import MemoryBroker
from transport.testing import run

ORDERS = [TP("orders", number) for number in range(3)]


class Failed(Exception):
    """Ends a member with an error, out of its app's block."""


@attrs.define
class History:
    """One history, drawn from a random generator while it runs."""

    draw: random.Random
    assignment: str
    broker: MemoryBroker = attrs.field(factory=lambda: broker_with(*ORDERS))
    produced: set[tuple[TP, int]] = attrs.field(factory=set)
    handled: set[tuple[TP, int]] = attrs.field(factory=set)
    at_work: dict[TP, list[str]] = attrs.field(factory=lambda: defaultdict(list))

    async def play(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.produce)
            async with trio.open_nursery() as members:
                for number in range(self.draw.randint(3, 8)):
                    members.start_soon(self.live, f"member {number}")
                    await trio.sleep(self.draw.uniform(0, 6))
                    self.check_commits()
            nursery.cancel_scope.cancel()
        self.check_commits()
        await self.do_the_rest()
        assert self.handled >= self.produced

    def check_commits(self) -> None:
        for tp, offset in committed(self.broker).items():
            before = {place for place in self.produced if place[0] == tp and place[1] < offset}
            assert before <= self.handled

    async def produce(self) -> None:
        while True:
            tp = self.draw.choice(ORDERS)
            if self.draw.random() < 0.2:
                self.broker.gap(tp, self.draw.randint(1, 3))
            start, count = self.broker.log(tp).end, self.draw.randint(1, 5)
            write(self.broker, tp, count)
            self.produced.update((tp, offset) for offset in range(start, start + count))
            await trio.sleep(self.draw.random())

    def app(self, **settings: object) -> App:
        bounds = {"session_timeout": 6.0, "drain_timeout": 5.0}
        return app_on(self.broker, assignment=self.assignment, **bounds, **settings)

    async def live(self, name: str) -> None:
        app = self.app(
            commit_interval=self.draw.choice([0.3, 1.0, 5.0]),
            buffer_size=self.draw.choice([1, 4, 100]),
        )
        try:
            async with app, trio.open_nursery() as nursery:
                topic = app.topic("orders")
                for _ in range(self.draw.randint(1, 3)):
                    nursery.start_soon(self.read, name, topic)
                nursery.start_soon(self.meddle, app, topic)
                await trio.sleep(self.draw.uniform(0.5, 14))
                await self.go(app)
                nursery.cancel_scope.cancel()
        except* Failed:
            pass

    async def go(self, app: App) -> None:
        match self.draw.choice(["stop", "cancel", "kill", "raise"]):
            case "stop":
                app.stop()
                await trio.sleep(2)
            case "kill":
                await app.kill()
            case "raise":
                raise Failed

    async def read(self, name: str, topic: Topic) -> None:
        match self.draw.choice(["messages", "noack", "batches"]):
            case "messages":
                async for message in topic:
                    await self.handle(name, message)
            case "noack":
                async for message in topic.noack():
                    async with message:
                        await self.handle(name, message)
            case "batches":
                async for batch in topic.batches(self.draw.choice([None, 1, 3]), noack=True):
                    async with batch:
                        await self.handle(name, *batch)

    async def handle(self, name: str, *messages: Message) -> None:
        tp = messages[0].tp
        workers = self.at_work[tp]
        assert set(workers) <= {name}, "two owners work on one partition"
        workers.append(name)
        try:
            await trio.sleep(self.draw.random() / 2)  # well within the drain timeout
        finally:
            workers.remove(name)
        self.handled.update((tp, message.offset) for message in messages)

    async def meddle(self, app: App, topic: Topic) -> None:
        consumer = app.consumer
        while True:
            await trio.sleep(self.draw.random() * 2)
            match self.draw.choice(["commit", "pause", "stop flow", "discard"]):
                case "commit":
                    await consumer.commit()
                case "pause":
                    consumer.pause_partitions(ORDERS[:2])
                    await trio.sleep(0.5)
                    consumer.resume_partitions(ORDERS[:2])
                case "stop flow":
                    consumer.stop_flow()
                    await trio.sleep(0.3)
                    consumer.resume_flow()
                case "discard":
                    app.conductor.discard(topic)
                    await trio.sleep(self.draw.random())
                    app.conductor.add(topic)

    def committed_ends(self) -> dict[TP, int]:
        """Return the committed offset of each partition, and 0 for one without a commit.

        The group may commit offset 0 of a partition that has no records, or commit nothing.
        """
        found = committed(self.broker)
        return {tp: found.get(tp, 0) for tp in ORDERS}

    async def do_the_rest(self) -> None:
        ends = {tp: self.broker.log(tp).end for tp in ORDERS}
        with trio.fail_after(600):
            async with self.app(commit_interval=0.5) as app, trio.open_nursery() as nursery:
                nursery.start_soon(self.read, "the last", app.topic("orders"))
                while self.committed_ends() != ends:  # noqa: ASYNC110 - no event reports it
                    await trio.sleep(1)
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize("assignment", ["cooperative", "eager"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_history_keeps_the_invariants(seed: int, assignment: str) -> None:
    run(History(random.Random(seed), assignment).play, seed=seed)


@pytest.mark.parametrize(("seed", "assignment"), [(405, "eager"), (1660, "cooperative")])
def test_a_history_with_an_empty_partition_ends(seed: int, assignment: str) -> None:
    """In these histories the group commits offset 0 of a partition that has no records."""
    run(History(random.Random(seed), assignment).play, seed=seed)
