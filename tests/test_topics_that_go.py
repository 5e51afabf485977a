"""Topics that are deleted, and topics that are created again, while an app reads them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import trio

from tests.apps import app_on, broker_with, take, write
from tests.nurseries.clock import jumping
from transport import TP, Message

ORDERS, BILLS, PARCELS = TP("orders", 0), TP("bills", 0), TP("parcels", 0)


async def done(messages: AsyncIterator[Message]) -> Message:
    """The next message, acked."""
    message = await anext(messages)
    message.ack()
    return message


# A topic that is gone.


@jumping
async def test_a_topic_that_is_gone_does_not_hold_up_the_next_new_one() -> None:
    broker = broker_with(ORDERS, BILLS, records=1, auto_create=False)
    async with app_on(broker) as app:
        await done(app.topic("orders").noack())
        broker.delete_topic("orders")
        before = trio.current_time()
        (message,) = await take(app.topic("bills").noack(), 1)
        assert message.tp == BILLS
        assert trio.current_time() - before < 1.0


@jumping
async def test_a_topic_that_is_gone_does_not_hold_up_a_restart() -> None:
    broker = broker_with(ORDERS, BILLS, records=1, auto_create=False)
    async with app_on(broker) as app:
        orders, bills = app.topic("orders").noack(), app.topic("bills").noack()
        await done(orders)
        await done(bills)
        broker.delete_topic("orders")
        write(broker, BILLS)
        before = trio.current_time()
        await app.consumer.restart()
        (message,) = await take(bills, 1)
        assert message.offset == 1
        assert trio.current_time() - before < 1.0


@jumping
async def test_a_topic_that_is_gone_does_not_hold_up_what_a_pattern_finds() -> None:
    broker = broker_with(ORDERS, records=1, auto_create=False)
    async with app_on(broker, pattern_interval=1.0) as app:
        await done(app.topic("orders").noack())
        found = app.topic(re.compile("b.*")).noack()
        broker.delete_topic("orders")
        broker.create_topic("bills", 1)
        write(broker, BILLS)
        before = trio.current_time()
        (message,) = await take(found, 1)
        assert message.tp == BILLS
        assert trio.current_time() - before < 3.0


@jumping
async def test_a_topic_that_a_pattern_found_may_be_gone_when_it_is_subscribed_to() -> None:
    broker = broker_with(ORDERS, BILLS, records=1, auto_create=False)
    async with app_on(broker, pattern_interval=1.0) as app:
        messages = app.topic(re.compile("orders|bills")).noack()
        app.conductor.on_topics(["orders", "bills"])
        broker.delete_topic("bills")
        (message,) = await take(messages, 1)
        assert message.tp == ORDERS


@jumping
async def test_a_topic_that_is_gone_is_read_once_it_is_there_again() -> None:
    broker = broker_with(ORDERS, BILLS, records=1, auto_create=False)
    async with app_on(broker) as app:
        orders = app.topic("orders").noack()
        await done(orders)
        broker.delete_topic("orders")
        await done(app.topic("bills").noack())
        assert ORDERS not in app.consumer.assignment
        broker.create_topic("orders", 1)
        write(broker, ORDERS, value=b"new")
        (message,) = await take(orders, 1)
        assert (message.tp, message.offset, message.value) == (ORDERS, 0, b"new")
