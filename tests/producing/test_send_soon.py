"""Tests of sending from code that cannot wait, and from other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.apps import app_on, broker_with, committed, take
from tests.lanes import NEVER
from tests.nurseries.clock import jumping
from tests.producing.held_back import HeldBack, app_with
from tests.records import soon
from tests.scripted import hangs, replace
from transport import (
    TP,
    AppClosed,
    BufferFull,
    DeliveryFailed,
    FutureMessage,
    NotInTransaction,
    PendingMessage,
    RecordMetadata,
    TransactionAborted,
    UnknownTopic,
)
from transport.drivers.memory import MemoryBroker

ORDERS = TP("orders", 0)


def values(broker: MemoryBroker, tp: TP = ORDERS) -> list[bytes | None]:
    return [record.value for record in broker.log(tp).read(0, 1 << 20).records]


def all_of(broker: MemoryBroker, tp: TP) -> list[tuple[object, ...]]:
    """Return key, value, timestamp and headers of each record."""
    return [
        (record.key, record.value, record.timestamp, list(record.headers))
        for record in broker.log(tp).read(0, 1 << 20).records
    ]


async def in_thread(call: Callable[[], object]) -> None:
    """Make a call in a thread that trio has not started, and wait for its end."""
    errors: list[Exception] = []
    token, ended = trio.lowlevel.current_trio_token(), trio.Event()

    def run() -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - raised again in the test's own task
            errors.append(error)
        token.run_sync_soon(ended.set)

    thread = threading.Thread(target=run)
    thread.start()
    await ended.wait()
    thread.join()
    for error in errors:
        raise error


@jumping
async def test_send_soon_sends_in_order_and_returns_the_metadata() -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        futures = [soon(value=b"%d" % number) for number in range(100)]
        for fut in futures:
            app.producer.send_soon(fut)
        assert not futures[0].is_done
        written = [await fut for fut in futures]
        assert [metadata.offset for metadata in written] == list(range(100))
        assert await futures[0] == await futures[0].wait() == futures[0].result()
    assert values(broker) == [b"%d" % number for number in range(100)]


@jumping
async def test_topic_send_soon_encodes_and_sends() -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        fut = app.topic("orders", value_type=str).send_soon(
            key=b"k", value="v", timestamp=1.5, headers={"h": b"1"}
        )
        assert await fut == RecordMetadata("orders", 0, 0, 1.5)


@jumping
async def test_send_soon_sends_all_fields_of_the_message() -> None:
    broker = broker_with(TP("orders", 2))
    async with app_on(broker) as app:
        message = PendingMessage(
            topic="orders", key=b"k", value=b"v", partition=1, timestamp=1.5, headers={"h": b"1"}
        )
        app.producer.send_soon(fut := FutureMessage(message))
        assert await fut == RecordMetadata("orders", 1, 0, 1.5)
    assert all_of(broker, TP("orders", 1)) == [(b"k", b"v", 1500, [("h", b"1")])]


async def test_send_soon_may_be_called_from_other_threads() -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        written: list[RecordMetadata] = []

        def work() -> None:
            futures = [soon() for _ in range(50)]
            for fut in futures:
                app.producer.send_soon(fut)
            written.extend(fut.result(10.0) for fut in futures)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(in_thread, work)
    assert sorted(metadata.offset for metadata in written) == list(range(200))


async def test_the_threaded_producer_blocks_until_the_delivery() -> None:
    broker = broker_with(TP("orders", 2))
    async with app_on(broker) as app:
        written: list[RecordMetadata] = []
        send_and_wait = app.producer.threaded_producer.send_and_wait

        def work() -> None:
            written.append(send_and_wait("orders", b"k", b"v", 1, 1.5, {"h": b"1"}))

        await in_thread(work)
        assert written == [RecordMetadata("orders", 1, 0, 1.5)]
    with pytest.raises(AppClosed):
        await in_thread(work)
    assert all_of(broker, TP("orders", 1)) == [(b"k", b"v", 1500, [("h", b"1")])]


@jumping
async def test_the_buffer_is_bounded() -> None:
    client = HeldBack()
    async with app_with(client, send_buffer_messages=3) as app:
        futures = [soon() for _ in range(6)]
        for fut in futures[:3]:
            app.producer.send_soon(fut)
        with pytest.raises(BufferFull):
            app.producer.send_soon(futures[3])
        assert len(app.producer.buffer) == 3
        await wait_all_tasks_blocked()  # all are accepted, and in flight
        assert len(app.producer.buffer) == 0
        for fut in futures[3:]:
            app.producer.send_soon(fut)
        await wait_all_tasks_blocked()  # there is no room for them, so they stay queued
        assert len(app.producer.buffer) == 3
        client.end(3)
        await wait_all_tasks_blocked()
        client.end(3)
        await futures[5]


@jumping
async def test_a_topic_without_metadata_delays_no_other_topic() -> None:
    client = HeldBack()
    answered = trio.Event()

    async def partition_count(_: object, topic: str, timeout: float) -> int:
        if topic == "slow":
            await answered.wait()
        return 1

    async with app_with(client) as app:
        replace(app, "producer.partition_count", partition_count)
        slow = [soon("slow", b"%d" % number) for number in range(2)]
        for fut in (*slow, quick := soon("quick")):
            app.producer.send_soon(fut)
        await wait_all_tasks_blocked()
        client.end(1)
        assert (await quick).topic == "quick"
        answered.set()
        await wait_all_tasks_blocked()
        assert client.values == [b"0", b"1"]
        client.end(2)


@jumping
async def test_each_message_has_its_own_error() -> None:
    broker = broker_with(ORDERS, auto_create=False)
    async with app_on(broker) as app:
        bad, good = soon("nowhere"), soon()
        app.producer.send_soon(bad)
        app.producer.send_soon(good)
        assert (await good).offset == 0
        with pytest.raises(UnknownTopic):
            await bad


@jumping
async def test_an_unseen_failure_is_raised_when_the_app_closes() -> None:
    broker = broker_with(ORDERS, auto_create=False)
    with pytest.RaisesGroup(DeliveryFailed, flatten_subgroups=True):
        async with app_on(broker) as app:
            app.producer.send_soon(soon("nowhere"))


@jumping
async def test_a_failure_that_a_task_awaits_counts_as_seen() -> None:
    """Even if the app fails the message at its end, before the task runs again."""
    client = HeldBack()
    seen: list[Exception] = []

    async def wait(fut: FutureMessage) -> None:
        with pytest.raises(DeliveryFailed) as caught:
            await fut
        seen.append(caught.value)

    async with trio.open_nursery() as nursery, app_with(client) as app:
        app.producer.send_soon(fut := soon())
        nursery.start_soon(wait, fut)
        await wait_all_tasks_blocked()
    assert len(seen) == 1


async def test_a_failure_that_a_thread_received_counts_as_seen() -> None:
    broker = broker_with(ORDERS, auto_create=False)
    async with app_on(broker) as app:

        def work() -> None:
            app.producer.send_soon(fut := soon("nowhere"))
            with pytest.raises(UnknownTopic):
                fut.result(10.0)

        await in_thread(work)


@jumping
async def test_a_failure_after_a_cancelled_wait_counts_as_unseen() -> None:
    client = HeldBack()
    with pytest.RaisesGroup(DeliveryFailed, flatten_subgroups=True):
        async with app_with(client) as app:
            app.producer.send_soon(fut := soon())
            with trio.move_on_after(1):
                await fut
            client.end(error=DeliveryFailed("no"))


@jumping
async def test_a_future_message_can_be_sent_only_once() -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        app.producer.send_soon(fut := soon())
        with pytest.raises(ValueError, match="given to a producer before"):
            app.producer.send_soon(fut)
        assert (await fut).offset == 0
        with pytest.raises(ValueError, match="given to a producer before"):
            app.producer.send_soon(fut)
    assert values(broker) == [b"v"]


@jumping
async def test_a_future_message_that_a_full_queue_refused_can_be_sent_later() -> None:
    client = HeldBack()
    async with app_with(client, send_buffer_messages=1) as app:
        app.producer.send_soon(soon())
        with pytest.raises(BufferFull):
            app.producer.send_soon(fut := soon())
        await wait_all_tasks_blocked()
        app.producer.send_soon(fut)
        client.end()
        await wait_all_tasks_blocked()
        client.end()
        await fut


@jumping
async def test_result_raises_in_trios_thread_before_the_outcome_is_known() -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        app.producer.send_soon(fut := soon())
        with pytest.raises(RuntimeError, match="await the FutureMessage"):
            fut.result(0.1)
        assert await fut == fut.result()


@pytest.mark.parametrize(
    "wrong",
    [{"topic": 5}, {"key": "k"}, {"value": "v"}, {"partition": "0"}, {"timestamp": "now"}],
)
def test_a_pending_message_with_a_field_of_a_wrong_type_raises_type_error(
    wrong: dict[str, Any],
) -> None:
    with pytest.raises(TypeError):
        PendingMessage(**{"topic": "orders", **wrong})


@jumping
async def test_one_failed_query_fails_all_messages_that_wait_for_the_topic() -> None:
    """One query serves all messages queued by then, and one more serves all later messages."""
    protected: list[bool] = []

    async def partition_count(_: object, topic: str, timeout: float) -> int:
        protected.append(trio.lowlevel.currently_ki_protected())
        await trio.sleep(timeout)
        raise UnknownTopic(topic)

    async with app_with(HeldBack(), connect_timeout=10.0) as app:
        replace(app, "producer.partition_count", partition_count)
        start = trio.current_time()
        early = [soon("nowhere") for _ in range(100)]
        for fut in early:
            app.producer.send_soon(fut)
        await trio.sleep(9)
        late = [soon("nowhere") for _ in range(100)]
        for fut in late:
            app.producer.send_soon(fut)
        for futures, when in (early, 10), (late, 20):
            for fut in futures:
                with pytest.raises(UnknownTopic):
                    await fut
            assert trio.current_time() - start == pytest.approx(when)
        assert len(app.producer.buffer) == 0
    assert protected == [True, True]


@jumping
async def test_closing_the_app_sends_queued_messages() -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        for number in range(100):
            app.producer.send_soon(soon(value=b"%d" % number))
    assert len(values(broker)) == 100


@jumping
async def test_queued_messages_that_cannot_be_sent_at_the_end_fail() -> None:
    futures = [soon(), soon("another")]
    with pytest.RaisesGroup(DeliveryFailed, flatten_subgroups=True):
        async with app_with(HeldBack()) as app:
            replace(app, "producer.partition_count", hangs)
            for fut in futures:
                app.producer.send_soon(fut)
    for fut in futures:
        with pytest.raises(AppClosed):
            await fut


@jumping
async def test_abort_fails_a_message_that_was_just_accepted_once() -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker, transactions="member") as app:
        await app.producer.begin_transaction("id")
        writer = app.producer.writer("id")
        replace(app, "producer.send", hangs, transactional_id="id")
        accept, is_accepted = writer.send_while, trio.Event()

        async def send_while(*args: Any) -> Any:
            """Return some time after the message was accepted, as a checkpoint can."""
            delivery = await accept(*args)
            is_accepted.set()
            await trio.sleep(1)
            return delivery

        writer.send_while = send_while  # type: ignore[method-assign]
        writer.send_soon(fut := soon("orders", b"undone"))
        await is_accepted.wait()
        await app.producer.abort_transaction("id")
        with pytest.raises(TransactionAborted):
            await fut
        await trio.sleep(2)
    assert values(broker) == []


@jumping
async def test_flush_waits_for_queued_messages() -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        app.producer.send_soon(soon())
        await app.producer.flush()
        assert values(broker) == [b"v"]


@jumping
async def test_send_soon_raises_app_closed_before_opening_and_after_closing() -> None:
    app = app_on(broker_with(ORDERS))
    with pytest.raises(AppClosed):
        app.producer.send_soon(soon())
    async with app:
        pass
    with pytest.raises(AppClosed):
        app.producer.send_soon(soon())


@pytest.mark.parametrize("mode", ["member", "partition"])
@jumping
async def test_send_soon_sends_in_the_transaction_of_its_source(mode: str) -> None:
    """The commit waits for the message, so the source may be acked before it is sent."""
    broker = broker_with(ORDERS, TP("out", 0), records=0)
    broker.log(ORDERS).append(None, b"v", (), 0)
    async with app_on(broker, transactions=mode, commit_interval=NEVER) as app:
        out = app.topic("out")
        (message,) = await take(app.topic("orders").noack(), 1)
        fut = out.send_soon(value=b"result", source=message)
        message.ack()
        with pytest.raises(NotInTransaction):
            out.send_soon(value=b"too late", source=message)
        log = broker.log(TP("out", 0))
        await app.consumer.commit()
        assert fut.is_done
        assert [record.value for record in log.read(0, 1000, committed=True).records] == [b"result"]
        assert committed(broker) == {ORDERS: 1}
        outside = out.send_soon(value=b"outside", source=None)
        await outside
