"""A log that loses its end: `auto_offset_reset` decides where reading continues."""

from __future__ import annotations

import pytest
import trio

from tests.apps import app_on, broker_with, take, write
from tests.nurseries.clock import jumping
from tests.testing.services import good
from transport import TP, App, OffsetOutOfRange
from transport.testing import CutOff, History, MemoryBroker, Start, Write, simulate

ORDERS = TP("orders", 0)


def reader(broker: MemoryBroker, policy: str) -> App:
    return app_on(broker, auto_offset_reset=policy, commit_interval=1.0)


@pytest.mark.parametrize(("policy", "expected"), [("earliest", [0, 1, 2, 3]), ("latest", [3])])
@jumping
async def test_log_truncated_during_reading_is_read_by_the_policy(
    policy: str, expected: list[int]
) -> None:
    broker = broker_with(ORDERS)
    async with reader(broker, policy) as app:
        messages = app.topic("orders").noack()
        await trio.sleep(1.0)
        write(broker, ORDERS, 5)
        for message in await take(messages, 5):
            message.ack()
        await app.consumer.commit()
        broker.cut_off(ORDERS, 3)
        await trio.sleep(1.0)
        write(broker, ORDERS, 1)
        again = await take(messages, len(expected))
        assert [message.offset for message in again] == expected
        assert all(message.ack() for message in again)
        await app.consumer.commit()
        assert broker.committed("group") == {ORDERS: 4}


@pytest.mark.parametrize(("policy", "expected"), [("earliest", [0, 1, 2, 3]), ("latest", [3])])
@jumping
async def test_log_truncated_before_reading_is_read_by_the_policy(
    policy: str, expected: list[int]
) -> None:
    """The committed offset of the group lies past the end of the log."""
    broker = broker_with(ORDERS, records=3)
    broker.group("group").take({ORDERS: 5})
    async with reader(broker, policy) as app:
        messages = app.topic("orders").noack()
        await trio.sleep(1.0)
        write(broker, ORDERS, 1)
        again = await take(messages, len(expected))
        assert [message.offset for message in again] == expected
        assert all(message.ack() for message in again)
    assert broker.committed("group") == {ORDERS: 4}


@pytest.mark.parametrize("when", ["during reading", "before reading"])
@jumping
async def test_truncated_log_is_an_error_with_policy_error(when: str) -> None:
    broker = broker_with(ORDERS, records=5)
    broker.group("group").take({ORDERS: 5})
    if when == "before reading":
        broker.cut_off(ORDERS, 3)
    with pytest.RaisesGroup(
        pytest.RaisesExc(OffsetOutOfRange, match=r"orders-0: offset 5; the log is \[0, 3\]"),
        flatten_subgroups=True,
    ):
        async with reader(broker, "error") as app:
            app.topic("orders").noack()
            await trio.sleep(1.0)
            broker.cut_off(ORDERS, 3)
            await trio.sleep_forever()


def test_service_continues_after_a_truncated_log() -> None:
    events = [Start(), Write(ORDERS, 5), CutOff(ORDERS, 2, after=5.0), Write(ORDERS, 1, after=1.0)]
    report = simulate(good, topics={"orders": 1}, history=History({"orders": 1}, events))
    report.check()
    assert report.handled == {(ORDERS, 0): 2, (ORDERS, 1): 2, (ORDERS, 2): 2, (ORDERS, 3): 1}
