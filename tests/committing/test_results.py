"""Results come before offsets: what a handler has sent is delivered before its offset is committed.

Otherwise a crash between the two loses the result for ever. `transport/committing/committer.py` has
the rule.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from tests.apps import A_WHILE, app_on, broker_with, committed, write
from tests.lanes import NEVER
from tests.logs import warnings_in
from tests.nurseries.clock import jumping
from tests.nurseries.errors import leaves
from tests.producing.held_back import HeldBack, app_with
from transport import TP, App, Batch, DeliveryFailed, Message
from transport.drivers.memory import MemoryBroker

ORDERS = TP("orders", 0)


Start = Callable[[App, trio.Nursery], None]  # begins to copy the orders


def handler(app: App, nursery: trio.Nursery | None = None) -> None:
    @app.handler(app.topic("orders"), concurrency=2)
    async def copy(message: Message) -> None:
        await app.topic("out").send(value=b"result")


def batch_handler(app: App, nursery: trio.Nursery | None = None) -> None:
    @app.batch_handler(app.topic("orders"))
    async def copy(batch: Batch) -> None:
        await app.topic("out").send_many([(None, b"result") for _ in batch])


def loop(app: App, nursery: trio.Nursery) -> None:
    @nursery.start_soon
    async def copy() -> None:
        async for _ in app.topic("orders"):
            await app.topic("out").send(value=b"result")


def loop_that_queues(app: App, nursery: trio.Nursery) -> None:
    @nursery.start_soon
    async def copy() -> None:
        async for _ in app.topic("orders"):
            app.topic("out").send_soon(value=b"result")


WAYS = pytest.mark.parametrize("start", [handler, batch_handler, loop, loop_that_queues])


def at(broker: MemoryBroker) -> int | None:
    """Return the committed offset of the orders."""
    return committed(broker, "app").get(ORDERS)


@WAYS
@jumping
async def test_offset_is_committed_once_what_its_handler_has_sent_is_delivered(
    start: Start,
) -> None:
    broker, client = broker_with(ORDERS, records=3), HeldBack()
    app = app_with(client, broker)
    async with app, trio.open_nursery() as nursery:
        start(app, nursery)
        await trio.sleep(A_WHILE)
        assert len(client.taken) == 3
        assert at(broker) is None
        client.end(2)
        await trio.sleep(A_WHILE)
        assert at(broker) is None
        client.end(1)
        await trio.sleep(A_WHILE)
        assert at(broker) == 3
        app.stop()


@jumping
async def test_later_messages_do_not_delay_the_commit_of_earlier_ones() -> None:
    broker, client = broker_with(ORDERS, records=3), HeldBack()
    app = app_with(client, broker)
    async with app:
        handler(app)
        await trio.sleep(5)
        for _ in range(3):
            client.end(1)
            write(broker, ORDERS)
            await trio.sleep(0.5)
        await trio.sleep(2)
        assert len(client.taken) == 3
        assert at(broker) == 3
        client.end(3)
        app.stop()


@jumping
async def test_undelivered_result_ends_the_app_and_its_message_comes_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker, client = broker_with(ORDERS, records=1), HeldBack()
    app = app_with(client, broker)

    async def main() -> None:
        async with app:
            handler(app)
            await trio.sleep(5)
            client.end(error=DeliveryFailed("test"))
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await main()
    [error] = leaves(caught.value)
    assert isinstance(error, DeliveryFailed)
    assert str(error).startswith("1 messages were not delivered, and no task awaited")
    assert at(broker) is None
    assert any("nothing is committed until" in warning for warning in warnings_in(caplog))


@jumping
async def test_failure_that_a_handler_awaits_late_ends_nothing() -> None:
    broker, client = broker_with(ORDERS, records=1), HeldBack()
    app = app_with(client, broker, commit_interval=5.0)
    seen = []

    @app.handler(app.topic("orders"), dead_letters="skip")
    async def copy(message: Message) -> None:
        delivery = await app.topic("out").send(value=b"result")
        await trio.sleep(5.5)
        try:
            await delivery
        except DeliveryFailed as error:
            seen.append(error)

    async with app:
        for number in range(1, 3):  # each prevents one commit, and another one is made in between
            await trio.sleep(4)
            client.end(error=DeliveryFailed("test"))
            await trio.sleep(8)
            assert at(broker) == number
            write(broker, ORDERS)
        client.end()
        app.stop()
    assert len(seen) == 2


@jumping
async def test_commit_at_the_end_waits_for_results_within_the_grace() -> None:
    broker, client = broker_with(ORDERS, records=1), HeldBack()
    app = app_with(client, broker, commit_interval=NEVER)
    async with app, trio.open_nursery() as nursery:
        handler(app, nursery)
        await trio.sleep(5)
        nursery.start_soon(end_later, client)
        app.stop()
    assert at(broker) == 1


async def end_later(client: HeldBack) -> None:
    await trio.sleep(0.5)
    client.end()


@jumping
async def test_partition_whose_results_hang_is_released_at_the_bound_without_a_commit() -> None:
    broker, client = broker_with(ORDERS, TP("orders", 1), records=1), HeldBack()
    app = app_with(client, broker, drain_timeout=2.0)
    async with app:
        handler(app)
        await trio.sleep(5)
        async with app_on(broker, "app") as other:
            with trio.fail_after(10):
                async for message in other.topic("orders"):
                    assert message.offset == 0
                    break
            assert committed(broker, "app") == {}
        await trio.sleep(5)
        client.end(len(client.taken))
        app.stop()


@jumping
async def test_failures_that_a_commit_call_has_raised_are_raised_again_at_the_end() -> None:
    broker, client = broker_with(ORDERS, records=1), HeldBack()
    app = app_with(client, broker, commit_interval=NEVER)

    async def main() -> None:
        async with app:
            handler(app)
            await trio.sleep(5)
            client.end(error=DeliveryFailed("first"))
            with pytest.raises(DeliveryFailed):
                await app.consumer.commit()
            await app.topic("out").send(value=b"another")
            await trio.sleep(1)
            client.end(error=DeliveryFailed("second"))
            app.stop()

    with pytest.raises(ExceptionGroup) as caught:
        await main()
    [error] = leaves(caught.value)
    assert str(error).startswith("2 messages were not delivered")
    assert at(broker) is None


@jumping
async def test_partition_whose_result_was_not_delivered_is_released_without_a_commit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker, client = broker_with(ORDERS, TP("orders", 1), records=1), HeldBack()
    app = app_with(client, broker, commit_interval=NEVER)

    async def main() -> None:
        async with app:
            handler(app)
            await trio.sleep(5)
            client.end(1, error=DeliveryFailed("test"))
            client.end(1)
            async with app_on(broker, "app") as other:
                with trio.fail_after(10):
                    assert (await anext(aiter(other.topic("orders")))).offset == 0
            client.end(len(client.taken))
            app.stop()

    with pytest.raises(ExceptionGroup) as caught:
        await main()
    [error] = leaves(caught.value)
    assert isinstance(error, DeliveryFailed)
    assert set(committed(broker, "app").values()) <= {0}
    assert any("the last commit of orders-" in warning for warning in warnings_in(caplog))
