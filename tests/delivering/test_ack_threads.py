"""Acks in a thread that is not the app's: each is refused and changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import trio

from tests.apps import app_on, broker_with, committed
from transport import TP, App, Batch, Message

ORDERS = TP("orders", 0)

Call = Callable[[App, Message, Batch], object]

CALLS: dict[str, Call] = {
    "Message.ack": lambda app, message, batch: message.ack(),
    "Message.decref": lambda app, message, batch: message.decref(),
    "Message.incref": lambda app, message, batch: message.incref(),
    "Batch.ack": lambda app, message, batch: batch.ack(),
    "Consumer.ack": lambda app, message, batch: app.consumer.ack(message),
}


@pytest.mark.parametrize("call", CALLS)
async def test_an_ack_in_another_thread_is_refused_and_changes_nothing(call: str) -> None:
    broker = broker_with(ORDERS, records=3)
    async with app_on(broker) as app:
        topic = app.topic("orders")
        message = await anext(topic.noack())
        batch = await anext(topic.batches(noack=True))
        with pytest.raises(RuntimeError, match=r"not in the thread 'a worker'.*from_thread"):
            await trio.to_thread.run_sync(CALLS[call], app, message, batch, thread_name="a worker")
        assert not message.acked
        assert (message.refcount, batch[0].refcount) == (1, 1)
        assert app.consumer.assignment.tally.stale == 0
        assert CALLS[call](app, message, batch) is not False, (
            "in the app's own thread, the call counts"
        )


async def test_a_thread_acks_through_from_thread_run_sync() -> None:
    broker = broker_with(ORDERS, records=3)

    def work(message: Message) -> bool:
        assert threading.current_thread() is not threading.main_thread()
        return trio.from_thread.run_sync(message.ack)

    async with app_on(broker) as app:
        messages = app.topic("orders").noack()
        for _ in range(3):
            assert await trio.to_thread.run_sync(work, await anext(messages))
    assert committed(broker) == {ORDERS: 3}


async def test_async_with_in_a_trio_run_of_another_thread_does_not_ack() -> None:

    async def handle(message: Message) -> None:
        async with message:
            pass

    async with app_on(broker_with(ORDERS, records=1)) as app:
        message = await anext(app.topic("orders").noack())
        with pytest.raises(RuntimeError, match="can be acked"):
            await trio.to_thread.run_sync(trio.run, handle, message)
        await handle(message)
        assert message.acked
