"""`buffer_bytes` bounds the memory of unacked messages over all topics of an app."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import trio

from tests.apps import A_WHILE, app_on, broker_with, nothing_comes, take, write
from tests.nurseries.clock import jumping
from tests.records import FakeRecord, fetched
from transport import TP, App, Message
from transport.delivering.ledger import BufferUsage, Ledger, Tally
from transport.drivers.memory import MemoryBroker
from transport.weights import HEADER_BYTES, RECORD_BYTES, MemoryUsage, weight_of

ORDERS, BILLS = TP("orders", 0), TP("bills", 0)
LARGE = b"." * 10_000
WEIGHT = RECORD_BYTES + len(LARGE)
# In these tests, a fetch returns one or two large messages of a partition.
FETCH = 2 * WEIGHT
LIMIT = 8 * WEIGHT


def large(*tps: TP, count: int = 100) -> MemoryBroker:
    broker = broker_with(*tps)
    for tp in tps:
        write(broker, tp, count, LARGE)
    return broker


def bounded(broker: MemoryBroker, **settings: object) -> App:
    options = {"buffer_bytes": LIMIT, "max_partition_fetch_bytes": FETCH, "fetch_max_bytes": FETCH}
    return app_on(broker, **{**options, **settings})


def test_weight_is_the_size_of_the_decoded_record() -> None:
    plain = FakeRecord(0, key=b"key", value=b"four")
    empty = FakeRecord(0, value=None)
    headers = [("name", b"value"), ("", b""), ("null", None)]
    assert weight_of([plain]) == RECORD_BYTES + 7
    assert weight_of([empty]) == RECORD_BYTES
    headed = FakeRecord(1, value=b"five.", headers=headers)
    assert weight_of([headed]) == RECORD_BYTES + 5 + 3 * HEADER_BYTES + 4 + 5 + 4
    assert weight_of([plain, headed]) == weight_of([plain]) + weight_of([headed])


def test_memory_is_full_at_its_limit_until_half_of_it_is_freed() -> None:
    falls: list[int] = []
    held = MemoryUsage(10)
    held.on_fall = lambda: falls.append(held.bytes)
    held.add(9)
    assert not held.is_full
    held.add(1)
    assert held.is_full
    for _ in range(5):
        assert falls == []
        held.bytes -= 1
        held.has_fallen()
    assert falls == [5]
    assert not held.is_full


@jumping
async def test_a_slow_handler_holds_no_more_than_the_bound_and_one_fetch() -> None:
    async with bounded(large(ORDERS)) as app:
        seen = []
        async for _ in app.topic("orders"):
            await trio.sleep(1)
            seen.append(app.conductor.memory.bytes)
            if len(seen) == 100:
                app.stop()
    assert LIMIT / 2 <= max(seen) <= LIMIT + FETCH
    assert min(seen[:80]) >= LIMIT / 2 - FETCH, "fetching resumes at half of the bound, not at 0"


@jumping
async def test_all_topics_share_one_bound() -> None:
    names = [f"topic{number}" for number in range(8)]
    async with bounded(large(*(TP(name, 0) for name in names))) as app:
        for name in names:
            app.topic(name).listen()
        await trio.sleep(A_WHILE)
        held = [channel.usage.held for channel in app.conductor.channels()]
        assert app.conductor.memory.bytes == WEIGHT * sum(held)
        assert sum(held) <= (LIMIT + FETCH) / WEIGHT + len(names) * FETCH / WEIGHT
        assert min(held) > 0, "each topic object holds messages to deliver"


@jumping
async def test_topic_without_a_handler_does_not_stall_other_topics() -> None:
    async with bounded(large(ORDERS, BILLS)) as app:
        app.topic("bills").listen()
        await trio.sleep(A_WHILE)
        assert app.conductor.memory.is_full
        async for message in app.topic("orders"):
            if message.offset == 99:
                app.stop()


@jumping
@pytest.mark.parametrize("acks", [True, False])
async def test_message_larger_than_the_bound_is_delivered(acks: bool) -> None:
    async with bounded(large(ORDERS, count=3), buffer_bytes=1000) as app:
        orders = app.topic("orders")
        messages = orders if acks else orders.noack()
        with trio.fail_after(A_WHILE):
            async for message in messages:
                if not acks:
                    message.ack()
                if message.offset == 2:
                    app.stop()


def ack(message: Message) -> None:
    message.ack()


def share(message: Message) -> None:
    message.incref()
    message.decref(2)


@jumping
@pytest.mark.parametrize("done", [ack, share])
async def test_memory_is_0_when_all_messages_are_acked(done: Callable[[Message], None]) -> None:
    broker = large(ORDERS, count=20)
    broker.log(ORDERS).append(b"key", None, [("name", b"value"), ("null", None)], 0)
    async with bounded(broker) as app:
        messages = app.topic("orders").noack()
        for _ in range(21):
            done(await anext(messages))
        assert app.conductor.memory.bytes == 0


@jumping
async def test_ack_of_a_batch_frees_all_its_weight() -> None:
    async with bounded(large(ORDERS, count=20)) as app:
        got = 0
        async for batch in app.topic("orders").batches():
            got += len(batch)
            if got == 20:
                app.stop()
        assert app.conductor.memory.bytes == 0


@jumping
@pytest.mark.parametrize("ending", ["seek", "discard", "loss"])
async def test_dropped_messages_and_stale_acks_leave_no_weight(ending: str) -> None:
    async with bounded(large(ORDERS)) as app:
        orders = app.topic("orders")
        messages = orders.noack()
        taken = await take(messages, 3)
        await trio.sleep(A_WHILE)
        memory = app.conductor.memory
        assert memory.bytes > 3 * WEIGHT
        if ending == "seek":
            app.consumer.pause_partitions([ORDERS])
            await app.consumer.seek(ORDERS, 50)
        elif ending == "discard":
            app.conductor.discard(orders)
            assert memory.bytes == 3 * WEIGHT, "unacked messages still count"
        else:
            app.consumer.ownership.drop({ORDERS})
        for message in taken:
            message.ack()
        assert memory.bytes == 0


def test_acks_after_a_lane_is_closed_resume_fetching_for_other_topics() -> None:
    falls: list[int] = []
    held = MemoryUsage(10 * RECORD_BYTES)
    held.on_fall = lambda: falls.append(held.bytes)
    ledger = Ledger(BILLS, 1, 1, Tally(), position=0)
    lane = ledger.open_lane(BufferUsage(100, memory=held))
    ledger.put(fetched(*range(12)))
    assert held.is_full
    assert lane.ready() == 12
    in_hand = [message for _ in range(11) if (message := lane.take())]
    ledger.close_lane(lane)
    assert falls == []
    assert held.is_full
    for message in in_hand:
        message.ack()
    assert len(falls) == 1
    assert falls[0] <= held.limit / 2
    assert not held.is_full
    assert held.bytes == 0


@jumping
async def test_message_counts_once_for_each_topic_object() -> None:
    async with bounded(large(ORDERS, count=1)) as app:
        one, two = app.topic("orders").noack(), app.topic("orders").noack()
        taken: list[Message] = []

        async def take_one(messages: AsyncIterator[Message]) -> None:
            taken.append(await anext(messages))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_one, one)
            nursery.start_soon(take_one, two)
        assert app.conductor.memory.bytes == 2 * WEIGHT
        for message in taken:
            message.ack()
        assert app.conductor.memory.bytes == 0


@jumping
async def test_buffer_size_still_applies_with_buffer_bytes() -> None:
    async with bounded(broker_with(ORDERS, records=100), buffer_size=10) as app:
        messages = app.topic("orders").noack()
        await take(messages, 10)
        assert await nothing_comes(messages)
