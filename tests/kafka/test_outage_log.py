"""The log of an app whose only broker is killed for a while, on a real Kafka."""

from __future__ import annotations

import logging

import pytest
import trio

from tests.kafka.cluster import Broker
from transport import App

pytestmark = pytest.mark.kafka

OUTAGE = 40.0  # seconds


async def lines_of_an_outage(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> tuple[list[logging.LogRecord], list[logging.LogRecord]]:
    """Return the lines of the library and of the client from the outage until all is well again."""
    caplog.set_level(logging.DEBUG)
    app = App("orders", f"kafka://{broker.bootstrap}", metadata_max_age=5.0)
    orders = app.topic("orders")
    async with app:
        await app.producer.create_topic("orders", 4)
        messages = aiter(orders)
        await orders.send(value=b"before")
        await anext(messages)
        await trio.sleep(2)
        assert logging.getLogger("kafka").level == logging.CRITICAL
        caplog.clear()
        await trio.to_thread.run_sync(broker.kill)
        orders.send_soon(value=b"during")
        await trio.sleep(OUTAGE)
        await trio.to_thread.run_sync(broker.start)
        with trio.fail_after(90):
            while (await anext(messages)).value != b"during":
                pass
        await trio.sleep(5)
        records = list(caplog.records)
        app.stop()
    ours = [r for r in records if r.name.startswith("transport") and r.levelno >= logging.INFO]
    return ours, [r for r in records if r.name.split(".")[0] in ("kafka", "aiokafka")]


async def test_outage_of_the_broker_gives_a_handful_of_lines(
    kafka_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    ours, clients = await lines_of_an_outage(kafka_broker, caplog)
    assert clients == []
    assert logging.getLogger("kafka").level == logging.NOTSET
    assert len(ours) <= 7
    events = [record.event_name for record in ours]  # type: ignore[attr-defined]
    assert events.count("broker_away") == 1
    assert events.count("broker_back") == 1
    away, back = (
        next(record for record in ours if record.event_name == event)  # type: ignore[attr-defined]
        for event in ("broker_away", "broker_back")
    )
    assert away.broker == back.broker == kafka_broker.bootstrap  # type: ignore[attr-defined]
    assert OUTAGE - 2 < back.seconds < OUTAGE + 30  # type: ignore[attr-defined]
