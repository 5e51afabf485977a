"""`Consumer.getmany`: how long it waits, and how it ends."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.apps import app_on, broker_with, committed, write
from tests.nurseries.clock import jumping
from transport import JSON, TP, App, DecodeError

ORDERS = [TP("orders", number) for number in range(2)]
BILLS = TP("bills", 0)


async def many(app: App, timeout: float = 1.0) -> list[tuple[TP, int]]:
    return [(tp, message.offset) async for tp, message in app.consumer.getmany(timeout)]


@jumping
async def test_getmany_waits_only_for_the_first_message() -> None:
    broker = broker_with(*ORDERS)
    async with app_on(broker) as app, trio.open_nursery() as nursery:
        began = trio.current_time()
        assert await many(app, 2.0) == []  # there is no topic
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


@pytest.mark.parametrize("steps", range(12))
@jumping
async def test_getmany_takes_message_that_arrives_before_its_wait(steps: int) -> None:
    """Messages become available at each step of the reading task on its way to the wait."""
    async with app_on(broker_with(*ORDERS, records=1)) as app:
        app.conductor.add(topic := app.topic("orders"))
        await app.conductor.wait_for_subscriptions()
        await wait_all_tasks_blocked()
        ledgers = list(app.consumer.assignment.values())
        for ledger in ledgers:
            ledger.suspend()
        assert topic.channel.take() is None

        async def fill() -> None:
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            app.conductor.resume(ledgers)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill)
            began = trio.current_time()
            assert len(await many(app, 1e6)) == 2
            assert trio.current_time() == began


@jumping
async def test_getmany_takes_from_topic_added_during_its_wait() -> None:
    broker = broker_with(*ORDERS, BILLS, records=1)
    async with app_on(broker) as app, trio.open_nursery() as nursery:

        async def add_later() -> None:
            for name in ("orders", "bills"):
                await trio.sleep(1.0)
                app.conductor.add(app.topic(name))

        nursery.start_soon(add_later)
        for expected in (ORDERS, [BILLS]):
            taken = await many(app, 1e6)
            assert sorted(taken) == [(tp, 0) for tp in expected]


@jumping
async def test_incref_of_message_without_holder_is_refused() -> None:
    broker = broker_with(ORDERS[0], records=2)
    async with app_on(broker) as app:
        batch = await anext(app.topic("orders").batches(noack=True))
        batch[0].ack()
        with pytest.raises(ValueError, match="no holder"):
            batch[0].incref()
        batch.ack()
        await app.consumer.commit()
        assert committed(broker) == {ORDERS[0]: 2}
