"""A message that does not decode, and the other messages that were taken with it.

Whatever the hook does, each message that reached no handler is delivered again. So no lost message
holds back the commit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.apps import app_on, broker_with, committed, take, write
from tests.nurseries.clock import jumping
from tests.records import offsets
from transport import JSON, TP, App, DecodeError, MemoryBroker, Message, Topic

ORDERS = TP("orders", 0)
BAD = (1, 4)


def broker_of_six() -> MemoryBroker:
    """Return a broker with six messages, of which two do not decode."""
    broker = broker_with(ORDERS)
    for offset in range(6):
        write(broker, ORDERS, 1, b"{" if offset in BAD else b"%d" % offset)
    return broker


async def hook_that_waits(error: DecodeError, message: Message) -> None:
    await trio.sleep_forever()


@jumping
async def test_other_messages_of_a_batch_are_delivered_again_after_a_decode_error() -> None:
    broker = broker_of_six()
    async with app_on(broker) as app:
        topic = app.topic("orders", value_type=JSON)
        batches = topic.batches(noack=True)
        for bad in BAD:
            with pytest.raises(DecodeError, match=f"offset {bad}") as caught:
                await anext(batches)
            assert offsets(app.consumer.unacked) == [bad]
            assert topic.channel.usage.begun == 1
            assert caught.value.message.ack()
        batch = await anext(batches)
        assert [(message.offset, message.value) for message in batch] == [
            (offset, offset) for offset in range(6) if offset not in BAD
        ]
        assert batch.ack()
        assert await app.consumer.commit()
        assert committed(broker) == {ORDERS: 6}
        assert topic.channel.usage.held == 0


@jumping
async def test_commit_stops_at_the_message_that_failed_to_decode() -> None:
    """The failed message is still unacked when the others are delivered again."""
    broker = broker_of_six()
    async with app_on(broker) as app:
        topic = app.topic("orders", value_type=JSON)
        batches = topic.batches(2, noack=True)
        for _ in BAD:
            with pytest.raises(DecodeError):
                await anext(topic.batches(noack=True))
        (batch,) = await take(batches, 1)
        assert offsets(batch) == [0, 2]
        batch.ack()
        await app.consumer.commit()
        assert committed(broker) == {ORDERS: BAD[0]}
        assert app.consumer.assignment[ORDERS].oldest_begun == BAD[0]
        for message in app.consumer.unacked:
            if message.offset == BAD[0]:
                message.ack()
        await app.consumer.commit()
        assert committed(broker) == {ORDERS: 3}, "offset 3 waits, and offset 4 is unacked"


@jumping
async def test_batches_leave_out_messages_whose_decode_error_a_hook_handled() -> None:
    broker = broker_of_six()
    seen = []

    async def note(error: DecodeError, message: Message) -> None:
        await trio.sleep(1.0)
        seen.append(message.offset)

    async with app_on(broker) as app:
        topic = app.topic("orders", value_type=JSON)
        topic.on_value_decode_error = note
        batch = await anext(topic.batches(noack=True))
        assert offsets(batch) == [0, 2, 3, 5]
        assert seen == [*BAD]
        batch.ack()
    assert committed(broker) == {ORDERS: 6}


@jumping
async def test_error_of_a_hook_has_the_message_and_the_others_are_delivered_again() -> None:
    broker = broker_of_six()

    async def fail(error: DecodeError, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        raise LookupError("no place for it")

    async with app_on(broker) as app:
        topic = app.topic("orders", value_type=JSON)
        topic.on_value_decode_error = fail
        batches = topic.batches(noack=True)
        for bad in BAD:
            with pytest.raises(LookupError) as caught:
                await anext(batches)
            context = caught.value.__context__
            assert isinstance(context, DecodeError)
            assert context.message.offset == bad
            context.message.ack()
        batch = await anext(batches)
        assert offsets(batch) == [0, 2, 3, 5]
        batch.ack()
    assert committed(broker) == {ORDERS: 6}


async def all_messages(app: App, topic: Topic, had: list[Message]) -> None:
    async for message in topic.noack():
        had.append(message)


async def all_batches(app: App, topic: Topic, had: list[Message]) -> None:
    async for batch in topic.batches(noack=True):
        had += batch


async def many(app: App, topic: Topic, had: list[Message]) -> None:
    async for _, message in app.consumer.getmany(1e6):
        had.append(message)


@pytest.mark.parametrize("read", [all_messages, all_batches, many])
@jumping
async def test_a_cancelled_hook_leaves_no_message_taken(
    read: Callable[[App, Topic, list[Message]], Awaitable[None]],
) -> None:
    broker = broker_of_six()
    async with app_on(broker) as app:
        topic = app.topic("orders", value_type=JSON)
        app.conductor.add(topic)
        topic.on_value_decode_error = hook_that_waits
        had: list[Message] = []
        with trio.move_on_after(5.0) as scope:
            await read(app, topic, had)
        assert scope.cancelled_caught
        assert app.consumer.unacked == set(had)
        assert topic.channel.usage.begun == len(had)
        topic.on_value_decode_error = skip
        had += await take(topic.noack(), 4 - len(had))
        assert offsets(had) == [0, 2, 3, 5]
        for message in had:
            message.ack()
    assert committed(broker) == {ORDERS: 6}


async def skip(error: DecodeError, message: Message) -> None:
    pass


@jumping
async def test_ack_of_a_message_that_was_given_back_is_stale() -> None:
    """The hook has kept a message that was then delivered to another reader."""
    kept: list[Message] = []

    async def keep(error: DecodeError, message: Message) -> None:
        kept.append(message)
        await trio.sleep_forever()

    broker = broker_of_six()
    async with app_on(broker) as app:
        topic = app.topic("orders", value_type=JSON)
        topic.on_value_decode_error = keep
        with trio.move_on_after(1.0):
            await anext(topic.batches())
        topic.on_value_decode_error = skip
        batch = await anext(topic.batches(noack=True))
        assert not kept[0].ack()
        assert app.consumer.assignment.tally.stale == 1
        assert not kept[0].is_open
        assert batch.ack()
    assert committed(broker) == {ORDERS: 6}


@jumping
async def test_messages_given_back_are_delivered_to_another_iterator() -> None:
    async with app_on(broker_of_six()) as app, trio.open_nursery() as nursery:
        topic = app.topic("orders", value_type=JSON)
        topic.on_value_decode_error = hook_that_waits
        scope = trio.CancelScope()

        async def read_until_cancelled() -> None:
            with scope:
                await anext(topic.batches())

        async def read_next() -> None:
            assert offsets(await anext(topic.batches(noack=True))) == [0, 2, 3, 5]

        nursery.start_soon(read_until_cancelled)
        await wait_all_tasks_blocked()
        nursery.start_soon(read_next)
        await wait_all_tasks_blocked()
        topic.on_value_decode_error = skip
        scope.cancel()


@pytest.mark.parametrize("then", ["discarded", "sought", "drained", "stopped"])
@jumping
async def test_messages_given_back_to_an_ended_partition_are_dropped(then: str) -> None:
    broker = broker_of_six()
    async with app_on(broker) as app:
        topic = app.topic("orders", value_type=JSON)
        topic.on_value_decode_error = hook_that_waits
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                async for _ in topic.batches():
                    pass

            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            match then:
                case "discarded":
                    app.conductor.discard(topic)
                case "sought":
                    await app.consumer.seek(ORDERS, 2)
                case "drained":
                    app.consumer.assignment[ORDERS].drain()
                case "stopped":
                    app.stop()
            nursery.cancel_scope.cancel()
        assert app.consumer.unacked == set()
        assert topic.channel.usage.begun == 0
        if then == "sought":
            topic.on_value_decode_error = skip
            assert offsets(await anext(topic.batches(noack=True))) == [2, 3, 5]
    assert committed(broker).get(ORDERS, 0) == (2 if then == "sought" else 0)


@jumping
async def test_wait_empty_returns_after_the_hook_is_cancelled() -> None:
    broker = broker_of_six()
    async with app_on(broker) as app:
        topic = app.topic("orders", value_type=JSON)
        topic.on_value_decode_error = hook_that_waits
        with trio.move_on_after(3.0):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(app.consumer.wait_empty)
                await anext(topic.batches())
        await app.consumer.wait_empty()
