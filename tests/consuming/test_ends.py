"""The lag in a snapshot follows the end of the log within `lag_interval`."""

from __future__ import annotations

import trio

from tests.apps import app_on, broker_with, take, write
from tests.nurseries.clock import jumping
from tests.scripted import Function, is_not_called, replace
from transport import TP, App, Monitor
from transport.drivers.memory import MemoryBroker

ORDERS = [TP("orders", number) for number in range(2)]
ONE = ORDERS[0]


def watched(broker: MemoryBroker, **settings: object) -> App:
    return app_on(broker, monitor=Monitor(), commit_interval=0.5, lag_interval=2.0, **settings)


def lag(app: App) -> int:
    assert isinstance(app.monitor, Monitor)
    return app.monitor.snapshot().lag


@jumping
async def test_lag_is_known_with_flow_stopped_from_the_start() -> None:
    broker = broker_with(*ORDERS, records=25)
    async with watched(broker) as app:
        app.consumer.stop_flow()
        app.topic("orders").noack()
        await trio.sleep(2.5)
        assert lag(app) == 50
        write(broker, ONE, 7)
        await trio.sleep(2.5)
        assert lag(app) == 57


@jumping
async def test_lag_counts_from_committed_offset_with_flow_stopped() -> None:
    broker = broker_with(ONE, records=25)
    broker.group("group").take({ONE: 20})
    async with watched(broker) as app:
        app.consumer.stop_flow()
        app.topic("orders").noack()
        await trio.sleep(2.5)
        assert lag(app) == 5


@jumping
async def test_lag_of_paused_partition_is_known() -> None:
    broker = broker_with(ONE, records=5)
    async with watched(broker) as app:
        messages = app.topic("orders").noack()
        for message in await take(messages, 5):
            message.ack()
        app.consumer.pause_partitions([ONE])
        await trio.sleep(2.5)
        assert lag(app) == 0
        write(broker, ONE, 10)
        await trio.sleep(2.5)
        assert lag(app) == 10
        app.consumer.resume_partitions([ONE])
        for message in await take(messages, 10):
            message.ack()
        await trio.sleep(2.5)
        assert lag(app) == 0


@jumping
async def test_lag_of_partition_with_full_buffer_is_known() -> None:
    broker = broker_with(ONE, records=5)
    async with watched(broker, buffer_size=2) as app:
        app.topic("orders").noack()
        await trio.sleep(2.5)
        write(broker, ONE, 10)
        await trio.sleep(2.5)
        assert lag(app) == 15


@jumping
async def test_records_of_open_transaction_are_no_lag() -> None:
    """With `isolation="read_committed"` these records cannot be read yet."""
    broker = broker_with(ONE, records=5)
    writer = broker.transactions.register("id", 1000.0)
    log = broker.log(ONE)
    log.append(None, b"value", (), broker.clock(), writer)
    broker.transactions.write(writer, ONE, log, trio.current_time())
    async with watched(broker) as app:
        for message in await take(app.topic("orders").noack(), 5):
            message.ack()
        await trio.sleep(5)
        assert lag(app) == 0


@jumping
async def test_new_records_of_open_transaction_are_no_lag() -> None:
    """Each fetch brings a new high watermark, and no record."""
    broker = broker_with(ONE, records=5)
    writer = broker.transactions.register("id", 1000.0)
    log = broker.log(ONE)
    async with watched(broker) as app:
        for message in await take(app.topic("orders").noack(), 5):
            message.ack()
        await trio.sleep(5)
        for _ in range(50):
            log.append(None, b"value", (), broker.clock(), writer)
            broker.transactions.write(writer, ONE, log, trio.current_time())
            await trio.sleep(0.2)
            assert lag(app) == 0


@jumping
async def test_lag_of_other_partitions_is_known_without_answer_for_one() -> None:
    broker = broker_with(ONE, TP("payments", 0), records=5)
    async with watched(broker) as app:
        app.consumer.stop_flow()
        app.topic("orders").noack()
        app.topic("payments").noack()
        await trio.sleep(2.5)
        assert lag(app) == 10

        async def without_payments(current_ends: Function, *args: object) -> dict[TP, int]:
            found = await current_ends(*args)
            return {tp: end for tp, end in found.items() if tp.topic == "orders"}

        replace(app, "current_ends", without_payments)
        write(broker, ONE, 3)
        await trio.sleep(2.5)
        assert lag(app) == 13


@jumping
async def test_ends_are_requested_only_for_quiet_logs() -> None:
    broker = broker_with(*ORDERS)
    async with watched(broker) as app:
        asked: list[list[TP]] = []

        async def note(current_ends: Function, tps: list[TP], timeout: float) -> dict[TP, int]:
            asked.append(sorted(tps))
            return await current_ends(tps, timeout)

        replace(app, "current_ends", note)
        messages = app.topic("orders").noack()
        for _ in range(12):
            write(broker, ONE)
            (await anext(messages)).ack()
            await trio.sleep(1.0)
        assert len(asked) >= 3
        assert set(map(tuple, asked[1:])) == {(ORDERS[1],)}


@jumping
async def test_ends_are_not_requested_without_a_monitor() -> None:
    broker = broker_with(ONE, records=5)
    async with app_on(broker, lag_interval=1.0) as app:
        replace(app, "current_ends", is_not_called("only a monitor needs the ends"))
        app.topic("orders").noack()
        await trio.sleep(30)
