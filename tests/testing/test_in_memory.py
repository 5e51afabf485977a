"""`in_memory` gives an app of a module another broker, and takes it back."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.apps import A_WHILE
from tests.nurseries.clock import jumping
from transport import TP, App, DecodeError, MemoryBroker, Message
from transport.drivers.kafka import KafkaDriver
from transport.testing import in_memory


def app_with_handler() -> App:
    app = App("billing", broker="kafka://127.0.0.1:1", grace=5.0)
    bills = app.topic("bills")

    @app.handler(app.topic("orders"))
    async def bill(order: Message) -> None:
        await bills.send(value=order.value)

    return app


@jumping
async def test_app_can_be_opened_in_each_block() -> None:
    app = app_with_handler()
    orders = app.topic("orders")
    for _ in range(2):
        with in_memory(app) as broker:
            async with app:
                await orders.send(value=b"an order")
                await trio.sleep(A_WHILE)
            assert [record.value for record in broker.records("bills")] == [b"an order"]
            assert broker.committed("billing") == {TP("orders", 0): 1}


@jumping
async def test_topic_objects_from_before_the_block_can_be_read() -> None:
    app = App("billing", broker="kafka://127.0.0.1:1")
    orders, skipped = app.topic("orders", value_type=str), []

    async def skip(error: DecodeError, message: Message) -> None:
        skipped.append(message.offset)

    orders.on_value_decode_error = skip
    with in_memory(app):
        async with app:
            await app.producer.send("orders", key=None, value=b"\xff")
            await orders.send(value="second")
            assert (await anext(aiter(orders))).value == "second"
    assert skipped == [0]


@jumping
async def test_app_is_as_before_after_the_block() -> None:
    app = app_with_handler()
    topic = app.topic("orders")
    before = [getattr(app, name) for name in App._PARTS], topic.channel, list(app.handlers)
    with in_memory(app):
        assert topic.channel is not before[1]
        async with app:
            pass
    assert (
        [getattr(app, name) for name in App._PARTS],
        topic.channel,
        list(app.handlers),
    ) == before
    assert isinstance(app.driver, KafkaDriver)


def test_parts_are_all_attributes_that_an_app_makes_for_its_broker() -> None:
    app = App("billing")
    fresh: Any = App.__new__(App)
    fresh.id, fresh.settings = app.id, app.settings
    given = set(vars(fresh))
    fresh._make_parts(MemoryBroker(), None)
    assert set(vars(fresh)) - given == set(App._PARTS)


@jumping
async def test_attributes_of_a_subclass_stay() -> None:
    class Counting(App):
        calls = 0

    app = Counting("billing", broker="kafka://127.0.0.1:1")
    with in_memory(app, MemoryBroker()):
        async with app:
            app.calls += 1
    assert app.calls == 1


@jumping
async def test_open_app_is_refused_and_goes_on() -> None:
    app = App("billing", broker="memory://")
    async with app:
        with pytest.raises(RuntimeError, match="the app 'billing' is open"), in_memory(app):
            pass
        await app.topic("orders").send_and_wait(value=b"an order")


@jumping
async def test_an_app_in_memory_listens_nowhere() -> None:
    app = App("billing", web="192.0.2.1:80", status_socket="/absent/socket")
    with in_memory(app):
        async with app:
            assert app.settings.web is None
    assert app.settings.web == "192.0.2.1:80"
