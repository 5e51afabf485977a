"""Commits and seeks that are cancelled at many moments, checked against the broker's offsets."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from kafka import KafkaProducer

from tests.kafka.cluster import Broker, describe_group
from tests.kafka.members import send
from transport import TP, App, Message
from transport.delivering.channel import Batches
from transport.errors import CommitUnknown

pytestmark = pytest.mark.kafka

PARTITIONS = 4
# Milliseconds after which a call is cancelled. A commit takes about 3, a seek up to 50 and more.
COMMIT_TIMES = range(12)
SEEK_TIMES = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55)
# Steps after which each call has ended, with all steps of other tasks.
MOST_STEPS = 200
BOUND = 60.0


@attrs.define(eq=False)
class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope once the tasks of the run have made `left` steps."""

    scope: trio.CancelScope
    left: int

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left <= 0:
            self.scope.cancel()


@attrs.frozen
class Moment:
    """A moment to cancel at: some milliseconds after the start of a call, or one of its steps."""

    milliseconds: int | None = None
    step: int | None = None

    async def cancel(self, call: Callable[[], Awaitable[object]]) -> bool:
        """Make the call, cancel it at this moment, and return whether it ended before."""
        ended = False
        with trio.CancelScope() as scope:
            if self.milliseconds is not None:
                scope.deadline = trio.current_time() + self.milliseconds / 1000
                await call()
                ended = True
            else:
                assert self.step is not None
                instrument = CancelAtStep(scope, self.step)
                if self.step == 0:
                    scope.cancel()
                trio.lowlevel.add_instrument(instrument)
                try:
                    await call()
                    ended = True
                finally:
                    trio.lowlevel.remove_instrument(instrument)
        return ended


@attrs.define
class Moments:
    """All moments: the given times, then each step of any task, until a call ends before it."""

    times: tuple[int, ...]
    ended: bool = False  # whether the last call ended before its moment, see `note`
    cancelled: int = 0

    def __iter__(self) -> Iterator[Moment]:
        for milliseconds in self.times:
            yield Moment(milliseconds=milliseconds)
        for step in range(MOST_STEPS):
            yield Moment(step=step)
            if self.ended:
                return
        raise AssertionError(f"the call has not ended within {MOST_STEPS} steps")

    def note(self, ended: bool) -> None:
        self.ended = ended
        self.cancelled += not ended


@attrs.define
class Reader:
    """Takes single messages, from the partitions in turn."""

    app: App
    topic: str
    batches: Batches

    @property
    def tps(self) -> list[TP]:
        return [TP(self.topic, partition) for partition in range(PARTITIONS)]

    async def take(self) -> Message:
        return (await anext(self.batches))[0]

    async def ack_one_of_each(self) -> None:
        left = set(self.tps)
        while left:
            message = await self.take()
            assert message.ack()
            left.discard(message.tp)

    async def has_heard_of(self, ends: dict[TP, int]) -> None:
        """Wait until the client knows these ends. No event reports them."""
        highwater = self.app.consumer.client.highwater
        while any((highwater(tp) or 0) < end for tp, end in ends.items()):  # noqa: ASYNC110
            await trio.sleep(0.01)

    async def broker_has(self) -> dict[TP, int]:
        return await self.app.consumer.client.committed(self.tps)

    def ledger_has(self) -> dict[TP, int]:
        ledgers = self.app.consumer.assignment.items()
        return {tp: ledger.committed for tp, ledger in ledgers if ledger.committed is not None}


@asynccontextmanager
async def reading(bootstrap: str, topic: str, **settings: Any) -> AsyncIterator[Reader]:
    """Open an app that reads the topic and commits only on request."""
    broker = f"kafka://{bootstrap}"
    with trio.fail_after(BOUND):
        async with App(topic, broker=broker, commit_interval=3600.0, **settings) as app:
            yield Reader(app, topic, app.topic(topic).batches(1, noack=True))


def filled(bootstrap: str, topic: str, count: int) -> None:
    send(bootstrap, topic, {partition: [b"x"] * count for partition in range(PARTITIONS)})


async def kafkas_view(bootstrap: str, group: str) -> dict[TP, int | None]:
    shown = await trio.to_thread.run_sync(describe_group, bootstrap, group)
    return {TP(*place): offset.committed for place, offset in shown.items()}


async def test_a_commit_is_applied_whole_or_not_at_all(
    kafka_java: None, kafka_bootstrap: str, kafka_topic: Callable[..., str]
) -> None:
    topic = kafka_topic(PARTITIONS)
    filled(kafka_bootstrap, topic, 2000)
    moments = Moments(tuple(COMMIT_TIMES))
    async with reading(kafka_bootstrap, topic) as reader:
        consumer = reader.app.consumer
        await reader.ack_one_of_each()
        assert await consumer.commit()
        assert reader.ledger_has() == await reader.broker_has()
        applied = 0
        for moment in moments:
            await reader.ack_one_of_each()
            before = reader.ledger_has()
            after = {
                **before,
                **{ledger.tp: at for ledger, at in consumer.assignment.due().items()},
            }
            assert all(before[tp] < after[tp] for tp in reader.tps)

            ended = await moment.cancel(consumer.commit)
            moments.note(ended)

            await consumer.maybe_wait_for_commit_to_finish()
            committed = await reader.broker_has()
            assert committed in ((after,) if ended else (before, after)), moment
            assert reader.ledger_has() == committed, moment
            applied += not ended and committed == after
        assert moments.cancelled > applied > 0, "either all or none of the cancelled calls applied"
        assert await kafkas_view(kafka_bootstrap, topic) == committed


