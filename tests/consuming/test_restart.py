"""A restarted consumer joins as a new member and continues at the committed offsets."""

from __future__ import annotations

import pytest
import trio

from tests.apps import A_WHILE, app_on, broker_with, committed, take
from tests.lanes import NEVER
from tests.nurseries.clock import jumping
from tests.scripted import hold
from transport import TP, App

ORDERS = [TP("orders", number) for number in range(2)]


@jumping
async def test_stopped_flow_stays_stopped_after_a_restart() -> None:
    broker = broker_with(*ORDERS, records=1)
    async with app_on(broker) as app:
        messages = app.topic("orders").noack()
        (message,) = await take(messages, 1)
        message.ack()
        app.consumer.stop_flow()
        await app.consumer.restart()
        assert not app.consumer.flow_active
        app.consumer.resume_flow()
        await take(messages, 1)


@jumping
async def test_pause_ends_with_a_restart() -> None:
    broker = broker_with(ORDERS[0], records=1)
    async with app_on(broker) as app:
        messages = app.topic("orders").noack()
        (message,) = await take(messages, 1)
        message.ack()
        app.consumer.pause_partitions(ORDERS[:1])
        await app.consumer.restart()
        for _ in range(2):  # the poll that assigns the partition may also return a record
            broker.log(ORDERS[0]).append(None, b"v", (), 0)
            await take(messages, 1)


@jumping
async def test_subscription_is_reported_after_the_new_client_has_subscribed() -> None:
    async with app_on(broker_with(ORDERS[0], records=1)) as app:
        messages = app.topic("orders").noack()
        (await anext(messages)).ack()
        assert app.conductor.subscribed == {"orders"}
        may_subscribe = hold(app, "subscribe")
        await app.consumer.restart()
        assert app.conductor.subscribed == frozenset()
        with trio.move_on_after(A_WHILE) as waiting:
            await app.conductor.wait_for_subscriptions()
        assert waiting.cancelled_caught
        may_subscribe.set()
        await app.conductor.wait_for_subscriptions()
        assert app.conductor.subscribed == {"orders"}


@jumping
async def test_request_after_a_restart_waits_for_the_new_client() -> None:
    answers = []

    async def ask(app: App) -> None:
        answers.append(await app.consumer.polling.positions(ORDERS))

    async with app_on(broker_with(*ORDERS, records=1)) as app, trio.open_nursery() as nursery:
        await take(app.topic("orders").noack(), 2)
        may_open = hold(app, "open")
        await app.consumer.restart()
        nursery.start_soon(ask, app)
        await trio.sleep(A_WHILE)
        assert answers == []
        may_open.set()
    assert answers == [{}]


@jumping
async def test_consumer_restarts_before_its_first_topic() -> None:
    broker = broker_with(ORDERS[0], records=1)
    async with app_on(broker) as app:
        await app.consumer.restart()
        await take(app.topic("orders").noack(), 1)


@pytest.mark.parametrize("mode", ["member", "partition"])
@jumping
async def test_restart_with_transactions_writes_each_result_once(mode: str) -> None:
    broker = broker_with(*ORDERS, TP("out", 0))
    for tp in ORDERS:
        broker.log(tp).append(None, b"v", (), 0)
        broker.log(tp).append(None, b"w", (), 0)
    async with app_on(broker, transactions=mode, commit_interval=NEVER) as app:
        out, messages = app.topic("out"), app.topic("orders").noack()
        async with await anext(messages) as message:
            await out.send(value=message.value)
        await app.consumer.restart()
        assert sum(committed(broker).values()) == 1
        for message in await take(messages, 3):
            async with message:
                await out.send(value=message.value)
        await app.consumer.commit()
    assert sum(committed(broker).values()) == 4
    seen = broker.log(TP("out", 0)).read(0, 1000, committed=True).records
    assert sorted(record.value for record in seen) == [b"v", b"v", b"w", b"w"]
