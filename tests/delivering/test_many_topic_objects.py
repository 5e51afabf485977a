"""The warning about many topic objects of one name, because each of them gets every message."""

from __future__ import annotations

import json
import re

import pytest
import trio

from tests.apps import app_on, broker_with, take
from tests.nurseries.clock import jumping
from transport import JSON, TP, Codec

ORDERS, BILLS = TP("orders", 0), TP("bills", 0)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if "topic objects listen" in text]


@jumping
async def test_one_topic_object_for_each_worker_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = broker_with(ORDERS, records=3)
    handled: list[int] = []
    async with app_on(broker, id="shop") as app, trio.open_nursery() as nursery:

        async def work() -> None:
            async for message in app.topic("orders"):
                handled.append(message.offset)

        for _ in range(20):
            nursery.start_soon(work)
        await trio.sleep(5.0)
        app.stop()
    assert len(handled) == 20 * 3
    (text,) = warnings_of(caplog)
    assert "shop: 3 topic objects listen to 'orders'" in text
    assert "call app.topic('orders') once" in text


@jumping
async def test_each_topic_name_has_its_own_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with app_on(broker_with(ORDERS, BILLS)) as app:
        for _ in range(5):
            for name in ("orders", "bills"):
                app.conductor.add(app.topic(name))
    assert [re.findall("'(orders|bills)' now", text) for text in warnings_of(caplog)] == [
        ["orders"],
        ["bills"],
    ]


@jumping
async def test_topic_objects_with_new_codecs_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with app_on(broker_with(ORDERS)) as app:
        for _ in range(20):
            codec = Codec(str.encode, lambda data: json.loads(data))
            app.conductor.add(app.topic("orders", value_type=codec))
    (text,) = warnings_of(caplog)
    assert "8 topic objects" in text


@jumping
async def test_iterators_that_are_left_unread_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with app_on(broker_with(ORDERS)) as app:
        for _ in range(3):
            await app.topic("orders").send(value=b"v")
            messages = app.topic("orders").noack()
            with trio.move_on_after(1.0):
                await take(messages, 2)
    assert len(warnings_of(caplog)) == 1


@jumping
async def test_a_few_topic_objects_with_separate_uses_cause_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two of the same types, some of other types, some that only send, and discarded ones."""
    async with app_on(broker_with(ORDERS)) as app:
        for kind in (None, str, JSON):
            for _ in range(2):
                app.conductor.add(app.topic("orders", value_type=kind))
        for _ in range(20):
            await app.topic("orders").send(value=b"1")
        for _ in range(20):
            app.conductor.add(topic := app.topic("orders", key_type=str))
            app.conductor.discard(topic)
        app.conductor.add(app.topic(re.compile("ord.*"), key_type=JSON))
        await trio.sleep(5.0)
    assert warnings_of(caplog) == []
