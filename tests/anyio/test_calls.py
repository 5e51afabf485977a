"""The calls of a consumer, a producer and a conductor, with the same lines on both backends."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.lanes import NEVER
from transport import JSON, App, DecodeError, Message, TransactionAborted
from transport.anyio import AnyApp, open_app
from transport.drivers.memory import MemoryBroker

pytestmark = pytest.mark.anyio

PATIENCE = 20.0


def app_on(broker: MemoryBroker, **settings: Any) -> App:
    return App("app", broker, commit_interval=NEVER, **settings)


def a_broker() -> MemoryBroker:
    broker = MemoryBroker()
    broker.create_topic("orders", 1)
    broker.create_topic("others", 1)
    return broker


async def all_of(app: AnyApp, timeout: float) -> list[tuple[str, Any]]:
    with anyio.fail_after(PATIENCE):
        return [(tp.topic, each.value) async for tp, each in app.consumer.getmany(timeout)]


# getmany


async def test_getmany_takes_the_decoded_messages_of_all_topics_and_ends() -> None:
    async with open_app(app_on(a_broker())) as app:
        orders, others = app.topic("orders", value_type=JSON), app.topic("others")
        await (await orders.send_many([(None, 1), (None, 2)]))
        await others.send_and_wait(value=b"3")
        for topic in (orders, others):
            topic.listen()
        found = await all_of(app, PATIENCE)
        while len(found) < 3:
            found += await all_of(app, PATIENCE)
        assert sorted(found, key=str) == [("orders", 1), ("orders", 2), ("others", b"3")]
        assert await all_of(app, 0.01) == []
        assert len(app.consumer.unacked) == 3


async def test_getmany_waits_for_the_first_message() -> None:
    async with open_app(app_on(a_broker())) as app:
        orders = app.topic("orders")
        orders.listen()
        found: list[tuple[str, Any]] = []

        async def read() -> None:
            found.extend(await all_of(app, PATIENCE))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            await orders.send_and_wait(value=b"1")
        assert found == [("orders", b"1")]


async def test_a_cancelled_getmany_takes_no_message() -> None:
    async with open_app(app_on(a_broker())) as app:
        orders = app.topic("orders")
        orders.listen()
        for number in range(20):
            with anyio.move_on_after(0):
                await anext(app.consumer.getmany(PATIENCE))
            await orders.send_and_wait(value=b"%d" % number)
        messages = orders.noack()
        with anyio.fail_after(PATIENCE):
            taken = [(await anext(messages)).value for _ in range(20)]
        assert taken == [b"%d" % number for number in range(20)]


async def test_the_task_that_calls_getmany_awaits_the_hook_for_decode_errors() -> None:
    async with open_app(app_on(a_broker())) as app:
        orders = app.topic("orders", value_type=JSON)
        tasks: list[Any] = []

        async def skip(error: DecodeError, message: Message[Any, Any]) -> None:
            await anyio.lowlevel.checkpoint()
            tasks.append(anyio.get_current_task().id)

        orders.on_value_decode_error = skip
        await app.producer.send_and_wait("orders", None, b"{")
        await orders.send_and_wait(value=2)
        orders.listen()
        assert await all_of(app, PATIENCE) == [("orders", 2)]
        assert tasks == [anyio.get_current_task().id]


# Errors of handlers, acks and commits


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt("no")])
async def test_the_error_of_a_handler_is_raised_again_in_its_task(error: BaseException) -> None:
    async with open_app(app_on(a_broker())) as app:
        with pytest.raises(type(error)) as caught:
            await app.consumer.on_task_error(error)
        assert caught.value is error
        assert app.is_open


async def test_the_error_of_a_handler_is_logged_with_the_setting_go_on() -> None:
    async with open_app(app_on(a_broker(), on_task_error="go_on")) as app:
        await app.consumer.on_task_error(ValueError("no"))


async def test_acks_and_commits_by_the_consumer() -> None:
    async with open_app(app_on(a_broker())) as app:
        orders = app.topic("orders")
        await orders.send_and_wait(value=b"1")
        with anyio.fail_after(PATIENCE):
            message = await anext(orders.noack())
        app.consumer.track_message(message)
        assert app.consumer.ack(message)
        assert await app.consumer.force_commit()
        assert not await app.conductor.commit({"orders"})
        await app.consumer.commit_and_end_transactions()
        assert not await app.consumer.maybe_wait_for_commit_to_finish()
        await app.consumer.perform_seek()
        await app.consumer.verify_all_partitions_active()
        assert app.consumer.stuck == ()


# Flow and life


async def test_flow_and_the_close_of_a_consumer() -> None:
    async with open_app(app_on(a_broker())) as app:
        orders = app.topic("orders")
        messages = orders.noack()
        await orders.send_and_wait(value=b"1")
        with anyio.fail_after(PATIENCE):
            await anext(messages)
            assert app.consumer.flow_active
            app.consumer.stop_flow()
            assert not app.consumer.flow_active
            app.consumer.close()
            with pytest.raises(StopAsyncIteration):
                await anext(messages)
            await app.wait_stopped()
        assert (await orders.send_and_wait(value=b"2")).offset == 1


# Topics


async def test_a_conductor_has_the_topics_that_are_read() -> None:
    async with open_app(app_on(a_broker())) as app:
        orders, others = app.topic("orders"), app.topic("others")
        with anyio.fail_after(PATIENCE):
            await app.conductor.maybe_wait_for_subscriptions()
            app.conductor.add(orders)
            others.another().listen()
            await app.conductor.wait_for_subscriptions()
        assert orders in app.conductor
        assert others not in app.conductor
        assert len(app.conductor) == 2
        names = {"orders", "others"}
        assert app.conductor.wanted == app.conductor.subscribed == names
        assert app.conductor.acking_topics == names
        app.conductor.discard(orders)
        assert not app.conductor.acks_enabled_for("orders")
        app.conductor.clear()
        assert not app.conductor.wanted
        assert (orders.name, orders.pattern, orders.matches("orders")) == ("orders", None, True)


# The producer


async def test_a_producer_sends_bytes_in_and_out_of_transactions() -> None:
    async with open_app(app_on(a_broker())) as app:
        producer = app.producer
        assert producer.supports_headers()
        delivery = await producer.send("orders", b"k", b"1", headers={"trace": b"1"})
        written = await delivery
        assert delivery.is_done
        assert delivery.outcome == delivery.result() == written
        assert producer.in_flight == 0
        await producer.begin_transaction("one")
        await producer.send("orders", None, b"2", transactional_id="one")
        await producer.commit_transaction("one")
        await producer.maybe_begin_transaction("one")
        aborted = await producer.send("orders", None, b"3", transactional_id="one")
        await producer.abort_transaction("one")
        with pytest.raises(TransactionAborted):
            await producer.send_and_wait("orders", None, b"4", transactional_id="one")
        await producer.maybe_begin_transaction("one")
        await producer.commit_transactions({"one": {}}, "app", start_new_transaction=False)
        await producer.stop_transaction("one")
        assert aborted.is_done
        messages = app.topic("orders").noack()
        with anyio.fail_after(PATIENCE):
            assert [(await anext(messages)).value for _ in range(2)] == [b"1", b"2"]


async def test_an_app_shows_its_id_settings_and_monitor() -> None:
    async with open_app(app_on(a_broker())) as app:
        assert app.id == "app"
        assert app.settings.commit_interval == NEVER
        assert app.monitor is None
        assert app.is_open
