"""Taking messages from all topics at once, and what else a consumer offers by Faust's names."""

from __future__ import annotations

import pytest
import trio

from tests.apps import app_on, broker_with, committed, take, write
from tests.lanes import Place
from tests.nurseries.clock import jumping
from transport import JSON, TP, App, DecodeError, Message

ORDERS = [TP("orders", number) for number in range(2)]
BILLS = TP("bills", 0)


async def many(app: App, timeout: float = 1.0) -> list[tuple[TP, int]]:
    return [(tp, message.offset) async for tp, message in app.consumer.getmany(timeout)]


async def test_getmany_gives_what_there_is_of_all_topics_and_ends(place: Place) -> None:
    tps = await place.create(2, b"0", b"1", b"2")
    async with place.app(commit_interval=1e6) as app:
        await app.topic(place.name).send_and_wait(value=b"3", partition=1)
        app.conductor.add(app.topic(place.name))
        seen: list[Message] = []
        while len(seen) < 4:
            async for tp, message in app.consumer.getmany(5.0):
                assert tp == message.tp
                assert app.consumer.unacked >= {message}
                seen.append(message)
        for message in seen:
            assert app.consumer.ack(message)
        assert app.consumer.unacked == set()
    assert await place.committed() == {tps[0]: 3, tps[1]: 1}


@jumping
async def test_getmany_waits_for_a_first_message_and_for_none_after_it() -> None:
    broker = broker_with(*ORDERS)
    async with app_on(broker) as app, trio.open_nursery() as nursery:
        began = trio.current_time()
        assert await many(app, 2.0) == []  # nothing is listened to
        app.conductor.add(app.topic("orders"))
        assert await many(app, 3.0) == []
        assert trio.current_time() - began == 5.0

        async def write_later() -> None:
            await trio.sleep(1.0)
            write(broker, ORDERS[0], 2)

        nursery.start_soon(write_later)
        assert await many(app, 10.0) == [(ORDERS[0], 0), (ORDERS[0], 1)]
        assert trio.current_time() - began == 6.0


@jumping
async def test_getmany_is_fair_over_partitions() -> None:
    broker = broker_with(*ORDERS, BILLS, records=200)
    async with app_on(broker) as app:
        for name in ("orders", "bills"):
            app.conductor.add(app.topic(name))
        await app.conductor.wait_for_subscriptions()
        await trio.testing.wait_all_tasks_blocked()
        first = [tp async for tp, _ in app.consumer.getmany(1.0)][:300]
        assert {tp: first.count(tp) >= 50 for tp in (*ORDERS, BILLS)} == dict.fromkeys(
            (*ORDERS, BILLS), True
        )


@jumping
async def test_getmany_drops_what_is_stale_after_a_seek() -> None:
    broker = broker_with(ORDERS[0], records=5)
    async with app_on(broker) as app:
        app.conductor.add(app.topic("orders"))
        iterator = app.consumer.getmany(1.0)
        _, first = await anext(iterator)
        await app.consumer.seek(ORDERS[0], 3)
        assert await many(app) == [(ORDERS[0], 3), (ORDERS[0], 4)]
        assert not first.ack()


@jumping
async def test_getmany_decodes_and_ends_with_the_app() -> None:
    broker = broker_with(ORDERS[0])
    write(broker, ORDERS[0], 1, b'{"n":1}')
    write(broker, ORDERS[0], 1, b"{")
    async with app_on(broker) as app:
        app.conductor.add(app.topic("orders", value_type=JSON))
        iterator = app.consumer.getmany(1.0)
        _, message = await anext(iterator)
        assert message.value == {"n": 1}
        with pytest.raises(DecodeError):
            await anext(iterator)
        app.stop()
        assert await many(app, 1e6) == []


@jumping
async def test_track_message_knows_what_is_in_somebodys_hands() -> None:
    broker = broker_with(*ORDERS, records=1)
    async with app_on(broker) as app, app_on(broker, "another") as other:
        (message,) = await take(app.topic("orders").noack(), 1)
        app.consumer.track_message(message)
        assert app.consumer.unacked == {message}
        with pytest.raises(ValueError, match="hands"):
            other.consumer.track_message(message)
        message.ack()
        with pytest.raises(ValueError, match="hands"):
            app.consumer.track_message(message)


@jumping
async def test_ack_tells_whether_it_counted() -> None:
    broker = broker_with(*ORDERS, records=1)
    async with app_on(broker) as app, app_on(broker, "another") as other:
        (message,) = await take(app.topic("orders").noack(), 1)
        assert not other.consumer.ack(message), "a message of another consumer"
        assert other.consumer.assignment.tally.stale == 1
        assert app.consumer.ack(message)
        assert not app.consumer.ack(message), "twice"
        assert app.consumer.assignment.tally.doubled == 1


@jumping
async def test_on_task_error_commits_what_is_safe_and_fails() -> None:
    broker = broker_with(ORDERS[0], records=3)
    async with app_on(broker, commit_interval=1e6) as app:
        first, _ = await take(app.topic("orders").noack(), 2)
        first.ack()
        with pytest.raises(ZeroDivisionError):
            await app.consumer.on_task_error(ZeroDivisionError())
        assert committed(broker) == {ORDERS[0]: 1}


@jumping
async def test_on_task_error_goes_on_where_the_app_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = broker_with(ORDERS[0], records=3)
    async with app_on(broker, commit_interval=1e6, on_task_error="go_on") as app:
        first, second = await take(app.topic("orders").noack(), 2)
        first.ack()
        await app.consumer.on_task_error(ZeroDivisionError())
        assert committed(broker) == {ORDERS[0]: 1}
        assert app.consumer.unacked == {second}
    assert "ZeroDivisionError" in caplog.text


@jumping
async def test_close_ends_the_consumer_and_the_app_goes_on() -> None:
    broker = broker_with(ORDERS[0], records=3)
    async with app_on(broker, commit_interval=1e6) as app:
        assert app.consumer.on_init_dependencies() == [app.consumer.fetcher]
        async for message in app.topic("orders"):
            if message.offset == 2:
                app.consumer.close()
        await app.consumer.ended.wait()
        assert committed(broker) == {ORDERS[0]: 3}
        assert not broker.group("group").members
        await app.topic("orders").send_and_wait(value=b"still here")


@jumping
async def test_a_message_without_a_holder_cannot_be_shared_any_more() -> None:
    broker = broker_with(ORDERS[0], records=2)
    async with app_on(broker) as app:
        batch = await anext(app.topic("orders").batches(noack=True))
        batch[0].ack()
        with pytest.raises(ValueError, match="no holder"):
            batch[0].incref()
        batch.ack()
        await app.consumer.commit()
        assert committed(broker) == {ORDERS[0]: 2}
