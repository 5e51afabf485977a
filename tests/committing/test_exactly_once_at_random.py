"""I9 in random histories: a reader of committed messages sees the results of each record once.

Members start, read, write and end at random. Answers of the broker are lost, members are evicted,
and transactions are refused or time out. A seed determines the whole history.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio

from tests.apps import app_on, broker_with, committed, write
from tests.effort import SEEDS
from tests.scripted import loses_the_answer, replace
from transport import (
    TP,
    App,
    AppClosed,
    ClientClosed,
    CommitUnknown,
    Fenced,
    Message,
    RebalanceInProgress,
    Topic,
    TransactionAborted,
    TransactionFailed,
)
from transport.drivers.memory import MemoryBroker
from transport.testing import run

ORDERS = [TP("orders", number) for number in range(3)]
RESULTS = [TP("results", number) for number in range(2)]
TIMEOUT = 20.0  # of a transaction


class Failed(Exception):
    """The error of a handler."""


def results_of(tp: TP, offset: int) -> list[bytes]:
    """Return the results of a record: up to three, over all partitions."""
    return [b"%d %d %d" % (tp.partition, offset, n) for n in range(offset % 4)]


@attrs.define
class History:
    """One history, drawn from a seed while it runs."""

    draw: random.Random
    mode: str
    assignment: str
    broker: MemoryBroker = attrs.field(factory=lambda: broker_with(*ORDERS, *RESULTS))
    produced: set[tuple[TP, int]] = attrs.field(factory=set)

    async def play(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.produce)
            async with trio.open_nursery() as members:
                for number in range(self.draw.randint(3, 8)):
                    members.start_soon(self.live, f"member {number}")
                    await trio.sleep(self.draw.uniform(0, 6))
            nursery.cancel_scope.cancel()
        await self.do_the_rest()
        self.check()

    def check(self) -> None:
        wanted = Counter(value for place in self.produced for value in results_of(*place))
        seen: Counter[bytes] = Counter()
        for tp in RESULTS:
            log = self.broker.log(tp)
            assert log.stable_end == log.end, "a transaction was never ended"
            seen.update(record.value for record in log.read(0, 1 << 30, committed=True).records)
        assert seen == wanted

    async def produce(self) -> None:
        while True:
            tp = self.draw.choice(ORDERS)
            start, count = self.broker.log(tp).end, self.draw.randint(1, 5)
            write(self.broker, tp, count)
            self.produced.update((tp, offset) for offset in range(start, start + count))
            await trio.sleep(self.draw.random())

    def app(self, **settings: Any) -> App:
        bounds: dict[str, Any] = {"session_timeout": 6.0, "drain_timeout": 5.0}
        return app_on(
            self.broker,
            assignment=self.assignment,
            transactions=self.mode,
            transaction_timeout=TIMEOUT,
            commit_timeout=3.0,
            **bounds,
            **settings,
        )

    async def live(self, name: str) -> None:
        app = self.app(
            commit_interval=self.draw.choice([0.3, 1.0, 5.0]),
            buffer_size=self.draw.choice([1, 4, 100]),
        )
        try:
            async with app, trio.open_nursery() as nursery:
                nursery.start_soon(self.meddle, app)
                topic = app.topic("orders")
                for _ in range(self.draw.randint(1, 3)):
                    nursery.start_soon(self.read, topic, app.topic("results"))
                await trio.sleep(self.draw.uniform(0.5, 14))
                await self.go(app)
                nursery.cancel_scope.cancel()
        except* (Failed, Fenced, TransactionFailed):
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

    async def read(self, topic: Topic, results: Topic, largest: int | None = None) -> None:
        match self.draw.choice(["messages", "noack", "batches"]):
            case "messages":
                async for message in topic:
                    await self.handle(results, message)
            case "noack":
                async for message in topic.noack():
                    async with message:
                        await self.handle(results, message)
            case "batches":
                async for batch in topic.batches(self.draw.choice([largest, 1, 3])):
                    await self.handle(results, *batch)

    async def handle(self, results: Topic, *messages: Message) -> None:
        try:
            for message in messages:
                for value in results_of(message.tp, message.offset):
                    place = self.draw.randrange(len(RESULTS))
                    if self.draw.random() < 0.3:
                        results.send_soon(value=value, partition=place, source=message)
                    else:
                        await results.send(value=value, partition=place)
                    if self.draw.random() < 0.3:
                        await trio.sleep(self.draw.random() / 2)
            if self.draw.random() < 0.02:
                await trio.sleep(8.0)  # past the bound of a barrier
        except TransactionAborted:
            pass  # it is redelivered

    async def meddle(self, app: App) -> None:
        consumer = app.consumer
        while True:
            await trio.sleep(self.draw.random() * 2)
            match self.draw.choice(
                ["commit", "pause", "flow", "back", "evict", "time out", "break", "break"]
            ):
                case "commit":
                    await self.ignoring(consumer.commit)
                case "pause":
                    consumer.pause_partitions(ORDERS[:2])
                    await trio.sleep(0.5)
                    consumer.resume_partitions(ORDERS[:2])
                case "flow":
                    consumer.stop_flow()
                    await trio.sleep(0.3)
                    consumer.resume_flow()
                case "back":
                    if consumer.assignment:
                        await self.ignoring(consumer.seek_to_committed)
                case "evict" if self.draw.random() < 0.2 and consumer.assignment:
                    group, member = self.broker.group("group"), consumer.client.group_metadata
                    with contextlib.suppress(RebalanceInProgress):
                        group.leave(member().member_id, trio.current_time())
                case "time out" if self.draw.random() < 0.3:
                    # All open transactions, of all members, exceed their timeout.
                    self.broker.transactions.expire(trio.current_time() + TIMEOUT)
                case "break":
                    self.break_next_call(app)

    async def ignoring(self, call: Callable[[], Any]) -> None:
        with contextlib.suppress(TransactionAborted, RebalanceInProgress, ClientClosed, AppClosed):
            await call()

    def break_next_call(self, app: App) -> None:
        """Let the next step of a transaction fail, or lose its answer."""
        scopes = [scope for scope in app.consumer.transactions.scopes if scope.is_ready]
        if not scopes:
            return
        id = self.draw.choice(scopes).transactional_id
        name = self.draw.choice(["commit", "send_offsets"])
        error = (CommitUnknown if name == "commit" else TransactionAborted)("by chance")
        lose = loses_the_answer(error, made=self.draw.random() < 0.5)
        replace(app, f"producer.{name}", lose, transactional_id=id, once=True)

    async def do_the_rest(self) -> None:
        ends = {tp: self.broker.log(tp).end for tp in ORDERS}
        with trio.fail_after(900):
            async with self.app(commit_interval=0.5) as app, trio.open_nursery() as nursery:
                # Larger batches could not be handled within the bound of a barrier.
                nursery.start_soon(self.read, app.topic("orders"), app.topic("results"), 10)
                # For a partition that stayed empty, the committed offset may be 0 or missing.
                nothing = dict.fromkeys(ORDERS, 0)
                while nothing | committed(self.broker) != ends:  # noqa: ASYNC110 - no event reports it
                    await trio.sleep(1)
                nursery.cancel_scope.cancel()
        await trio.sleep(TIMEOUT)
        self.broker.transactions.expire(trio.current_time())


@pytest.mark.parametrize("assignment", ["cooperative", "eager"])
@pytest.mark.parametrize("mode", ["member", "partition"])
@pytest.mark.parametrize("seed", SEEDS[: len(SEEDS) // 2])
def test_each_result_is_seen_once_in_random_histories(
    seed: int, mode: str, assignment: str
) -> None:
    run(History(random.Random(seed), mode, assignment).play, seed=seed)
