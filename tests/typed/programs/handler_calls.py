"""Calls of handlers by a test, right and wrong, and app factories of simulations."""

from __future__ import annotations

from typing import assert_type

from msgspec import Struct

from transport import App, Batch, Message
from transport.drivers.base import Driver
from transport.testing import Done, Sent, handler_client, in_memory, simulate


class Order(Struct):
    customer: str
    amount: int


app = App("enrichment", broker="kafka://127.0.0.1:9092")
orders = app.topic("orders", key_type=str, value_type=Order)
enriched = app.topic("orders.enriched", key_type=str, value_type=Order)


@app.handler(orders)
async def enrich(message: Message[str, Order]) -> None:
    await enriched.send(key=message.key, value=message.value)


@app.batch_handler(orders)
async def store(batch: Batch[str, Order]) -> None:
    print(len(batch))


async def try_handlers() -> None:
    async with handler_client(app) as client:
        result = await client.call(enrich, key="a", value=Order("anna", 1), headers={"x": b"1"})
        assert_type(result.sent_to(enriched), list[Sent[str, Order]])
        sent = result.sent_to(enriched)[0]
        print(sent.value.amount)
        await client.call(enrich, key=b"a", value=b"{")
        await client.call(store, key="a", value=Order("anna", 1))
        await client.call("enrich", key=5, value="any")
        await client.call_many(store, [("a", Order("anna", 1)), {"value": b"{"}])
        await client.call(enrich, key="a", value=5)  # error: arg-type, reportArgumentType
        await client.call(store, key=5)  # error: arg-type, reportArgumentType
        await client.call(enrich, val=b"{")  # error: call-overload, reportCallIssue
        print(sent.value.sum)  # error: attr-defined, reportAttributeAccessIssue


def billing(broker: Driver) -> App:
    return App("billing", broker=broker)


async def opens_itself(broker: Driver) -> None:
    async with App("billing", broker=broker) as opened:
        await opened.wait_stopped()


async def reports_itself(broker: Driver, done: Done) -> None:
    async with App("billing", broker=broker) as opened:
        async for order in opened.topic("orders"):
            done(order)


def try_simulations() -> None:
    simulate(billing, topics={"orders": 1}, records=lambda tp, number: (b"%d" % number, None))
    simulate(opens_itself, topics={"orders": 1})
    simulate(reports_itself, topics={"orders": 1}, seed=1).check(all_may_fail=True)
    with in_memory(app) as broker:
        print(broker.records("orders"))
