"""Log lines about topics that are paused for slow handlers."""

from __future__ import annotations

from typing import Any

import trio

from tests.apps import app_on, broker_with, write
from tests.nurseries.clock import jumping
from transport import TP, Message

ORDERS = TP("orders", 0)


def pauses(records: list[Any]) -> list[Any]:
    return [each for each in records if each.event_name in ("paused", "resumed")]


@jumping
async def test_slow_handler_is_reported_once_and_once_when_it_has_caught_up(
    log_records: list[Any],
) -> None:
    """The buffer fills and falls many times meanwhile."""
    broker = broker_with(ORDERS)
    app = app_on(broker, buffer_size=20)

    async def handle(message: Message) -> None:
        await trio.sleep(1)

    app.handler(app.topic("orders"), handle)
    async with app:
        for _ in range(4):
            write(broker, ORDERS, 40)
            await trio.sleep(31)
        await trio.sleep(60)
    paused, resumed = pauses(log_records)
    assert (paused.event_name, resumed.event_name) == ("paused", "resumed")
    assert (paused.topic, paused.partitions) == ("orders", "orders-0")
    assert 15 <= paused.count <= 40
    assert 5 <= paused.seconds <= 10
    assert 3 * 31 < resumed.seconds < 160
    assert resumed.topic == "orders"


@jumping
async def test_short_pauses_of_a_quick_handler_are_not_reported(log_records: list[Any]) -> None:
    broker = broker_with(ORDERS)
    app = app_on(broker, buffer_size=20)

    async def handle(message: Message) -> None:
        await trio.sleep(0.1)

    app.handler(app.topic("orders"), handle)
    async with app:
        for _ in range(30):
            write(broker, ORDERS, 40)
            await trio.sleep(3.9)
    assert pauses(log_records) == []


@jumping
async def test_pause_by_the_user_is_not_reported(log_records: list[Any]) -> None:
    async with app_on(broker_with(ORDERS, records=100), buffer_size=20) as app:
        orders = app.topic("orders")
        await anext(aiter(orders.noack()))
        app.consumer.flow.pause({ORDERS}, app.consumer.assignment)
        await trio.sleep(60)
        reported = pauses(log_records)
    assert [each.event_name for each in reported] == []