async def test_a_commit_that_is_cancelled_while_it_asks_for_positions_is_applied_whole_or_not(
    kafka_java: None, kafka_bootstrap: str, kafka_topic: Callable[..., str]
) -> None:
    """Aborted records follow the acked ones, so the commit first asks the polling task."""
    topic = kafka_topic(PARTITIONS)
    producer = await trio.to_thread.run_sync(transactional, kafka_bootstrap, topic)
    moments = Moments((0, 10, 30, 60))
    try:
        async with reading(kafka_bootstrap, topic) as reader:
            consumer = reader.app.consumer
            for moment in moments:
                await trio.to_thread.run_sync(write_a_transaction, producer, topic)
                before = reader.ledger_has()
                await reader.ack_one_of_each()
                acked = {ledger.tp: at for ledger, at in consumer.assignment.due().items()}
                await trio.to_thread.run_sync(abort_a_transaction, producer, topic)
                at_the_end = {tp: at + 2 for tp, at in acked.items()}
                await reader.has_heard_of(at_the_end)

                ended = await moment.cancel(consumer.commit)
                moments.note(ended)

                await consumer.maybe_wait_for_commit_to_finish()
                committed = await reader.broker_has()
                outcomes = (before, acked, at_the_end)
                assert committed in ((at_the_end,) if ended else outcomes), moment
                assert reader.ledger_has() == committed, moment
            assert moments.cancelled
    finally:
        await trio.to_thread.run_sync(producer.close)
    assert await kafkas_view(kafka_bootstrap, topic) == at_the_end


def transactional(bootstrap: str, name: str) -> KafkaProducer:
    producer = KafkaProducer(
        bootstrap_servers=bootstrap.split(","), transactional_id=name, retry_backoff_ms=5
    )
    producer.init_transactions()
    return producer


def write_a_transaction(producer: KafkaProducer, topic: str) -> None:
    """Commit a transaction: a record and a marker in each partition."""
    producer.begin_transaction()
    for partition in range(PARTITIONS):
        producer.send(topic, b"x", partition=partition)
    producer.commit_transaction()


def abort_a_transaction(producer: KafkaProducer, topic: str) -> None:
    """Abort a transaction: a record and a marker in each partition."""
    producer.begin_transaction()
    for partition in range(PARTITIONS):
        producer.send(topic, b"x", partition=partition)
    producer.flush()
    producer.abort_transaction()


@pytest.mark.parametrize("committing", [False, True], ids=["alone", "during a commit"])
async def test_a_seek_is_made_whole_or_not_at_all(
    kafka_java: None, kafka_bootstrap: str, kafka_topic: Callable[..., str], committing: bool
) -> None:
    topic, count = kafka_topic(PARTITIONS), 3000
    filled(kafka_bootstrap, topic, count)
    moments = Moments(SEEK_TIMES)
    async with (
        reading(kafka_bootstrap, topic, buffer_size=200) as reader,
        trio.open_nursery() as nursery,
    ):
        consumer = reader.app.consumer
        sought = TP(topic, 0)
        upcoming = dict.fromkeys(reader.tps, 0)  # the next offset to be delivered
        applied = 0

        async def take_of_the_sought(expected: set[int]) -> Message:
            while True:
                message = await reader.take()
                allowed = expected if message.tp == sought else {upcoming[message.tp]}
                assert message.offset in allowed, (message, allowed, moment)
                upcoming[message.tp] = message.offset + 1
                if message.tp == sought:
                    return message
                assert message.ack()

        for round_, moment in enumerate(moments):
            held = await take_of_the_sought({upcoming[sought]})
            old = upcoming[sought]
            # Back and forth, within the buffered messages and beyond them.
            target = (old + (7, 311, 1777)[round_ % 3]) % (count - 100)
            if committing:
                nursery.start_soon(consumer.commit)

            ended = await moment.cancel(functools.partial(consumer.seek, sought, target))
            moments.note(ended)

            first = await take_of_the_sought({target} if ended else {old, target})
            made = first.offset == target
            applied += made and not ended
            assert held.ack() is not made, "acks of the epoch before a seek are stale"
            assert first.ack()
            for _ in range(5):
                assert (await take_of_the_sought({upcoming[sought]})).ack()
            await consumer.commit()
            committed = await reader.broker_has()
            assert committed[sought] == upcoming[sought], moment
            assert reader.ledger_has() == committed, moment
        assert moments.cancelled > applied > 0, "either all or none of the cancelled calls applied"
        assert await kafkas_view(kafka_bootstrap, topic) == committed


async def test_a_commit_to_a_frozen_broker_is_unknown_until_the_next_one(
    kafka_broker: Broker,
) -> None:
    topic, timeout = "frozen", 2.0
    await trio.to_thread.run_sync(filled, kafka_broker.bootstrap, topic, 100)
    async with reading(kafka_broker.bootstrap, topic, commit_timeout=timeout) as reader:
        consumer = reader.app.consumer
        await reader.ack_one_of_each()
        assert await consumer.commit()
        before = await reader.broker_has()
        await reader.ack_one_of_each()

        kafka_broker.freeze()
        try:
            began = trio.current_time()
            assert not await Moment(milliseconds=100).cancel(consumer.commit)
            assert trio.current_time() - began < 1.0, "cancelling waits for the broker"
            with pytest.raises(CommitUnknown):
                await consumer.commit()
            assert trio.current_time() - began < timeout + 1.0
            assert reader.ledger_has() == before, "an unknown commit counts as made"
            # Waiting messages are delivered and acked meanwhile, and committed later.
            await reader.ack_one_of_each()
        finally:
            kafka_broker.thaw()

        assert await consumer.commit()
        committed = await reader.broker_has()
        assert reader.ledger_has() == committed
        assert all(committed[tp] >= before[tp] + 2 for tp in reader.tps)
        await reader.ack_one_of_each()
        assert await consumer.commit()
        assert reader.ledger_has() == await reader.broker_has()
