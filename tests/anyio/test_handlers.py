"""Tests of handlers in anyio programs: the function runs in a task of the program's own backend."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
import sniffio

from tests.apps import app_on, broker_with, committed, write
from transport import TP, HandlerTimeout, Message, Retry
from transport.anyio import open_app
from transport.drivers.memory import MemoryBroker

pytestmark = pytest.mark.anyio

ORDERS = TP("orders", 0)
PATIENCE = 20.0


async def until_committed(app: Any, broker: MemoryBroker, offset: int) -> None:
    with anyio.fail_after(PATIENCE):
        while committed(broker).get(ORDERS, 0) < offset:
            await app.consumer.commit()
            await anyio.sleep(0.01)


async def test_handler_runs_in_the_loop_of_the_program(anyio_backend: str) -> None:
    broker = broker_with(ORDERS, records=10)
    libraries = set()
    async with open_app(app_on(broker)) as app:

        @app.handler(app.topic("orders"), concurrency=4, order="none")
        async def note(message: Message[bytes, bytes]) -> None:
            await anyio.sleep(0.001)
            libraries.add(sniffio.current_async_library())

        await until_committed(app, broker, 10)
    assert libraries == {anyio_backend}


async def test_handler_handles_as_many_messages_at_once_as_concurrency_says() -> None:
    broker = broker_with(ORDERS, records=6)
    running, most = 0, 0
    async with open_app(app_on(broker)) as app:

        @app.handler(app.topic("orders"), concurrency=3, order="none")
        async def count(message: Message[bytes, bytes]) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await anyio.sleep(0.01)
            running -= 1

        await until_committed(app, broker, 6)
        [handler] = app.handlers
        assert handler.counts.handled == 6
    assert most == 3


async def test_batch_handler_gets_batches() -> None:
    broker = broker_with(ORDERS, records=6)
    sizes = []
    async with open_app(app_on(broker)) as app:

        async def note(batch: Any) -> None:
            sizes.append(len(batch))

        app.batch_handler(app.topic("orders"), note, max_size=4)
        await until_committed(app, broker, 6)
    assert sizes == [4, 2]


async def test_timeout_cancels_the_function_and_the_message_becomes_a_dead_letter() -> None:
    broker = broker_with(ORDERS, TP("orders.dead", 0))
    cancelled = []
    async with open_app(app_on(broker)) as app:
        orders = app.topic("orders", value_type=str)

        @app.handler(orders, timeout=0.01, dead_letters=app.topic("orders.dead"))
        async def hang(message: Message[bytes, str]) -> None:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                cancelled.append(message.value)
                raise

        await orders.send_and_wait(value="slow")
        await until_committed(app, broker, 1)
    assert cancelled == ["slow"]
    (letter,) = broker.log(TP("orders.dead", 0)).read(0, 1 << 20).records
    assert (
        dict(letter.headers)["dead.error"] == f"{HandlerTimeout.__module__}.HandlerTimeout".encode()
    )


async def test_failed_message_is_retried() -> None:
    broker = broker_with(ORDERS, records=1)
    attempts = []
    async with open_app(app_on(broker)) as app:

        @app.handler(
            app.topic("orders"), retry=Retry(attempts=3, wait_initial=0.001, wait_jitter=0)
        )
        async def fail_twice(message: Message[bytes, bytes]) -> None:
            attempts.append(message.offset)
            if len(attempts) < 3:
                raise ConnectionError("not yet")

        await until_committed(app, broker, 1)
    assert attempts == [0, 0, 0]


async def test_sent_message_is_in_the_transaction_of_the_handled_one() -> None:
    broker = broker_with(ORDERS, TP("out", 0))
    write(broker, ORDERS, 3)
    async with open_app(app_on(broker, transactions="partition")) as app:
        out = app.topic("out")

        @app.handler(app.topic("orders"))
        async def pass_on(message: Message[bytes, bytes]) -> None:
            await anyio.lowlevel.checkpoint()
            await out.send(value=b"result")

        await until_committed(app, broker, 3)
    results = broker.log(TP("out", 0)).read(0, 1 << 20, committed=True).records
    assert [record.value for record in results] == [b"result"] * 3


async def test_error_of_a_handler_ends_the_block_with_that_error() -> None:
    broker = broker_with(ORDERS, records=1)
    error = ValueError("wrong")

    async def fail(message: Message[bytes, bytes]) -> None:
        raise error

    async def run() -> None:
        async with open_app(app_on(broker)) as app:
            app.handler(app.topic("orders"), fail)
            with anyio.fail_after(PATIENCE):
                await anyio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as raised:
        await run()
    assert raised.group_contains(ValueError, match="wrong")


async def test_handler_ends_its_message_when_the_block_ends() -> None:
    broker = broker_with(ORDERS, records=1)
    done, begun = [], anyio.Event()
    async with open_app(app_on(broker)) as app:

        @app.handler(app.topic("orders"))
        async def slow(message: Message[bytes, bytes]) -> None:
            begun.set()
            await anyio.sleep(0.05)
            done.append(message.offset)

        with anyio.fail_after(PATIENCE):
            await begun.wait()
    assert done == [0]
    assert committed(broker) == {ORDERS: 1}
