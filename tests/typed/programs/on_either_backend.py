"""A program for both backends of anyio: a topic of `open_app` has the types of keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_type

import anyio

from transport import TP, App, Batch, Message, OffsetAndTimestamp, RecordMetadata
from transport.anyio import (
    AioApp,
    AnyApp,
    AnyDelivery,
    AnyPartitionStream,
    AnyTopic,
    open_app,
)


@dataclass
class Order:
    customer: str


class Desk:
    def __init__(self, app: AnyApp) -> None:
        self.orders = app.topic("orders", key_type=str, value_type=Order)
        self.raw: AnyTopic = app.topic("raw")

    async def place(self, order: Order) -> RecordMetadata:
        await self.raw.send(value=b"1")
        return await self.orders.send_and_wait(key=order.customer, value=order)


async def handle(message: Message[str, Order]) -> None:
    print(message.value.customer)


async def read(orders: AnyTopic[str, Order]) -> None:
    async for message in orders:
        assert_type(message, Message[str, Order])
        await handle(message)
    async for batch in orders.batches(100):
        assert_type(batch, Batch[str, Order])
    message = await anext(orders.noack())
    assert_type(message.value, Order)


async def work(partition: AnyPartitionStream[str, Order]) -> None:
    async for message in partition:
        assert_type(message, Message[str, Order])
    async for batch in partition.batches(100, noack=True):
        assert_type(batch, Batch[str, Order])


async def work_on_each(orders: AnyTopic[str, Order]) -> None:
    async with anyio.create_task_group() as tasks:
        async for partition in orders.partitions():
            assert_type(partition.tp, TP)
            tasks.start_soon(work, partition)


async def ask(app: AnyApp, tp: TP) -> None:
    consumer = app.consumer
    assert_type(await consumer.committed(tp), int | None)
    assert_type(await consumer.committed([tp]), dict[TP, int | None])
    assert_type(await consumer.end_offsets({tp}), dict[TP, int])
    assert_type(await consumer.offsets_for_times({tp: 1.0}), dict[TP, OffsetAndTimestamp | None])
    assert_type(await consumer.commit("orders", tp, metadata="a text"), bool)
    assert_type(await consumer.commit({"orders", tp}, False), bool)
    assert_type(await consumer.commit(topics=["orders"], start_new_transaction=False), bool)
    await consumer.commit(metadata=5)  # error: arg-type, reportArgumentType
    await consumer.seek_to_time("now")  # error: arg-type, reportArgumentType


async def send(orders: AnyTopic[str, Order]) -> None:
    order = Order("ada")
    delivery: AnyDelivery = await orders.send(key="ada", value=order)
    assert_type(await delivery, RecordMetadata)
    many = await orders.send_many([("ada", order), ("bob", order)])
    assert_type(await many, list[RecordMetadata])
    soon = orders.send_soon(key="ada")
    assert_type(await soon, RecordMetadata)
    await orders.send(key=5)  # error: arg-type, reportArgumentType
    await orders.send_and_wait(value=b"")  # error: arg-type, reportArgumentType
    await orders.send_many([(5, order)])  # error: list-item, reportArgumentType
    orders.send_soon(kee="ada")  # error: call-arg, reportCallIssue


async def main() -> None:
    async with open_app(App("orders")) as app, anyio.create_task_group() as tasks:
        assert_type(app, App | AioApp)
        app.stop_on_signals()
        await app.producer.create_topic("orders", 4, retention=60.0)
        desk = Desk(app)
        tasks.start_soon(read, desk.orders)
        await desk.place(Order("ada"))
        await desk.place("ada")  # error: arg-type, reportArgumentType
        assert_type(await app.consumer.commit(), bool)
        await app.consumer.seek(TP("orders", 0), 5)
        await app.consumer.seek("orders-0", 5)  # error: arg-type, reportArgumentType
        app.start()  # error: union-attr, reportAttributeAccessIssue
