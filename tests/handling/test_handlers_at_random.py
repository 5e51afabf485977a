"""Apps of handlers in random histories: nothing is lost, and each key keeps its order.

Members start, stop and crash, answers of the broker are lost, and handlers fail at random. A seed
determines the whole history.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import Hashable

import attrs
import pytest
import trio

from tests.apps import app_on, committed, evict_all
from tests.effort import SEEDS
from tests.handling.calls import Broken, broker_with, handling, put
from transport import TP, App, Message, NotAssigned, RebalanceInProgress, Retry
from transport.drivers.base import Driver
from transport.drivers.memory import MemoryBroker
from transport.testing import Report, run, simulate
from transport.types import Record

KEYS = [b"a", b"b", b"c", b"d", None]


def payload(tp: TP, number: int) -> tuple[bytes | None, bytes]:
    return KEYS[number * 7 % 11 % 5], b"%d" % number


def source_of(letter: Record) -> tuple[TP, int]:
    """Return the place of the message of a dead letter."""
    found = {name: (value or b"").decode() for name, value in letter.headers}
    return TP(found["dead.topic"], int(found["dead.partition"])), int(found["dead.offset"])


@attrs.define
class Service:
    """One service of the group, whose handlers fail at random.

    Attributes:
        handled: how often the function has returned for each record.
        running: by member, partition and key: the offset that runs now.
        last: by member, partition, epoch and key: the last offset that has begun.
        most: the most calls at once in one member.
    """

    draw: random.Random
    order: str
    assignment: str = attrs.field()
    concurrency: int = 20
    handled: Counter[tuple[TP, int]] = attrs.field(factory=Counter)
    running: dict[Hashable, int] = attrs.field(factory=dict)
    last: dict[Hashable, int] = attrs.field(factory=dict)
    at_once: defaultdict[str, int] = attrs.field(factory=lambda: defaultdict(int))
    most: int = 0
    members: int = 0

    @assignment.default
    def _draw_assignment(self) -> str:
        return self.draw.choice(["cooperative", "eager"])

    def app(self, broker: Driver) -> App:
        self.members += 1
        member = f"member {self.members}"
        draw = self.draw
        app = App(
            "service",
            broker,
            commit_interval=draw.choice([0.3, 1.0, 5.0]),
            buffer_size=draw.choice([1, 4, 30, 1000]),
            assignment=self.assignment,  # type: ignore[arg-type]
            session_timeout=6.0,
            grace=10.0,
        )
        app.handler(
            app.topic("orders"),
            lambda message: self.handle(member, message),
            name="worker",
            order=self.order,  # type: ignore[arg-type]
            concurrency=self.concurrency,
            timeout=draw.choice([None, 2.0]),
            retry=Retry(attempts=3, wait_initial=0.2, wait_max=2.0, random=draw.random),
            dead_letters=app.topic("dead"),
            filter=draw.choice([None, lambda message: message.offset % 5]),
        )
        return app

    def group(self, message: Message) -> Hashable:
        """Return what must be handled one after the other: a partition, a key or nothing."""
        if self.order == "partition":
            return message.tp
        is_ordered = self.order == "key" and message.key is not None
        return (message.tp, message.key if is_ordered else message)

    async def handle(self, member: str, message: Message) -> None:
        group = self.group(message)
        assert (member, group) not in self.running, "two at once"
        in_epoch = (member, message.epoch, group)
        assert message.offset >= self.last.get(in_epoch, -1), "out of order"
        self.last[in_epoch] = message.offset
        self.running[member, group] = message.offset
        self.at_once[member] += 1
        self.most = max(self.most, self.at_once[member])
        try:
            await trio.sleep(self.draw.choice([0.0, 0.1, 0.5, 3.0]))
        finally:
            del self.running[member, group]
            self.at_once[member] -= 1
        if message.offset % 7 == 3 or self.draw.random() < 0.1:
            raise Broken(message.value)
        self.handled[message.tp, message.offset] += 1

    def check(self, report: Report) -> None:
        report.check()
        assert self.most <= self.concurrency
        buried = {source_of(record) for record in report.broker.records("dead")}
        for tp, offsets in report.books.written.items():
            for offset in offsets:
                is_handled = (tp, offset) in self.handled or (tp, offset) in buried
                assert is_handled or offset % 5 == 0, "a record was acked and not handled"


@pytest.mark.parametrize("seed", SEEDS)
def test_handlers_lose_nothing_and_keep_their_order_in_random_histories(seed: int) -> None:
    service = Service(random.Random(seed), ["key", "partition", "none"][seed % 3])
    report = simulate(
        service.app, topics={"orders": 3}, outputs={"dead": 2}, seed=seed, records=payload
    )
    service.check(report)


def test_these_histories_have_failures_retries_and_concurrency() -> None:
    """Histories in which nothing happens would prove nothing."""
    letters = retries = most = doubled = 0
    for seed in range(6):
        service = Service(random.Random(seed), "key")
        report = simulate(
            service.app, topics={"orders": 3}, outputs={"dead": 2}, seed=seed, records=payload
        )
        letters += sum(report.dead_letters.values())
        retries += sum(report.retried.values())
        doubled += len(report.doubled)
        most = max(most, service.most)
    assert letters > 20
    assert retries > 50
    assert doubled > 0
    assert most >= 5


MEDDLING = ["flow", "seek", "topic", "pause", "suspend", "restart", "evict", "guest", "empty"]


@attrs.define
class Meddled:
    """One member, in whose flow, topics, positions and group the test intervenes at random."""

    draw: random.Random
    broker: MemoryBroker = attrs.field(factory=lambda: broker_with("abacb bca" * 4, partitions=3))
    order: str = "key"
    running: set[Hashable] = attrs.field(factory=set)
    done: set[tuple[TP, int]] = attrs.field(factory=set)

    async def play(self) -> None:
        draw = self.draw
        self.order = draw.choice(["partition", "key", "none"])
        async with handling(
            self.broker,
            self.handle,
            order=self.order,
            concurrency=draw.randint(1, 6),
            retry=Retry(attempts=50, wait_initial=0.2, wait_max=3.0, random=draw.random),
            settings={
                "buffer_size": draw.choice([1, 3, 10, 1000]),
                "commit_interval": draw.choice([0.3, 2.0]),
                "assignment": draw.choice(["cooperative", "eager"]),
                "session_timeout": 6.0,
            },
        ) as app:
            for _ in range(draw.randint(3, 8)):
                await trio.sleep(draw.uniform(0, 3))
                await self.meddle(app)
                put(self.broker, draw.choice(["a", "bc", " "]), TP("orders", draw.randrange(3)))
            with trio.fail_after(2000):
                while committed(self.broker) != self.ends():  # noqa: ASYNC110
                    await trio.sleep(1)  # no event reports it
            [handler] = app.handlers
            assert (handler.running, handler.waiting) == (0, 0)
            usage = handler.topic.channel.usage
            assert (usage.begun, usage.held) == (0, 0)
            assert app.conductor.memory.bytes == 0
        assert self.done == {(tp, o) for tp, end in self.ends().items() for o in range(end)}

    def ends(self) -> dict[TP, int]:
        return {tp: self.broker.log(tp).end for tp in self.broker.partitions("orders")}

    async def meddle(self, app: App) -> None:
        draw, consumer = self.draw, app.consumer
        [handler] = app.handlers
        pause = draw.uniform(0, 3)
        match draw.choice(MEDDLING):
            case "flow":
                consumer.stop_flow()
                await trio.sleep(pause)
                consumer.resume_flow()
            case "seek":
                for tp, ledger in list(consumer.assignment.items()):
                    if ledger.safe is not None and draw.random() < 0.5:  # back, so nothing is lost
                        await self.try_seek(app, tp, draw.randint(0, ledger.safe))
            case "topic":
                app.conductor.discard(handler.topic)
                await trio.sleep(pause)
                app.conductor.add(handler.topic)
            case "pause":
                consumer.pause_partitions([TP("orders", 0)])
                await trio.sleep(pause)
                consumer.resume_partitions([TP("orders", 0)])
            case "suspend":
                consumer.suspend_delivery()
                await trio.sleep(pause)
                consumer.resume_delivery()
            case "restart":
                await consumer.restart()
            case "evict":
                evict_all(self.broker)
            case "guest":
                async with app_on(self.broker, assignment=app.settings.client.assignment) as guest:
                    guest.topic("orders").noack()
                    await trio.sleep(pause)
            case "empty":
                with trio.move_on_after(pause):
                    await consumer.wait_empty()

    async def try_seek(self, app: App, tp: TP, offset: int) -> None:
        with contextlib.suppress(RebalanceInProgress, NotAssigned):
            await app.consumer.seek(tp, offset)

    async def handle(self, message: Message) -> None:
        group: Hashable = message.tp
        if self.order == "key":
            group = message.tp, message.key or message
        elif self.order == "none":
            group = message
        assert group not in self.running, "two at once"
        self.running.add(group)
        try:
            await trio.sleep(self.draw.choice([0.0, 0.1, 1.0]))
        finally:
            self.running.discard(group)
        if self.draw.random() < 0.2:
            raise Broken
        self.done.add((message.tp, message.offset))


@pytest.mark.parametrize("seed", SEEDS)
def test_handlers_go_on_through_random_interventions(seed: int) -> None:
    run(Meddled(random.Random(seed)).play, seed=seed)
