"""Services as users write them: two good ones, two naive ones, and one that is exactly-once."""

from __future__ import annotations

from typing import Any

import trio

from transport import App, Message, PartitionStream, TransactionAborted
from transport.drivers.base import Driver
from transport.testing import Done

TOPICS = {"orders": 2}
QUICK: dict[str, Any] = {"session_timeout": 6.0, "drain_timeout": 5.0, "commit_interval": 0.5}


async def good(broker: Driver, done: Done) -> None:
    """Acks when the work is done."""
    async with App("billing", broker=broker, **QUICK) as app:
        async for order in app.topic("orders").noack():
            async with order:
                await trio.sleep(0.3)
                done(order)


async def good_by_the_batch(broker: Driver, done: Done) -> None:
    async with App("billing", broker=broker, assignment="eager", **QUICK) as app:
        async for batch in app.topic("orders").batches():
            await trio.sleep(0.3)
            done(*batch)


async def good_by_partition(broker: Driver, done: Done) -> None:
    """Has a task for each partition, of which some are slow."""

    async def bill(orders: PartitionStream) -> None:
        async for order in orders:
            await trio.sleep(0.2 + 0.5 * order.partition)
            done(order)

    app = App("billing", broker=broker, buffer_size=3, **QUICK)
    async with app, trio.open_nursery() as nursery:
        async for orders in app.topic("orders").partitions():
            nursery.start_soon(bill, orders)


async def naive(broker: Driver, done: Done) -> None:
    """Starts a task for the work, so the loop acks an order before its work is done."""

    async def bill(order: Message) -> None:
        await trio.sleep(0.3)
        done(order)

    async with App("billing", broker=broker, **QUICK) as app, trio.open_nursery() as nursery:
        async for order in app.topic("orders"):
            nursery.start_soon(bill, order)


async def naive_by_a_buffer(broker: Driver, done: Done) -> None:
    """Acks orders that it keeps for later."""
    async with App("billing", broker=broker, **QUICK) as app:
        kept: list[Message] = []
        async for order in app.topic("orders").noack():
            kept.append(order)
            order.ack()
            if len(kept) == 3:
                await trio.sleep(0.1)
                done(*kept)
                kept.clear()


def exactly_once_by_partition(mode: str) -> Any:
    async def service(broker: Driver, done: Done) -> None:
        settings = {**QUICK, "transactions": mode, "transaction_timeout": 20.0}
        async with App("billing", broker=broker, commit_timeout=5.0, **settings) as app:
            bills = app.topic("bills")

            async def bill(orders: PartitionStream) -> None:
                async for order in orders.noack():
                    try:
                        await bills.send(value=b"%d-%d" % (order.partition, order.offset))
                    except TransactionAborted:
                        continue  # the order is delivered again
                    await trio.sleep(0.1)
                    done(order)
                    order.ack()

            async with trio.open_nursery() as nursery:
                async for orders in app.topic("orders").partitions():
                    nursery.start_soon(bill, orders)

    return service


def exactly_once(mode: str) -> Any:
    async def service(broker: Driver, done: Done) -> None:
        settings = {**QUICK, "transactions": mode, "transaction_timeout": 20.0}
        async with App("billing", broker=broker, commit_timeout=5.0, **settings) as app:
            bills = app.topic("bills")
            async for order in app.topic("orders").noack():
                try:
                    await bills.send(value=b"%d-%d" % (order.partition, order.offset))
                except TransactionAborted:
                    continue  # the order is delivered again
                await trio.sleep(0.1)
                done(order)
                order.ack()

    return service
