"""`Topic.partitions`: a stream of messages for each assigned partition."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.apps import app_on, broker_with, committed, evict_all, nothing_comes, take, write
from tests.lanes import BOTH, NEVER, Place
from tests.nurseries.clock import jumping
from tests.scripted import fails, hold, replace
from transport import (
    JSON,
    TP,
    App,
    AppClosed,
    BrokerUnavailable,
    DecodeError,
    MemoryBroker,
    Message,
    PartitionStream,
    Topic,
)

ORDERS = [TP("orders", number) for number in range(3)]
ONE, TWO, THREE = ORDERS


@attrs.define
class Crew:
    """A task for each partition, which notes what it gets.

    Attributes:
        begun: the partitions that came, in order.
        ended: the partitions whose streams have ended, in order.
        seen: the offsets of the messages, by partition.
        work: awaited with each message.
    """

    work: Callable[[Message], Any] | None = None
    begun: list[TP] = attrs.field(factory=list)
    ended: list[TP] = attrs.field(factory=list)
    seen: dict[TP, list[int]] = attrs.field(factory=dict)
    is_over: bool = False

    async def run(self, topic: Topic) -> None:
        async with trio.open_nursery() as nursery:
            async for partition in topic.partitions():
                self.begun.append(partition.tp)
                nursery.start_soon(self._read, partition)
            self.is_over = True

    async def _read(self, partition: PartitionStream) -> None:
        async for message in partition:
            assert message.tp == partition.tp
            self.seen.setdefault(partition.tp, []).append(message.offset)
            if self.work is not None:
                await self.work(message)
        assert partition.has_ended
        self.ended.append(partition.tp)


@asynccontextmanager
async def at_work(
    broker: MemoryBroker, work: Callable[[Message], Any] | None = None, **settings: Any
) -> AsyncIterator[tuple[App, Crew]]:
    crew = Crew(work)
    async with trio.open_nursery() as outside:
        async with app_on(broker, **{"commit_interval": NEVER, **settings}) as app:
            outside.start_soon(crew.run, app.topic("orders"))
            await trio.sleep(1.0)
            yield app, crew
        with trio.fail_after(1.0):
            while not crew.is_over:  # noqa: ASYNC110 - no event reports it
                await trio.sleep(0.1)
    assert sorted(crew.ended) == sorted(crew.begun), "a stream has not ended"


# Which partitions come


@jumping
async def test_each_assigned_partition_comes_once_also_without_messages() -> None:
    broker = broker_with(*ORDERS)
    write(broker, TWO, 2)
    async with at_work(broker) as (app, crew):
        assert (crew.begun, crew.seen) == (ORDERS, {TWO: [0, 1]})
        write(broker, ONE)
        await wait_all_tasks_blocked()
        assert (crew.begun, crew.seen) == (ORDERS, {TWO: [0, 1], ONE: [0]})
        assert await app.consumer.commit()
    assert committed(broker) == {ONE: 1, TWO: 2, THREE: 0}


@jumping
async def test_a_partition_that_is_added_comes_then() -> None:
    broker = broker_with(ONE, TWO)
    async with at_work(broker, metadata_max_age=1.0) as (_, crew):
        assert crew.begun == [ONE, TWO]
        broker.add_partitions("orders", 1)
        write(broker, THREE)
        await trio.sleep(10.0)
        assert crew.begun[-1] == THREE
        assert crew.seen == {THREE: [0]}


@jumping
async def test_partitions_of_all_topics_of_a_pattern_come() -> None:
    broker = broker_with(ONE, TP("bills", 0), records=1)
    async with app_on(broker) as app:
        partitions = app.topic(re.compile("orders|bills")).partitions()
        assert {partition.tp for partition in await take(partitions, 2)} == {ONE, TP("bills", 0)}


@jumping
async def test_getting_a_partition_is_a_checkpoint_and_cancelling_it_loses_none() -> None:
    async with app_on(broker_with(*ORDERS)) as app:
        partitions = app.topic("orders").partitions()
        await trio.sleep(1.0)
        with assert_checkpoints():
            got = [await anext(partitions)]
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(partitions)
        assert scope.cancelled_caught
        got += await take(partitions, 2)
        assert [partition.tp for partition in got] == ORDERS
        assert await nothing_comes(partitions)


@jumping
async def test_tasks_that_share_an_iterator_share_the_partitions() -> None:
    async with app_on(broker_with(*ORDERS)) as app:
        partitions = app.topic("orders").partitions()
        got: list[TP] = []

        async def ask() -> None:
            async for partition in partitions:
                got.append(partition.tp)

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(ask)
            await trio.sleep(1.0)
            assert sorted(got) == ORDERS
            nursery.cancel_scope.cancel()


@jumping
async def test_another_iterator_begins_with_all_partitions() -> None:
    """So a program whose tasks have failed can begin again, with the waiting messages."""
    async with app_on(broker_with(*ORDERS, records=2)) as app:
        orders = app.topic("orders")
        first = await take(orders.partitions(), 3)
        assert (await anext(first[0].noack())).offset == 0
        again = await take(orders.partitions(), 3)
        assert [partition.tp for partition in again] == ORDERS
        assert (await anext(again[0].noack())).offset == 1
        assert await nothing_comes(first[0].noack())


# When a stream ends


@jumping
async def test_a_revoked_partition_ends_after_the_message_in_hand() -> None:
    broker = broker_with(ONE, TWO, records=4)
    may_end = trio.Event()

    async def work(message: Message) -> None:
        if message.offset == 1:
            await may_end.wait()

    async with at_work(broker, work) as (app, crew):
        assert crew.seen == {ONE: [0, 1], TWO: [0, 1]}
        async with app_on(broker) as other:
            theirs = other.topic("orders").noack()
            await trio.sleep(5.0)
            assert not other.consumer.assignment, "the rebalance waits for the message in hand"
            assert not crew.ended
            may_end.set()
            await trio.sleep(5.0)
            (kept,), (given,) = app.consumer.assignment, other.consumer.assignment
            assert crew.ended == [given]
            assert crew.seen == {kept: [0, 1, 2, 3], given: [0, 1]}
            assert committed(broker)[given] == 2
            assert (await anext(theirs)).offset == 2
        await trio.sleep(60.0)
        assert crew.begun == [ONE, TWO, given], "it is assigned again"
        assert crew.seen[given] == [0, 1, 2, 3]


@jumping
async def test_a_lost_partition_ends_and_comes_again_after_the_next_join() -> None:
    broker = broker_with(ONE, records=2)
    async with at_work(broker) as (app, crew):
        evict_all(broker)
        app.consumer.client.interrupt()
        await trio.sleep(5.0)
        assert (crew.begun, crew.ended) == ([ONE, ONE], [ONE])
        assert crew.seen == {ONE: [0, 1, 0, 1]}, "nothing was committed"


@jumping
async def test_a_partition_of_a_topic_that_is_created_again_ends_and_comes_again() -> None:
    broker = broker_with(ONE, records=2)
    async with at_work(broker) as (_, crew):
        broker.delete_topic("orders")
        broker.create_topic("orders", 1)
        write(broker, ONE)
        await trio.sleep(5.0)
        assert (crew.begun, crew.ended) == ([ONE, ONE], [ONE])
        assert crew.seen == {ONE: [0, 1, 0]}


@pytest.mark.parametrize("end", ["block", "stop", "close", "kill"])
@jumping
async def test_all_streams_end_with_the_app(end: str) -> None:
    async with at_work(broker_with(*ORDERS, records=1)) as (app, crew):
        match end:
            case "stop":
                app.stop()
            case "close":
                app.consumer.close()
                await app.consumer.ended.wait()
            case "kill":
                await app.kill()
        if end != "block":
            await wait_all_tasks_blocked()
            assert sorted(crew.ended) == ORDERS
            assert crew.is_over


@jumping
async def test_a_stream_ends_when_the_topic_object_is_discarded() -> None:
    broker = broker_with(ONE, records=2)
    async with app_on(broker, commit_interval=NEVER) as app:
        orders = app.topic("orders")
        (partition,) = await take(orders.partitions(), 1)
        message = await anext(partition.noack())
        app.conductor.discard(orders)
        assert [each async for each in partition] == []
        assert message.ack(), "its unacked messages may still be acked"
        await trio.sleep(5.0)
        (again,) = await take(orders.partitions(), 1)
        assert again.tp == ONE
        assert (await anext(again.noack())).offset == 1


@jumping
async def test_streams_end_at_a_restart_and_the_partitions_come_again() -> None:
    broker = broker_with(ONE, records=2)
    async with at_work(broker) as (app, crew):
        await app.consumer.restart()
        await trio.sleep(1.0)
        assert (crew.begun, crew.ended) == ([ONE, ONE], [ONE])
        assert crew.seen == {ONE: [0, 1]}, "the last commit was made"
        write(broker, ONE)
        await wait_all_tasks_blocked()
        assert crew.seen == {ONE: [0, 1, 2]}


@jumping
async def test_a_seek_continues_the_stream_in_a_new_epoch() -> None:
    async with app_on(broker_with(ONE, records=3), commit_interval=NEVER) as app:
        (partition,) = await take(app.topic("orders").partitions(), 1)
        before = await take(partition.noack(), 3)
        await app.consumer.seek(ONE, 1)
        after = await take(partition.noack(), 2)
        assert [message.offset for message in after] == [1, 2]
        assert after[0].epoch > before[0].epoch
        assert [message.ack() for message in (*before, *after)] == [False] * 3 + [True] * 2


@pytest.mark.parametrize("mode", ["partition", "member"])
@jumping
async def test_an_aborted_transaction_continues_the_streams(mode: str) -> None:
    broker = broker_with(ONE, TWO, records=2)
    broker.create_topic("bills", 1)
    async with app_on(broker, transactions=mode, commit_interval=NEVER) as app:
        streams = await take(app.topic("orders").partitions(), 2)
        bills, seen = app.topic("bills"), Counter[TP]()

        async def work(partition: PartitionStream) -> None:
            async for message in partition:
                seen[partition.tp] += 1
                await bills.send(value=b"%d-%d" % (message.partition, message.offset))

        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(work, stream)
            await trio.sleep(1.0)
            replace(app, "producer.send_offsets", fails(BrokerUnavailable("now")), once=True)
            with pytest.raises(Exception, match="aborted"):
                await app.consumer.commit()
            await trio.sleep(1.0)
            assert await app.consumer.commit()
            nursery.cancel_scope.cancel()
        assert sum(seen.values()) > 4
    results = [record.value for record in broker.records("bills")]
    assert sorted(results) == [b"0-0", b"0-1", b"1-0", b"1-1"]


@pytest.mark.parametrize("mode", ["partition", "member"])
@jumping
async def test_a_stream_goes_on_after_a_barrier(mode: str) -> None:
    """During the barrier, the task asks for the next message, which waits already."""
    broker = broker_with(ONE, records=2)
    async with app_on(broker, transactions=mode, commit_interval=NEVER) as app:
        (stream,) = await take(app.topic("orders").partitions(), 1)
        messages = stream.noack()
        (await anext(messages)).ack()
        may_commit = hold(app, "producer.commit")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.consumer.commit)
            await wait_all_tasks_blocked()
            assert await nothing_comes(messages, 5.0)
            may_commit.set()
        assert (await anext(messages)).offset == 1


# A slow partition


@pytest.mark.parametrize("settings", [{"buffer_size": 4}, {"buffer_bytes": 2000}])
@jumping
async def test_a_partition_that_is_stuck_holds_up_no_other(settings: dict[str, int]) -> None:
    broker = broker_with(*ORDERS)
    may_go_on = trio.Event()

    async def work(message: Message) -> None:
        if message.tp == TWO:
            await may_go_on.wait()

    async with at_work(broker, work, max_partition_fetch_bytes=500, **settings) as (app, crew):
        for _ in range(10):
            for tp in ORDERS:
                write(broker, tp, 20)
            await trio.sleep(5.0)
        counts = {tp: len(offsets) for tp, offsets in crew.seen.items()}
        assert counts == {ONE: 200, TWO: 1, THREE: 200}
        assert app.consumer.assignment[TWO].waiting < 100, "it is not fetched from any more"
        assert await app.consumer.commit()
        assert committed(broker) == {ONE: 200, TWO: 0, THREE: 200}
        may_go_on.set()
        await trio.sleep(5.0)
        assert crew.seen[TWO] == list(range(200))


@jumping
async def test_unacked_messages_of_a_stream_are_bounded_by_the_buffer_size() -> None:
    async with app_on(broker_with(ONE, TWO, records=10), buffer_size=3) as app:
        one, two = await take(app.topic("orders").partitions(), 2)
        mine = await take(one.noack(), 3)
        assert await nothing_comes(one.noack())
        assert len(await take(two.noack(), 3)) == 3
        mine[0].ack()
        assert (await anext(one.noack())).offset == 3


# How messages come


@jumping
async def test_a_stream_has_batches_and_messages_of_noack() -> None:
    async with app_on(broker_with(ONE, TWO, records=6), commit_interval=NEVER) as app:
        one, two = await take(app.topic("orders").partitions(), 2)
        async for batch in one.batches(4):
            assert (batch.tp, len(batch)) == (ONE, 4)
            break
        (batch,) = await take(two.batches(noack=True), 1)
        assert (batch.tp, len(batch), batch.ack()) == (TWO, 6, True)
        assert [message.offset for message in await take(one.noack(), 2)] == [4, 5]
        assert repr(one) == "<PartitionStream orders-0>"
        with pytest.raises(ValueError, match="max_size"):
            one.batches(0)
        with pytest.raises(TypeError, match="noack"):
            one.batches(noack=1)  # type: ignore[arg-type]


@jumping
async def test_decode_errors_of_a_stream_go_to_the_hooks_of_the_topic_object() -> None:
    broker = broker_with(ONE)
    for value in (b"1", b"{", b"2"):
        write(broker, ONE, value=value)
    async with app_on(broker) as app:
        orders = app.topic("orders", value_type=JSON)
        (partition,) = await take(orders.partitions(), 1)
        refused: list[DecodeError] = []

        async def hook(error: DecodeError, message: Message) -> None:
            refused.append(error)

        orders.on_value_decode_error = hook
        assert [message.value for message in await take(partition.noack(), 2)] == [1, 2]
        assert [error.message.offset for error in refused] == [1]


@jumping
async def test_stopped_flow_stops_the_streams() -> None:
    broker = broker_with(ONE, records=2)
    async with app_on(broker) as app:
        (partition,) = await take(app.topic("orders").partitions(), 1)
        await anext(partition.noack())
        app.consumer.stop_flow()
        assert await nothing_comes(partition.noack())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, partition.noack(), 1)
            await wait_all_tasks_blocked()
            app.consumer.resume_flow()


@jumping
async def test_getmany_leaves_the_messages_to_the_streams() -> None:
    async with app_on(broker_with(ONE, records=2)) as app:
        (partition,) = await take(app.topic("orders").partitions(), 1)
        assert [each async for each in app.consumer.getmany(5.0)] == []
        assert len(await take(partition.noack(), 2)) == 2


# One topic object is read in one way


@jumping
async def test_a_topic_object_is_read_by_partition_or_as_a_whole() -> None:
    async with app_on(broker_with(*ORDERS)) as app:
        split, whole, added = app.topic("orders"), app.topic("orders"), app.topic("orders")
        split.partitions()
        for read in (split.__aiter__, split.noack, split.batches, split.listen):
            with pytest.raises(RuntimeError, match="is read by partitions"):
                read()
        whole.noack()
        app.conductor.add(added)
        for topic in (whole, added):
            with pytest.raises(RuntimeError, match="is not read by partition"):
                topic.partitions()
        app.conductor.add(split)
        split.partitions()
        app.conductor.discard(whole)
        whole.partitions()


@jumping
async def test_partitions_of_an_app_that_is_not_open_are_refused() -> None:
    app = app_on(broker_with(*ORDERS))
    with pytest.raises(AppClosed):
        app.topic("orders").partitions()


# On both brokers


@pytest.mark.parametrize("lane", BOTH)
async def test_each_message_comes_in_order_through_a_rebalance(lane: str, place: Place) -> None:
    tps = await place.create(3)
    seen: dict[TP, list[int]] = {tp: [] for tp in tps}
    written = 40

    async def work(partition: PartitionStream) -> None:
        async for message in partition:
            await trio.sleep(0.01)
            seen[partition.tp].append(message.offset)

    async def read(app: App) -> None:
        async with trio.open_nursery() as nursery:
            async for partition in app.topic(place.name).partitions():
                nursery.start_soon(work, partition)

    async def feed(app: App) -> None:
        for number in range(written):
            for tp in tps:
                await app.producer.send(place.name, None, b"%d" % number, tp.partition)
            await trio.sleep(0.05)

    async with trio.open_nursery() as nursery, place.app(commit_interval=0.2) as first:
        nursery.start_soon(read, first)
        nursery.start_soon(feed, first)
        await trio.sleep(0.5)
        async with place.app(commit_interval=0.2) as second:
            nursery.start_soon(read, second)
            await second.conductor.wait_for_subscriptions()
            await trio.sleep(2.0)
        with trio.fail_after(50.0):
            while any(offsets[-1:] != [written - 1] for offsets in seen.values()):  # noqa: ASYNC110
                await trio.sleep(0.1)
        first.stop()
    assert seen == {tp: list(range(written)) for tp in tps}
