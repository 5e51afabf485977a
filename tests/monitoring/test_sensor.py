"""Events for metrics: polls, bytes, the latency of sends, attempts of handlers; several sensors."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.apps import app_on, broker_with, evict_all, take, write
from tests.lanes import NEVER
from tests.monitoring.test_monitor import POINTS, Diary
from tests.nurseries.clock import jumping
from transport import TP, App, Batch, Message, Monitor, Retry, Sensor, Sensors
from transport.tee import Tee

ORDERS = TP("orders", 0)


@jumping
async def test_each_poll_is_reported_with_its_time_and_its_messages() -> None:
    diary, broker = Diary(), broker_with(ORDERS)
    async with app_on(broker, monitor=diary, commit_interval=NEVER, lag_interval=NEVER) as app:
        messages = app.topic("orders").noack()
        await trio.sleep(10)
        diary.calls.clear()
        write(broker, ORDERS, 3)
        await take(messages, 3)
        [(seconds, count)] = diary.told("on_poll")
    assert count == 3
    assert 0 < seconds <= 10


@jumping
async def test_bytes_of_a_fetch_are_reported_after_its_messages() -> None:
    diary, broker = Diary(), broker_with(ORDERS)
    write(broker, ORDERS, 1, b"x" * 1000)
    async with app_on(broker, monitor=diary) as app:
        await take(app.topic("orders").noack(), 1)
    assert diary.told("on_messages_in") == [(ORDERS, 1)]
    [(tp, size)] = diary.told("on_bytes_in")
    assert tp == ORDERS
    assert 1000 <= size < 3000


@jumping
async def test_bytes_of_written_messages_are_reported_by_topic() -> None:
    diary = Diary()
    async with app_on(broker_with(ORDERS, TP("users", 0)), monitor=diary) as app:
        for name, size in (("orders", 1000), ("orders", 2000), ("users", 500)):
            await app.topic(name).send(value=b"x" * size)
        await app.producer.flush()
    sent: dict[str, int] = {}
    for producer, topic, size in diary.told("on_bytes_sent"):
        assert producer is app.producer
        sent[topic] = sent.get(topic, 0) + size
    assert 3000 <= sent["orders"] < 4000
    assert 500 <= sent["users"] < 1000


@jumping
async def test_latency_is_reported_once_for_each_batch_that_the_client_received() -> None:
    diary = Diary()
    async with app_on(broker_with(ORDERS), monitor=diary) as app:
        for _ in range(2):
            for _ in range(50):
                await app.topic("orders").send(value=b"value")
            await app.producer.flush()
            await trio.sleep(1)
    batches, latencies = diary.told("on_sends_initiated"), diary.told("on_send_latency")
    assert sum(count for _, count in batches) == 100
    assert len(latencies) == len(batches) < 100
    assert all(producer is app.producer and 0 <= seconds < 1 for producer, seconds in latencies)


# Handlers


async def reports_of(
    handle: Any, records: int = 1, *, seconds: float = 60.0, **options: Any
) -> Diary:
    """Return what a monitor received while a handler had some messages."""
    diary = Diary()
    app = app_on(broker_with(ORDERS, records=records), monitor=diary)
    app.handler(app.topic("orders"), handle, name="bill", **options)
    async with app:
        await trio.sleep(seconds)
    return diary


def attempts(diary: Diary) -> list[tuple[str, float]]:
    return [
        (outcome, pytest.approx(each))
        for handler, outcome, seconds in diary.told("on_attempts")
        for each in seconds
        if handler == "bill"
    ]


def treatments(diary: Diary) -> list[str]:
    return [treatment for _, _, treatment, _ in diary.told("on_handler_failure")]


@pytest.mark.parametrize("timeout", [None, 10.0])
@jumping
async def test_attempts_are_reported_with_their_times(timeout: float | None) -> None:
    async def handle(message: Message) -> None:
        await trio.sleep(message.offset)

    diary = await reports_of(handle, 3, timeout=timeout)
    assert attempts(diary) == [("ok", 0.0), ("ok", 1.0), ("ok", 2.0)]
    assert treatments(diary) == []


@pytest.mark.parametrize("concurrency", [1, 3])
@jumping
async def test_time_of_an_attempt_does_not_include_the_wait_for_its_message(
    concurrency: int,
) -> None:
    diary, broker = Diary(), broker_with(ORDERS)
    app = app_on(broker, monitor=diary)

    async def handle(message: Message) -> None:
        await trio.sleep(1)

    orders = app.topic("orders")
    app.handler(orders, handle, name="bill", concurrency=concurrency, order="none")
    await trio.sleep(5)
    async with app:
        for count in (1, 5, 9):
            await trio.sleep(20)
            write(broker, ORDERS, count)
        await trio.sleep(20)
    assert attempts(diary) == [("ok", 1.0)] * 15


@jumping
async def test_quick_attempts_are_reported_many_at_a_time() -> None:
    async def handle(message: Message) -> None:
        await trio.sleep(0.001)

    diary = await reports_of(handle, 1000)
    assert len(attempts(diary)) == 1000
    assert len(diary.told("on_attempts")) <= 1000 * 0.001 / 0.1 + 3


@jumping
async def test_times_of_batches_are_reported() -> None:
    diary = Diary()
    app = app_on(broker_with(ORDERS, records=10), monitor=diary)

    async def handle(batch: Batch) -> None:
        await trio.sleep(2)

    app.batch_handler(app.topic("orders"), handle, name="bill")
    async with app:
        await trio.sleep(60)
    assert attempts(diary) == [("ok", 2.0)]


@pytest.mark.parametrize("treatment", ["skipped", "dead_letter"])
@jumping
async def test_failures_are_reported_with_their_treatment(treatment: str) -> None:
    error = ValueError("no")

    async def handle(message: Message) -> None:
        await trio.sleep(1)
        raise error

    diary, broker = Diary(), broker_with(ORDERS, TP("dead", 0), records=1)
    app = app_on(broker, monitor=diary)
    policy: Any = "skip" if treatment == "skipped" else app.topic("dead")
    retry = Retry(attempts=3)
    app.handler(app.topic("orders"), handle, name="bill", retry=retry, dead_letters=policy)
    async with app:
        await trio.sleep(60)
    assert attempts(diary) == [("failed", 1.0)] * 3
    assert diary.told("on_handler_failure") == [
        ("bill", ORDERS, each, error) for each in ("retried", "retried", treatment)
    ]


@jumping
async def test_timeout_is_an_outcome_of_its_own() -> None:
    async def handle(message: Message) -> None:
        await trio.sleep(100)

    diary = await reports_of(handle, timeout=5.0, dead_letters="skip")
    assert attempts(diary) == [("timeout", 5.0)]
    assert treatments(diary) == ["skipped"]


@jumping
async def test_failure_that_ends_the_app_is_reported() -> None:
    diary = Diary()
    app = app_on(broker_with(ORDERS, records=1), monitor=diary)

    async def handle(message: Message) -> None:
        raise ValueError

    app.handler(app.topic("orders"), handle)
    with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
        async with app:
            await trio.sleep(60)
    assert treatments(diary) == ["raised"]


@jumping
async def test_failure_after_the_partition_was_lost_is_void() -> None:
    diary, broker = Diary(), broker_with(ORDERS, records=1)
    app = app_on(broker, monitor=diary)
    failed = False

    async def handle(message: Message) -> None:
        nonlocal failed
        if not failed:
            failed = True
            evict_all(broker)
            await trio.sleep(10)
            raise ValueError

    app.handler(app.topic("orders"), handle)
    async with app:
        await trio.sleep(60)
    assert treatments(diary) == ["void"]


@pytest.mark.parametrize("point", ["on_attempts", "on_handler_failure"])
@jumping
async def test_error_of_a_sensor_at_an_event_of_handlers_ends_the_app(point: str) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async def handle(message: Message) -> None:
        raise ValueError

    diary, broker = Diary(), broker_with(ORDERS, records=3)
    setattr(diary, point, fail)
    app = app_on(broker, monitor=diary)
    app.handler(app.topic("orders"), handle, retry=Retry(attempts=100))
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with app:
            await trio.sleep(60)
    assert broker.group("group").offsets.get(ORDERS, 0) == 0


# The event loop


async def test_delay_of_the_event_loop_is_reported(autojump_clock: MockClock) -> None:
    diary = Diary()
    async with app_on(broker_with(ORDERS), monitor=diary):
        await trio.sleep(3.5)
        assert diary.told("on_loop_delay") == [(0.0,)] * 3
        autojump_clock.jump(4)  # as if a task had blocked
        await trio.sleep(0.1)
        [(delay,)] = diary.told("on_loop_delay")[3:]
    assert delay == pytest.approx(3.5)


# Several sensors


@jumping
async def test_several_sensors_receive_each_event_with_their_own_states() -> None:
    """The states of a diary are numbers, and the states of a monitor are times."""
    diary, monitor, alone = Diary(), Monitor(), Diary()
    diary.calls.append(("on_open", ()))  # so that its states differ from those of the other one
    broker = broker_with(ORDERS, records=3)
    async with app_on(broker, monitor=Sensors(diary, monitor, alone)) as app:
        for message in await take(app.topic("orders").noack(), 3):
            message.ack()
        await app.topic("orders").send_and_wait(value=b"value")
        await trio.sleep(10)
        evict_all(broker)
        await trio.sleep(10)
        counted = monitor.snapshot()
    assert (counted.messages_out, counted.sends_completed) == (3, 1)
    assert counted.commits.count >= 1
    assert counted.rebalances.count >= 2
    names = [name for name, _ in alone.calls]
    assert [name for name, _ in diary.calls[1:]] == names
    begun = {number: name for number, name in enumerate(names, 1)}
    for diary_, shift in ((alone, 0), (diary, 1)):
        ends = diary_.told("on_commit_completed")
        assert {begun[state - shift] for _, state, _ in ends} == {"on_commit_initiated"}
        ends = diary_.told("on_rebalance_end", "on_rebalance_return")
        assert {begun[state - shift] for _, state in ends} == {"on_rebalance_start"}


def test_several_sensors_pass_on_every_event() -> None:
    assert {name for name in vars(Tee) if name.startswith("on_")} == set(POINTS)


def test_several_sensors_refuse_what_is_no_sensor() -> None:
    with pytest.raises(TypeError, match="each argument of Sensors must be a Sensor"):
        Sensors(Monitor(), object())  # type: ignore[arg-type]


@jumping
async def test_error_of_one_of_several_sensors_ends_the_app() -> None:
    class Fails(Sensor):
        def on_loop_delay(self, seconds: float) -> None:
            raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with App("group", monitor=Sensors(Monitor(), Fails())):
            await trio.sleep(60)
