"""Several channels on one topic: each record is decoded once for each pair of types."""

from __future__ import annotations

from tests.apps import app_on, broker_with, take, write
from tests.items.codecs import Counting
from tests.nurseries.clock import jumping
from transport import TP

ORDERS = [TP("orders", number) for number in range(2)]


@jumping
async def test_after_a_seek_and_a_discard_nothing_old_is_shared() -> None:
    broker = broker_with(ORDERS[0])
    write(broker, ORDERS[0], 5, b"1")
    counting = Counting()
    codec = counting.codec()
    async with app_on(broker) as app:
        first, second = (app.topic("orders", value_type=codec) for _ in range(2))
        app.conductor.add(first)
        app.conductor.add(second)
        await take(first.noack(), 5)
        assert len(first.channel.decoded["orders"]) == 5
        await app.consumer.seek(ORDERS[0], 0)
        assert len(first.channel.decoded["orders"]) == 0
        await take(first.noack(), 5)
        app.conductor.discard(second)
        assert not first.channel.decoded
        assert not second.channel.decoded
